"""The HTTP/3 server with well-behaved clients: serving, moving, ending, and who may come in."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header

from relay.core.path import Path
from relay.http3.admission import Admission, Admitted, MustRetry, Rejected
from relay.http3.server import Failure, Http3Limits, Refused
from relay.wire.invariants import LongHeader, parse_invariants
from relay.wire.registration import RegisterAnswer, RegisterRequest
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import Client, World, path_of, until

KEY = bytes(range(16))
OTHER_VERSION = bytes.fromhex("0a1a2a3a")


def first_flight(world: World, port: int) -> bytes:
    """The first datagram of a client that then stays silent."""
    sent: list[bytes] = []
    intact, world.to_server = world.to_server, lambda datagram, _: sent.append(datagram)
    client = Client(world, path_of(port))
    client.connect()
    client.leave()
    world.to_server = intact
    return sent[0]


class FirstTwoOnly:
    """Passes the first two datagrams of each client, and loses the others."""

    def __init__(self, to_server: Callable[[bytes, Path], None]) -> None:
        self._to_server = to_server
        self._seen: Counter[Path] = Counter()

    def __call__(self, datagram: bytes, path: Path) -> None:
        self._seen[path] += 1
        if self._seen[path] <= 2:
            self._to_server(datagram, path)


def test_registration() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect(1234)
            response = await client.post("/v1/register", RegisterRequest(KEY, 10).encode())
            assert response.status == 200
            answer = RegisterAnswer.decode(bytes(response.body))
            assert answer.address == "192.0.2.1:1234"
            [(request, path, holder)] = world.service.registered
            assert request == RegisterRequest(KEY, 10)
            assert path == path_of(1234)
            again = await client.post("/v1/register", RegisterRequest(KEY, 3).encode())
            assert again.status == 200
            assert world.service.registered[1][2] == holder
            client.close()
            await until(lambda: world.closed == [holder])
            assert not world.moved

    run_virtual(run())


def test_delete() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            gone = await client.answer("DELETE", "/v1/registrations/" + "0" * 32)
            assert gone.status == 204
            assert not gone.body
            assert (await client.answer("DELETE", "/v1/registrations/other")).status == 404

    run_virtual(run())


def test_several_requests_at_once() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            responses = [client.request("GET", "/health")[1] for _ in range(8)]
            for response in responses:
                await response.done
                assert response.status == 200
            assert world.server.counters.requests == 8

    run_virtual(run())


def test_connection_ids_are_twelve_bytes_towards_http3() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            await client.get("/health")
            cids = [client.quic._peer_cid, *client.quic._peer_cid_available]
            assert len(cids) == 8
            for cid in cids:
                assert len(cid.cid) == 12
                assert cid.cid[0] & 0x80
            assert len({cid.cid for cid in cids}) == 8
            for _ in range(20):  # each one retired is replaced, and routed
                client.quic.change_connection_id()
                assert (await client.get("/health")).status == 200
            assert client.quic._peer_cid.cid[0] & 0x80

    run_virtual(run())


def test_client_moves() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect(1000)
            await client.post("/v1/register", RegisterRequest(KEY, 1).encode())
            holder = world.service.registered[0][2]
            client.move(path_of(2000))
            client.quic.send_ping(0)
            client.transmit()
            assert not world.moved  # nothing is validated yet
            await until(lambda: bool(world.moved))
            await asyncio.sleep(10.0)
            assert world.moved == [(holder, path_of(2000))]
            response = await client.post("/v1/register", RegisterRequest(KEY, 1).encode())
            assert response.json()["address"] == "192.0.2.1:2000"
            # And back to where it was, as a flapping NAT does.
            client.move(path_of(1000))
            await client.get("/health")
            await asyncio.sleep(10.0)
            assert world.moved[1:] == [(holder, path_of(1000))]

    run_virtual(run())


def test_forged_source_moves_nobody() -> None:
    """An attacker repeats a client's packet from elsewhere, where nobody answers the challenge."""

    async def run() -> None:
        async with World() as world:
            client = await world.connect(1000)
            await asyncio.sleep(1.0)
            client.path = path_of(6666)  # without listening there
            client.quic.send_ping(0)
            client.transmit()
            client.path = path_of(1000)
            await asyncio.sleep(0.2)
            challenges = world.sent_by_path[path_of(6666)]
            await asyncio.sleep(20.0)
            assert world.sent_by_path[path_of(6666)] <= max(challenges, 3 * 1200)
            assert not world.moved
            assert (await client.get("/health")).status == 200

    run_virtual(run())


