"""What the operator chose: the command line and the environment."""

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relay.core.registry import RegistryLimits
from relay.forwarding.sockets import ListenRequest
from relay.forwarding.supervisor import default_workers
from relay.kernel.config import KernelConfig, KernelConfigError, kernel_config
from relay.logs import LEVELS, LogFormat
from relay.wire.address import Address

DEFAULT_PORT = 4433

DEFAULT_LISTEN = (
    ListenRequest(Address("0.0.0.0", DEFAULT_PORT), optional=True),
    ListenRequest(Address("::", DEFAULT_PORT), optional=True),
)
"""Every address of this machine; without one of the families, the other alone."""

MAX_WORKERS = 64
_MIN_LEASE_S, _MAX_LEASE_S = 1.0, 86_400.0

_EXAMPLES = """\
examples:
  quicpipe-relay
      every address of this machine, port 4433, a certificate of its own making
  quicpipe-relay --listen 192.0.2.1:443 --listen '[2001:db8::1]:443' \\
      --certificate fullchain.pem --private-key privkey.pem
      two addresses, with a certificate that peers can verify by name
  quicpipe-relay --listen 127.0.0.1:0
      on loopback, on a port that is free: the line on stdout says which

forwarding in the kernel (Linux, as root; docs/kernel-path.md):
  QUICPIPE_XDP_IFACE=eth0,eth1      the interfaces; nothing else has to be set
  QUICPIPE_XDP_MODE=auto            or native, or generic
  QUICPIPE_XDP_REQUIRE=1            do not run without it
  quicpipe-relay xdp status         what the kernel does
  quicpipe-relay xdp detach         remove it

signals:
  SIGTERM, SIGINT, SIGHUP   tell the clients, and end
  SIGUSR1                   log all counters
"""


@dataclass(frozen=True, slots=True)
class Config:
    """All that the relay is started with."""

    listen: tuple[ListenRequest, ...] = DEFAULT_LISTEN
    certificate: Path | None = None
    """PEM chain; None: a self-signed one is kept in `state_directory`."""
    private_key: Path | None = None
    """PEM; None if and only if `certificate` is."""
    state_directory: Path | None = None
    """Where a self-signed certificate is kept; None: the environment names no place."""
    log_format: LogFormat = LogFormat.TEXT
    log_level: str = "info"
    workers: int = 1
    """Processes that forward."""
    lease_s: float = RegistryLimits().lease_s
    """Seconds for which a registration outlives its connection and its last packet."""
    kernel: KernelConfig | None = None
    """How the kernel is to forward; None: it is not."""


def parse_config(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Read the command line, without the program's name.

    :raises SystemExit: after one line that says what is wrong (code 2), or after --help (0).
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.certificate is None) != (options.private_key is None):
        parser.error("--certificate and --private-key belong together: give both, or neither")
    try:
        kernel = kernel_config(environment)
    except KernelConfigError as error:
        parser.error(str(error))
    return Config(
        listen=tuple(options.listen or DEFAULT_LISTEN),
        certificate=options.certificate,
        private_key=options.private_key,
        state_directory=state_directory(environment),
        log_format=LogFormat(options.log_format),
        log_level=options.log_level,
        workers=options.workers,
        lease_s=options.lease,
        kernel=kernel,
    )


def state_directory(environment: Mapping[str, str]) -> Path | None:
    """Where to keep what must outlive the process; systemd names it, or the XDG convention does."""
    if named := environment.get("STATE_DIRECTORY"):
        return Path(named.split(":")[0])  # systemd separates several by colons
    if named := environment.get("XDG_STATE_HOME"):
        return Path(named) / "quicpipe"
    home = environment.get("HOME")
    return Path(home) / ".local/state/quicpipe" if home else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quicpipe-relay",
        description="Forward QUIC packets between registered peers. Peers register over HTTP/3 on "
        "the same UDP port.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        action="append",
        type=_listen,
        help="IP address and UDP port, IPv6 in brackets; repeatable; port 0 lets the system "
        f"choose (default: 0.0.0.0:{DEFAULT_PORT} and [::]:{DEFAULT_PORT})",
    )
    parser.add_argument(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="certificate chain, PEM (default: a self-signed one, made once and kept)",
    )
    parser.add_argument("--private-key", metavar="FILE", type=Path, help="its private key, PEM")
    parser.add_argument(
        "--lease",
        metavar="SECONDS",
        type=_lease,
        default=RegistryLimits().lease_s,
        help="how long a registration outlives its connection and the peer's last packet "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_workers,
        default=default_workers(),
        help="processes that forward (default: one for each core, at most 4; here: %(default)s)",
    )
    parser.add_argument("--log-format", choices=[each.value for each in LogFormat], default="text")
    parser.add_argument("--log-level", choices=LEVELS, default="info")
    return parser


def _listen(text: str) -> ListenRequest:
    host, colon, port_text = text.rpartition(":")
    if not colon or not port_text or port_text.endswith("]"):
        raise argparse.ArgumentTypeError(
            f"'{text}' has no port; expected IP:PORT such as 127.0.0.1:4433 or [::1]:4433"
        )
    is_number = port_text.isascii() and port_text.isdecimal() and len(port_text) <= 5
    port = int(port_text) if is_number else 65_536
    if port > 65_535:
        raise argparse.ArgumentTypeError(
            f"'{text}': the port is not a number from 0 to 65535; expected IP:PORT such as"
            " 127.0.0.1:4433 or [::1]:4433"
        )
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        ip = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"'{text}': '{host}' is no IP address (names are not looked up here); "
            "expected IP:PORT such as 127.0.0.1:4433 or [::1]:4433"
        ) from None
    if bracketed != (ip.version == 6):
        raise argparse.ArgumentTypeError(
            f"'{text}': IPv6 addresses, and no others, stand in brackets, as in [::1]:4433"
        )
    return ListenRequest(Address.from_sockaddr((str(ip), port)))


def _workers(text: str) -> int:
    count = int(text) if text.isascii() and text.isdecimal() and len(text) < 4 else 0
    if not 1 <= count <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 1 to {MAX_WORKERS}")
    return count


def _lease(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _MIN_LEASE_S <= seconds <= _MAX_LEASE_S:  # which no NaN is
        raise argparse.ArgumentTypeError(
            f"'{text}' is not a number of seconds from {_MIN_LEASE_S:g} to {_MAX_LEASE_S:g}"
        )
    return seconds
