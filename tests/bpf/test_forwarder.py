"""The forwarder that keeps the maps as the registry is, and what a restarted relay finds there."""

import time
from collections.abc import Iterator

import pytest

from bpf import layout
from bpf.layout import KernelOutcome as K
from relay.core.path import Path as PeerPath
from relay.core.registry import Record
from relay.core.table import Change, ConnectionIdsAdded, OwnerMoved, OwnerRemoved
from relay.kernel.forwarder import KernelForwarder, Rate
from relay.kernel.restore import read_records
from relay.wire.address import Address

from .lab import KernelUnderTest
from .scene import CIDS, RECEIVER, RECEIVERS, RELAYS, SENDER, SENDERS, Scene

LISTENERS = [RELAYS[4], RELAYS[6]]
LEASE_S = 100.0


@pytest.fixture
def scene(kernel: KernelUnderTest) -> Scene:
    return Scene(kernel)


def record(kernel: KernelUnderTest, owner: int) -> Record:
    (found,) = [
        each for each in read_records(kernel.maps, LISTENERS, LEASE_S) if each.owner == owner
    ]
    return found


def test_a_move_is_followed_at_once(scene: Scene) -> None:
    scene.move(RECEIVER[4], Address("198.51.100.9", 9))
    _, outcome = scene.kernel.verdict(scene.frame(4).build())
    assert outcome is K.NO_NEXT_HOP  # what was learned at the old place is forgotten
    scene.learn_hop(RECEIVER[4])
    result, outcome = scene.kernel.verdict(scene.frame(4).build())
    assert outcome is K.FORWARDED
    assert result.frame == scene.forwarded(4, destination=("198.51.100.9", 9)).build()


def test_a_sender_that_moved_is_known_at_its_new_place_only(scene: Scene) -> None:
    scene.move(SENDER[4], Address("192.0.2.200", 5))
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.UNREGISTERED_SOURCE
    frame = scene.frame(4, source=("192.0.2.200", 5)).build()
    assert scene.kernel.verdict(frame)[1] is K.FORWARDED


def test_the_same_place_again_changes_nothing(scene: Scene) -> None:
    before = bytes(scene.entry(RECEIVER[4]))
    scene.move(RECEIVER[4], RECEIVERS[4])
    assert bytes(scene.entry(RECEIVER[4])) == before


def test_several_owners_at_one_address(scene: Scene) -> None:
    """The source stays registered until the last of them is gone."""
    for owner in (10, 11):
        scene.move(owner, SENDERS[4])
        scene.add(owner, bytes([owner]) * 12)
    for owner in (SENDER[4], 10):
        scene.remove(owner)
        assert scene.kernel.verdict(scene.frame(4).build())[1] is K.FORWARDED
    scene.remove(11)
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.UNREGISTERED_SOURCE


def test_an_address_that_needs_its_interface_is_left_to_the_workers(scene: Scene) -> None:
    scene.move(RECEIVER[6], Address("fe80::7%1", 7))
    assert scene.kernel.verdict(scene.frame(6).build())[1] is K.EXPIRED
    scene.forwarder.renew_leases(time.monotonic())
    assert scene.kernel.verdict(scene.frame(6).build())[1] is K.EXPIRED
    scene.move(RECEIVER[6], RECEIVERS[6])
    scene.learn_hop(RECEIVER[6])
    assert scene.kernel.verdict(scene.frame(6).build())[1] is K.FORWARDED


def test_more_owners_than_the_maps_take_are_left_to_the_workers(scene: Scene) -> None:
    beyond = len(scene.kernel.maps.owners)
    path = PeerPath(Address("192.0.2.50", 50), 0, RELAYS[4].host)
    changes: list[Change] = [OwnerMoved(beyond, path), ConnectionIdsAdded(beyond, (b"\x55" * 12,))]
    scene.forwarder.apply(changes)
    scene.forwarder.apply([OwnerRemoved(beyond, (b"\x55" * 12,))])
    assert scene.kernel.maps.owner_by_cid.get(b"\x55" * 12) is None


