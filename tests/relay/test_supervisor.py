"""Workers as real processes: filled, fed, killed, replaced, ended; and the counters they leave."""

import asyncio
import contextlib
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path as FilePath

import pytest

from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.registry import Registry, RegistryLimits
from relay.forwarding.sockets import Listener, ListenRequest, open_listeners
from relay.forwarding.supervisor import (
    MAX_DEFAULT_WORKERS,
    WORKER_COMMAND,
    PoolTimes,
    WorkerPool,
    WorkersFailed,
    default_workers,
)
from relay.wire.address import Address
from relay.wire.connection_id import Derivation, Towards, derive
from relay.wire.registration import RegisterRequest

PATIENCE_S = 30.0
INITIAL = b"\xc0\0\0\0\1\x08original\x08dialer's" + bytes(1180)
QUICK = PoolTimes(report_interval_s=0.05, watch_interval_s=0.1)


class Relay:
    """A listener on loopback, a registry, and a pool that follows it."""

    def __init__(
        self, listeners: Sequence[Listener], times: PoolTimes, command: Sequence[str]
    ) -> None:
        self.listeners = listeners
        self.pool = WorkerPool(listeners, times, command)
        self.registry = Registry(RegistryLimits(), new_id=lambda: os.urandom(16).hex())
        self.up: list[tuple[bytes, Path]] = []
        self.heard: set[Address] = set()
        self.failures: list[WorkersFailed] = []
        self.sockets: list[socket.socket] = []
        self.keys = 0

    async def start(self) -> None:
        await self.pool.start(
            self.registry,
            receive=lambda datagram, path: self.up.append((datagram, path)),
            heard=self.take_heard,
            failed=self.failures.append,
        )

    def take_heard(self, sources: Iterable[Address]) -> None:
        self.heard.update(sources)

    def peer(self) -> socket.socket:
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sockets.append(opened)
        opened.bind(("127.0.0.1", 0))
        opened.setblocking(False)
        return opened

    def register(self, remote: Address, num: int = 1) -> bytes:
        """Returns the first connection ID."""
        self.keys += 1
        key = self.keys.to_bytes(16, "big")
        path = Path(remote, 0, self.listeners[0].address.host)
        self.registry.register(RegisterRequest(key, num), path, holder=self.keys, now=0.0)
        self.pool.apply(self.registry.take_changes())
        return derive(key, 1, Derivation.BLAKE2B, Towards.PEER)

    def send(self, peer: socket.socket, datagram: bytes) -> None:
        peer.sendto(datagram, self.listeners[0].address.sockaddr)

    async def forwards(self, sender: socket.socket, receiver: socket.socket, cid: bytes) -> None:
        """Send one datagram and wait for it."""
        datagram = b"\x40" + cid + os.urandom(8)
        self.send(sender, datagram)
        assert await asyncio.get_running_loop().sock_recv(receiver, 100) == datagram

    def counted(self) -> dict[Outcome, int]:
        counters = self.pool.counters()
        return {each: counters.of(each) for each in Outcome if counters.of(each)}


@contextlib.asynccontextmanager
async def relay_of(
    workers: int = 2,
    times: PoolTimes = QUICK,
    command: Sequence[str] = WORKER_COMMAND,
    *,
    start: bool = True,
) -> AsyncIterator[Relay]:
    """Everything inside takes less than `PATIENCE_S`."""
    listeners = open_listeners([ListenRequest(Address("127.0.0.1", 0))], workers)
    relay = Relay(listeners, times, command)
    try:
        async with asyncio.timeout(PATIENCE_S):
            if start:
                await relay.start()
            yield relay
    finally:
        await relay.pool.stop()
        for each in relay.sockets:
            each.close()
        for listener in listeners:
            listener.close()


def address_of(peer: socket.socket) -> Address:
    return Address.from_sockaddr(peer.getsockname())


