"""How a person, and an invite, name a relay: `HOST`, `HOST:PORT`, `[IPv6]:PORT`."""

import ipaddress
import re
from typing import NamedTuple

from .errors import printable

DEFAULT_PORT = 4433

_MAX_HOST = 253  # RFC 1035 §2.3.4, as text
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)


class RelayName(NamedTuple):
    """A host name or IP address (without brackets), and a UDP port. Nothing is resolved."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, default_port: int | None = DEFAULT_PORT) -> "RelayName":
        """Read it. An IPv6 address needs its brackets only where a port follows.

        :param default_port: None: the port must be there.
        :raises ValueError: and says what was expected.
        """
        text = text.strip()
        if "/" in text or "@" in text:
            raise ValueError(f"'{printable(text, 60)}' is not HOST or HOST:PORT")
        if bracketed := _BRACKETED.fullmatch(text):
            host, port = bracketed.groups()
            if not _is_ipv6(host):
                raise ValueError(f"'{printable(host, 60)}' in brackets is not an IPv6 address")
        elif _is_ipv6(text):
            host, port = text, None
        else:
            host, colon, rest = text.rpartition(":") if ":" in text else (text, "", "")
            port = rest if colon else None
            _check_host(host)
        if port is None:
            if default_port is None:
                raise ValueError(f"'{printable(text, 60)}' has no port: expected HOST:PORT")
            return cls(host, default_port)
        return cls(host, _parse_port(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return text.isprintable() and " " not in text


def _check_host(host: str) -> None:
    if ":" in host:
        raise ValueError(
            f"'{printable(host, 60)}' is not a host name; an IPv6 address with a port is written"
            " [ADDRESS]:PORT"
        )
    if not host or len(host) > _MAX_HOST or not host.isprintable() or any(map(str.isspace, host)):
        raise ValueError(f"'{printable(host, 60)}' is not a host name or IP address")


def _parse_port(text: str) -> int:
    # str.isdigit takes digits of every script; a port is written in ASCII.
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError(f"'{printable(text, 20)}' is not a port: expected 1 to 65535")
    return int(text)
