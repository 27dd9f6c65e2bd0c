"""QUIC is told that the path is another one (RFC 9000 §9.4, §9.5), and that data must wait."""

from dataclasses import dataclass

from aioquic.quic.connection import QuicConnection

from peers.quic.ids import RETIRE_AFTER_S
from peers.quic.recovery import REMEMBERED_PATHS, REMEMBERED_S
from tests.peers.quic_pair import Outage, Pair, RouteTable, opened

INITIAL_WINDOW = 12_000
SLOW_S, FAST_S = 0.1, 0.01


def switch(
    pair: Pair, path: str | None, latency_s: float, round_trip_s: float | None = None
) -> None:
    """Both ends at once; what is under way still takes the time of the former path."""
    pair.latency_s = latency_s
    for end in (pair.client, pair.server):
        end.switch_path(path, pair.now, round_trip_s)


def begin(pair: Pair, size: int) -> int:
    stream = pair.client.open_stream(unidirectional=True)
    pair.client.send_stream_data(stream, bytes(size), end_stream=True)
    return stream


def finish(pair: Pair, size: int, limit_s: float = 60.0) -> None:
    assert pair.run(lambda: pair.received[False] == size, limit_s)


def stay(pair: Pair, seconds: float) -> None:
    """Let time pass, with a sign of life every second."""
    until = pair.now + seconds
    while pair.now < until:
        pair.client.probe_now(pair.now)
        pair.run_for(min(1.0, until - pair.now))


def test_a_new_path_is_begun_anew() -> None:
    pair = opened(latency_s=SLOW_S)
    begin(pair, 3_000_000)
    assert pair.run(lambda: pair.client.statistics().congestion_window > 10 * INITIAL_WINDOW)
    switch(pair, "direct", FAST_S)
    figures = pair.client.statistics()
    assert figures.congestion_window == INITIAL_WINDOW
    assert figures.bytes_in_flight == 0
    assert figures.smoothed_rtt_s == 0.0
    finish(pair, 3_000_000)
    figures = pair.client.statistics()
    assert 2 * FAST_S <= figures.smallest_rtt_s < 2 * FAST_S + 0.01
    assert figures.smoothed_rtt_s < 2 * FAST_S + 0.03


def test_acknowledgements_of_the_former_path_measure_nothing() -> None:
    pair = opened(latency_s=FAST_S)
    begin(pair, 2_000_000)
    assert pair.run(lambda: pair.received[False] > 500_000)
    switch(pair, "slow", SLOW_S, round_trip_s=2 * SLOW_S)
    finish(pair, 2_000_000)
    # What was under way by the fast path was acknowledged by the slow one, in half its time.
    figures = pair.client.statistics()
    assert figures.smallest_rtt_s >= 2 * SLOW_S - 0.001
    assert figures.packets_lost == 0


def test_what_the_slower_path_still_carries_is_not_sent_twice() -> None:
    pair = opened(latency_s=SLOW_S)
    begin(pair, 4_000_000)
    assert pair.run(lambda: pair.client.statistics().bytes_in_flight > 300 * 1200)
    lost_before = pair.client.statistics().packets_lost
    switch(pair, "direct", FAST_S)
    finish(pair, 4_000_000)
    # A few: aioquic stops acknowledging what is lower than an acknowledgement that has arrived.
    assert pair.client.statistics().packets_lost - lost_before <= 5


def test_a_loss_on_the_former_path_is_no_congestion_of_the_new_one() -> None:
    outage = Outage()
    pair = opened(loss=outage)
    begin(pair, 2_000_000)
    assert pair.run(lambda: pair.received[False] > 700_000)
    outage.is_cut = True
    pair.run_for(0.5)
    lost_before = pair.client.statistics().packets_lost
    outage.is_cut = False
    switch(pair, "direct", 0.02)
    pair.run_for(0.2)
    figures = pair.client.statistics()
    assert figures.packets_lost - lost_before > 20
    assert figures.congestion_window > INITIAL_WINDOW
    finish(pair, 2_000_000)


def test_only_what_did_not_arrive_is_sent_again() -> None:
    """The former path swallows acknowledgements only: all of the data has arrived."""
    silenced = False

    def loss(to_server: bool, datagram: bytes) -> bool:
        return silenced and not to_server

    pair = opened(loss=loss)
    begin(pair, 3_000_000)
    assert pair.run(lambda: pair.received[False] > 700_000)
    silenced = True
    pair.run_for(0.5)
    before = pair.client.statistics()
    assert before.bytes_in_flight > 100 * 1200
    silenced = False
    switch(pair, "direct", 0.02)
    finish(pair, 3_000_000)
    # The probes repeated some; the flight was not sent again.
    assert pair.client.statistics().packets_lost - before.packets_lost <= 5


