"""Two path agents on the virtual network, each behind a NAT of any behaviour.

A relay stands between them in name only: control messages and the pipe's packets that go "by the
relay" arrive after a delay, whatever the network does. Direct datagrams take the network's way.
"""

import asyncio
import ipaddress
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from socket import AF_INET, AF_INET6, AddressFamily

from peers.nat.outlook import Mapping
from peers.paths.agent import BirthdayPermits, PathAgent
from peers.paths.candidate import Kind, LocalCandidate, LocalView, SocketId
from peers.paths.path import (
    RELAY,
    Action,
    AddIds,
    CloseSockets,
    Direct,
    OpenSockets,
    Path,
    PathPolicy,
    RemoveIds,
    SendMessage,
    SendProbe,
    SwitchTo,
)
from relay.wire.address import Address
from tests.lab.virtual_network import (
    Behaviour,
    Conditions,
    Filtering,
    Host,
    MappingBehaviour,
    Nat,
    Packet,
    VirtualNetwork,
    VirtualSocket,
)

RELAY_HOST = "192.0.2.1"
RELAY_PORTS = (4433, 4434)
HOP_S = 0.04
"""Seconds on each access link: 80 ms from home to home, and from home by the relay to home."""
RELAY_DELAY_S = 0.08

ACKNOWLEDGEMENT = b"acknowledgement"

PORT = Filtering.ADDRESS_AND_PORT
INDEPENDENT = MappingBehaviour.INDEPENDENT
DEPENDENT = MappingBehaviour.ADDRESS_AND_PORT


