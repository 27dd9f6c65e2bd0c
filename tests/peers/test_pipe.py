"""Pipes: datagrams, keepalive, the death of the other end, closing, statistics. Virtual time."""

import asyncio

import pytest

from peers.auth import InviteKey
from peers.errors import CloseCode, DatagramTooLarge, PipeClosed, PipeLost
from peers.invite import AuthKind
from peers.pipe import Pipe
from peers.pipe_core import DATAGRAMS_UNREAD
from tests.lab.virtual_loop import run_virtual

from .pipe_pair import Link, joined
from .quic_pair import random_loss


def now() -> float:
    return asyncio.get_running_loop().time()


def test_an_open_pipe_says_whom_it_leads_to() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            for pipe in (dialer, accepter):
                assert pipe.is_open
                assert pipe.peer.kind is AuthKind.INVITE_KEY
                assert str(pipe.peer) == "whoever has the invite"

    run_virtual(main())


def test_a_pipe_that_is_not_open_leads_to_nobody() -> None:
    async def main() -> None:
        link = Link()
        dialer, _ = link.dial(InviteKey(), 60.0)
        assert not dialer.is_open
        with pytest.raises(PipeClosed, match="not open yet"):
            assert dialer.peer
        await dialer.close()
        with pytest.raises(PipeClosed, match="closed the pipe before it was open"):
            await dialer.wait_open()
        link.stop()

    run_virtual(main())


# Datagrams


def test_datagrams_go_both_ways() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            dialer.send_datagram(b"ping")
            assert await accepter.receive_datagram() == b"ping"
            accepter.send_datagram(b"")
            assert await dialer.receive_datagram() == b""
            with pytest.raises(DatagramTooLarge):
                dialer.send_datagram(bytes(dialer.max_datagram_size + 1))
            dialer.send_datagram(bytes(dialer.max_datagram_size))
            assert len(await accepter.receive_datagram()) == dialer.max_datagram_size

    run_virtual(main())


def test_datagrams_that_nobody_fetches_are_dropped_oldest_first() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            for n in range(DATAGRAMS_UNREAD + 50):
                dialer.send_datagram(n.to_bytes(2, "big"))
                await asyncio.sleep(0.01)
            await asyncio.sleep(1.0)
            assert accepter.statistics().datagrams_dropped_unread == 50
            first = await accepter.receive_datagram()
            assert int.from_bytes(first, "big") == 50
            await dialer.close()
            await accepter.wait_closed()
            for _ in range(DATAGRAMS_UNREAD - 1):
                await accepter.receive_datagram()
            with pytest.raises(PipeClosed):
                await accepter.receive_datagram()
            with pytest.raises(PipeClosed):
                accepter.send_datagram(b"x")

    run_virtual(main())


# Life and death


def test_an_idle_pipe_stays_open_for_hours() -> None:
    async def main() -> None:
        link = Link()
        async with joined(link) as (dialer, accepter):
            before = link.driver(True).sent + link.driver(False).sent
            await asyncio.sleep(7200.0)
            assert dialer.is_open
            assert accepter.is_open
            # A ping and its acknowledgement, every ten seconds.
            sent = link.driver(True).sent + link.driver(False).sent - before
            assert 720 <= sent <= 3000
            stream = dialer.open_stream()
            await stream.write(b"still there?")
            assert await (await accepter.accept_stream()).read() == b"still there?"

    run_virtual(main(), limit_s=8000.0)


@pytest.mark.parametrize("waiting", ["read", "write", "accept", "datagram", "drain", "closed"])
def test_whoever_waits_hears_of_the_death_of_the_other_end(waiting: str) -> None:
    async def wait(pipe: Pipe) -> None:
        stream = pipe.open_stream()
        match waiting:
            case "read":
                await stream.read()
            case "write":
                await stream.write(bytes(100_000_000))
            case "accept":
                await pipe.accept_stream()
            case "datagram":
                await pipe.receive_datagram()
            case "drain":
                await stream.write(b"x")
                await stream.drain_acknowledged()
            case "closed":
                raise await pipe.wait_closed()

    async def main() -> None:
        link = Link()
        async with joined(link) as (dialer, _):
            link.loss = lambda to_server, datagram: True
            began = now()
            with pytest.raises(PipeLost, match=r"not heard for [34]\d s"):
                await wait(dialer)
            assert 29.0 <= now() - began <= 42.0
            assert not dialer.is_open
            await dialer.close()

    run_virtual(main())


