"""A hostile other end: what it can have us send, and that it moves nothing."""

import random
from collections import Counter
from socket import AF_INET

from hypothesis import given, settings
from hypothesis import strategies as st

from peers.nat.outlook import Mapping
from peers.paths.agent import BirthdayPermits, PathAgent
from peers.paths.birthday import PORTS, SOCKETS
from peers.paths.candidate import Kind, LocalCandidate, LocalView, RemoteCandidate
from peers.paths.message import (
    Birthday,
    Candidates,
    Hello,
    Message,
    Punch,
    Relayed,
    Stage,
    Sync,
    encode,
)
from peers.paths.path import (
    RELAY,
    Action,
    AddIds,
    OpenSockets,
    RemoveIds,
    SendMessage,
    SendProbe,
    SwitchTo,
)
from peers.paths.probe import LARGE, SMALL, WIDEST, Probe, ProbeKind, ProbeSender
from relay.wire.address import Address

VICTIM = Address("198.51.100.99", 50_000)
THEIRS = Address("198.51.100.2", 50_000)
VIEW = LocalView(
    sockets={1: AF_INET},
    candidates=(LocalCandidate(Kind.OUTSIDE, Address("203.0.113.1", 50_001), 1),),
    mapping=Mapping.INDEPENDENT,
)


class Victim:
    """An agent with a hostile other end, moved by hand."""

    def __init__(self, *, is_dialer: bool = True, view: LocalView = VIEW) -> None:
        self.now = 0.0
        self.agent = PathAgent(is_dialer=is_dialer, now=0.0, chance=random.Random(1))
        self.ids: set[bytes] = set()
        self.sent: list[SendProbe] = []
        self.told: list[bytes] = []
        self.switches: list[SwitchTo] = []
        self.opened: list[OpenSockets] = []
        self.agent.set_local(view, 0.0)
        self.poll()
        self.probes = ProbeSender(self.told[0][3:])

    def poll(self) -> list[Action]:
        actions = self.agent.poll(self.now)
        for action in actions:
            match action:
                case AddIds(ids):
                    self.ids.update(ids)
                case RemoveIds(ids):
                    self.ids.difference_update(ids)
                case SendProbe():
                    self.sent.append(action)
                case SendMessage(body):
                    self.told.append(body)
                case SwitchTo():
                    self.switches.append(action)
                case OpenSockets():
                    self.opened.append(action)
        return actions

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (due := self.agent.next_timer()) is not None and due <= end:
            assert due >= self.now - 1e-9
            self.now = max(self.now, due) + 1e-6
            self.poll()
        self.now = end
        self.poll()

    def tell(self, *messages: Message) -> None:
        for each in messages:
            self.agent.receive_message(encode(each), self.now)
            self.poll()

    def name(self, *addresses: Address, mapping: Mapping = Mapping.UNKNOWN) -> None:
        named = tuple(RemoteCandidate(Kind.OUTSIDE, each) for each in addresses)
        self.tell(Candidates(mapping, named))

    def probe(self, probe: Probe, source: Address) -> bool:
        _, datagram = self.probes.seal(probe, 0)
        taken = self.agent.receive_probe(datagram, 1, source, self.now)
        self.poll()
        return taken

    def bytes_to(self, host: str) -> int:
        return sum(len(each.datagram) for each in self.sent if each.destination.host == host)


def _hello() -> Hello:
    return Hello(bytes(32))


def test_a_victim_gets_a_few_small_probes_and_no_more() -> None:
    us = Victim()
    us.tell(_hello())
    for round_number in range(200):
        # One host, ever other ports, in ever new rounds.
        us.name(*(Address(VICTIM.host, 2_000 + 10 * round_number + each) for each in range(10)))
        us.tell(Punch(1_000 + round_number))
        us.run(3)
    probes = [each for each in us.sent if each.destination.host == VICTIM.host]
    assert 0 < len(probes) <= 24 + 600 * 0.2 + 1
    assert {len(each.datagram) for each in probes} == {SMALL}
    in_a_minute = 24 + 60 * 0.2
    assert len(probes) / 10 <= in_a_minute


def test_many_victims_get_hardly_more() -> None:
    us = Victim()
    us.tell(_hello())
    for number in range(100):
        us.name(*(Address(f"100.{number + 130}.0.{each}", 50_000) for each in range(1, 11)))
        us.tell(Punch(1_000 + number))
        us.run(1)
    hosts = Counter(each.destination.host for each in us.sent)
    assert len(hosts) <= 20 + 100 / 6 + 1
    assert max(hosts.values()) <= 24 + 20


def test_candidates_that_are_absurd_are_refused() -> None:
    us = Victim()
    us.tell(_hello())
    us.name(
        Address("127.0.0.1", 50_000),
        Address("0.0.0.0", 50_000),
        Address("224.0.0.1", 50_000),
        Address("10.0.0.1", 50_000),
        Address("::1", 50_000),
        Address("198.51.100.1", 53),
    )
    us.tell(Punch(5))
    us.run(60)
    assert not us.sent
    assert sum(us.agent.report(us.now).refused.values()) == 6


def test_an_answer_to_what_it_cannot_have_seen_proves_nothing() -> None:
    # It names a victim, and answers in the victim's name: it must guess 64 bits.
    us = Victim()
    us.tell(_hello())
    us.name(VICTIM)
    us.run(1)
    for guess in range(20):
        us.probe(Probe(ProbeKind.REQUEST, bytes(8)), VICTIM)
        us.probe(Probe(ProbeKind.REQUEST, bytes(8)), Address(VICTIM.host, 2_000 + guess))
        answer = Probe(ProbeKind.RESPONSE, guess.to_bytes(8, "big"), seen=VICTIM)
        assert not us.probe(answer, VICTIM)
        us.run(0.5)
    assert us.agent.current == RELAY
    assert not us.switches
    # What the victim got: one answer for each request in its name, and what anybody gets.
    assert us.bytes_to(VICTIM.host) <= SMALL * (40 + 24 + 10)


