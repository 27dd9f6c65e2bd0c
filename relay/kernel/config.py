"""What the operator chose for the kernel path: environment variables QUICPIPE_XDP_*."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PREFIX = "QUICPIPE_XDP_"
DEFAULT_PINS = Path("/sys/fs/bpf/quicpipe")
MODES = ("auto", "native", "generic")

NAMES = {
    "IFACE",
    "MODE",
    "REQUIRE",
    "CONNECTION_IDS",
    "MAX_PAYLOAD",
    "PACKETS_PER_S",
    "BYTES_PER_S",
    "PINS",
}
"""Of all variables, without the prefix."""

MAX_INTERFACES = 32
_MAX_CONNECTION_IDS = 2**24
_MAX_PAYLOAD = 65_527
"""What a UDP datagram can carry (RFC 768)."""
_MAX_RATE = 10**12
_MIN_BYTES_PER_S = 1_000
"""Less than a packet a second is no rate that a pipe could live with."""


class KernelConfigError(ValueError):
    """A variable is not as it should be; the text names it and says what was expected."""


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """How the kernel is to forward."""

    interfaces: tuple[str, ...]
    mode: str = "auto"
    """One of MODES: native, if the driver can, else generic."""
    require: bool = False
    """Without the kernel, do not run at all."""
    connection_ids: int = 131_072
    """How many the kernel keeps; the least recently used one makes place. 100 bytes each."""
    max_payload: int = 1_500
    """Bytes of UDP payload; a frame with more holds several, which only userspace can part."""
    packets_per_s: int = 0
    """Of each sender; 0: no limit."""
    bytes_per_s: int = 0
    """Of each sender's UDP payload; 0: no limit."""
    pins: Path | None = None
    """Folder of this relay's pins; None: named after the interfaces, in DEFAULT_PINS."""

    @property
    def owners(self) -> int:
        """How many registrations the kernel keeps: peers have about ten connection IDs each."""
        return max(1, self.connection_ids // 4)

    @property
    def folder(self) -> Path:
        """Where the pins are."""
        # A bpffs takes no dots in names; interfaces may have some (eth0.5).
        return self.pins or DEFAULT_PINS / "+".join(self.interfaces).replace(".", "_")


def kernel_config(environment: Mapping[str, str]) -> KernelConfig | None:
    """Read the variables; None if no interface is named.

    :raises KernelConfigError: if one of them is wrong, or has a name that we do not know.
    """
    ours = {
        name.removeprefix(PREFIX): value.strip()
        for name, value in environment.items()
        if name.startswith(PREFIX)
    }
    unknown = ours.keys() - NAMES
    if unknown:
        raise KernelConfigError(
            f"{PREFIX}{min(unknown)} is not known; there are {', '.join(sorted(NAMES))}"
        )
    interfaces = tuple(
        dict.fromkeys(filter(None, map(str.strip, ours.get("IFACE", "").split(","))))
    )
    if not interfaces:
        if _flag(ours, "REQUIRE"):
            raise KernelConfigError(f"{PREFIX}REQUIRE is set, but {PREFIX}IFACE names no interface")
        return None
    if len(interfaces) > MAX_INTERFACES:
        raise KernelConfigError(f"{PREFIX}IFACE names more than {MAX_INTERFACES} interfaces")
    mode = ours.get("MODE") or "auto"
    if mode not in MODES:
        raise KernelConfigError(f"{PREFIX}MODE is '{mode}'; expected one of {', '.join(MODES)}")
    bytes_per_s = _number(ours, "BYTES_PER_S", 0, 0, _MAX_RATE)
    if 0 < bytes_per_s < _MIN_BYTES_PER_S:
        raise KernelConfigError(
            f"{PREFIX}BYTES_PER_S is {bytes_per_s}; expected 0 or at least {_MIN_BYTES_PER_S}"
        )
    pins = ours.get("PINS")
    return KernelConfig(
        interfaces=interfaces,
        mode=mode,
        require=_flag(ours, "REQUIRE"),
        connection_ids=_number(ours, "CONNECTION_IDS", 131_072, 64, _MAX_CONNECTION_IDS),
        max_payload=_number(ours, "MAX_PAYLOAD", 1_500, 13, _MAX_PAYLOAD),
        packets_per_s=_number(ours, "PACKETS_PER_S", 0, 0, _MAX_RATE),
        bytes_per_s=bytes_per_s,
        pins=Path(pins) if pins else None,
    )


def _flag(values: Mapping[str, str], name: str) -> bool:
    text = values.get(name, "")
    if text not in ("", "0", "1"):
        raise KernelConfigError(f"{PREFIX}{name} is '{text}'; expected 0 or 1")
    return text == "1"


def _number(values: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = values.get(name, "")
    if not text:
        return default
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 15 else -1
    if not low <= number <= high:
        raise KernelConfigError(f"{PREFIX}{name} is '{text}'; expected a number {low} to {high}")
    return number
