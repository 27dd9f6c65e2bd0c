"""The life of the QUIC end of a pipe that is open: keys, outages, closing. Virtual time."""

from itertools import pairwise

import pytest
from aioquic.quic.connection import QuicConnectionState
from aioquic.tls import Epoch

from peers.quic.parts import EndedBy, TransportSettings

from .quic_pair import (
    Outage,
    dialing,
    losing_first,
    opened,
    random_loss,
    transferring,
)


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
