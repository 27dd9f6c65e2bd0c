"""Meeting by a spoken code, through the relay on a virtual network; and through one that lies."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from peers import Identity, Pipe, RelayName, RelayTrust
from peers.errors import (
    AuthenticationFailed,
    CodeInvalid,
    CodeRefused,
    CodeWrong,
    NoAnswer,
    PeersError,
    PipeClosed,
    RelayUnreachable,
    RelayUntrusted,
    UsageError,
)
from peers.invite import AuthKind
from peers.link.connection import Response
from peers.link.link import RelayLink
from peers.rendezvous import spoken
from peers.rendezvous.code import Code, word_list
from peers.rendezvous.spoken import SpokenCode, accept_code, dial_code
from relay.certificate import ServerCertificate
from relay.wire.slots import (
    CLAIM_PATH,
    END_PATH,
    OPEN_PATH,
    RECEIVE_PATH,
    SEND_PATH,
    ClaimRequest,
    End,
    EndRequest,
    Received,
    ReceiveRequest,
    SendRequest,
)
from tests.lab.pairs import RELAY, exchange
from tests.lab.scene import Scene, scene
from tests.lab.virtual_loop import run_virtual
from tests.lab.virtual_network import Conditions

ALICE, BOB, MALLORY = (Identity.generate() for _ in range(3))

Test = Callable[[Scene], Awaitable[None]]


def play(certificate: ServerCertificate, test: Test, limit_s: float = 3000.0) -> None:
    async def main() -> None:
        async with scene(certificate) as at:
            await test(at)

    run_virtual(main(), limit_s=limit_s)


def trust(at: Scene) -> RelayTrust:
    return RelayTrust(at.relay.certificate.fingerprint)


async def make_code(at: Scene) -> SpokenCode:
    return await accept_code(RELAY, trust=trust(at), identity=ALICE, network=at.accepter)


async def use_code(at: Scene, code: str) -> Pipe:
    return await dial_code(code, RELAY, trust=trust(at), identity=BOB, network=at.dialer)


def other_words(code: str) -> str:
    """The same number, and words that are not those."""
    number, first, second = code.split("-")
    return f"{number}-{first}-{next(word for word in word_list() if word != second)}"


@contextlib.asynccontextmanager
async def met(at: Scene) -> AsyncIterator[tuple[Pipe, Pipe]]:
    """Both ends of a pipe, dialer first."""
    async with await make_code(at) as waiting, asyncio.TaskGroup() as group:
        accepting = group.create_task(waiting.pipe())
        async with await use_code(at, waiting.code) as dialer:
            yield dialer, await accepting


async def outcome(work: Coroutine[Any, Any, Any]) -> PeersError | None:
    try:
        await work
    except PeersError as error:
        return error
    return None


def test_two_strangers_meet(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        async with met(at) as (dialer, accepter):
            assert dialer.peer.fingerprint == ALICE.fingerprint
            assert accepter.peer.fingerprint == BOB.fingerprint
            assert dialer.peer.kind is accepter.peer.kind is AuthKind.PAIRING_KEY
            assert ALICE.fingerprint in str(dialer.peer)
            await exchange(dialer, accepter, 100_000)
        await accepter.wait_closed()
        assert at.relay.control.registrations == 0
        counted = at.relay.control.rendezvous_counters()
        assert counted["slot_ended_done"] == 1
        assert not [name for name, n in counted.items() if n and "refused" in name]

    play(certificate, test)


def test_a_code_waits_for_its_dialer(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        async with await make_code(at) as waiting, asyncio.TaskGroup() as group:
            assert Code.parse(waiting.code)
            assert waiting.lifetime_s == 600.0
            accepting = group.create_task(waiting.pipe())
            await asyncio.sleep(595.0)
            async with await use_code(at, waiting.code.upper().replace("-", " ")):
                await accepting

    play(certificate, test)


def test_a_code_that_nobody_uses(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        began = asyncio.get_running_loop().time()
        with pytest.raises(CodeRefused, match=r"nobody has used the code: .* time is over"):
            await waiting.pipe()
        assert 600.0 <= asyncio.get_running_loop().time() - began < 630.0
        with pytest.raises(CodeRefused, match="knows no code that begins with"):
            await use_code(at, waiting.code)
        with pytest.raises(PipeClosed, match="used, or closed, before"):
            await waiting.pipe()

    play(certificate, test)


def test_a_wrong_guess_is_told_at_both_ends_and_is_the_last(
    certificate: ServerCertificate,
) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        with pytest.raises(CodeWrong, match="wrong code: the other end found"):
            await use_code(at, other_words(waiting.code))
        assert isinstance(await accepting, CodeWrong)
        with pytest.raises(CodeRefused):
            await use_code(at, waiting.code)
        assert at.relay.control.rendezvous_counters()["slot_ended_wrong_code"] == 1
        assert at.relay.control.registrations == 0

    play(certificate, test)


def test_a_second_dialer_is_refused(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        async with await make_code(at) as waiting:
            accepting = asyncio.create_task(waiting.pipe())
            dialling = [asyncio.create_task(outcome(use_code(at, waiting.code))) for _ in range(2)]
            results = [await each for each in dialling]
            await accepting
            assert [each for each in results if each is None] == [None]
            (refused,) = [each for each in results if each is not None]
            assert isinstance(refused, CodeRefused)
            assert "somebody has used the code" in str(refused)

    play(certificate, test)


def test_a_code_of_nobody(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(CodeRefused, match="knows no code that begins with 7: it is used"):
            await use_code(at, "7-crossword-puppet")
        assert asyncio.get_running_loop().time() - began < 2.0
        with pytest.raises(CodeInvalid):
            await use_code(at, "7-crosswort-puppet")
        with pytest.raises(UsageError, match="the relay"):
            await dial_code("7-cros-pupp", "https://x", trust=trust(at))
        with pytest.raises(UsageError, match="the relay"):
            await accept_code("https://x", trust=trust(at))

    play(certificate, test)


def test_a_relay_that_is_not_trusted_hears_nothing(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        other = RelayTrust("sha256:" + "ab" * 32)
        with pytest.raises(RelayUntrusted):
            await accept_code(RELAY, trust=other, network=at.accepter)
        with pytest.raises(RelayUntrusted):
            await dial_code("7-cros-pupp", RELAY, trust=other, network=at.dialer)
        assert at.relay.control.rendezvous_counters()["slots"] == 0

    play(certificate, test)


def test_whoever_gives_up_ends_the_code_for_the_other(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        await waiting.close()
        with pytest.raises(CodeRefused):
            await use_code(at, waiting.code)
        cancelled = await make_code(at)
        accepting = asyncio.create_task(cancelled.pipe())
        await asyncio.sleep(1.0)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        with pytest.raises(CodeRefused):
            await use_code(at, cancelled.code)
        assert at.relay.control.rendezvous_counters()["slot_ended_left"] == 2

    play(certificate, test)


def test_a_code_that_is_closed_while_it_waits(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        await asyncio.sleep(5.0)
        await waiting.close()
        assert isinstance(await accepting, PipeClosed | CodeRefused)
        await waiting.close()

    play(certificate, test)


def test_an_accepter_that_died_ends_the_dialers_waiting(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)  # and never asks who has claimed it
        with pytest.raises(NoAnswer, match="does not answer any more"):
            await use_code(at, waiting.code)
        with pytest.raises(CodeRefused, match="given up"):
            await waiting.pipe()

    play(certificate, test)


def test_a_relay_that_was_restarted_knows_no_codes(certificate: ServerCertificate) -> None:
    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        await asyncio.sleep(30.0)
        at.relay.kill()
        await at.relay.start()
        failed = await accepting
        assert isinstance(failed, CodeRefused)
        assert "was it restarted?" in str(failed)
        # Any other slot of that number is none of our business.
        with pytest.raises(CodeRefused):
            await use_code(at, waiting.code)

    play(certificate, test)


def test_the_accepters_network_changes_while_the_code_waits(
    certificate: ServerCertificate,
) -> None:
    async def test(at: Scene) -> None:
        async with await make_code(at) as waiting, asyncio.TaskGroup() as group:
            accepting = group.create_task(waiting.pipe())
            await asyncio.sleep(10.0)
            at.accepter.set_conditions(Conditions(loss=1.0))
            await asyncio.sleep(20.0)
            at.accepter.set_conditions(Conditions())
            await asyncio.sleep(20.0)
            async with await use_code(at, waiting.code):
                await accepting

    play(certificate, test)


# A relay that lies. It sees and answers every request; here it does so between the link and the
# real relay, with everything that a relay knows.


class Liar:
    """Stands between peers and relay, and may answer in its place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bodies: list[bytes] = []
        """All that was said, both ways."""
        self.alter: Callable[[str, bytes, Response], Response | None] | None = None
        honest = RelayLink.request

        async def request(
            link: RelayLink, method: str, path: str, body: bytes = b"", **more: Any
        ) -> Response:
            response = await honest(link, method, path, body, **more)
            if self.alter is not None:
                response = self.alter(path, body, response) or response
            self.bodies += [path.encode(), body, response.body]
            return response

        monkeypatch.setattr(RelayLink, "request", request)

    def everything(self) -> bytes:
        """With what stands there as base64, as bytes, too."""
        found = list(self.bodies)
        for body in self.bodies:
            with contextlib.suppress(ValueError):
                fields = json.loads(body)
                if isinstance(fields, dict) and isinstance(fields.get("message"), str):
                    found.append(base64.b64decode(fields["message"]))
        return b"\n".join(found)


