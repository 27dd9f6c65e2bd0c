"""Where to listen, as a kind of setting."""

import ipaddress

from relay.forwarding.sockets import ListenRequest
from relay.settings.kinds import Unfit, quote
from relay.wire.address import Address


class Listen:
    """An IP address and a UDP port."""

    metavar = "IP:PORT"

    def from_text(self, text: str) -> ListenRequest:
        """See `relay.settings.kinds.Kind`."""
        expected = "expected IP:PORT such as 127.0.0.1:4433 or [::1]:4433"
        host, colon, port_text = text.rpartition(":")
        if not colon or not port_text or port_text.endswith("]"):
            raise Unfit(f"{quote(text)} has no port; {expected}")
        is_number = port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5
        port = int(port_text) if is_number else 65_536
        if port > 65_535:
            raise Unfit(f"{quote(text)}: the port is not a number from 0 to 65535; {expected}")
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise Unfit(
                f"{quote(text)}: {quote(host)} is no IP address (names are not looked up here); "
                + expected
            ) from None
        if bracketed != (ip.version == 6):
            raise Unfit(
                f"{quote(text)}: IPv6 addresses, and no others, stand in brackets, as in [::1]:4433"
            )
        return ListenRequest(Address.from_sockaddr((str(ip), port)))

    def from_toml(self, value: object) -> ListenRequest:
        """See `relay.settings.kinds.Kind`."""
        if not isinstance(value, str):
            raise Unfit('is not a string; expected such as "127.0.0.1:4433"')
        return self.from_text(value)
