"""What can become of a datagram. Every one ends in exactly one of these, and is counted there."""

from enum import StrEnum


class Outcome(StrEnum):
    """Where a datagram went, or why it was dropped. The value is its name in every report."""

    FORWARDED = "forwarded"
    """Sent on to the peer that registered its destination connection ID."""
    HTTP3 = "http3"
    """Passed up to the control process, for the relay's own HTTP/3 server."""

    MALFORMED = "malformed"
    """Dropped: does not begin with a QUIC packet (RFC 8999)."""
    UNKNOWN_CID = "unknown_cid"
    """Dropped: a short header whose connection ID nobody registered."""
    UNREGISTERED_SOURCE = "unregistered_source"
    """Dropped: for a registered connection ID, but from an address that is not registered."""
    STRAY_PEER_PACKET = "stray_peer_packet"
    """Dropped: a long header from a registered connection ID to one that is not (such as a waiting
    dialer's repeated Initial). It must not reach HTTP/3: the dialer would believe the answer."""
    TOO_BIG = "too_big"
    """Dropped: larger than the way to the peer takes (EMSGSIZE), never fragmented; or larger than
    anything that HTTP/3 clients send (2,048 bytes)."""
    SEND_FAILED = "send_failed"
    """Dropped: the system refused to send it, or its send buffer was full."""
    RATE_LIMITED = "rate_limited"
    """Dropped: to be forwarded, but its sender is over his rate."""
    ALLOWANCE_USED = "allowance_used"
    """Dropped: likewise, and all that his token permits was forwarded already."""
    HTTP3_TOO_OFTEN = "http3_too_often"
    """Dropped: it may be for HTTP/3, but too much that may be came from its address, or from all
    who are not registered."""
    CONTROL_QUEUE_FULL = "control_queue_full"
    """Dropped: it was for HTTP/3, but the control process is behind."""
