"""When the kernel and the reference agree about a datagram."""

from bpf.layout import KernelOutcome
from relay.core.outcome import Outcome
from relay.core.table import ForwardingTable

from .frames import is_partial, receive, udp_residue
from .lab import KernelUnderTest

XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3

_LONG_HEADERS = {
    Outcome.MALFORMED,
    Outcome.HTTP3,
    Outcome.STRAY_PEER_PACKET,
    Outcome.FORWARDED,
    Outcome.UNREGISTERED_SOURCE,
}
_SAME = {
    KernelOutcome.FORWARDED: {Outcome.FORWARDED},
    KernelOutcome.MALFORMED: {Outcome.MALFORMED},
    KernelOutcome.LONG_HEADER: _LONG_HEADERS,
    KernelOutcome.HTTP3: {Outcome.HTTP3},
    KernelOutcome.UNKNOWN_CID: {Outcome.UNKNOWN_CID},
    # The kernel's sources are pairs of addresses, and a lease may just have ended.
    KernelOutcome.UNREGISTERED_SOURCE: {Outcome.UNREGISTERED_SOURCE, Outcome.FORWARDED},
    KernelOutcome.OVERSIZED: set(Outcome),
    KernelOutcome.OTHER_HOST: set(Outcome),
}
_DROPPED = {KernelOutcome.RATE_LIMITED, KernelOutcome.ALLOWANCE_USED}
_ONLY_THE_KERNEL = {
    *_DROPPED,
    KernelOutcome.EXPIRED,
    KernelOutcome.FAMILY_MISMATCH,
    KernelOutcome.TOO_BIG,
    KernelOutcome.HOP_LIMIT,
    KernelOutcome.NO_NEXT_HOP,
    KernelOutcome.PARTIAL_CHECKSUM,
    KernelOutcome.BUSY,
}
"""Reasons to leave to userspace what it will forward."""


def check(
    kernel: KernelUnderTest, table: ForwardingTable, frame: bytes, port: int
) -> KernelOutcome:
    """Run a frame through both, and demand the same verdict; returns the kernel's."""
    result, outcome = kernel.verdict(frame)
    if outcome is not KernelOutcome.FORWARDED:
        assert result.action == (XDP_DROP if outcome in _DROPPED else XDP_PASS)
        assert result.frame == frame
    received = receive(frame)
    if received is None or received.destination.port != port:
        assert outcome in _NOT_DATAGRAMS, outcome
        return outcome
    verdict = table.decide(received.payload, received.source)
    if outcome in _ONLY_THE_KERNEL:
        assert verdict.outcome is Outcome.FORWARDED
    else:
        assert verdict.outcome in _SAME[outcome], (outcome, verdict)
    if outcome is KernelOutcome.FORWARDED:
        assert result.action == XDP_TX
        assert verdict.path is not None
        sent = receive(result.frame)
        assert sent is not None
        assert sent.payload == received.payload
        assert (sent.destination, sent.source.host) == (verdict.path.remote, verdict.path.local)
        check_rewritten(frame, result.frame)
    return outcome


_NOT_DATAGRAMS = {
    KernelOutcome.NOT_OURS,
    KernelOutcome.BAD_FRAME,
    KernelOutcome.VLAN_TAG,
    KernelOutcome.FRAGMENT,
    KernelOutcome.IP_OPTIONS,
}


def check_rewritten(before: bytes, after: bytes) -> None:
    """Nothing but what has to be is different; checksums are as right or wrong as they were."""
    ipv6 = before[12:14] == b"\x86\xdd"
    ip, udp = (14, 54) if ipv6 else (14, 34)
    if ipv6:
        changed = [range(0, 12), range(ip + 7, ip + 8), range(ip + 8, ip + 40)]
    else:
        changed = [range(0, 12), range(ip + 6, ip + 9), range(ip + 10, ip + 20)]
    changed += [range(udp, udp + 4), range(udp + 6, udp + 8)]
    free = {position for part in changed for position in part}
    assert len(after) == len(before)
    assert all(after[i] == before[i] for i in range(len(before)) if i not in free), (
        before.hex(),
        after.hex(),
    )
    ttl = ip + (7 if ipv6 else 8)
    assert after[ttl] == before[ttl] - 1
    if before[udp + 6 : udp + 8] == b"\0\0":
        assert after[udp + 6 : udp + 8] == b"\0\0"
    elif is_partial(before):
        assert is_partial(after)
    else:
        assert after[udp + 6 : udp + 8] != b"\0\0"
        assert udp_residue(after) == udp_residue(before)
