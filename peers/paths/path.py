"""What an agent decides: which path to use, and what to do for it."""

from dataclasses import dataclass
from enum import StrEnum
from socket import AddressFamily

from relay.wire.address import Address

from .candidate import SocketId


class PathPolicy(StrEnum):
    """What the application permits."""

    ANY = "any"
    """Direct where possible, else by the relay."""
    RELAY_ONLY = "relay-only"
    """Tell the other end no address, send no probe, and answer none."""
    DIRECT_ONLY = "direct-only"
    """As `ANY` to the agent. Whoever wires it keeps the application's data off the relay."""


@dataclass(frozen=True, slots=True)
class Direct:
    """From one of our sockets straight to an address of the other end."""

    socket: SocketId
    address: Address

    def __str__(self) -> str:
        return f"direct to {self.address}"


@dataclass(frozen=True, slots=True)
class Relayed:
    """By the relay. There is one such path, `RELAY`."""

    def __str__(self) -> str:
        return "by the relay"


RELAY = Relayed()

Path = Direct | Relayed


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Send this datagram from that socket. It may fail or be lost: nothing else depends on it."""

    datagram: bytes
    socket: SocketId
    destination: Address


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send this on the control stream, in order and reliably; at most 1,024 bytes."""

    body: bytes


@dataclass(frozen=True, slots=True)
class AddIds:
    """Bring datagrams with these 12-byte destination IDs to `PathAgent.receive_probe`."""

    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class RemoveIds:
    """No longer do so."""

    ids: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class OpenSockets:
    """Open so many more sockets and tell their IDs by `PathAgent.sockets_opened`: all, fewer, or
    none. They live until `CloseSockets` names them, or the agent is given up."""

    count: int
    family: AddressFamily


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Close these, which `OpenSockets` had asked for."""

    sockets: tuple[SocketId, ...]


@dataclass(frozen=True, slots=True)
class SwitchTo:
    """Send the pipe by this path from now on, with a fresh connection ID and fresh congestion
    state (RFC 9000 §9.4, §9.5)."""

    path: Path
    reason: str
    """For people, on one line."""


Action = SendProbe | SendMessage | AddIds | RemoveIds | OpenSockets | CloseSockets | SwitchTo