class End:
    """One peer: its agent, its sockets, and a pipe that sends as it is told."""

    def __init__(
        self,
        world: "World",
        host: Host,
        *,
        is_dialer: bool,
        policy: PathPolicy = PathPolicy.ANY,
        permits: BirthdayPermits | None = None,
    ) -> None:
        self.world = world
        self.host = host
        self.other: End
        self.agent = PathAgent(
            is_dialer=is_dialer,
            now=world.now,
            policy=policy,
            permits=permits,
            chance=random.Random(world.network.random.random()),
        )
        self.sockets: dict[SocketId, VirtualSocket] = {}
        self.main: dict[AddressFamily, SocketId] = {}
        self.outside: dict[tuple[SocketId, int], Address] = {}
        self.extra: tuple[LocalCandidate, ...] = ()
        self.ids: set[bytes] = set()
        self.switches: list[tuple[float, Path, str]] = []
        self.direct_at: float | None = None
        self.messages_muted = False
        self.dropped: Counter[str] = Counter()
        self.data_at: list[float] = []  # when data of the other end came
        self.max_sockets = 1_000
        self._timer: asyncio.TimerHandle | None = None
        for family in (AF_INET, AF_INET6):
            if host.address(family) is not None:
                self.open_main(family)

    def open_main(self, family: AddressFamily) -> None:
        """Open the socket of that family; the agent learns of it by `start`."""
        self.main[family] = self._open(family)

    # What a real peer learns from its relay

    def ask_relay(self) -> None:
        """Have each socket's outside address told, from both ports of the relay."""
        opened = self.sockets[self.main[AF_INET]] if AF_INET in self.main else None
        for port in RELAY_PORTS:
            if opened is not None:
                opened.send([b"who"], Address(RELAY_HOST, port))

    def view(self) -> LocalView:
        """What is known now."""
        found = list(self.extra)
        networks = []
        for family, socket_id in self.main.items():
            address = self.host.address(family)
            if address is None:
                continue
            length = 24 if family is AF_INET else 64
            networks.append(ipaddress.ip_network(f"{address}/{length}", strict=False))
            port = self.sockets[socket_id].port
            found.append(LocalCandidate(Kind.HOST, Address(address, port), socket_id))
        seen = [self.outside.get((self.main.get(AF_INET, -1), port)) for port in RELAY_PORTS]
        mapping = Mapping.UNKNOWN
        if seen[0] is not None:
            found.insert(0, LocalCandidate(Kind.OUTSIDE, seen[0], self.main[AF_INET]))
            if seen[1] is not None:
                mapping = Mapping.INDEPENDENT if seen[0] == seen[1] else Mapping.DEPENDENT
        return LocalView(
            sockets={each: family for family, each in self.main.items()},
            candidates=tuple(found),
            mapping=mapping,
            networks=tuple(networks),
            relays=frozenset(Address(RELAY_HOST, port) for port in RELAY_PORTS),
        )

    def start(self) -> None:
        """Tell the agent what is known."""
        self.agent.set_local(self.view(), self.world.now)
        self.pump()

    # What moves the agent

    def pump(self) -> None:
        """Do what it wants done."""
        now = self.world.now
        for action in self.agent.poll(now):
            self._do(action, now)
        if self._timer is not None:
            self._timer.cancel()
        due = self.agent.next_timer()
        if due is not None:
            assert due >= now, "what was due was not done"
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(due, now + 1e-4), self.pump)

    def _do(self, action: Action, now: float) -> None:
        match action:
            case SendProbe(datagram, socket_id, destination):
                self.world.probes += 1
                self.world.probed[destination] += 1
                if socket_id in self.sockets:
                    self.sockets[socket_id].send([datagram], destination)
            case SendMessage(body):
                assert len(body) <= 1024
                self.world.messages.append(body)
                if not self.messages_muted:
                    self._by_relay(partial(self.other.message_came, body))
            case AddIds(ids):
                assert not self.ids & set(ids)
                self.ids |= set(ids)
            case RemoveIds(ids):
                assert self.ids >= set(ids)
                self.ids -= set(ids)
            case OpenSockets(count, family):
                wanted = min(count, self.max_sockets)
                opened = [self._open(family) for _ in range(wanted)]
                self.agent.sockets_opened(opened, now)
                self.pump()
            case CloseSockets(sockets):
                for each in sockets:
                    assert each not in self.main.values()
                    self.sockets.pop(each).close()
            case SwitchTo(path, reason):
                assert path == self.agent.current or self.switches
                self.switches.append((now, path, reason))
                if isinstance(path, Direct) and self.direct_at is None:
                    self.direct_at = now

    def message_came(self, body: bytes) -> None:
        """A control message."""
        self.agent.receive_message(body, self.world.now)
        self.pump()

    def _by_relay(self, arrive: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.world.relay_order += 1e-9  # timers due together have no order
        loop.call_later(RELAY_DELAY_S + self.world.relay_order, arrive)

    def _open(self, family: AddressFamily) -> SocketId:
        socket_id = self.world.next_socket
        self.world.next_socket += 1
        opened = self.sockets[socket_id] = self.host.open_socket(family)
        opened.start(lambda batch: self._came(socket_id, batch))
        return socket_id

    def _came(self, socket_id: SocketId, batch: list[tuple[bytes, Address]]) -> None:
        for datagram, source in batch:
            if source.host == RELAY_HOST and datagram.startswith(b"you"):
                host, _, port = datagram[3:].decode().rpartition(" ")
                self.outside[socket_id, source.port] = Address(host, int(port))
            elif datagram[1:13] in self.ids:
                self.agent.receive_probe(datagram, socket_id, source, self.world.now)
                self.pump()
            elif not self.agent.accepts(socket_id, source):
                self.dropped["foreign source"] += 1
            else:
                self._packet(datagram, Direct(socket_id, source))

    # The pipe: data that is answered by acknowledgements

    def send_data(self) -> None:
        """One packet of data, by the current path."""
        self.agent.sent(self.world.now)
        self._send(b"data" + bytes(1000))

    def _send(self, packet: bytes) -> None:
        path = self.agent.current
        if isinstance(path, Direct) and path.socket in self.sockets:
            self.sockets[path.socket].send([packet], path.address)
        elif self.world.relay_works:
            self._by_relay(partial(self.other._packet, packet, RELAY))
        self.pump()

    def _packet(self, packet: bytes, path: Path) -> None:
        now = self.world.now
        if not packet.startswith((b"data", ACKNOWLEDGEMENT)):
            self.dropped["no packet of the pipe"] += 1  # a probe's copy
            return
        self.agent.heard(path, now)
        if packet.startswith(b"data"):
            self.data_at.append(now)
            self._send(ACKNOWLEDGEMENT)
        else:
            self.agent.acknowledged(now)
            self.pump()


class World:
    """The network, and both ends."""

    def __init__(self, seed: int) -> None:
        self.network = VirtualNetwork(seed)
        self.next_socket = 1
        self.probes = 0
        self.probed: Counter[Address] = Counter()
        self.messages: list[bytes] = []
        self.relay_works = True
        self.relay_order = 0.0
        self.permits = BirthdayPermits()
        self.nats: dict[Host, Nat] = {}  # the innermost of each home
        relay = self.network.host("relay", RELAY_HOST)
        relay.set_conditions(Conditions(latency_s=0.0))
        for port in RELAY_PORTS:
            opened = relay.open_socket(AF_INET, port)
            opened.start(partial(self._answer, opened))

    @property
    def now(self) -> float:
        """Of the running loop."""
        return asyncio.get_running_loop().time()

    @staticmethod
    def _answer(opened: VirtualSocket, batch: list[tuple[bytes, Address]]) -> None:
        for datagram, source in batch:
            if datagram == b"who":
                opened.send([f"you{source.host} {source.port}".encode()], source)

    async def join(self, dialer: Host, accepter: Host, **options: PathPolicy) -> tuple[End, End]:
        """Open a pipe between these hosts."""
        for host in (dialer, accepter):
            host.set_conditions(Conditions(latency_s=HOP_S, jitter_s=0.002))
        a = End(self, dialer, is_dialer=True, permits=self.permits, **options)
        b = End(self, accepter, is_dialer=False, permits=self.permits)
        a.other, b.other = b, a
        for each in (a, b):
            each.ask_relay()
        await asyncio.sleep(1)
        for each in (a, b):
            each.agent.measured(2 * RELAY_DELAY_S, self.now)
        a.start()
        await asyncio.sleep(RELAY_DELAY_S)  # the accepter's pipe opens later
        b.start()
        return a, b

    def home(
        self,
        name: str,
        number: int,
        *behaviours: Behaviour,
        v6: bool = False,
        blocked: bool = False,
    ) -> Host:
        """A host behind so many layers of NAT; none: a public address.

        :param number: of the home: 1 to 200; with one number, the same NAT.
        """
        host = self.network.host(name)
        addresses = [f"2001:db8:{number}::2"] if v6 else []
        if not behaviours:
            host.move(f"198.51.100.{number}", *addresses)
        else:
            nat = self.network.nat(f"203.0.113.{number}", behaviour=behaviours[0])
            for layer, behaviour in enumerate(behaviours[1:]):
                nat = self.network.nat(
                    f"100.64.{number}.{layer + 2}", behaviour=behaviour, behind=nat
                )
            host.move(f"192.168.{number}.2", *addresses, behind=nat)
            self.nats[host] = nat
        if blocked:
            host.up.passes = _only_relay
        return host

    def watch(self) -> list[Packet]:
        """Everything that passes the core from now on."""
        seen: list[Packet] = []
        self.network.watchers.append(seen.append)
        return seen


def independent(filtering: Filtering = PORT, *, hairpin: bool = False) -> Behaviour:
    """A NAT that maps independently."""
    return Behaviour(INDEPENDENT, filtering, hairpin, random_ports=True)


def dependent(filtering: Filtering = PORT) -> Behaviour:
    """A NAT that maps dependently, to ports at random."""
    return Behaviour(DEPENDENT, filtering, random_ports=True)


def _only_relay(datagram: bytes, source: Address, destination: Address) -> bool:
    return destination.host == RELAY_HOST