def test_the_relay_sees_no_secret(
    certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: list[bytes] = []
    original = spoken.CodeKey.__init__

    def noting(self: spoken.CodeKey, key: bytes, fingerprint: str) -> None:
        keys.append(key)
        original(self, key, fingerprint)

    monkeypatch.setattr(spoken.CodeKey, "__init__", noting)
    liar = Liar(monkeypatch)

    async def test(at: Scene) -> None:
        async with await make_code(at) as waiting, asyncio.TaskGroup() as group:
            accepting = group.create_task(waiting.pipe())
            async with await use_code(at, waiting.code):
                await accepting
            words = Code.parse(waiting.code).words
        seen = liar.everything()
        assert ALICE.fingerprint.encode() in seen, "this test reads what it should"
        assert len(set(keys)) == 1
        for word in words:
            assert f'"{word}"'.encode() not in seen
        assert "-".join(words).encode() not in seen
        for form in (keys[0], keys[0].hex().encode(), base64.b64encode(keys[0])):
            assert form not in seen
        assert b'"packet"' not in seen, "not even the invite"

    play(certificate, test)


def altered(message: Callable[[dict[str, Any]], dict[str, Any]], asked: int, by: str) -> Any:
    """Alters the message number `asked` that the end of that role receives."""

    def alter(path: str, body: bytes, response: Response) -> Response | None:
        if path != RECEIVE_PATH or ReceiveRequest.decode(body).number != asked:
            return None
        received = Received.decode(response.body).message
        if received is None:
            return None
        fields = json.loads(received)
        # Only the accepter's messages have an element and a fingerprint, or a proof and no element.
        if (by == "dialer") != (("fingerprint" in fields) == ("element" in fields)):
            return None
        new = json.dumps(message(fields)).encode()
        return Response(200, {}, Received(new, None).encode())

    return alter


def replaced(**values: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda fields: fields | values


def swapped_element(fields: dict[str, Any]) -> dict[str, Any]:
    """The relay's own element, made with a guess."""
    from peers.rendezvous.exchange import AccepterEnd, DialerEnd

    guess = Code(7, ("acorn", "zebra"))
    hello = DialerEnd(guess, BOB).hello()
    own = json.loads(AccepterEnd(guess, ALICE).receive_hello(hello))
    return fields | {"element": own["element"]}


@pytest.mark.parametrize(
    ("asked", "by", "change"),
    [
        (0, "dialer", replaced(fingerprint=MALLORY.fingerprint)),
        (0, "dialer", swapped_element),
        (0, "accepter", replaced(fingerprint=MALLORY.fingerprint)),
        (1, "accepter", replaced(proof=base64.b64encode(bytes(32)).decode())),
        (1, "accepter", replaced(signature="AAAA")),
        (1, "dialer", replaced(proof=base64.b64encode(bytes(32)).decode())),
        (1, "dialer", replaced(certificate="AAAA")),
    ],
    ids=[
        "accepter's fingerprint",
        "accepter's element",
        "dialer's fingerprint",
        "dialer's proof",
        "dialer's signature",
        "accepter's proof",
        "accepter's certificate",
    ],
)
def test_a_relay_that_alters_a_message_is_found_out_and_both_are_told(
    certificate: ServerCertificate,
    monkeypatch: pytest.MonkeyPatch,
    asked: int,
    by: str,
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    liar = Liar(monkeypatch)
    liar.alter = altered(change, asked, by)

    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        dialling = await outcome(use_code(at, waiting.code))
        assert isinstance(dialling, CodeWrong)
        assert isinstance(await accepting, CodeWrong)
        assert at.relay.control.registrations == 0

    play(certificate, test)


def test_a_relay_that_plays_the_other_end_gets_one_guess(certificate: ServerCertificate) -> None:
    """It claims the code itself, as anybody could who knows the number."""

    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        guess = other_words(waiting.code)
        with pytest.raises(CodeWrong):
            await dial_code(guess, RELAY, trust=trust(at), identity=MALLORY, network=at.dialer)
        assert isinstance(await accepting, CodeWrong)
        for code in (waiting.code, guess):
            with pytest.raises(CodeRefused):
                await use_code(at, code)

    play(certificate, test)


@pytest.mark.parametrize("end", list(End))
def test_a_relay_that_ends_the_code_stops_both_and_opens_nothing(
    certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch, end: End
) -> None:
    liar = Liar(monkeypatch)

    def ending(path: str, body: bytes, response: Response) -> Response | None:
        if path == RECEIVE_PATH and ReceiveRequest.decode(body).number == 1:
            return Response(200, {}, Received(None, end).encode())
        return None

    liar.alter = ending

    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        wanted = CodeWrong if end is End.WRONG_CODE else CodeRefused
        assert isinstance(await outcome(use_code(at, waiting.code)), wanted)
        assert isinstance(await accepting, wanted)

    play(certificate, test)


@pytest.mark.parametrize(
    "answer",
    [
        Response(500, {}, b""),
        Response(200, {}, b"nonsense"),
        Response(200, {}, b"{}"),
        Response(200, {}, b'{"slot": -1, "lifetime": 600, "message": "!", "end": 7}'),
        Response(404, {}, b""),
        Response(429, {"retry-after": "9999"}, b""),
        Response(204, {}, b""),
    ],
    ids=lambda answer: f"{answer.status} {answer.body.decode()[:10]}",
)
@pytest.mark.parametrize("path", [OPEN_PATH, CLAIM_PATH, SEND_PATH, RECEIVE_PATH])
def test_any_answer_of_the_relay_is_an_error_of_ours(
    certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch, path: str, answer: Response
) -> None:
    if (path, answer.status) in {(CLAIM_PATH, 204), (SEND_PATH, 204)}:
        return  # as it should be
    if path == RECEIVE_PATH and answer.body == b"{}":
        return  # nothing yet
    liar = Liar(monkeypatch)
    liar.alter = lambda asked, body, response: answer if asked == path else None

    async def test(at: Scene) -> None:
        failed = await outcome(make_code(at))
        if path == OPEN_PATH:
            assert failed is not None
            return
        waiting = await make_code(at)
        accepting = asyncio.create_task(outcome(waiting.pipe()))
        assert await outcome(use_code(at, waiting.code)) is not None
        assert await accepting is not None

    play(certificate, test)


def test_a_relay_that_never_waits_does_not_keep_us_busy(
    certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = Liar(monkeypatch)
    asked = 0

    def nothing(path: str, body: bytes, response: Response) -> Response | None:
        nonlocal asked
        asked += path == RECEIVE_PATH
        return Response(200, {}, Received(None, None).encode()) if path == RECEIVE_PATH else None

    liar.alter = nothing

    async def test(at: Scene) -> None:
        waiting = await make_code(at)
        dialling = await outcome(use_code(at, waiting.code))
        assert isinstance(dialling, NoAnswer)
        assert asked < 50
        await waiting.close()

    play(certificate, test)


def test_requests_are_repeated_over_a_new_connection(certificate: ServerCertificate) -> None:
    """Each of them may arrive twice: the relay says the same again."""

    async def test(at: Scene) -> None:
        link = await RelayLink.connect(at.dialer, RelayName.parse(RELAY), trust(at))
        token, other = "a" * 32, "b" * 32
        slots = []
        for _ in range(2):
            response = await link.request("POST", OPEN_PATH, b'{"token": "%s"}' % token.encode())
            slots.append(json.loads(response.body)["slot"])
        assert slots[0] == slots[1]
        for path, body in (
            (CLAIM_PATH, ClaimRequest(slots[0], other, b"x").encode()),
            (SEND_PATH, SendRequest(token, 0, b"y").encode()),
            (END_PATH, EndRequest(token, End.DONE).encode()),
        ):
            for _ in range(2):
                assert (await link.request("POST", path, body)).status == 204
        await link.close()
        with pytest.raises(RelayUnreachable):
            await link.request("POST", OPEN_PATH, b"{}")

    play(certificate, test)


def test_an_error_is_an_authentication_failure_where_it_should_be() -> None:
    assert issubclass(CodeWrong, AuthenticationFailed)
    assert not issubclass(CodeRefused, AuthenticationFailed)
