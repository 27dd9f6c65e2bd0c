"""The real network, on loopback."""

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from peers import udp
from peers.errors import RelayUnreachable
from peers.network import SystemNetwork, interleave, literal_address
from peers.udp import Drop, UdpSocket
from relay.wire.address import Address

FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]

Batch = list[tuple[bytes, Address]]


@pytest.fixture(params=FAMILIES, ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> tuple[socket.AddressFamily, str]:
    found: tuple[socket.AddressFamily, str] = request.param
    return found


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 20.0))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # what it waits for comes from a socket
        await asyncio.sleep(0.005)


class Sink:
    """A started socket and all that it has received."""

    def __init__(self, family: socket.AddressFamily, host: str) -> None:
        self.socket = SystemNetwork().open_socket(family)
        self.address = Address(host, self.socket.local.port)
        self.batches: list[Batch] = []
        self.socket.start(self.batches.append)

    @property
    def datagrams(self) -> list[bytes]:
        return [datagram for batch in self.batches for datagram, _ in batch]


def test_datagrams_arrive_in_order_with_a_canonical_source(
    family: tuple[socket.AddressFamily, str],
) -> None:
    async def scene() -> None:
        a, b = Sink(*family), Sink(*family)
        sent = [bytes([index]) * 1200 for index in range(100)]
        a.socket.send(sent, b.address)
        await until(lambda: len(b.datagrams) == 100)
        assert b.datagrams == sent
        assert {source for batch in b.batches for _, source in batch} == {a.address}
        # The last call of a batch may bring as many as the kernel puts into one.
        assert max(len(batch) for batch in b.batches) < udp.MAX_BATCH + udp._MAX_SEGMENTS
        a.socket.close()
        b.socket.close()

    run(scene)


@pytest.mark.parametrize("coalescing", [True, False])
@pytest.mark.parametrize("segmenting", [True, False])
def test_any_mixture_of_lengths_arrives_unchanged(segmenting: bool, coalescing: bool) -> None:
    """Runs of one length may go, and come, in one call, and must come out as they went in."""

    async def scene() -> None:
        a, b = Sink(socket.AF_INET, "127.0.0.1"), Sink(socket.AF_INET, "127.0.0.1")
        a.socket._segmenting = a.socket._segmenting and segmenting
        if sys.platform == "linux":
            b.socket._socket.setsockopt(udp._SOL_UDP, udp._UDP_GRO, int(coalescing))
        lengths = [1200, 1200, 1200, 7, 1200, 1, 1, 1, 2, 0, 0, 1200, 0, 1200, 600, 600, 599, 601]
        lengths += [1200] * 130
        sent = [bytes([index % 256]) * length for index, length in enumerate(lengths)]
        a.socket.send(sent, b.address)
        await until(lambda: len(b.datagrams) == len(sent))
        assert b.datagrams == sent
        assert not a.socket.dropped
        a.socket.close()
        b.socket.close()

    run(scene)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([5], 1),
        ([5, 5, 5], 3),
        ([5, 5, 3, 5], 3),
        ([5, 6], 1),
        ([5, 0], 1),
        ([0, 0], 1),
        ([1] * 100, 64),
        ([1200] * 100, 54),
    ],
)
def test_runs(lengths: list[int], expected: int) -> None:
    """Equally long but for the last, 64 at most, less than 64 KiB together."""
    assert udp._run_length([bytes(length) for length in lengths], 0) == expected


