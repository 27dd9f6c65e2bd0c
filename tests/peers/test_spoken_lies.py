"""Meeting by a spoken code through a relay that lies: both ends find out, and nothing opens."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from peers.errors import (
    CodeRefused,
    CodeWrong,
    NoAnswer,
)
from peers.link.connection import Response
from peers.link.link import RelayLink
from peers.rendezvous import spoken
from peers.rendezvous.code import Code
from peers.rendezvous.spoken import dial_code
from relay.certificate import ServerCertificate
from relay.wire.slots import (
    CLAIM_PATH,
    OPEN_PATH,
    RECEIVE_PATH,
    SEND_PATH,
    End,
    Received,
    ReceiveRequest,
)
from tests.lab.pairs import RELAY
from tests.lab.scene import Scene
from tests.peers.spoken_scene import (
    ALICE,
    BOB,
    MALLORY,
    make_code,
    other_words,
    outcome,
    play,
    trust,
    use_code,
)

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
