"""A worker that is being filled is told everything before it is asked anything."""

from relay.core.path import Path
from relay.core.table import Change, ConnectionIdsAdded, OwnerMoved
from relay.forwarding.channel import Command, FrameReader, Sync, encode_command
from relay.forwarding.feed import Feed, encode_changes
from relay.wire.address import Address


class Owners:
    """Three owners with a connection ID each."""

    def owners(self) -> list[int]:
        return [0, 1, 2]

    def describe(self, owner: int) -> list[Change]:
        path = Path(Address("192.0.2.1", owner + 1), 0, "198.51.100.1")
        return [OwnerMoved(owner, path), ConnectionIdsAdded(owner, (bytes([owner]) * 12,))]


def commands(feed: Feed, before: bytes = b"") -> list[Command]:
    reader = FrameReader()
    found = list(reader.commands(before))
    while data := feed.next_bytes(50):
        feed.sent(len(data))
        found.extend(reader.commands(data))
    return found


def test_a_sync_that_is_asked_for_early_comes_last() -> None:
    feed = Feed(Owners())
    feed.append(encode_command(Sync(1)))
    before = feed.next_bytes(50)
    feed.sent(len(before))
    feed.append(encode_command(Sync(2)))
    assert commands(feed, before)[-3:] == [Sync(0), Sync(1), Sync(2)]


def test_a_sync_follows_the_changes_before_it() -> None:
    feed = Feed(Owners())
    described = commands(feed)
    assert described[-1] == Sync(0)
    assert len(described) == 7
    change = ConnectionIdsAdded(1, (bytes(12),))
    feed.change(encode_changes([change]))
    feed.append(encode_command(Sync(1)))
    assert commands(feed) == [change, Sync(1)]