def test_large_requests_in_a_victims_name_are_not_multiplied() -> None:
    us = Victim()
    us.tell(_hello())
    us.name(THEIRS)
    us.run(5)
    for _ in range(30):
        us.probe(Probe(ProbeKind.REQUEST, bytes(8), size=LARGE), VICTIM)
        us.run(1)
    assert us.bytes_to(VICTIM.host) == 30 * LARGE


def test_requests_from_everywhere_leave_bounded_traces() -> None:
    us = Victim()
    us.tell(_hello())
    for number in range(3_000):
        if us.probes.credit <= 0:
            us.tell(Sync(us.probes.next_number))
            us.probes.arrived(us.probes.next_number - 1)
            us.run(1)
        source = Address(f"100.{130 + number % 100}.7.7", 2_000 + number)
        us.probe(Probe(ProbeKind.REQUEST, bytes(8)), source)
    report = us.agent.report(us.now)
    assert len(report.pairs) <= 30
    assert len(us.ids) <= 129
    assert sum(us.agent.accepts(1, Address(f"100.{each}.7.7", 2_000)) for each in range(256)) <= 16


def test_a_flood_of_messages_is_bounded() -> None:
    us = Victim()
    us.tell(_hello(), _hello())
    for number in range(5_000):
        us.tell(Sync(number * 1_000), Punch(number), Relayed(number))
    assert len(us.ids) <= 129
    assert len(us.told) < 100
    report = us.agent.report(us.now)
    assert report.dropped["message: too many"] > 14_000
    assert report.dropped["message: a second hello"] == 1


def test_birthday_probing_is_bounded_by_attempts_and_permits() -> None:
    us = Victim()
    us.tell(_hello())
    us.name(VICTIM, mapping=Mapping.DEPENDENT)
    began = us.now
    for _ in range(100):
        us.tell(Birthday(Stage.OFFER, WIDEST), Birthday(Stage.READY, WIDEST))
        us.run(10)
    ordinary = 24 + (us.now - began) * 0.2 + 1
    attempts = 2 + (us.now - began) / 300 + 1
    assert len(us.sent) <= ordinary + attempts * PORTS
    assert {len(each.datagram) for each in us.sent} == {SMALL}
    ports = [each.destination.port for each in us.sent if each.destination != VICTIM]
    assert min(ports) >= 1_024


def test_permits_are_shared_and_come_back() -> None:
    permits = BirthdayPermits(1)
    assert permits.take()
    assert not permits.take()
    permits.give_back()
    assert permits.take()


def test_birthday_needs_the_mappings_that_were_told() -> None:
    us = Victim()
    us.tell(_hello())
    us.name(THEIRS, mapping=Mapping.INDEPENDENT)
    us.tell(Birthday(Stage.OFFER, WIDEST))
    assert us.told[-1] == encode(Birthday(Stage.END, 0))
    us.name(Address("10.0.0.1", 50_000), mapping=Mapping.DEPENDENT)
    us.tell(Birthday(Stage.OFFER, WIDEST))
    assert us.told[-1] == encode(Birthday(Stage.END, 0))
    assert not us.opened


def test_too_few_sockets_end_the_attempt() -> None:
    us = Victim(view=LocalView(VIEW.sockets, VIEW.candidates, Mapping.DEPENDENT))
    us.tell(_hello())
    us.name(THEIRS, mapping=Mapping.INDEPENDENT)
    us.run(5)
    assert us.opened == [OpenSockets(SOCKETS, AF_INET)]
    us.agent.sockets_opened([], us.now)
    us.run(1)
    assert "found nothing" in us.agent.report(us.now).searching
    us.agent.sockets_opened([7, 8], us.now)  # too late, and unasked
    assert any("CloseSockets" in str(each) for each in us.poll())


messages = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda n: encode(Punch(n)), st.integers(0, 2**32 - 1)),
    st.builds(lambda n: encode(Sync(n)), st.integers(0, 2**32 - 1)),
    st.builds(lambda n: encode(Relayed(n)), st.integers(0, 2**32 - 1)),
    st.builds(
        lambda stage, n: encode(Birthday(stage, n)), st.sampled_from(Stage), st.integers(0, 65_535)
    ),
    st.builds(
        lambda mapping, hosts: encode(
            Candidates(
                mapping,
                tuple(
                    RemoteCandidate(Kind.OUTSIDE, Address.from_packed(ip, port))
                    for ip, port in hosts
                ),
            )
        ),
        st.sampled_from(Mapping),
        st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 65_535)), max_size=12),
    ),
)


@settings(max_examples=60)
@given(st.lists(st.tuples(messages, st.floats(0, 5)), max_size=30), st.booleans())
def test_any_messages_are_survived(script: list[tuple[bytes, float]], is_dialer: bool) -> None:
    us = Victim(is_dialer=is_dialer)
    us.tell(_hello())
    for body, pause_s in script:
        us.agent.receive_message(body, us.now)
        us.run(pause_s)
        for opened in us.opened:
            us.agent.sockets_opened(range(100, 100 + opened.count), us.now)
        us.opened.clear()
    us.run(5)
    assert us.agent.current == RELAY
    assert len(us.ids) <= WIDEST + 130
    us.agent.report(us.now).lines()
