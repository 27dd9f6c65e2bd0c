"""The batch loop alone: GRO, GSO, what the kernel does not take, systems without the calls."""

import errno
import socket
import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from relay.core.outcome import Outcome
from relay.core.table import ForwardingTable
from relay.forwarding.batch_calls import (
    SOL_UDP,
    UDP_SEGMENT,
    BatchCalls,
    BatchUnavailable,
    load_calls,
)
from relay.forwarding.loops import make_loop
from relay.forwarding.plain_loop import PlainLoop
from relay.forwarding.worker import ForwardingLoop

from .forwarding_rig import CIDS, LoopMaker, Rig, Sent, long, rig, short

TO_HTTP3 = b"\x80" + bytes(11)


class WatchedCalls:
    """Passes calls on, notes how many messages each was about, and fails where it is told to."""

    def __init__(self, calls: BatchCalls) -> None:
        self._calls = calls
        self.received: list[int] = []
        self.sent: list[int] = []
        self.at_most = 1024
        """Messages that one `send` takes."""
        self.answers: list[int] = []
        """What the next calls of `send` return instead; 0: an honest answer."""

    def receive(self, fd: int, headers: int, count: int, flags: int) -> int:
        done = self._calls.receive(fd, headers, count, flags)
        if done > 0:
            self.received.append(done)
        return done

    def send(self, fd: int, headers: int, count: int, flags: int) -> int:
        if self.answers and (answer := self.answers.pop(0)):
            return answer
        done = self._calls.send(fd, headers, min(count, self.at_most), flags)
        if done > 0:
            self.sent.append(done)
        return done


@pytest.fixture
def watched() -> WatchedCalls:
    try:
        return WatchedCalls(load_calls())
    except BatchUnavailable as missing:
        pytest.skip(f"no batched calls: {missing}")


@pytest.fixture
def maker(watched: WatchedCalls) -> LoopMaker:
    from relay.forwarding.batch_loop import BatchLoop

    def make(
        sockets: Sequence[socket.socket], up: socket.socket, wake: Sequence[int]
    ) -> ForwardingLoop:
        return BatchLoop(sockets, up, wake, watched)

    return make


@pytest.fixture(params=[("127.0.0.1", "::1"), ("0.0.0.0", "::")], ids=["specific", "wildcard"])
def ready(request: pytest.FixtureRequest, maker: LoopMaker) -> Iterator[Rig]:
    with rig(maker, request.param) as made:
        for change in made.registrations():
            made.loop.apply(change)
        yield made


def reference(made: Rig) -> ForwardingTable:
    table = ForwardingTable()
    for change in made.registrations():
        table.apply(change)
    return table


def send_as_one(made: Rig, sent: Sequence[Sent]) -> None:
    """Send datagrams of one size (the last may be shorter) as one GSO message."""
    peer, size = sent[0].peer, len(sent[0].datagram)
    sock = made.peers[peer]
    v4 = sock.family == socket.AF_INET
    level, kind = (
        (socket.IPPROTO_IP, socket.IP_TOS) if v4 else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
    )
    control = [
        (level, kind, sent[0].ecn.to_bytes(4, "little")),
        (SOL_UDP, UDP_SEGMENT, size.to_bytes(2, "little")),
    ]
    try:
        sock.sendmsg([each.datagram for each in sent], control, 0, made.relay(peer))
    except OSError as error:
        pytest.skip(f"this system has no GSO: {error}")


def exchange_as_one(made: Rig, sent: Sequence[Sent]) -> None:
    """Send as one message, and demand what the reference says of each datagram in it."""
    before = made.loop.counters().outcomes
    send_as_one(made, sent)
    assert made.result(before, len(sent)) == made.expected(reference(made), sent)


SIZE = 200


def padded(datagram: bytes) -> bytes:
    return datagram.ljust(SIZE, b"\x55")


MIXED = [
    short(CIDS[0], b"one"),
    short(CIDS[1], b"the same peer, another connection ID"),
    short(CIDS[1], b"two"),
    short(CIDS[6], b"another peer, of the other family"),
    long(CIDS[7], CIDS[3], b"a handshake"),
    short(TO_HTTP3, b"HTTP/3"),
    long(bytes(8), bytes(3), b"HTTP/3 of a stranger"),
    short(CIDS[8], b"after what was not forwarded"),
    bytes(SIZE),
    b"\xff" * SIZE,
    long(bytes(8), CIDS[2], b"a stray handshake"),
    short(CIDS[0], b"three"),
    short(CIDS[0], b"four"),
]


