"""How the QUIC end of a pipe opens: under loss, after a long wait, whatever comes. Virtual time."""

import dataclasses

import pytest
from aioquic.quic.events import (
    HandshakeCompleted,
    StreamDataReceived,
)
from aioquic.quic.packet import encode_quic_version_negotiation
from hypothesis import given
from hypothesis import strategies as st

from peers.identity import Identity
from peers.quic.connection import PEER, PeerConnection
from peers.quic.parts import PIPE_ALPN, EndedBy, TlsParts

from .quic_pair import (
    PSK_PARTS,
    Pair,
    connection_ids,
    dialing,
    losing_first,
    opened,
    random_loss,
)

CERTIFICATE_PARTS = TlsParts(PIPE_ALPN, identity=Identity.generate(), request_certificate=True)
TWO_HOPS_AT_30_PERCENT = 1 - 0.7**2


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