def test_a_path_that_was_left_a_little_while_ago_is_taken_for_what_it_was() -> None:
    pair = opened(latency_s=SLOW_S)
    begin(pair, 3_000_000)
    finish(pair, 3_000_000)
    window = pair.client.statistics().congestion_window
    assert window > 20 * INITIAL_WINDOW
    switch(pair, "direct", FAST_S)
    stay(pair, REMEMBERED_S - 1.0)
    switch(pair, None, SLOW_S)
    figures = pair.client.statistics()
    assert figures.congestion_window == window // 2
    assert figures.smoothed_rtt_s >= 2 * SLOW_S
    switch(pair, "direct", FAST_S)
    stay(pair, REMEMBERED_S + 1.0)
    switch(pair, None, SLOW_S)
    assert pair.client.statistics().congestion_window == INITIAL_WINDOW


def test_the_memory_of_paths_is_bounded() -> None:
    pair = opened()
    for number in range(3 * REMEMBERED_PATHS):
        switch(pair, f"path {number}", 0.02)
        pair.run_for(0.2)
    assert len(pair.client._loss._left) <= REMEMBERED_PATHS
    begin(pair, 100_000)
    finish(pair, 100_000)


def test_what_probes_have_measured_times_the_first_probe_timeout() -> None:
    outage = Outage()
    pair = opened(loss=outage, latency_s=SLOW_S)
    outage.is_cut = True
    switch(pair, "direct", FAST_S, round_trip_s=0.03)
    probes = pair.client.statistics().probe_timeouts
    pair.run_for(0.07)  # two of these round trips, and no sample yet
    assert pair.client.statistics().probe_timeouts == probes + 1


@dataclass
class Tap:
    """Notes the destination connection IDs of short headers, by direction."""

    def __post_init__(self) -> None:
        self.seen: dict[bool, list[bytes]] = {True: [], False: []}

    def __call__(self, to_server: bool, datagram: bytes) -> bool:
        if not datagram[0] & 0x80:
            self.seen[to_server].append(datagram[1:13])
        return False

    def clear(self) -> dict[bool, set[bytes]]:
        seen = {way: set(cids) for way, cids in self.seen.items()}
        self.seen = {True: [], False: []}
        return seen


def test_no_connection_id_is_used_on_two_paths() -> None:
    tap = Tap()
    pair = opened(loss=tap)
    used: list[dict[bool, set[bytes]]] = []
    for path in ("direct", None, "direct", None):
        begin(pair, 100_000)
        pair.run_for(RETIRE_AFTER_S + 0.5)
        used.append(tap.clear())
        switch(pair, path, 0.02)
    for way in (True, False):
        everything = [cid for each in used for cid in each[way]]
        assert len(everything) == len(set(everything)) == len(used)


def test_the_former_connection_id_is_retired_a_little_later() -> None:
    pair = opened()
    routes = RouteTable()
    pair.server.follow_routes(routes)
    before = set(routes.current)
    pair.client.switch_path("direct", pair.now)
    pair.run_for(RETIRE_AFTER_S - 0.1)
    assert routes.current == before, "packets with the former one may still be under way"
    pair.run_for(0.3)
    assert len(before - routes.current) == 1
    assert len(routes.current) == len(before), "and another one was issued"


def test_a_server_does_not_follow_the_clients_change() -> None:
    tap = Tap()
    pair = opened(loss=tap)
    begin(pair, 50_000)
    pair.run_for(0.2)
    [before] = tap.clear()[False]
    QuicConnection.change_connection_id(pair.client)
    begin(pair, 50_000)
    pair.run_for(0.2)
    assert tap.clear()[False] == {before}


def test_with_no_connection_id_left_the_switch_is_made_all_the_same() -> None:
    pair = opened(registered=(1, 1))
    switch(pair, "direct", FAST_S)
    begin(pair, 100_000)
    finish(pair, 100_000)


def test_data_that_is_held_back_waits_and_control_messages_go_on() -> None:
    pair = opened()
    pair.client.is_held = True
    begin(pair, 10_000)
    pair.client.send_datagram(b"held, too")
    pair.client.send_control(b"control")
    pair.run_for(0.5)
    assert pair.received[False] == len(b"control")
    pair.client.is_held = False
    pair.client.probe_now(pair.now)
    finish(pair, len(b"control") + 10_000)


def test_the_control_stream_is_not_the_applications() -> None:
    pair = opened()
    first = pair.client.open_stream(unidirectional=True)
    assert first == 6
    pair.client.send_control(b"late")
    assert pair.client.open_stream(unidirectional=True) == 10
    assert pair.server.open_stream(unidirectional=True) == 7
    assert pair.client.control_stream_ids == (2, 3)
    assert pair.server.control_stream_ids == (3, 2)


def test_before_the_handshake_is_confirmed_nothing_switches() -> None:
    pair = opened()
    pair.client.finish(0, "")
    pair.client.switch_path("direct", pair.now)
    pair.run_for(5.0)
    assert pair.is_over()