def test_request_on_a_path_that_is_not_validated() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect(1000)
            client.move(path_of(2000))
            world.detach(path_of(2000))  # the challenge does not arrive, the answer neither
            _, response = client.request("POST", "/v1/register", RegisterRequest(KEY, 1).encode())
            await until(lambda: world.server.counters.requests == 1)
            world.attach(client, path_of(2000))
            await until(response.done.done)
            assert response.status == 425
            assert not world.service.registered
            again = await client.post("/v1/register", RegisterRequest(KEY, 1).encode())
            assert again.status == 200

    run_virtual(run())


def test_stop_tells_the_clients() -> None:
    async def run() -> None:
        world = World()
        await world.server.start()
        clients = [await world.connect(port) for port in range(1000, 1120)]
        begun = Client(world, path_of(3000))
        world.server.receive_datagram(first_flight(world, 3000), path_of(3000))
        loop = asyncio.get_running_loop()
        before = loop.time()
        await world.server.stop()
        assert loop.time() - before < 1.0
        for client in clients:
            event = await client.terminated
            assert event.reason_phrase == "relay stopping"
            assert event.error_code == 0x100
        assert sorted(world.closed) == list(range(1, 121))
        assert world.server.counters.connections == 0
        assert world.server.counters.half_open == 0
        await world.server.stop()  # the second time nothing happens
        late = Client(world, path_of(4000))
        late.connect()
        await asyncio.sleep(0.1)
        assert world.server.counters.refused[Refused.STOPPING] >= 1
        assert not late.established.done()
        for client in (late, begun):
            client.leave()

    run_virtual(run())


def test_silent_connection_ends_once() -> None:
    async def run() -> None:
        async with World() as world:
            client = await world.connect()
            client.leave()
            await asyncio.sleep(40.0)
            assert world.server.counters.connections == 1
            await asyncio.sleep(60.0)
            assert world.server.counters.connections == 0
            assert len(world.closed) == 1
            assert world.server.counters.failures == {Failure.IDLE_TIMEOUT: 1}

    run_virtual(run())


def test_unfinished_handshake_ends_unannounced() -> None:
    async def run() -> None:
        async with World() as world:
            world.server.receive_datagram(first_flight(world, 1000), path_of(1000))
            await asyncio.sleep(9.0)
            assert world.server.counters.half_open == 1
            assert world.sent_by_path[path_of(1000)] <= 3 * 1200  # RFC 9000 §8.1
            await asyncio.sleep(2.0)
            assert world.server.counters.half_open == 0
            assert world.server.counters.failures == {Failure.HANDSHAKE_TIMEOUT: 1}
            assert not world.closed

    run_virtual(run())


def test_wrong_alpn() -> None:
    async def run() -> None:
        async with World() as world:
            client = Client(world, path_of(1000), alpn="EXAMPLE", is_http3=False)
            client.connect()
            event = await client.terminated
            assert "ALPN" in event.reason_phrase
            assert not world.closed
            assert world.server.counters.failures == {Failure.HANDSHAKE_FAILED: 1}

    run_virtual(run())


def test_undecryptable_initial_keeps_no_state() -> None:
    async def run() -> None:
        async with World() as world:
            datagram = bytearray(first_flight(world, 1000))
            datagram[60] ^= 1
            world.server.receive_datagram(bytes(datagram), path_of(1000))
            await asyncio.sleep(0.1)
            assert world.server.counters.half_open == 0
            assert world.server.counters.failures == {Failure.BAD_INITIAL: 1}
            assert not world.sent

    run_virtual(run())


@pytest.mark.parametrize("size", [1199, 1200, 1472])
@pytest.mark.parametrize("cid_lengths", [(0, 0), (8, 20), (255, 255)])
def test_version_negotiation(size: int, cid_lengths: tuple[int, int]) -> None:
    destination, source = (bytes([n & 0xFF]) * n for n in cid_lengths)
    datagram = b"\xc0" + OTHER_VERSION
    datagram += bytes([len(destination)]) + destination + bytes([len(source)]) + source
    datagram = datagram.ljust(size, b"\0")

    async def run() -> None:
        async with World() as world:
            world.server.receive_datagram(datagram, path_of(1))
            assert len(world.sent) == (size >= 1200)
            for answer, path in world.sent:
                assert path == path_of(1)
                assert len(answer) <= len(datagram)
                header = parse_invariants(answer)
                assert isinstance(header, LongHeader)
                assert header.version == QuicProtocolVersion.NEGOTIATION
                assert (header.destination_cid, header.source_cid) == (source, destination)
                assert answer.endswith(b"\0\0\0\1")
                world.server.receive_datagram(answer.ljust(1200, b"\0"), path_of(2))
            assert len(world.sent) == (size >= 1200)  # never one for another

    run_virtual(run())


