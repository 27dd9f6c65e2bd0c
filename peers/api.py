"""The public names of the package, all of them. See the package's own text."""

from .accepter import Accepter, accept
from .auth import Authentication, InviteKey, Original, PairingKey, Peer, Pinned
from .dialer import Dialing, dial
from .errors import (
    AuthenticationFailed,
    CloseCode,
    DatagramTooLarge,
    InviteExpired,
    InviteInvalid,
    InviteUsed,
    NoAnswer,
    PeersError,
    PipeClosed,
    PipeLost,
    RegistrationFailed,
    RelayError,
    RelayUnreachable,
    RelayUntrusted,
    StreamReset,
    UsageError,
)
from .identity import Identity
from .invite import AuthKind, Invite
from .network import Network, SystemNetwork
from .pipe import Pipe, PipeStatistics
from .relay_name import RelayName
from .stream import Stream
from .trust import RelayTrust

__all__ = [
    "Accepter",
    "AuthKind",
    "Authentication",
    "AuthenticationFailed",
    "CloseCode",
    "DatagramTooLarge",
    "Dialing",
    "Identity",
    "Invite",
    "InviteExpired",
    "InviteInvalid",
    "InviteKey",
    "InviteUsed",
    "Network",
    "NoAnswer",
    "Original",
    "PairingKey",
    "Peer",
    "PeersError",
    "Pinned",
    "Pipe",
    "PipeClosed",
    "PipeLost",
    "PipeStatistics",
    "RegistrationFailed",
    "RelayError",
    "RelayName",
    "RelayTrust",
    "RelayUnreachable",
    "RelayUntrusted",
    "Stream",
    "StreamReset",
    "SystemNetwork",
    "UsageError",
    "accept",
    "dial",
]
