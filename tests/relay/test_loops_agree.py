"""One meaning, several speeds: every loop does with a datagram what the reference says."""

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.outcome import Outcome
from relay.core.table import (
    Change,
    ConnectionIdsAdded,
    ForwardingTable,
    OwnerMoved,
    OwnerRemoved,
)
from relay.forwarding.batch_calls import BatchCalls, BatchUnavailable, load_calls
from relay.forwarding.channel import ConnectionIdsRemoved
from relay.forwarding.plain_loop import PlainLoop
from relay.forwarding.worker import ForwardingLoop

from .forwarding_rig import CIDS, REGISTERED, STRANGERS, LoopMaker, Rig, Sent, long, rig, short


def make_batch_loop(
    sockets: Sequence[socket.socket],
    up: socket.socket,
    wake: Sequence[int],
    wrap: Callable[[BatchCalls], BatchCalls] = lambda calls: calls,
) -> ForwardingLoop:
    try:
        calls = load_calls()
    except BatchUnavailable as missing:
        pytest.skip(f"no batched calls: {missing}")
    from relay.forwarding.batch_loop import BatchLoop

    return BatchLoop(sockets, up, wake, wrap(calls))


class FewAtATime:
    """Gives two messages in a batch at most."""

    def __init__(self, calls: BatchCalls) -> None:
        self._calls = calls
        self.send = calls.send

    def receive(self, fd: int, headers: int, count: int, flags: int) -> int:
        return self._calls.receive(fd, headers, min(2, count), flags)


def make_patient_loop(
    sockets: Sequence[socket.socket], up: socket.socket, wake: Sequence[int]
) -> ForwardingLoop:
    return make_batch_loop(sockets, up, wake, FewAtATime)


LOOPS: dict[str, LoopMaker] = {
    "plain": PlainLoop,
    "batch": make_batch_loop,
    "few": make_patient_loop,
}
HOSTS = {"specific": ("127.0.0.1", "::1"), "wildcard": ("0.0.0.0", "::")}


@pytest.fixture(params=HOSTS)
def rigs(request: pytest.FixtureRequest) -> Iterator[dict[str, Rig]]:
    hosts = HOSTS[request.param]
    with ExitStack() as undo:
        yield {name: undo.enter_context(rig(make, hosts)) for name, make in LOOPS.items()}


def follow(rigs: dict[str, Rig]) -> dict[str, ForwardingTable]:
    """Register the three peers everywhere; each rig has its own addresses, so its own table."""
    tables = {}
    for name, each in rigs.items():
        tables[name] = ForwardingTable()
        for change in each.registrations():
            tables[name].apply(change)
            each.loop.apply(change)
    return tables


TO_HTTP3 = b"\x80" + bytes(11)
known = st.sampled_from(CIDS)
destinations = st.one_of(known, known, st.binary(min_size=12, max_size=12), st.just(TO_HTTP3))
any_cid = st.one_of(destinations, st.binary(max_size=20), st.just(b"\x01" * 255))
payloads = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 1400).map(bytes),
    st.sampled_from([2040, 9000]).map(bytes),
)
shorts = st.builds(short, destinations, payloads, st.integers(0, 0x7F) | st.integers(0, 0xFF))
longs = st.builds(long, any_cid, any_cid, payloads)
whole = st.one_of(shorts, shorts, shorts, longs)
cut = st.builds(lambda datagram, size: datagram[:size], whole, st.integers(0, 40))
datagrams = st.one_of(whole, whole, whole, cut, st.binary(max_size=60))
peers = st.sampled_from((*REGISTERED, *REGISTERED, *STRANGERS))
sendings = st.lists(st.builds(Sent, peers, datagrams, st.integers(0, 3)), max_size=90)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sendings)
def test_every_loop_agrees_with_the_reference(rigs: dict[str, Rig], sent: list[Sent]) -> None:
    tables = follow(rigs)
    for name, each in rigs.items():
        expected = each.expected(tables[name], sent)
        assert each.exchange(sent) == expected, name


