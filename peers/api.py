"""The public names of the package, all of them. See the package's own text."""

from .accepter import Accepter, accept
from .auth import AnyPeer, Authentication, InviteKey, Original, PairingKey, Peer, Pinned
from .dialer import Dialing, dial
from .errors import (
    AuthenticationFailed,
    CloseCode,
    CodeInvalid,
    CodeRefused,
    CodeWrong,
    DatagramTooLarge,
    InviteExpired,
    InviteInvalid,
    InviteUsed,
    ListenerReplaced,
    NameTaken,
    NoAnswer,
    NoDirectPath,
    NotListening,
    PeersError,
    PeerUnknown,
    PipeClosed,
    PipeLost,
    RegistrationFailed,
    RelayError,
    RelayUnreachable,
    RelayUntrusted,
    RendezvousFailed,
    StreamReset,
    UsageError,
)
from .identity import Identity
from .invite import AuthKind, Invite
from .known_peers import KnownPeers
from .network import Network, SystemNetwork
from .paths.path import Direct, PathPolicy, Relayed
from .paths.report import Change as PathChange
from .paths.report import PairReport, PairState, PathReport
from .pipe import Pipe, PipeStatistics
from .relay_name import RelayName
from .rendezvous.dialing import dial_to, look_up
from .rendezvous.listener import Listener, listen
from .rendezvous.spoken import SpokenCode, accept_code, dial_code
from .stream import Stream
from .trust import RelayTrust

__all__ = [
    "Accepter",
    "AnyPeer",
    "AuthKind",
    "Authentication",
    "AuthenticationFailed",
    "CloseCode",
    "CodeInvalid",
    "CodeRefused",
    "CodeWrong",
    "DatagramTooLarge",
    "Dialing",
    "Direct",
    "Identity",
    "Invite",
    "InviteExpired",
    "InviteInvalid",
    "InviteKey",
    "InviteUsed",
    "KnownPeers",
    "Listener",
    "ListenerReplaced",
    "NameTaken",
    "Network",
    "NoAnswer",
    "NoDirectPath",
    "NotListening",
    "Original",
    "PairReport",
    "PairState",
    "PairingKey",
    "PathChange",
    "PathPolicy",
    "PathReport",
    "Peer",
    "PeerUnknown",
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
    "Relayed",
    "RendezvousFailed",
    "SpokenCode",
    "Stream",
    "StreamReset",
    "SystemNetwork",
    "UsageError",
    "accept",
    "accept_code",
    "dial",
    "dial_code",
    "dial_to",
    "listen",
    "look_up",
]