async def until(condition: Callable[[], bool]) -> None:
    """Ask again and again: processes tell nobody. Bounded by the timeout of `relay_of`."""
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_forward_report_and_pass_up() -> None:
    async def main() -> None:
        async with relay_of(workers=2) as relay:
            assert len(relay.pool.pids) == 2
            peers = [relay.peer() for _ in range(16)]  # spread over the workers by the kernel
            cids = [relay.register(address_of(peer)) for peer in peers]
            await relay.pool.synchronise()
            for sender, receiver, cid in zip(peers, peers[1:], cids[1:], strict=False):
                await relay.forwards(sender, receiver, cid)
            stranger = relay.peer()
            for datagram in (INITIAL, b"\x40" + cids[0], b"", b"\x40" + bytes(12)):
                relay.send(stranger, datagram)
            await until(lambda: len(relay.up) == 1)
            assert relay.up == [(INITIAL, Path(address_of(stranger), 0, "127.0.0.1"))]
            await relay.pool.synchronise()
            assert relay.counted() == {
                Outcome.FORWARDED: 15,
                Outcome.HTTP3: 1,
                Outcome.UNREGISTERED_SOURCE: 1,
                Outcome.MALFORMED: 1,
                Outcome.UNKNOWN_CID: 1,
            }
            assert relay.pool.counters().bytes_forwarded == 15 * 21
            await until(lambda: relay.heard == {address_of(peer) for peer in peers[:-1]})

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(number: signal.Signals) -> None:
    async def main() -> None:
        async with relay_of(workers=1) as relay:
            sender, receiver = relay.peer(), relay.peer()
            relay.register(address_of(sender))
            cid = relay.register(address_of(receiver))
            await relay.forwards(sender, receiver, cid)
            await relay.pool.synchronise()
            for life in (2, 3):
                (pid,) = relay.pool.pids
                os.kill(pid, number)
                # While it is dead: registrations go on, and datagrams wait in the socket.
                newcomer = relay.peer()
                relay.register(address_of(newcomer))
                await relay.forwards(newcomer, receiver, cid)
                assert relay.pool.pids != [pid]
                await relay.pool.synchronise()
                assert relay.counted() == {Outcome.FORWARDED: life}
                await until(lambda dead=pid: not is_alive(dead))  # type: ignore[misc]  # a default binds it
            assert relay.failures == []

    asyncio.run(main())


def test_a_worker_is_filled_while_registrations_change() -> None:
    async def main() -> None:
        async with relay_of(workers=2) as relay:
            sender, receiver = relay.peer(), relay.peer()
            relay.register(address_of(sender))
            for port in range(1, 3001):
                relay.register(Address(f"10.0.0.{port % 10}", port), num=20)
            first = relay.register(address_of(receiver), num=1000)
            for pid in relay.pool.pids:
                os.kill(pid, signal.SIGKILL)
            later = [relay.register(address_of(receiver)) for _ in range(20)]
            for cid in (first, *later):
                await relay.forwards(sender, receiver, cid)
            assert relay.counted().keys() <= {Outcome.FORWARDED}

    asyncio.run(main())


def test_a_worker_that_hangs_is_replaced() -> None:
    async def main() -> None:
        times = PoolTimes(report_interval_s=0.05, watch_interval_s=0.05, answer_patience_s=0.5)
        async with relay_of(workers=1, times=times) as relay:
            sender, receiver = relay.peer(), relay.peer()
            relay.register(address_of(sender))
            cid = relay.register(address_of(receiver))
            (pid,) = relay.pool.pids
            os.kill(pid, signal.SIGSTOP)
            await relay.forwards(sender, receiver, cid)
            assert relay.pool.pids != [pid]
            await until(lambda: not is_alive(pid))

    asyncio.run(main())