@pytest.mark.parametrize("name", LOOPS)
def test_a_batch_of_ordinary_packets_is_forwarded_in_order(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        for number in range(200):
            each.send(Sent(0, short(CIDS[3 + number % 3], number.to_bytes(4, "big"))))
        received = each.run(200)
        numbers = [int.from_bytes(datagram[13:], "big") for _, datagram, _, _ in received]
        assert numbers == list(range(200))


@pytest.mark.parametrize("name", LOOPS)
def test_what_an_earlier_datagram_left_in_the_buffer_is_not_read(name: str) -> None:
    with rig(LOOPS[name]) as each:
        table = follow({name: each})[name]
        for late in (short(CIDS[3])[:6], short(CIDS[3])[:12], long(CIDS[3], CIDS[0])[:9], b""):
            for sent in ([Sent(0, short(CIDS[3]))] * 70, [Sent(0, late)] * 70):
                assert each.exchange(sent) == each.expected(table, sent)


@pytest.mark.parametrize("name", LOOPS)
def test_a_known_connection_id_where_a_long_header_has_none_means_nothing(name: str) -> None:
    with rig(LOOPS[name]) as each:
        table = follow({name: each})[name]
        sent = [Sent(0, short(CIDS[3], b"more than enough", first=0xC0))] * 3
        result = each.exchange(sent)
        assert result == each.expected(table, sent)
        assert Outcome.FORWARDED not in result.outcomes


@pytest.mark.parametrize("name", LOOPS)
def test_every_loop_follows_moves_and_removals(name: str) -> None:
    with rig(LOOPS[name]) as each:
        table = follow({name: each})[name]
        probes = [
            Sent(peer, datagram, 1)
            for peer in range(5)
            for cid in (*CIDS, bytes(12))
            for datagram in (short(cid), long(cid, CIDS[0]), long(bytes(8), cid))
        ]
        changes: list[Change] = [
            OwnerMoved(0, each.path(3)),  # another port
            OwnerMoved(1, each.path(2)),  # the other family, and an address that is registered
            OwnerRemoved(0, CIDS[:3]),
            ConnectionIdsAdded(1, CIDS[:2]),
            OwnerMoved(200_000, each.path(4)),  # far more owners than there was room for
            ConnectionIdsAdded(200_000, (b"\x11" * 12,)),
            OwnerMoved(1, each.path(1)),
            OwnerRemoved(200_000, (b"\x11" * 12,)),
            OwnerRemoved(1, (*CIDS[3:6], *CIDS[:2])),
            OwnerRemoved(2, CIDS[6:]),
        ]
        for change in changes:
            table.apply(change)
            each.loop.apply(change)
            assert each.exchange(probes) == each.expected(table, probes), change


@pytest.mark.parametrize("name", LOOPS)
def test_removed_connection_ids_are_forgotten_one_by_one(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.loop.apply(ConnectionIdsRemoved(0, CIDS[:1]))
        result = each.exchange([Sent(1, short(CIDS[0])), Sent(1, short(CIDS[1]))])
        assert result.outcomes == {Outcome.UNKNOWN_CID: 1, Outcome.FORWARDED: 1}


@pytest.mark.parametrize("name", LOOPS)
def test_sources_are_reported_once_whatever_became_of_their_datagrams(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.exchange([Sent(0, b""), Sent(0, b"junk"), Sent(2, short(CIDS[0])), Sent(3, b"x")])
        assert {*each.loop.take_heard(9)} == {each.address(0), each.address(2)}
        assert each.loop.take_heard(9) == []
        each.exchange([Sent(0, b"again"), Sent(1, short(CIDS[0])), Sent(2, b"")])
        first = each.loop.take_heard(2)
        rest = each.loop.take_heard(2)
        assert {*first, *rest} == {each.address(peer) for peer in REGISTERED}
        assert len(first) == 2


@pytest.mark.parametrize("name", LOOPS)
def test_nobody_is_drowned_out_by_sources_that_go_on_sending(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        told = set()
        for _ in range(6):
            each.exchange([Sent(peer, b"x") for peer in REGISTERED])
            told.update(each.loop.take_heard(1))
        assert told == {each.address(peer) for peer in REGISTERED}


@pytest.mark.parametrize("name", LOOPS)
def test_a_source_that_is_no_longer_registered_is_not_reported(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.exchange([Sent(0, b"x"), Sent(1, b"x")])
        each.loop.apply(OwnerRemoved(0, CIDS[:3]))
        assert each.loop.take_heard(9) == [each.address(1)]
        assert each.exchange([Sent(0, short(CIDS[3]))]).outcomes == {Outcome.UNREGISTERED_SOURCE: 1}
