"""What the operator chose for the kernel path: the settings of the section `xdp`."""

from dataclasses import dataclass
from pathlib import Path

from relay.settings.declare import setting
from relay.settings.kinds import Amount, FilePath, Flag, Integer, Several, Text, words

PREFIX = "QUICPIPE_XDP_"
"""Of the environment variables."""
DEFAULT_PINS = Path("/sys/fs/bpf/quicpipe")
MODES = ("auto", "native", "generic")

MAX_INTERFACES = 32
_MAX_CONNECTION_IDS = 2**24
_MAX_PAYLOAD = 65_527
"""What a UDP datagram can carry (RFC 768)."""
_MAX_RATE = 10**12
_MIN_BYTES_PER_S = 1_000
"""Less than a packet a second is no rate that a pipe could live with."""

_INTERFACE = Text("the name of a network interface", r"[^\s/,]{1,15}", "NAME")


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """How the kernel is to forward."""

    interfaces: tuple[str, ...] = setting(
        (),
        Several(_INTERFACE, at_most=MAX_INTERFACES),
        "network interface on which the kernel forwards",
        name="iface",
        default_help="none: the kernel does not forward",
    )
    mode: str = setting("auto", words(MODES), "where in the kernel; auto: native if the driver can")
    """One of MODES: native, if the driver can, else generic."""
    require: bool = setting(False, Flag(), "without the kernel, do not run at all")
    connection_ids: int = setting(
        131_072,
        Integer(64, _MAX_CONNECTION_IDS),
        "how many connection IDs the kernel keeps, 100 bytes each",
    )
    """The least recently used one makes place."""
    max_payload: int = setting(
        1_500, Integer(13, _MAX_PAYLOAD, what="of bytes"), "bytes of UDP payload; longer goes up"
    )
    """A frame with more holds several datagrams, which only userspace can part."""
    packets_per_s: int = setting(
        0, Integer(0, _MAX_RATE), "of each sender, in the kernel", default_help="0: no limit"
    )
    bytes_per_s: int = setting(
        0,
        Amount(_MIN_BYTES_PER_S, _MAX_RATE, or_zero=True),
        "of each sender's UDP payload, in the kernel",
        default_help="0: no limit",
    )
    pins: Path | None = setting(
        None,
        FilePath("FOLDER"),
        "this relay's folder in a bpffs",
        default_help=f"{DEFAULT_PINS}/<interfaces>",
    )

    @property
    def owners(self) -> int:
        """How many registrations the kernel keeps: peers have about ten connection IDs each."""
        return max(1, self.connection_ids // 4)

    @property
    def folder(self) -> Path:
        """Where the pins are."""
        # A bpffs takes no dots in names; interfaces may have some (eth0.5).
        return self.pins or DEFAULT_PINS / "+".join(self.interfaces).replace(".", "_")

    def problem(self) -> tuple[str, str] | None:
        """What does not fit the rest; see `relay.settings.load.Checked`."""
        if self.require and not self.interfaces:
            return "require", f"is set, but {PREFIX}IFACE (xdp.iface) names no interface"
        return None
