"""What each sender has had forwarded: every loop counts the same, once it is told to."""

import random
from collections import Counter

import pytest

from relay.core.bucket import Charge
from relay.core.outcome import Outcome
from relay.core.table import OwnerCharged
from relay.forwarding.channel import SendersCounted
from relay.forwarding.tally import Tally
from relay.wire.address import Address
from tests.relay.forwarding_rig import CIDS, REGISTERED, Rig, Sent, long, rig, short
from tests.relay.test_loops_agree import LOOPS, follow


def taken(each: Rig) -> dict[Address, tuple[int, int]]:
    return {one.source: (one.packets, one.bytes) for one in each.loop.take_sent(9)}


@pytest.mark.parametrize("name", LOOPS)
def test_each_loop_counts_what_it_forwards_by_who_sent_it(name: str) -> None:
    chosen = random.Random(7)
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.loop.apply(SendersCounted())
        for count in (1, 3, 40, 200):
            packets, sizes = Counter[Address](), Counter[Address]()
            sent = []
            for _ in range(count):
                peer = chosen.choice((0, 0, 0, 1, 2, 3))
                cid = chosen.choice((*CIDS, bytes(12)))
                make = chosen.choice(
                    (short(cid, bytes(chosen.randrange(900))), long(cid, bytes(8)))
                )
                sent.append(Sent(peer, make))
                if peer in REGISTERED and cid in CIDS:
                    packets[each.address(peer)] += 1
                    sizes[each.address(peer)] += len(make)
            result = each.exchange(sent)
            assert result.outcomes[Outcome.FORWARDED] == packets.total()
            assert taken(each) == {who: (packets[who], sizes[who]) for who in packets}
            assert taken(each) == {}


@pytest.mark.parametrize("name", LOOPS)
def test_one_sender_alone_is_counted_in_batches(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.loop.apply(SendersCounted())
        each.exchange([Sent(0, short(CIDS[3]))] * 150)
        assert taken(each) == {each.address(0): (150, 150 * len(short(CIDS[3])))}


@pytest.mark.parametrize("name", LOOPS)
def test_nothing_is_counted_unless_somebody_wants_to_see_it(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.exchange([Sent(0, short(CIDS[3]))] * 5)
        assert taken(each) == {}


@pytest.mark.parametrize("name", LOOPS)
def test_what_a_rate_forbids_is_not_counted(name: str) -> None:
    with rig(LOOPS[name]) as each:
        follow({name: each})
        each.loop.apply(SendersCounted())
        each.loop.apply(OwnerCharged(0, (Charge(1, 0.0, 1.0),)))
        result = each.exchange([Sent(0, short(CIDS[3]))] * 5)
        assert result.outcomes[Outcome.FORWARDED] == 0
        assert taken(each) == {}


def test_nobody_waits_for_ever_while_others_go_on_sending() -> None:
    tally = Tally[str]()
    told = set[str]()
    for _ in range(20):
        for name in "abcdefghij":
            tally.add(name, 1, 10)
        told.update(name for name, _, _ in tally.take(1))
    assert told == set("abcdefghij")


def test_nothing_is_lost_or_told_twice() -> None:
    tally = Tally[str]()
    for _ in range(5):
        tally.add_all(["a", "b", "a"], [1, 2, 4])
        tally.add_all(["a", "a"], [1, 1])
    total = Counter[str]()
    while taken := tally.take(1):
        for name, packets, size in taken:
            total[name + " packets"] += packets
            total[name] += size
    assert total == {"a packets": 20, "a": 35, "b packets": 5, "b": 10}