class FlakySocket:
    """Stands for the kernel: each call fails as told, then sends."""

    def __init__(self, real: socket.socket, errors: Sequence[int]) -> None:
        self._real = real
        self.errors = list(errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sendto(self, data: bytes, address: Any) -> int:
        self._maybe_fail()
        return self._real.sendto(data, address)

    def sendmsg(self, *arguments: Any) -> int:
        self._maybe_fail()
        return self._real.sendmsg(*arguments)

    def _maybe_fail(self) -> None:
        error = self.errors.pop(0) if self.errors else 0
        if error:
            raise OSError(error, "as told")


def make_flaky(sock: UdpSocket, errors: Sequence[int]) -> FlakySocket:
    flaky = FlakySocket(sock._socket, errors)
    sock._socket = flaky  # type: ignore[assignment]  # stands for it
    return flaky


def test_a_full_buffer_delays_and_does_not_drop() -> None:
    async def scene() -> None:
        a, b = Sink(socket.AF_INET, "127.0.0.1"), Sink(socket.AF_INET, "127.0.0.1")
        make_flaky(a.socket, [0, errno.EAGAIN, errno.EAGAIN, 0, errno.EAGAIN])
        first = [bytes([index]) * (100 + index) for index in range(10)]  # no two alike: no runs
        second = [b"after"]
        a.socket.send(first, b.address)
        a.socket.send(second, b.address)
        await until(lambda: len(b.datagrams) == 11)
        assert b.datagrams == first + second  # in order
        assert not a.socket.dropped
        a.socket.close()
        b.socket.close()

    run(scene)


def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "MAX_QUEUED", 4)

    async def scene() -> None:
        a, b = Sink(socket.AF_INET, "127.0.0.1"), Sink(socket.AF_INET, "127.0.0.1")
        make_flaky(a.socket, [errno.EAGAIN])
        a.socket.send([bytes([index]) for index in range(10)], b.address)
        await until(lambda: len(b.datagrams) == 4)
        assert b.datagrams == [bytes([index]) for index in range(4)]
        assert a.socket.dropped == {Drop.QUEUE_FULL: 6}
        a.socket.close()
        b.socket.close()

    run(scene)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ENETUNREACH, Drop.UNREACHABLE),
        (errno.EHOSTUNREACH, Drop.UNREACHABLE),
        (errno.EADDRNOTAVAIL, Drop.UNREACHABLE),
        (errno.EPERM, Drop.REFUSED),
        (errno.ENOBUFS, Drop.REFUSED),
    ],
)
def test_what_the_system_refuses_is_counted_and_the_rest_goes(error: int, reason: Drop) -> None:
    async def scene() -> None:
        a, b = Sink(socket.AF_INET, "127.0.0.1"), Sink(socket.AF_INET, "127.0.0.1")
        make_flaky(a.socket, [error])
        a.socket.send([b"lost", b"longer than it"], b.address)
        await until(lambda: len(b.datagrams) == 1)
        assert b.datagrams == [b"longer than it"]
        assert a.socket.dropped == {reason: 1}
        a.socket.close()
        b.socket.close()

    run(scene)


def test_a_system_that_cannot_segment_is_asked_once() -> None:
    async def scene() -> None:
        a, b = Sink(socket.AF_INET, "127.0.0.1"), Sink(socket.AF_INET, "127.0.0.1")
        flaky = make_flaky(a.socket, [errno.EINVAL])
        a.socket.send([bytes(100)] * 5, b.address)
        await until(lambda: len(b.datagrams) == 5)
        flaky.errors = [0, 0, errno.EPERM]  # the third call of three: they go one by one
        a.socket.send([bytes(100)] * 3, b.address)
        await until(lambda: len(b.datagrams) == 7)
        assert a.socket.dropped == {Drop.REFUSED: 1}
        a.socket.close()
        b.socket.close()

    run(scene)


def test_unreachable_places_and_interfaces_raise_nothing() -> None:
    async def scene() -> None:
        a = Sink(socket.AF_INET6, "::1")
        a.socket.send([b"x"], Address("fe80::1%nosuchif0", 4433))
        a.socket.send([b"x", b"y"], Address("192.0.2.1", 4433))  # of the other family
        assert a.socket.dropped.total() == 3
        a.socket.close()
        a.socket.send([b"x"], Address("::1", 4433))
        a.socket.close()
        assert a.socket.dropped[Drop.CLOSED] == 1

    run(scene)