def test_retry_above_a_number_of_half_open_connections() -> None:
    async def run() -> None:
        async with World(limits=Http3Limits(retry_above_half_open=3)) as world:
            for port in range(3000, 3005):
                world.server.receive_datagram(first_flight(world, port), path_of(port))
            await asyncio.sleep(0.1)
            assert world.server.counters.half_open == 3
            assert world.server.counters.retried == 2
            client = await world.connect(1000)  # it answers the Retry
            assert client.quic._retry_count == 1
            assert world.server.counters.retried == 3
            assert (await client.get("/health")).status == 200
            await asyncio.sleep(11.0)
            assert world.server.counters.half_open == 0

    run_virtual(run())


def test_bounds_on_connections() -> None:
    limits = Http3Limits(
        max_half_open=4, max_half_open_per_source=2, retry_above_half_open=1, max_connections=7
    )

    async def run() -> None:
        async with World(limits=limits) as world:
            clients = [await world.connect(port) for port in range(1000, 1003)]
            for port in range(3000, 3010):  # with no one there to answer a Retry
                world.server.receive_datagram(first_flight(world, port), path_of(port))
            await asyncio.sleep(0.1)
            assert world.server.counters.half_open == 1
            assert world.server.counters.retried == 9
            world.to_server = FirstTwoOnly(world.to_server)
            silent = [Client(world, path_of(port)) for port in range(4000, 4010)]
            for client in silent:  # they answer it, and then say no more
                client.connect()
            await asyncio.sleep(0.5)
            counters = world.server.counters
            assert counters.half_open == 1 + 2
            assert counters.refused[Refused.NO_ROOM_FOR_SOURCE] >= 1
            assert sum(counters.refused.values()) == 8
            world.to_server = world.server.receive_datagram
            for client in silent:
                client.leave()
            await asyncio.sleep(11.0)
            more = [await world.connect(port) for port in range(1003, 1007)]
            refused = Client(world, path_of(1007))
            refused.connect()
            await asyncio.sleep(1.0)
            assert not refused.established.done()
            assert world.server.counters.refused[Refused.NO_ROOM] >= 1
            clients[0].close()
            await asyncio.wait_for(refused.established, 10.0)  # its next try
            for client in (*clients[1:], *more, refused):
                assert (await client.get("/health")).status == 200

    run_virtual(run())


def test_tokens_are_bound_to_address_and_time() -> None:
    async def run() -> None:
        async with World() as world:
            datagram = first_flight(world, 1000)
        admission = Admission()
        header = parse_invariants(datagram)
        assert isinstance(header, LongHeader)
        path = path_of(1000)
        admitted = admission.decide(datagram, header, path, ask_retry=False, now=0.0)
        cid = header.destination_cid
        assert admitted == Admitted(cid, cid, None)
        verdict = admission.decide(datagram, header, path, ask_retry=True, now=0.0)
        assert isinstance(verdict, MustRetry)
        assert len(verdict.answer) < 300
        retry = pull_quic_header(Buffer(data=verdict.answer), 12)
        assert retry.packet_type is QuicPacketType.RETRY
        assert len(retry.source_cid) == 12
        assert retry.source_cid[0] & 0x80

        def with_token(token: bytes, destination: bytes) -> tuple[bytes, LongHeader]:
            head = b"\xc0\0\0\0\1" + bytes([len(destination)]) + destination + b"\0"
            rest = bytes([0x40 | len(token) >> 8, len(token) & 0xFF]) + token + b"\x41\x00"
            octets = (head + rest).ljust(1200, b"\0")
            parsed = parse_invariants(octets)
            assert isinstance(parsed, LongHeader)
            return octets, parsed

        good = with_token(retry.token, retry.source_cid)
        for ask_retry in (True, False):  # the load may have fallen meanwhile
            verdict = admission.decide(*good, path, ask_retry=ask_retry, now=29.0)
            assert verdict == Admitted(retry.source_cid, cid, retry.source_cid)
        bad = [
            (*good, path_of(1001), 1.0),
            (*good, path_of(1000, "192.0.2.2"), 1.0),
            (*good, path, 31.0),
            (*with_token(retry.token, bytes(12)), path, 1.0),
            (*with_token(retry.token[:-1] + b"\0", retry.source_cid), path, 1.0),
            (*with_token(b"x", retry.source_cid), path, 1.0),
        ]
        for octets, parsed, where, now in bad:
            verdict = admission.decide(octets, parsed, where, ask_retry=True, now=now)
            assert isinstance(verdict, Rejected)
            assert verdict.reason is Refused.INVALID_TOKEN
            assert verdict.answer
            assert len(verdict.answer) < 1200

    run_virtual(run())
