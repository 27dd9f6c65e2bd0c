"""The control socket: whose it is, and what a client cannot do to the relay."""

import asyncio
import json
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from relay.lifecycle import local_socket
from relay.lifecycle.ask import Asking, NoRelay, RelayGone
from relay.lifecycle.local_socket import (
    MAX_CLIENTS,
    MAX_REQUEST,
    ClientGone,
    ControlSocketError,
    LocalConnection,
    LocalServer,
    Message,
)

PATIENCE_S = 20.0


async def echo(request: Message, connection: LocalConnection) -> None:
    if request.get("fail"):
        raise ValueError("secret detail")
    await connection.send({"echo": request})


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await main()

    asyncio.run(limited())


def ask(path: Path, request: bytes) -> bytes:
    """All that is answered."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(os.fspath(path))
        answer = b""
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                answer += data
        except (ConnectionResetError, BrokenPipeError):  # closed already, or with something unread
            pass
        return answer


def test_a_request_is_answered(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "control.sock"

    async def main() -> None:
        server = LocalServer(path, echo)
        server.open()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        answer = await asyncio.to_thread(ask, path, b'{"a": 1}\n')
        assert json.loads(answer) == {"echo": {"a": 1}}
        await server.close()
        assert list(path.parent.iterdir()) == []

    run(main)


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"\n",
        b"junk\n",
        b"[]\n",
        b"{}",
        b"x" * (MAX_REQUEST + 2),
        b"[" * 9_000 + b"\n",
        b"\xff\n",
    ],
    ids=lambda data: repr(data[:10]),
)
def test_nonsense_is_not_answered_and_the_next_one_is(tmp_path: Path, request_: bytes) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        server = LocalServer(path, echo)
        server.open()
        assert await asyncio.to_thread(ask, path, request_) == b""
        assert b"echo" in await asyncio.to_thread(ask, path, b"{}\n")
        await server.close()

    run(main)


def test_a_command_that_fails_tells_no_detail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        server = LocalServer(path, echo)
        server.open()
        answer = await asyncio.to_thread(ask, path, b'{"fail": true}\n')
        assert json.loads(answer) == {"error": "the relay failed; its log says more"}
        await server.close()

    run(main)
    assert "a command failed" in caplog.text


def test_silent_clients_are_bounded_and_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_socket, "REQUEST_PATIENCE_S", 0.3)
    path = tmp_path / "control.sock"

    async def main() -> None:
        server = LocalServer(path, echo)
        server.open()
        silent = [socket.socket(socket.AF_UNIX) for _ in range(MAX_CLIENTS)]
        for each in silent:
            each.connect(os.fspath(path))
        await asyncio.sleep(0.1)
        assert await asyncio.to_thread(ask, path, b"{}\n") == b""  # the last allowed was before
        await asyncio.sleep(0.4)
        assert b"echo" in await asyncio.to_thread(ask, path, b"{}\n")
        for each in silent:
            each.close()
        await server.close()

    run(main)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_not_let_in(tmp_path: Path) -> None:
    """Even if he came by the file's mode."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    path = tmp_path / "control.sock"

    async def main() -> None:
        server = LocalServer(path, echo)
        server.open()
        path.chmod(0o666)
        assert b"echo" in await asyncio.to_thread(ask, path, b"{}\n")
        process = await asyncio.create_subprocess_exec(
            "python3",
            "-c",
            "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            "s.connect(sys.argv[1]); s.send(b'{}\\n'); print(len(s.recv(100)))",
            os.fspath(path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, said = await process.communicate()
        assert out == b"0\n" or b"Connection reset" in said or b"Broken pipe" in said, said
        await server.close()

    run(main)


def test_a_socket_of_a_relay_that_died_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))

    async def main() -> None:
        server = LocalServer(path, echo)
        server.open()
        assert b"echo" in await asyncio.to_thread(ask, path, b"{}\n")
        await server.close()

    run(main)


def test_whoever_leaves_does_not_remove_its_successors_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def main() -> None:
        first, second = LocalServer(path, echo), LocalServer(path, echo)
        first.open()
        second.open()
        await first.close()
        assert b"echo" in await asyncio.to_thread(ask, path, b"{}\n")
        await second.close()
        assert not path.exists()

    run(main)


@pytest.mark.parametrize(
    ("place", "said"),
    [("x" * 120, "has at most 107 bytes"), ("file/socket", "no control socket can be made here")],
)
def test_where_there_can_be_none_it_is_said(tmp_path: Path, place: str, said: str) -> None:
    (tmp_path / "file").write_text("")

    async def main() -> None:
        with pytest.raises(ControlSocketError, match=said) as error:
            LocalServer(tmp_path / place, echo).open()
        assert "\n" not in str(error.value)

    run(main)


@pytest.mark.parametrize(
    ("place", "said"), [("none", "nobody listens on"), ("x" * 120, "has at most 107 bytes")]
)
def test_where_no_relay_is_the_command_says_so(tmp_path: Path, place: str, said: str) -> None:
    with pytest.raises(NoRelay, match=said):
        Asking(tmp_path / place, 1.0)


def test_descriptors_come_with_their_message(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"

    async def give(request: Message, connection: LocalConnection) -> None:
        readable, writable = os.pipe()
        os.write(writable, b"through")
        await connection.send({"before": "x" * 200_000})  # more than the socket's buffer holds
        await connection.send_descriptors({"pipe": True}, [readable])
        os.close(readable)
        os.close(writable)

    def take() -> bytes:
        with Asking(path, PATIENCE_S) as asking:
            asking.send({})
            assert len(asking.receive()["before"]) == 200_000
            assert asking.receive() == {"pipe": True}
            (descriptor,) = asking.take_descriptors()
            with pytest.raises(RelayGone):
                asking.receive()
            with open(descriptor, "rb") as pipe:
                return pipe.read()

    async def main() -> None:
        server = LocalServer(path, give)
        server.open()
        assert await asyncio.to_thread(take) == b"through"
        await server.close()

    run(main)


def test_a_connection_reset_is_a_client_that_is_gone() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        connection = LocalConnection(ours)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        theirs.close()
        with pytest.raises(ClientGone):
            await connection.receive(1.0)
        with pytest.raises(ClientGone):
            await connection.send({"x": 1})
        with pytest.raises(ClientGone):
            await connection.send_descriptors({"x": 1}, [0])
        ours.close()

    run(main)
