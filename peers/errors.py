"""Everything that this package raises on purpose. Each message is one line, fit to be shown.

It says what was wrong, what was expected and, where there is something to do, what to do. The
class says who can put it right, the attributes carry what a program decides on.
"""

from enum import IntEnum


class PeersError(Exception):
    """Base of all errors of this package."""


class CloseCode(IntEnum):
    """Application error codes of CONNECTION_CLOSE (docs/protocol.md §6.3)."""

    DONE = 0
    FAILED = 1
    AUTHENTICATION_FAILED = 2
    PROTOCOL_VIOLATION = 3


# What the user gave us.


class UsageError(PeersError):
    """What was asked for cannot be done as it was asked: an option is missing, or wrong."""


class FileUnusable(PeersError):
    """A file that cannot be read or written, is not what it should be, or is open to others."""


class InviteInvalid(PeersError):
    """The invite is not one, or is damaged, or is of a version that we do not know."""


class InviteExpired(PeersError):
    """The invite's time is over: the dialer no longer waits, or nobody answered it in time."""


class KeyInvalid(PeersError):
    """A pairing key that is mistyped, too weak, or lies where others can read it."""


class CodeInvalid(PeersError):
    """What was given as a spoken code is none: a word is mistyped, or too many are given."""


class IdentityInvalid(PeersError):
    """An identity file, or a fingerprint, that cannot be used."""


# The relay.


class RelayError(PeersError):
    """Base of what can go wrong between a peer and its relay."""


class RelayUnreachable(RelayError):
    """The relay's name does not resolve, or nothing answers there."""


class RelayUntrusted(RelayError):
    """The relay's certificate is not one that we were told, or have a reason, to trust."""

    def __init__(self, message: str, fingerprint: str = "") -> None:
        super().__init__(message)
        self.fingerprint = fingerprint
        """What the relay showed: `sha256:` and 64 hexadecimal digits; empty if it showed none."""


class RegistrationFailed(RelayError):
    """The relay answered, but did not register us."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, or None if the answer could not be read."""
        self.retry_after_s = retry_after_s
        """Seconds to wait before the next attempt, if the relay named any."""


class RendezvousFailed(RelayError):
    """The relay answered, but did not do what the rendezvous needs (docs/protocol.md §10)."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status, or None if the answer could not be read."""
        self.retry_after_s = retry_after_s
        """Seconds to wait before the next attempt, if the relay named any."""


class NameTaken(RelayError):
    """Another listener has that name at the relay, as long as it listens."""


class ListenerReplaced(RelayError):
    """Somebody with the same identity listens at the relay since: most likely ourselves."""


# The other peer.


class NotListening(PeersError):
    """Nobody waits at the relay under that fingerprint or name."""


class PeerUnknown(UsageError):
    """A name that stands for nobody here: what the relay says about it is no proof."""


class NoAnswer(PeersError):
    """The other peer did not answer: gone, never there, or the invite was used before."""


class InviteUsed(PeersError):
    """This accepter has answered this very invite before; an invite opens one pipe."""


class AuthenticationFailed(PeersError):
    """The other peer could not prove that it is who it should be, or we could not to it."""


class CodeRefused(PeersError):
    """The spoken code is not valid, or not any more: the relay knows none of that number, it was
    used, its time is over, or the other end gave up. A new one is needed."""


class CodeWrong(AuthenticationFailed):
    """The words of a spoken code differ at the two ends, or somebody guessed. It is used up."""


class PipeClosed(PeersError):
    """The pipe is closed: nothing more can be sent, and nothing more will arrive."""

    def __init__(self, message: str, *, code: int = CloseCode.DONE, reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        """The application's error code; `CloseCode` names those that we use ourselves."""
        self.reason = reason
        """The reason phrase that came with it. The other peer's words: do not trust them."""


class PipeLost(PipeClosed):
    """The pipe ended without a word: the other peer has died or cannot be reached any more."""


class NoDirectPath(PeersError):
    """Only a direct path will do, and there is none. The text says what was tried."""


class StreamReset(PeersError):
    """The other peer gave the stream up (RESET_STREAM), or wants no more of it (STOP_SENDING)."""

    def __init__(self, message: str, code: int = CloseCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
        """The other peer's application error code."""


class DatagramTooLarge(PeersError):
    """The datagram does not fit in one packet."""

    def __init__(self, message: str, limit: int = 0) -> None:
        super().__init__(message)
        self.limit = limit
        """How many bytes would have fitted."""


def printable(text: str, limit: int = 200) -> str:
    """Make foreign text fit for a message: one line, no control characters, `limit` characters."""
    clean = "".join(each if each.isprintable() else "?" for each in text)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
