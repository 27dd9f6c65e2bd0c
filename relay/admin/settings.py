"""The settings of the section `admin`."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from relay.settings.declare import Source, setting
from relay.settings.kinds import FilePath, Flag, Several, Text, Unfit, quote
from relay.wire.address import Address

DEFAULT_PORT = 9443
MIN_TOKEN = 16
"""Characters of a bearer token."""
MAX_TOKEN = 1_024
_TOKEN = r"[A-Za-z0-9._~+/=-]{16,1024}"
"""RFC 6750 §2.1."""


class _Listen:
    """An IP address and a TCP port."""

    metavar = "IP:PORT"

    def from_text(self, text: str) -> Address:
        """See `relay.settings.kinds.Kind`."""
        host, _, port = text.strip().rpartition(":")
        try:
            if (":" in host) != (host.startswith("[") and host.endswith("]")):
                raise ValueError
            ip = ipaddress.ip_address(host.strip("[]"))
            if not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65_536):
                raise ValueError
        except ValueError:
            raise Unfit(
                f"{quote(text)} is no IP address and port; expected such as 127.0.0.1:"
                f"{DEFAULT_PORT} or [::1]:{DEFAULT_PORT}"
            ) from None
        return Address.from_sockaddr((str(ip), int(port)))

    def from_toml(self, value: object) -> Address:
        """See `relay.settings.kinds.Kind`."""
        if not isinstance(value, str):
            raise Unfit(f'is not a string; expected such as "127.0.0.1:{DEFAULT_PORT}"')
        return self.from_text(value)


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """Whether there is an admin listener, where, and what it offers."""

    listen: tuple[Address, ...] = setting(
        (),
        Several(_Listen(), at_most=8),
        f"TCP address and port, such as 127.0.0.1:{DEFAULT_PORT}; beyond loopback all but /health "
        "wants the token",
        default_help="none: there is no admin listener",
    )
    hosts: tuple[str, ...] = setting(
        (),
        Several(Text("the name of a host", r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")),
        "name by which browsers may reach it, besides IP addresses and localhost",
        default_help="none",
    )
    token_file: Path | None = setting(
        None,
        FilePath(),
        "its first line is the bearer token that every write wants; without one nothing is written",
        default_help="",
        reload=True,
    )
    token: str | None = setting(
        None,
        Text(f"a bearer token of {MIN_TOKEN} to {MAX_TOKEN} characters", _TOKEN),
        "the same, itself",
        secret=True,
        sources=Source.ENVIRONMENT,
        reload=True,
    )
    protect_reads: bool = setting(
        False, Flag(), "want the token for reading, too", default_help="no; yes beyond loopback"
    )
    metrics: bool = setting(True, Flag(), "offer /metrics, for Prometheus")
    registrations: bool = setting(True, Flag(), "offer /v1: registrations and the event stream")
    page: bool = setting(True, Flag(), "offer the web page; it needs /v1")

    @property
    def is_on(self) -> bool:
        """Whether there is an admin listener."""
        return bool(self.listen)

    @property
    def is_on_loopback(self) -> bool:
        """Whether nobody but this machine reaches it."""
        return all(ipaddress.ip_address(each.host).is_loopback for each in self.listen)

    @property
    def has_token(self) -> bool:
        """Whether there is a bearer token."""
        return self.token is not None or self.token_file is not None

    @property
    def reads_want_token(self) -> bool:
        """Whether reading wants the token, too."""
        return self.protect_reads or not self.is_on_loopback

    def problem(self) -> tuple[str, str] | None:
        """What does not fit the rest; see `relay.settings.load.Checked`."""
        if self.token is not None and self.token_file is not None:
            return "token", "and admin.token-file are one too many: give one of them"
        if not self.is_on or self.has_token:
            return None
        if not self.is_on_loopback:
            return "listen", (
                "is beyond this machine, and so it wants a token: give admin.token-file"
            )
        if self.protect_reads:
            return "protect_reads", "wants a token: give admin.token-file"
        return None


class AdminTokenError(Exception):
    """The file with the admin listener's token cannot be used; one line that says why."""


def load_token(settings: AdminSettings) -> str | None:
    """The bearer token; None: there is none.

    :raises AdminTokenError: there is a file, and it has none.
    """
    if settings.token_file is None:
        return settings.token
    path = settings.token_file
    try:
        with path.open(encoding="ascii") as file:
            line = file.readline(MAX_TOKEN + 2).strip()
    except OSError as error:
        raise AdminTokenError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        line = ""
    try:
        return Text("", _TOKEN).from_text(line)
    except Unfit:  # which quotes the text
        raise AdminTokenError(
            f"{path}: the first line is no token: expected {MIN_TOKEN} to {MAX_TOKEN} letters, "
            "digits or ._~+/=- ; 'quicpipe-relay token --new-secret FILE' makes a good one"
        ) from None
