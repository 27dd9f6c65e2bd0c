"""The QUIC end of a pipe: opening under loss, waiting, windows, outages, closing. Virtual time."""

import dataclasses
from itertools import pairwise

import pytest
from aioquic.quic.connection import QuicConnectionState
from aioquic.quic.events import (
    DatagramFrameReceived,
    HandshakeCompleted,
    StreamDataReceived,
    StreamReset,
)
from aioquic.quic.packet import encode_quic_version_negotiation
from aioquic.tls import Epoch
from hypothesis import given
from hypothesis import strategies as st

from peers.errors import DatagramTooLarge
from peers.identity import Identity
from peers.quic import PEER, PeerConnection
from peers.quic_parts import PIPE_ALPN, EndedBy, TlsParts, TransportSettings
from relay.wire.connection_id import Derivation, Towards, derive

from .quic_pair import (
    PSK_PARTS,
    Loss,
    Pair,
    RouteTable,
    connection_ids,
    dialing,
    opened,
    random_loss,
)

CERTIFICATE_PARTS = TlsParts(PIPE_ALPN, identity=Identity.generate(), request_certificate=True)
TWO_HOPS_AT_30_PERCENT = 1 - 0.7**2


def losing_first(count: int, *, to_server: bool) -> Loss:
    """Lose so many datagrams of one direction, and no others."""
    left = count

    def lost(direction: bool, datagram: bytes) -> bool:
        nonlocal left
        if direction is not to_server or left == 0:
            return False
        left -= 1
        return True

    return lost


class Outage:
    """A way that can be cut."""

    def __init__(self) -> None:
        self.is_cut = False

    def __call__(self, to_server: bool, datagram: bytes) -> bool:
        return self.is_cut


# Opening


@pytest.mark.parametrize("parts", [PSK_PARTS, CERTIFICATE_PARTS], ids=["psk", "certificate"])
def test_opens_within_15_s_where_half_of_all_is_lost(parts: TlsParts) -> None:
    for seed in range(200):
        pair = dialing(parts, loss=random_loss(TWO_HOPS_AT_30_PERCENT, seed))
        assert pair.run(pair.is_open, 15.0), f"seed {seed}: not open after 15 s"


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 7])
def test_opens_after_the_whole_first_flight_of_the_accepter_was_lost(lost: int) -> None:
    pair = dialing(CERTIFICATE_PARTS, loss=losing_first(lost, to_server=False))
    assert pair.run(pair.is_open, 5.0)


def test_server_that_may_send_no_more_counts_the_invite_again() -> None:
    pair = dialing(loss=lambda to_server, datagram: not to_server)
    pair.run_for(0.01)
    assert pair.server.is_blocked_by_amplification
    pair.run_for(10.0)
    # One flight per half second, where one invite alone would allow three datagrams in all.
    assert 15 <= pair.sent[False] <= 60
    assert pair.client.is_muted


def test_client_that_waited_an_hour_has_a_sound_round_trip() -> None:
    pair = dialing(wait_s=3000.0)
    assert pair.client.statistics().datagrams_sent == 1
    assert pair.run(pair.is_open, 1.0)
    pair.run_for(1.0)
    assert 0.03 < pair.client.statistics().smoothed_rtt_s < 0.1
    assert 0.03 < pair.server.statistics().smoothed_rtt_s < 0.1


def test_waiting_client_sends_nothing_and_runs_no_timer_but_the_last() -> None:
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    flight = client.start_muted(100.0, 3600.0)
    assert [len(each) for each in flight] == [1200]
    assert client.next_timer() == 3700.0
    for now in (101.0, 1000.0, 3699.0):
        client.handle_time(now)
        assert client.outgoing(now) == []
        assert client.end is None
    client.handle_time(3700.0)
    assert client.end is not None
    assert client.end.by is EndedBy.SILENCE
    assert client.is_gone
    assert client.next_timer() is None


def test_waiting_client_that_is_closed_is_gone_without_a_word() -> None:
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    client.start_muted(0.0, 3600.0)
    client.finish(0, "changed my mind")
    assert client.outgoing(1.0) == []
    assert client.is_gone


def test_idle_timeout_of_the_wait_is_over_once_it_is_answered() -> None:
    pair = opened(wait_s=3000.0)
    ends_at = pair.now + 32.0
    assert (pair.client.next_timer() or 1e9) < ends_at
    pair.loss = lambda to_server, datagram: True
    assert pair.run(pair.is_over, 60.0)
    assert pair.client.end is not None
    assert pair.client.end.by is EndedBy.SILENCE


@given(st.binary(max_size=1300))
def test_any_bytes_leave_a_waiting_client_waiting(data: bytes) -> None:
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    client.start_muted(0.0, 3600.0)
    client.receive(data, 1.0)
    client.receive(bytes([0xC0, 0, 0, 0, 1, 12]) + client.host_cid + data, 1.0)
    assert client.is_muted
    assert client.outgoing(1.0) == []
    assert client.end is None