def test_stopping_ends_the_workers_with_all_counted() -> None:
    pids: list[int] = []

    async def main() -> None:
        times = PoolTimes(report_interval_s=3600.0)
        async with relay_of(workers=2, times=times) as relay:
            pids.extend(relay.pool.pids)
            sender, receiver = relay.peer(), relay.peer()
            relay.register(address_of(sender))
            cid = relay.register(address_of(receiver))
            await relay.pool.synchronise()
            await relay.forwards(sender, receiver, cid)
            assert relay.counted() == {}
            began = asyncio.get_running_loop().time()
            await relay.pool.stop()
            assert asyncio.get_running_loop().time() - began < 2.0
            assert relay.counted() == {Outcome.FORWARDED: 1}
            assert relay.pool.pids == []

    asyncio.run(main())
    assert len(pids) == 2
    assert not any(map(is_alive, pids))


def test_workers_that_never_start_are_given_up() -> None:
    async def main() -> None:
        command = (sys.executable, "-S", "-c", "raise SystemExit(3)")
        async with relay_of(workers=2, command=command, start=False) as relay:
            with pytest.raises(WorkersFailed, match="5 workers ended before they forwarded"):
                await relay.start()
            assert relay.failures == []

    asyncio.run(main())


def test_a_program_that_does_not_exist_is_given_up() -> None:
    async def main() -> None:
        async with relay_of(command=("/nonexistent/python",), start=False) as relay:
            with pytest.raises(WorkersFailed):
                await relay.start()

    asyncio.run(main())


def test_a_lack_of_descriptors_is_sat_out() -> None:
    async def main() -> None:
        async with relay_of(workers=1) as relay:
            sender, receiver = relay.peer(), relay.peer()
            relay.register(address_of(sender))
            cid = relay.register(address_of(receiver))
            [pid] = relay.pool.pids
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            # Not even what the dead worker leaves is enough.
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            try:
                os.kill(pid, signal.SIGKILL)
                await asyncio.sleep(2.5)  # more than five attempts
                assert relay.pool.pids == []
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            await until(lambda: relay.pool.pids != [])
            await relay.pool.synchronise()
            await relay.forwards(sender, receiver, cid)
            assert relay.failures == []

    asyncio.run(main())


def test_workers_that_cannot_be_replaced_are_given_up(tmp_path: FilePath) -> None:
    broken = tmp_path / "broken"
    program = (
        "import os, runpy, sys\n"
        f"if os.path.exists({str(broken)!r}): sys.exit(3)\n"
        "runpy.run_module('relay.forwarding.worker', run_name='__main__')\n"
    )

    async def main() -> None:
        async with relay_of(workers=1, command=(sys.executable, "-c", program)) as relay:
            broken.touch()
            os.kill(relay.pool.pids[0], signal.SIGKILL)
            await until(lambda: relay.failures != [])
            assert "5 workers" in str(relay.failures[0])

    asyncio.run(main())


def test_a_worker_that_talks_nonsense_is_replaced(tmp_path: FilePath) -> None:
    cured = tmp_path / "cured"
    program = (
        "import os, runpy, socket, sys\n"
        f"if not os.path.exists({str(cured)!r}):\n"
        f"    open({str(cured)!r}, 'w').close()\n"
        "    socket.socket(fileno=int(sys.argv[3])).send(b'nonsense')\n"
        "    socket.socket(fileno=int(sys.argv[2])).send(b'\\xff' * 99)\n"
        "    sys.stdin.read()\n"
        "    import time; time.sleep(60)\n"
        "runpy.run_module('relay.forwarding.worker', run_name='__main__')\n"
    )

    async def main() -> None:
        async with relay_of(workers=1, command=(sys.executable, "-c", program)) as relay:
            sender, receiver = relay.peer(), relay.peer()
            relay.register(address_of(sender))
            await relay.forwards(sender, receiver, relay.register(address_of(receiver)))
            assert relay.up == []

    asyncio.run(main())


def test_the_default_number_of_workers() -> None:
    assert 1 <= default_workers() <= MAX_DEFAULT_WORKERS