def test_a_removed_owner_leaves_nothing(scene: Scene) -> None:
    maps = scene.kernel.maps
    for owner in (*SENDER.values(), *RECEIVER.values()):
        scene.remove(owner)
    assert list(maps.owner_by_cid.items()) == []
    assert list(maps.owner_by_source.items()) == []
    assert not any(owner.generation for owner in maps.owners)


def test_sources_that_the_kernel_heard_from(scene: Scene) -> None:
    for owner in (*SENDER.values(), *RECEIVER.values()):
        scene.entry(owner).hop.seen_ns = 0
    scene.forwarder.seen_sources()
    scene.kernel.run(scene.frame(4).build())
    assert scene.forwarder.seen_sources() == [SENDERS[4]]
    scene.entry(SENDER[4]).hop.seen_ns -= 10**9
    assert scene.forwarder.seen_sources() == []


def test_what_was_evicted_and_is_used_is_put_back(scene: Scene) -> None:
    scene.forwarder.put_back_evicted()  # whatever was missed before
    scene.kernel.maps.owner_by_cid.delete(CIDS[4])
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.UNKNOWN_CID
    stranger = scene.frame(4, b"\x40" + b"\x66" * 12).build()
    assert scene.kernel.verdict(stranger)[1] is K.UNKNOWN_CID
    assert scene.forwarder.put_back_evicted() >= 1  # an interrupted run of a frame runs twice
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.FORWARDED
    assert scene.kernel.verdict(stranger)[1] is K.UNKNOWN_CID


def test_strangers_cannot_ask_for_anything_to_be_put_back(scene: Scene) -> None:
    scene.kernel.maps.owner_by_cid.delete(CIDS[4])
    scene.forwarder.put_back_evicted()
    scene.kernel.run(scene.frame(4, source=("192.0.2.66", 6)).build())
    assert scene.forwarder.put_back_evicted() == 0


def test_leases_are_renewed(scene: Scene) -> None:
    scene.entry(RECEIVER[4]).lease_end_ns = 1
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.EXPIRED
    scene.forwarder.renew_leases(time.monotonic())
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.FORWARDED
    assert scene.entry(RECEIVER[4]).lease_end_ns == round(scene.leases.lease_end * 1e9)


def test_records_are_what_was_registered(scene: Scene) -> None:
    found = record(scene.kernel, RECEIVER[6])
    assert found.path == PeerPath(RECEIVERS[6], 1, RELAYS[6].host)
    assert found.connection_ids == {CIDS[6]}
    expected = scene.leases.record(RECEIVER[6], 0.0)
    assert (found.id_hash, found.key_digest) == (expected.id_hash, expected.key_digest)
    assert found.lease_end == pytest.approx(scene.leases.lease_end)


def test_packets_that_nobody_noticed_extend_a_lease(scene: Scene) -> None:
    entry = scene.entry(SENDER[4])
    entry.lease_end_ns = time.monotonic_ns()
    entry.hop.seen_ns = time.monotonic_ns()
    assert record(scene.kernel, SENDER[4]).lease_end == pytest.approx(
        time.monotonic() + LEASE_S, abs=5
    )


def test_registrations_at_a_listener_that_is_gone_are_not_restored(scene: Scene) -> None:
    maps = scene.kernel.maps
    only_ipv6 = read_records(maps, [RELAYS[6]], LEASE_S)
    assert {each.owner for each in only_ipv6} == {SENDER[6], RECEIVER[6]}
    assert {each.path.listener for each in only_ipv6} == {0}
    assert read_records(maps, [RELAYS[4]._replace(port=1)], LEASE_S) == []
    wildcard = read_records(maps, [Address("0.0.0.0", RELAYS[4].port)], LEASE_S)
    assert {each.owner for each in wildcard} == {SENDER[4], RECEIVER[4]}


def test_half_written_and_stale_entries_are_not_restored(scene: Scene) -> None:
    maps = scene.kernel.maps
    maps.owners[SENDER[4]].sequence |= 1
    maps.owners[RECEIVER[4]].generation += 1
    owners = {each.owner: each for each in read_records(maps, LISTENERS, LEASE_S)}
    assert SENDER[4] not in owners
    assert owners[RECEIVER[4]].connection_ids == frozenset()