def test_a_probe_is_sent_at_once_and_only_if_asked_for() -> None:
    async def main() -> None:
        link = Link()
        async with joined(link) as (dialer, _):
            await asyncio.sleep(1.0)
            sent = link.driver(True).sent
            dialer.probe_if_waiting(now())  # nothing waits
            await asyncio.sleep(0.01)
            assert link.driver(True).sent == sent
            dialer.probe(now())
            await asyncio.sleep(0.01)
            assert link.driver(True).sent == sent + 1
            link.loss = lambda to_server, datagram: True
            stream = dialer.open_stream()
            await stream.write(b"lost")
            await asyncio.sleep(8.0)
            sent = link.driver(True).sent
            dialer.probe_if_waiting(now())
            await asyncio.sleep(0.001)
            assert link.driver(True).sent == sent + 1

    run_virtual(main())


# Closing


def test_close_is_heard_with_code_and_reason() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            waiting = asyncio.ensure_future(accepter.accept_stream())
            began = now()
            await dialer.close(7, "enough\nfor today")
            assert now() - began < 1.0
            reason = await accepter.wait_closed()
            assert isinstance(reason, PipeClosed)
            assert (reason.code, reason.reason) == (7, "enough?for today")
            expected = "the other peer closed the pipe, with code 7: enough"
            with pytest.raises(PipeClosed, match=expected):
                await waiting
            with pytest.raises(PipeClosed, match="the pipe was closed here"):
                dialer.open_stream()
            with pytest.raises(PipeClosed):
                accepter.open_stream()
            await accepter.close()
            await dialer.close()

    run_virtual(main())


def test_close_comes_through_where_much_is_lost() -> None:
    heard = 0
    for seed in range(20):

        async def main(seed: int = seed) -> bool:
            link = Link()
            async with joined(link) as (dialer, accepter):
                link.loss = random_loss(0.3, seed)
                await dialer.close()
                await asyncio.sleep(0.1)
                return not accepter.is_open

        heard += run_virtual(main())
    assert heard >= 18


def test_leaving_the_context_closes_with_a_code_that_fits() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            async with dialer:
                pass
            reason = await accepter.wait_closed()
            assert isinstance(reason, PipeClosed)
            assert reason.code == CloseCode.DONE
        async with joined() as (dialer, accepter):
            with pytest.raises(ZeroDivisionError):
                async with accepter:
                    raise ZeroDivisionError
            reason = await dialer.wait_closed()
            assert isinstance(reason, PipeClosed)
            assert reason.code == CloseCode.FAILED

    run_virtual(main())


def test_every_close_waits_until_what_the_pipe_lived_on_is_given_up() -> None:
    async def main() -> None:
        given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def give_up() -> None:
            await asyncio.shield(given_up)

        async with joined() as (dialer, _):
            dialer.on_close(give_up)
            closing = [asyncio.ensure_future(dialer.close()) for _ in range(2)]
            await asyncio.sleep(3.0)
            assert not any(each.done() for each in closing)
            given_up.set_result(None)
            await asyncio.gather(*closing)
            await dialer.close()

    run_virtual(main())


def test_close_ends_even_if_the_endpoint_is_gone() -> None:
    async def main() -> None:
        link = Link()
        async with joined(link) as (dialer, _):
            link.stop()
            began = now()
            await dialer.close()
            assert now() - began <= 5.0

    run_virtual(main())


def test_a_broken_protocol_ends_the_pipe_with_a_clear_word() -> None:
    async def main() -> None:
        link = Link()
        async with joined(link) as (dialer, accepter):
            accepter._quic.close(error_code=0x0A, frame_type=0, reason_phrase="nonsense")
            link.driver(False).schedule()
            reason = await dialer.wait_closed()
            assert isinstance(reason, PipeLost)
            assert "the pipe broke, with QUIC error 0xa: nonsense" in str(reason)

    run_virtual(main())


def test_routes_follow_the_connection_ids() -> None:
    async def main() -> None:
        link = Link()
        async with joined(link) as (_, accepter):
            await asyncio.sleep(0.1)
            assert len(link.driver(True).routes.current) == 8
            assert len(link.driver(False).routes.current) == 8
            accepter.issue_connection_ids()
            assert len(link.driver(False).routes.current) == 8

    run_virtual(main())


def test_statistics_are_a_snapshot() -> None:
    async def main() -> None:
        async with joined() as (dialer, accepter):
            stream = dialer.open_stream()
            await stream.write(bytes(300_000))
            await stream.drain_acknowledged()
            here, there = dialer.statistics(), accepter.statistics()
            assert here.bytes_sent > 300_000
            assert there.bytes_received > 300_000
            assert there.bytes_unread == 300_000
            assert here.bytes_unacknowledged == 0
            assert (here.streams_open, there.streams_open) == (1, 1)
            assert 0.04 <= here.smoothed_rtt_s <= 0.05

    run_virtual(main())