@pytest.mark.skipif(sys.platform != "linux", reason="UDP_GRO and UDP_SEGMENT are Linux's")
def test_a_burst_comes_in_one_call(
    family: tuple[socket.AddressFamily, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "MAX_BATCH", 1)

    async def scene() -> None:
        a, b = Sink(*family), Sink(*family)
        sent = [bytes([index]) * 1200 for index in range(40)] + [b"tail"]
        a.socket.send(sent, b.address)
        await until(lambda: len(b.datagrams) == len(sent))
        assert b.datagrams == sent
        assert [len(batch) for batch in b.batches] == [len(sent)]
        a.socket.close()
        b.socket.close()

    run(scene)


def test_what_is_too_long_is_dropped_and_counted() -> None:
    async def scene() -> None:
        a = Sink(socket.AF_INET, "127.0.0.1")
        too_long = bytes(udp.LARGEST_DATAGRAM + 1)
        expected = 1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(too_long, a.address)
            if sys.platform == "linux":
                size = struct.pack("=H", len(too_long))
                burst = [too_long, too_long, b"the last one"]
                stranger.sendmsg(burst, [(udp._SOL_UDP, udp._UDP_SEGMENT, size)], 0, a.address)
                expected += len(burst)
            stranger.sendto(bytes(udp.LARGEST_DATAGRAM), a.address)
        await until(lambda: len(a.datagrams) == 1)
        assert len(a.datagrams[0]) == udp.LARGEST_DATAGRAM
        assert a.socket.dropped == {Drop.TOO_LONG: expected}
        a.socket.close()

    run(scene)


def test_link_local_sources_name_their_interface() -> None:
    assert udp.canonical(("fe80::1", 7, 0, 1)) == ("fe80::1%lo", 7)
    assert udp.canonical(("fe80::1", 7, 0, 0)) == ("fe80::1", 7)
    assert udp.canonical(("::ffff:192.0.2.1", 7, 0, 0)) == ("192.0.2.1", 7)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.1", Address("192.0.2.1", 4433)),
        ("2001:DB8::0:1", Address("2001:db8::1", 4433)),
        ("[2001:db8::1]", Address("2001:db8::1", 4433)),
        ("::ffff:192.0.2.1", Address("192.0.2.1", 4433)),
        ("fe80::1%eth0", Address("fe80::1%eth0", 4433)),
        ("relay.example", None),
        ("1.2.3", None),
        ("", None),
    ],
)
def test_literal_addresses(host: str, expected: Address | None) -> None:
    assert literal_address(host, 4433) == expected


V4 = [Address(f"192.0.2.{number}", 1) for number in range(1, 4)]
V6 = [Address(f"2001:db8::{number}", 1) for number in range(1, 4)]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([], []),
        (V4, V4),
        ([*V6, *V4], [V6[0], V4[0], V6[1], V4[1], V6[2], V4[2]]),
        ([V4[0], V4[1], V6[0]], [V4[0], V6[0], V4[1]]),
        ([V4[0], V4[0], V6[0]], [V4[0], V6[0]]),
    ],
)
def test_families_take_turns(addresses: list[Address], expected: list[Address]) -> None:
    assert interleave(addresses) == expected


def test_localhost_resolves() -> None:
    async def scene() -> None:
        found = await SystemNetwork().resolve("localhost", 4433)
        assert set(found) <= {Address("127.0.0.1", 4433), Address("::1", 4433)}
        assert found

    run(scene)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("no-such-name.invalid", "'no-such-name.invalid' does not resolve"),
        ("a" * 70 + ".example", "cannot be the name of a host"),
        ("nul\0byte", "'nul\\?byte' does not resolve"),
    ],
)
def test_names_that_do_not_resolve(host: str, message: str) -> None:
    async def scene() -> None:
        with pytest.raises(RelayUnreachable, match=message):
            await SystemNetwork().resolve(host, 4433)

    run(scene)