def test_a_second_forwarder_goes_on_with_the_same_entries(scene: Scene) -> None:
    """As after a restart: what it is told of stays as it is, the rest goes."""
    kernel = scene.kernel
    kernel.run(scene.frame(4).build())
    before = {owner: bytes(scene.entry(owner)) for owner in (SENDER[4], RECEIVER[4])}
    successor = KernelForwarder(kernel.maps, LISTENERS, scene.leases, Rate())
    for owner, remote in ((SENDER[4], SENDERS[4]), (RECEIVER[4], RECEIVERS[4])):
        successor.apply([OwnerMoved(owner, PeerPath(remote, 0, RELAYS[4].host))])
    successor.apply([ConnectionIdsAdded(RECEIVER[4], (CIDS[4],))])
    successor.forget_unknown()
    assert {owner: bytes(scene.entry(owner)) for owner in before} == before
    assert kernel.verdict(scene.frame(4).build())[1] is K.FORWARDED
    assert kernel.verdict(scene.frame(6).build())[1] is K.UNKNOWN_CID
    assert [cid for cid, _ in kernel.maps.owner_by_cid.items()] == [CIDS[4]]


def test_a_second_forwarder_brings_its_own_rate(scene: Scene) -> None:
    before = scene.entry(SENDER[4]).generation
    for rate, costs in ((Rate(10.0, 1024.0), (10**8, 10**9)), (Rate(), (0, 0))):
        successor = KernelForwarder(scene.kernel.maps, LISTENERS, scene.leases, rate)
        successor.apply([OwnerMoved(SENDER[4], PeerPath(SENDERS[4], 0, RELAYS[4].host))])
        entry = scene.entry(SENDER[4])
        assert (entry.packet_cost_ns, entry.byte_cost) == costs
        assert entry.generation == before


def test_a_crash_in_the_midst_of_a_write_is_mended(scene: Scene) -> None:
    scene.entry(RECEIVER[4]).sequence |= 1
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.BUSY
    scene.move(RECEIVER[4], RECEIVERS[4])
    scene.learn_hop(RECEIVER[4])
    assert scene.kernel.verdict(scene.frame(4).build())[1] is K.FORWARDED


def test_another_registration_with_a_number_used_before_is_a_new_one(scene: Scene) -> None:
    scene.kernel.run(scene.frame(4).build())
    successor = KernelForwarder(scene.kernel.maps, LISTENERS, _Others(), Rate(packets_per_s=10))
    path = PeerPath(SENDERS[4], 0, RELAYS[4].host)
    successor.apply([OwnerMoved(SENDER[4], path)])
    entry = scene.entry(SENDER[4])
    assert (entry.packets, entry.packet_cost_ns) == (0, 10**8)
    assert bytes(entry.id) == b"\xee" * 16
    assert scene.kernel.maps.owners[SENDER[4]].generation not in (0, 1)


class _Others:
    """A registry whose registrations are all others."""

    def record(self, owner: int, now: float) -> Record:
        path = PeerPath(SENDERS[4], 0, RELAYS[4].host)
        return Record(owner, "ee" * 16, b"\xdd" * 16, path, now + LEASE_S, frozenset())

    def lease_ends(self, now: float) -> Iterator[tuple[int, float]]:
        return iter([])


def test_a_full_map_is_no_error(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    sources = scene.kernel.maps.owner_by_source
    room = sources.shape.capacity - len(list(sources.items()))
    keys = [layout.source_key(Address("203.0.113.1", port + 1), RELAYS[4]) for port in range(room)]
    sources.put_all([(key, layout.owner_ref(0, 0)) for key in keys])
    scene.move(60, Address("203.0.113.7", 7))
    assert "the workers forward this one" in caplog.text
    scene.forwarder.forget_unknown()  # the sources that were made up
    scene.move(61, Address("203.0.113.8", 8))
    assert sources.get(layout.source_key(Address("203.0.113.8", 8), RELAYS[4])) is not None