def test_waiting_client_ignores_version_negotiation() -> None:
    # Anybody who saw its connection ID could end its wait with one.
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    client.start_muted(0.0, 3600.0)
    packet = encode_quic_version_negotiation(
        source_cid=client.original_destination_connection_id,
        destination_cid=client.host_cid,
        supported_versions=[0x1A2A3A4A],
    )
    client.receive(packet, 1.0)
    assert client.end is None
    assert client.is_muted


@given(st.binary(max_size=2000))
def test_any_bytes_are_harmless_to_an_open_connection(data: bytes) -> None:
    pair = opened()
    for datagram in (data, b"\x40" + pair.server.host_cid + data):
        pair.server.receive(datagram, pair.now)
    assert pair.server.end is None


def test_first_datagram_must_be_an_initial_packet_of_version_1() -> None:
    for bad in (b"", b"\x40" * 1200, b"\xc0" + bytes(1199), bytes.fromhex("c00000000100") + b"\0"):
        with pytest.raises(ValueError, match="first datagram"):
            PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(2), first_datagram=bad)


def test_damaged_first_datagram_is_noticed_at_once() -> None:
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    [invite] = client.start_muted(0.0, 60.0)
    damaged = invite[:300] + bytes([invite[300] ^ 1]) + invite[301:]
    server = PeerConnection(
        parts=PSK_PARTS, connection_ids=connection_ids(2), first_datagram=damaged
    )
    assert not server.start_server(0.0)


def test_early_data_is_not_taken() -> None:
    # It could be replayed. aioquic's server would offer it to whoever has the key.
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    ticket = client.configuration.session_ticket
    assert ticket is not None
    client.configuration.session_ticket = dataclasses.replace(
        ticket, max_early_data_size=0xFFFFFFFF
    )
    client.connect(PEER, 0.0)
    client.send_stream_data(0, b"early")
    first, *others = client.outgoing(0.0)
    server = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(2), first_datagram=first)
    assert server.start_server(0.0)
    for datagram in others:
        server.receive(datagram, 0.0)
    pair = Pair(client, server)
    assert pair.run(lambda: pair.received[False] == 5)
    kinds = [type(event) for event in pair.events[False]]
    assert kinds.index(HandshakeCompleted) < kinds.index(StreamDataReceived)


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
        pair.server.change_connection_id()
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
        server.change_connection_id()
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


def test_keys_are_renewed_while_a_transfer_goes_on() -> None:
    pair = opened(settings=TransportSettings(packets_per_key=500))
    phases: list[int] = []

    def is_done() -> bool:
        phases.append(pair.client._cryptos[Epoch.ONE_RTT].key_phase)
        return pair.received[False] == 3_000_000

    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, bytes(3_000_000), end_stream=True)
    assert pair.run(is_done, 20.0)
    changes = sum(one != other for one, other in pairwise(phases))
    assert 4 <= changes <= 8


# Outages


def transferring(size: int, outage: Outage) -> tuple[Pair, int]:
    pair = opened(loss=outage)
    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, bytes(size), end_stream=True)
    assert pair.run(lambda: pair.received[False] > size // 4)
    return pair, stream


def test_probes_go_on_every_second_in_an_outage() -> None:
    outage = Outage()
    pair, _ = transferring(4_000_000, outage)
    outage.is_cut = True
    pair.run_for(5.0)  # at first the window is used up
    before = pair.sent[True]
    pair.run_for(20.0)
    assert 19 <= pair.sent[True] - before <= 25
    assert pair.client.end is None


@pytest.mark.parametrize("outage_s", [0.5, 3.0, 20.0])
def test_a_transfer_goes_on_within_round_trips_of_a_probe(outage_s: float) -> None:
    outage = Outage()
    pair, _ = transferring(4_000_000, outage)
    outage.is_cut = True
    pair.run_for(outage_s)
    outage.is_cut = False
    received, window = pair.received[False], pair.client.statistics().congestion_window
    answered = pair.client.statistics().datagrams_received
    pair.client.probe_now(pair.now)
    assert pair.run(lambda: pair.client.statistics().datagrams_received > answered, 0.05)
    # RFC 9002 §7.6.2 has it begin with two packets: some round trips until the gaps are filled.
    assert pair.run(lambda: pair.received[False] > received, 0.3)
    # Then it is back at full speed soon: the rest takes a second, not a minute.
    assert pair.run(lambda: pair.received[False] == 4_000_000, 2.0)
    assert pair.client.statistics().congestion_window > window // 4


def test_without_a_probe_a_transfer_goes_on_within_the_probe_interval() -> None:
    outage = Outage()
    pair, _ = transferring(4_000_000, outage)
    outage.is_cut = True
    pair.run_for(15.0)
    outage.is_cut = False
    received = pair.received[False]
    assert pair.run(lambda: pair.received[False] > received, 1.2)


def test_transfer_survives_loss() -> None:
    pair = opened(loss=random_loss(0.05, 3))
    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, bytes(1_000_000), end_stream=True)
    assert pair.run(lambda: pair.received[False] == 1_000_000, 120.0)
    assert pair.client.statistics().packets_lost > 10