@pytest.mark.parametrize("last", [b"", b"\x40", short(CIDS[0]), short(CIDS[6], b"!" * 99)])
@pytest.mark.parametrize("peer", [1, 2, 3], ids=["v4", "v6", "stranger"])
@pytest.mark.parametrize("ecn", [0, 2])
def test_each_datagram_of_a_gro_buffer_is_decided_by_itself(
    ready: Rig, watched: WatchedCalls, last: bytes, peer: int, ecn: int
) -> None:
    sent = [Sent(peer, padded(each), ecn) for each in MIXED]
    if last:
        sent.append(Sent(peer, last, ecn))
    exchange_as_one(ready, sent)
    if watched.received != [1]:
        pytest.skip("this system does not give several datagrams as one")
    if peer != 3:  # a stranger's are not forwarded
        forwarded = ready.loop.counters().of(Outcome.FORWARDED)
        assert sum(watched.sent) < forwarded


@pytest.mark.parametrize("count", [2, 3, 40])
@pytest.mark.parametrize("to", [0, 6], ids=["to v4", "to v6"])
@pytest.mark.parametrize("peer", [1, 2], ids=["from v4", "from v6"])
def test_a_buffer_of_one_connection_leaves_as_one_message(
    ready: Rig, watched: WatchedCalls, count: int, to: int, peer: int
) -> None:
    sent = [Sent(peer, short(CIDS[to], bytes([number]) * 1187)) for number in range(count)]
    exchange_as_one(ready, sent)
    assert watched.sent == [1]


def test_the_odd_one_in_a_buffer_of_one_connection(ready: Rig) -> None:
    run = [Sent(1, padded(short(CIDS[0], bytes([number])))) for number in range(9)]
    exchange_as_one(ready, run)
    # What the buffer still holds of the message before would complete the last one's header.
    exchange_as_one(ready, [*run[:8], Sent(1, run[8].datagram[:10])])
    long_header = Sent(1, padded(short(CIDS[0], first=0xC0)))
    exchange_as_one(ready, [*run[:4], long_header, *run[4:]])


def test_a_buffer_beside_single_datagrams(ready: Rig) -> None:
    before = ready.loop.counters().outcomes
    run = [Sent(1, padded(short(CIDS[0], bytes([number])))) for number in range(9)]
    single = [Sent(2, short(CIDS[3], b"alone"), 1), Sent(1, b"", 2), Sent(3, b"??")]
    send_as_one(ready, run)
    for each in single:
        ready.send(each)
    send_as_one(ready, run)
    sent = [*run, *single, *run]
    assert ready.result(before, len(sent)) == ready.expected(reference(ready), sent)


def test_strangers_between_the_packets_of_a_pipe(ready: Rig, watched: WatchedCalls) -> None:
    run = [Sent(0, short(CIDS[3], bytes([number])), number % 4) for number in range(20)]
    others = [
        Sent(3, short(CIDS[3])),
        Sent(3, short(bytes(12))),
        Sent(3, short(TO_HTTP3)),
        Sent(3, long(bytes(8), bytes(3))),
        Sent(3, b"?"),
    ]
    sent = [each for pair in zip(run, 4 * others, strict=True) for each in pair]
    assert ready.exchange(sent) == ready.expected(reference(ready), sent)
    assert watched.sent == [20]
    # As many more, and one packet in them that is not usual: they stay in order.
    unusual = [*sent[:20], Sent(0, long(CIDS[3], bytes(3), b"\xff")), *sent[20:]]
    for each in unusual:
        ready.send(each)
    datagrams = [datagram for peer, datagram, _, _ in ready.run(41) if peer == 1]
    assert datagrams == [each.datagram for each in unusual if each.peer == 0]


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EAGAIN])
def test_a_message_that_cannot_be_cut_by_the_kernel_is_cut_by_us(
    ready: Rig, watched: WatchedCalls, error: int
) -> None:
    watched.answers = [-error]
    sent = [Sent(1, padded(short(CIDS[0], bytes([number])))) for number in range(9)]
    exchange_as_one(ready, sent)
    assert watched.sent == [9]
    exchange_as_one(ready, sent)
    assert watched.sent[1:] == ([9] if error == errno.EIO else [1])


def test_more_messages_than_leave_in_one_call(ready: Rig) -> None:
    before = ready.loop.counters().outcomes
    sent = []
    for _ in range(8):
        run = [Sent(1, short(CIDS[3 * (number % 2)], b"!" * 20)) for number in range(60)]
        send_as_one(ready, run)
        sent += run
    assert ready.result(before, len(sent)) == ready.expected(reference(ready), sent)


