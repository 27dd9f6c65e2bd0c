"""Connection IDs, windows, numbers of streams, datagrams: what limits the QUIC end of a pipe."""

import pytest
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    DatagramFrameReceived,
    StreamReset,
)

from peers.errors import DatagramTooLarge
from peers.quic.connection import PeerConnection
from peers.quic.parts import TransportSettings
from relay.wire.connection_id import Derivation, Towards, derive

from .quic_pair import (
    PSK_PARTS,
    Pair,
    RouteTable,
    connection_ids,
    dialing,
    opened,
    random_loss,
)

# Connection IDs


def expected_ids(fill: int, count: int) -> list[bytes]:
    key = bytes([fill]) * 32
    return [derive(key, n, Derivation.BLAKE3, Towards.PEER) for n in range(1, count + 1)]


def test_connection_ids_are_the_derived_ones_and_routed() -> None:
    pair = dialing(registered=(10, 10))
    client_routes, server_routes = RouteTable(), RouteTable()
    pair.client.follow_routes(client_routes)
    pair.server.follow_routes(server_routes)
    assert client_routes.ever == expected_ids(1, 1)
    assert pair.run(pair.is_open)
    pair.run_for(0.2)
    assert sorted(client_routes.ever) == sorted(expected_ids(1, 8))
    assert sorted(server_routes.ever) == sorted(expected_ids(2, 8))
    pair.client.leave_routes()
    assert client_routes.current == set()


def test_only_registered_connection_ids_are_issued() -> None:
    pair = dialing(registered=(3, 1))
    routes = RouteTable()
    pair.client.follow_routes(routes)
    assert pair.run(pair.is_open)
    pair.run_for(0.2)
    assert sorted(routes.current) == sorted(expected_ids(1, 3))
    # The server uses them up one by one; with none left it stays with the last.
    for _ in range(5):
        QuicConnection.change_connection_id(pair.server)
        pair.run_for(0.2)
    assert len(routes.current) == 1
    stream = pair.client.open_stream(unidirectional=False)
    pair.client.send_stream_data(stream, b"still there")
    assert pair.run(lambda: pair.received[False] == 11)


def test_more_connection_ids_are_issued_once_more_are_registered() -> None:
    source = connection_ids(1, 3)
    client = PeerConnection(parts=PSK_PARTS, connection_ids=source)
    [invite] = client.start_muted(0.0, 60.0)
    server = PeerConnection(
        parts=PSK_PARTS, connection_ids=connection_ids(2), first_datagram=invite
    )
    server.start_server(0.0)
    pair = Pair(client, server)
    routes = RouteTable()
    client.follow_routes(routes)
    assert pair.run(pair.is_open)
    pair.run_for(0.2)
    client.issue_connection_ids()
    assert len(routes.current) == 3
    source.allow(20)
    client.issue_connection_ids()
    pair.run_for(0.2)
    assert sorted(routes.current) == sorted(expected_ids(1, 8))
    for _ in range(12):
        QuicConnection.change_connection_id(server)
        pair.run_for(0.2)
    assert source.remaining == 0
    assert len(routes.current) == 1 + 20 - 13
    stream = server.open_stream(unidirectional=False)
    server.send_stream_data(stream, b"still there")
    assert pair.run(lambda: pair.received[True] == 11)


def test_no_connection_begins_without_a_registered_connection_id() -> None:
    with pytest.raises(ValueError, match="no registered connection ID"):
        PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1, 0))


# Windows and limits

SMALL = TransportSettings(stream_window=40_000, connection_window=100_000, max_streams=4)


def test_sender_stops_at_the_window_of_a_reader_that_does_not_read() -> None:
    pair = opened(settings=SMALL)
    pair.read_at_once = False
    stream = pair.client.open_stream(unidirectional=False)
    pair.client.send_stream_data(stream, bytes(150_000), end_stream=True)
    pair.run_for(5.0)
    assert pair.received[False] == SMALL.stream_window
    assert pair.client.unacknowledged(stream) == 150_000 - SMALL.stream_window
    pair.server.consumed(stream, SMALL.stream_window)
    pair.run_for(5.0)
    assert pair.received[False] == 2 * SMALL.stream_window
    pair.server.consumed(stream, SMALL.stream_window)
    pair.read_at_once = True
    assert pair.run(lambda: pair.client.is_sending_finished(stream), 5.0)
    assert pair.received[False] == 150_000


def test_all_streams_together_stop_at_the_connection_window() -> None:
    pair = opened(settings=SMALL)
    pair.read_at_once = False
    streams = [pair.client.open_stream(unidirectional=True) for _ in range(4)]
    for stream in streams:
        pair.client.send_stream_data(stream, bytes(40_000))
    pair.run_for(5.0)
    assert pair.received[False] == SMALL.connection_window
    # What was received on a stream that is given up counts no more.
    pair.client.reset_stream(streams[0], 7)
    pair.run_for(1.0)
    assert any(isinstance(event, StreamReset) for event in pair.events[False])
    assert pair.received[False] > SMALL.connection_window


def test_window_updates_that_are_lost_are_repeated() -> None:
    pair = opened(settings=SMALL, loss=random_loss(0.3, 1))
    stream = pair.client.open_stream(unidirectional=False)
    pair.client.send_stream_data(stream, bytes(400_000), end_stream=True)
    assert pair.run(lambda: pair.received[False] == 400_000, 120.0)


def test_streams_of_the_other_end_are_limited_until_they_are_released() -> None:
    pair = opened(settings=SMALL)
    for _ in range(7):
        stream = pair.client.open_stream(unidirectional=True)
        pair.client.send_stream_data(stream, b"x", end_stream=True)
    pair.run_for(2.0)
    assert pair.received[False] == 4
    for stream_id in (2, 6):
        pair.server.release_stream(stream_id)
    pair.run_for(2.0)
    assert pair.received[False] == 6


def test_stream_beyond_the_limit_ends_the_connection() -> None:
    pair = opened(settings=SMALL)
    pair.client._remote_max_streams_uni = 100  # a client that does not care
    for _ in range(5):
        pair.client.send_stream_data(pair.client.open_stream(unidirectional=True), b"x")
    assert pair.run(pair.is_over, 5.0)
    assert pair.client.end is not None
    assert "Too many streams" in pair.client.end.reason


def test_datagrams_up_to_the_limit_arrive_and_larger_ones_are_refused() -> None:
    pair = opened()
    limit = pair.client.datagram_limit
    assert limit == 1166
    pair.client.send_datagram(bytes(limit))
    with pytest.raises(DatagramTooLarge, match="1166 is the most") as caught:
        pair.client.send_datagram(bytes(limit + 1))
    assert caught.value.limit == limit
    pair.client.send_datagram(b"after it")
    pair.run_for(0.1)
    datagrams = [e.data for e in pair.events[False] if isinstance(e, DatagramFrameReceived)]
    assert datagrams == [bytes(limit), b"after it"]


def test_the_oldest_datagrams_are_dropped_when_too_many_wait() -> None:
    pair = opened(settings=TransportSettings(datagram_queue=5))
    for n in range(8):
        pair.client.send_datagram(bytes([n]))
    pair.run_for(0.1)
    datagrams = [e.data for e in pair.events[False] if isinstance(e, DatagramFrameReceived)]
    assert datagrams == [bytes([n]) for n in range(3, 8)]
    assert pair.client.statistics().datagram_frames_dropped == 3