def test_a_silent_peer_is_noticed_after_the_idle_timeout() -> None:
    outage = Outage()
    pair, _ = transferring(4_000_000, outage)
    outage.is_cut = True
    began = pair.now
    assert pair.run(lambda: pair.client.is_gone, 60.0)
    assert 29.0 <= pair.now - began <= 32.0
    assert pair.client.end is not None
    assert pair.client.end.by is EndedBy.SILENCE


# Closing


def test_close_reaches_the_other_end_with_code_and_reason() -> None:
    pair = opened()
    pair.client.finish(3, "enough " * 100)
    assert pair.run(pair.is_over, 5.0)
    end = pair.server.end
    assert end is not None
    assert (end.by, end.code, end.is_application) == (EndedBy.PEER, 3, True)
    assert end.reason.startswith("enough enough")
    assert len(end.reason) == 200
    assert pair.client.end is not None
    assert pair.client.end.by is EndedBy.US


def test_close_is_repeated_when_it_is_lost() -> None:
    pair = opened()
    pair.loss = losing_first(2, to_server=True)
    pair.client.finish(0, "")
    assert pair.run(lambda: pair.server.end is not None, 2.0)


def test_whoever_goes_on_sending_to_a_closed_end_is_told_again_within_a_bound() -> None:
    pair = opened()
    pair.client.finish(0, "")
    told = len(pair.client.outgoing(pair.now))
    for _ in range(50):
        pair.client.receive(b"\x40" + pair.client.host_cid + bytes(40), pair.now)
        told += len(pair.client.outgoing(pair.now))
    assert 2 <= told <= 12


def test_a_close_brings_the_last_acknowledgement_along() -> None:
    pair = opened()
    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, b"last words", end_stream=True)
    assert pair.run(lambda: pair.received[False] == 10)
    pair.server.finish(0, "got it")
    assert pair.run(lambda: pair.client.end is not None, 1.0)
    assert pair.client.is_sending_finished(stream)


def test_a_close_fits_beside_the_largest_acknowledgement() -> None:
    pair = opened()
    space = pair.client._spaces[Epoch.ONE_RTT]
    for number in range(1000, 1000 + 2000 * 40, 2000):
        space.ack_queue.add(number)
    space.largest_received_packet = space.ack_queue.bounds().stop - 1
    for _ in range(70):
        pair.client.finish(1, "\ud800" + "x" * 300)
        space.ack_queue.shift()
        [datagram] = pair.client.outgoing(pair.now)
        assert len(datagram) <= 1200
        pair.client._state, pair.client._close_event = QuicConnectionState.CONNECTED, None
        if len(space.ack_queue) == 0:
            break


def test_only_one_packet_is_needed_to_close_while_much_is_unacknowledged() -> None:
    outage = Outage()
    pair, _ = transferring(4_000_000, outage)
    pair.client.finish(1, "stopped")
    assert pair.run(pair.is_over, 5.0)
    assert pair.server.end is not None
    assert pair.server.end.reason == "stopped"


# Looking


def test_statistics_count_what_happened() -> None:
    pair = opened()
    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, bytes(100_000), end_stream=True)
    assert pair.run(lambda: pair.client.is_sending_finished(stream))
    sender, receiver = pair.client.statistics(), pair.server.statistics()
    assert sender.bytes_sent > 100_000
    assert receiver.bytes_received == sender.bytes_sent
    assert receiver.datagrams_received == sender.datagrams_sent
    assert sender.packets_lost == 0
    assert 0.04 <= sender.smallest_rtt_s <= sender.smoothed_rtt_s < 0.06
    assert sender.congestion_window >= 12_000


def test_acknowledgements_are_few() -> None:
    pair = opened()
    before = pair.sent[False]
    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, bytes(2_000_000), end_stream=True)
    assert pair.run(lambda: pair.client.is_sending_finished(stream))
    assert pair.sent[False] - before < 2_000_000 / 1200 / 4


def test_an_end_that_only_acknowledges_keeps_no_record_of_it_for_ever() -> None:
    pair = dialing()
    assert pair.run(pair.is_open)
    for _ in range(2000):
        pair.server.send_datagram(b"x" * 100)
        pair.run_for(0.002)
    assert len(pair.client._spaces[Epoch.ONE_RTT].sent_packets) < 100