def test_what_the_kernel_does_not_take_at_once_is_sent_later(
    ready: Rig, watched: WatchedCalls
) -> None:
    watched.at_most = 3
    sent = [Sent(1, short(CIDS[0], bytes([number]))) for number in range(10)]
    assert ready.exchange(sent) == ready.expected(reference(ready), sent)
    assert watched.sent == [3, 3, 3, 1]


def test_a_datagram_that_is_not_taken_does_not_hold_up_the_others(
    ready: Rig, watched: WatchedCalls
) -> None:
    watched.at_most = 2
    to_v4 = [0, -errno.EMSGSIZE, -errno.EAGAIN, 0]
    to_v6 = [-errno.EINTR, -errno.EPERM, 0]
    watched.answers = [*to_v4, *to_v6]
    sent = [Sent(1, short(CIDS[number % 9], bytes([number]))) for number in range(9)]
    before = ready.loop.counters().bytes_forwarded
    result = ready.exchange(sent)
    lost = {sent[2], sent[3], sent[6]}
    assert result.outcomes == {Outcome.FORWARDED: 6, Outcome.TOO_BIG: 1, Outcome.SEND_FAILED: 2}
    arrived = {datagram for _, datagram, _, _ in result.delivered}
    assert not {each.datagram for each in lost} & arrived
    assert len(arrived) == 6
    assert ready.loop.counters().bytes_forwarded - before == sum(map(len, arrived))


@pytest.mark.parametrize("ecn", [1, 2, 3])
@pytest.mark.parametrize("to", [0, 6], ids=["to v4", "to v6"])
def test_one_datagram_keeps_its_ecn_bits_and_the_source_address(
    ready: Rig, ecn: int, to: int
) -> None:
    for bits in (0, ecn, 0):
        sent = [Sent(1, short(CIDS[to]), bits)]
        assert ready.exchange(sent) == ready.expected(reference(ready), sent)


@pytest.mark.parametrize("error", [errno.EMSGSIZE, errno.EAGAIN])
def test_one_datagram_that_is_not_taken_is_counted(
    ready: Rig, watched: WatchedCalls, error: int
) -> None:
    sent = [Sent(1, short(CIDS[0]))]
    ready.exchange(sent)
    watched.answers = [-errno.EINTR, -error]
    before = ready.loop.counters().bytes_forwarded
    outcome = Outcome.TOO_BIG if error == errno.EMSGSIZE else Outcome.SEND_FAILED
    assert ready.exchange(sent).outcomes == {outcome: 1}
    assert ready.loop.counters().bytes_forwarded == before


def test_a_full_way_up_is_counted(ready: Rig) -> None:
    sent = [Sent(3, long(bytes(8), bytes(8), bytes(1000)))] * 40
    ready.shrink_up()
    result = ready.exchange(sent)
    assert result.outcomes[Outcome.CONTROL_QUEUE_FULL] > 0
    assert result.outcomes[Outcome.HTTP3] == sum(result.up.values())
    assert sum(result.outcomes.values()) == len(sent)


@pytest.mark.parametrize("module", ["cffi", "numpy"])
def test_without_a_library_the_plain_loop_forwards(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BatchUnavailable, match=module):
        load_calls()
    check_that_the_plain_loop_forwards()


def test_without_the_calls_the_plain_loop_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    cffi = pytest.importorskip("cffi")

    def without_sendmmsg(*_: object) -> object:
        return SimpleNamespace(recvmmsg=None)

    monkeypatch.setattr(cffi.FFI, "dlopen", without_sendmmsg)
    with pytest.raises(BatchUnavailable, match="sendmmsg"):
        load_calls()
    check_that_the_plain_loop_forwards()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("platform", "darwin", "darwin"), ("byteorder", "big", "little-endian")],
)
def test_another_system_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setattr(sys, name, value)
    with pytest.raises(BatchUnavailable, match=said):
        load_calls()


def check_that_the_plain_loop_forwards() -> None:
    with rig(make_loop) as made:
        assert isinstance(made.loop, PlainLoop)
        for change in made.registrations():
            made.loop.apply(change)
        sent = [Sent(1, short(CIDS[0], bytes([number]))) for number in range(9)]
        before = made.loop.counters().outcomes
        send_as_one(made, sent)  # left by a batch loop, GRO would make one datagram of them
        assert made.result(before, len(sent)) == made.expected(reference(made), sent)


def test_here_batches_are_used_if_they_can_be(watched: WatchedCalls) -> None:
    from relay.forwarding.batch_loop import BatchLoop

    with rig(make_loop) as made:
        assert isinstance(made.loop, BatchLoop)
