"""What is measured side by side: ours and its rivals, each started, told its routes, and stopped.

Every forwarder gets the same two ends and the same socket buffers, and runs on one core; but the
program in the kernel runs where the packets are sent, on the load's core.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

from bench.turn import TurnFailed, allocate
from relay.core.path import Path
from relay.core.table import Change, ConnectionIdsAdded, OwnerMoved
from relay.forwarding.batch_table import encode_name
from relay.forwarding.channel import FrameReader, Sync, Synced, encode_command
from relay.forwarding.sockets import RECEIVE_BUFFER, SEND_BUFFER, ListenRequest, open_listeners
from relay.wire.address import Address
from relay.wire.connection_id import CONNECTION_ID_LENGTH

HOST = "127.0.0.1"
IDS_PER_OWNER = 10
"""About what one peer registers at a time."""
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

_C_SOURCE = FilePath(__file__).with_name("c_loop.c")
_ROOT = _C_SOURCE.parent.parent
_START_PATIENCE_S = 10.0


class CannotStart(Exception):
    """A forwarder did not come up; the text says which and why."""


@dataclass(slots=True)
class Ends:
    """Two sockets, and the connection IDs that lead to each."""

    a: socket.socket
    b: socket.socket
    ids_a: Sequence[bytes]
    ids_b: Sequence[bytes]

    def address(self, sock: socket.socket) -> Address:
        """Of one of the two."""
        return Address.from_sockaddr(sock.getsockname())


@dataclass(slots=True)
class Forwarder:
    """One that runs: where to send so that it comes out at the other end."""

    name: str
    to_b: tuple[str, int]
    to_a: tuple[str, int]
    pid: int | None = None
    """None: there is no process between the ends."""
    is_turn: bool = False
    """Packets from and to end A carry a channel header."""


Start = Callable[[Ends, int, contextlib.ExitStack], Forwarder]
"""Takes the ends, the core to run on, and where to note what is to be undone at the end."""


@contextlib.contextmanager
def ends(ids: int) -> Iterator[Ends]:
    """Two ends on loopback with `ids` random connection IDs each."""
    with big_socket() as a, big_socket() as b:
        yield Ends(a, b, _random_ids(ids), _random_ids(ids))


@contextlib.contextmanager
def running(name: str, between: Ends, core: int) -> Iterator[Forwarder]:
    """Start a forwarder; stop it at the end.

    :raises CannotStart: it did not come up.
    """
    with contextlib.ExitStack() as undo:
        yield FORWARDERS[name](between, core, undo)


def missing() -> dict[str, str]:
    """Which forwarders this machine cannot run, and why."""
    lacks = {}
    if not shutil.which("cc"):
        lacks["c"] = lacks["c-gro"] = "there is no C compiler (cc)"
    if not shutil.which("turnserver"):
        lacks["coturn"] = "coturn is not installed"
    if sys.platform != "linux" or os.geteuid() != 0:
        lacks["xdp"] = "an XDP program needs Linux and root"
    return lacks


def parse_end(text: str) -> Address:
    """Read `127.0.0.1:PORT`, as the processes that are started here get it."""
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def big_socket() -> socket.socket:
    """A UDP socket on loopback with the relay's buffer sizes."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((HOST, 0))
    for force, option, size in (
        (SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BUFFER),
        (SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BUFFER),
    ):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
    return sock


def _start_none(between: Ends, core: int, undo: contextlib.ExitStack) -> Forwarder:
    return Forwarder("none", between.b.getsockname(), between.a.getsockname())


def _start_c(between: Ends, core: int, undo: contextlib.ExitStack, gro: bool = False) -> Forwarder:
    program = _compile()
    sock = undo.enter_context(big_socket())
    command = [str(program), str(sock.fileno()), "64", *(["gro"] if gro else [])]
    process = _spawn(command, core, undo, [sock.fileno()], pipes=True)
    if process.stdin is None or process.stdout is None:
        raise CannotStart("the C loop has no pipes")
    to_b = encode_name(between.address(between.b))
    to_a = encode_name(between.address(between.a))
    routes = [cid + to_b for cid in between.ids_b] + [cid + to_a for cid in between.ids_a]
    with process.stdin as routes_in:
        routes_in.write(b"".join(routes))
    if process.stdout.readline() != b"ready\n":
        raise CannotStart("the C loop did not start")
    address = sock.getsockname()
    return Forwarder("c-gro" if gro else "c", address, address, process.pid)


def _start_c_gro(between: Ends, core: int, undo: contextlib.ExitStack) -> Forwarder:
    return _start_c(between, core, undo, gro=True)


def _start_plain(between: Ends, core: int, undo: contextlib.ExitStack) -> Forwarder:
    return _start_ours("plain", between, core, undo)


def _start_batch(between: Ends, core: int, undo: contextlib.ExitStack) -> Forwarder:
    return _start_ours("batch", between, core, undo)


def _start_ours(loop: str, between: Ends, core: int, undo: contextlib.ExitStack) -> Forwarder:
    """A worker process of the relay, told its routes as the control process tells it."""
    listener = open_listeners([ListenRequest(Address(HOST, 0))], 1)[0]
    undo.callback(listener.close)
    stream, theirs = socket.socketpair()
    up, up_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for each in (stream, up):
        undo.callback(each.close)
    with theirs, up_theirs:
        descriptors = [each.fileno() for each in (theirs, up_theirs, listener.sockets[0])]
        command = [sys.executable, "-m", "bench.worker", loop, "1.0", *map(str, descriptors)]
        process = _spawn(command, core, undo, descriptors)
    for change in _registrations(between):
        stream.sendall(encode_command(change))
    stream.sendall(encode_command(Sync(0)))
    _await_synced(stream)
    address = (HOST, listener.address.port)
    return Forwarder(loop, address, address, process.pid)


def _start_coturn(between: Ends, core: int, undo: contextlib.ExitStack) -> Forwarder:
    program = shutil.which("turnserver")
    if program is None:
        raise CannotStart("coturn is not installed")
    with big_socket() as free:
        server: tuple[str, int] = free.getsockname()
    command = [program, "-n", "--no-auth", "--no-cli", "--no-tls", "--no-dtls", "--no-tcp"]
    command += ["--allow-loopback-peers", "-L", HOST, "-E", HOST, "-p", str(server[1]), "-m", "1"]
    command += ["--no-rfc5780", "--log-file", os.devnull, "--no-stdout-log", "--simple-log"]
    command += ["--userdb", os.devnull, "--pidfile", os.devnull]
    process = _spawn(command, core, undo, [])
    try:
        relayed = allocate(between.a, server, between.b.getsockname())
    except (TurnFailed, OSError) as error:
        raise CannotStart(f"coturn: {error}") from None
    return Forwarder("coturn", server, relayed, process.pid, is_turn=True)


def _start_xdp(between: Ends, core: int, undo: contextlib.ExitStack) -> Forwarder:
    """The program in the kernel, on this network's loopback. It should pass nothing up."""
    ours = undo.enter_context(big_socket())
    ids = FilePath(undo.enter_context(tempfile.TemporaryDirectory())) / "ids"
    ids.write_bytes(b"".join([*between.ids_a, *between.ids_b]))
    places = [str(between.address(each)) for each in (ours, between.a, between.b)]
    worker = [sys.executable, "-m", "bench.kernel_worker", *places, str(ids)]
    process = _spawn(["unshare", "--mount", *worker], core, undo, [], pipes=True)
    undo.callback(_end_xdp, process)
    said = process.stdout.readline() if process.stdout is not None else b""
    if said != b"ready\n":
        raise CannotStart(said.decode(errors="replace").strip() or "the kernel path did not start")
    address = ours.getsockname()
    return Forwarder("xdp", address, address)


def _end_xdp(process: subprocess.Popen[bytes]) -> None:
    # What it has attached would outlive it if it were killed.
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_START_PATIENCE_S)


FORWARDERS: dict[str, Start] = {
    "none": _start_none,
    "c": _start_c,
    "c-gro": _start_c_gro,
    "coturn": _start_coturn,
    "plain": _start_plain,
    "batch": _start_batch,
    "xdp": _start_xdp,
}

TITLES = {
    "none": "no relay (the load's own ceiling)",
    "c": "C loop, recvmmsg/sendmmsg",
    "c-gro": "C loop with GRO and GSO",
    "coturn": "coturn, channel data, one allocation",
    "plain": "Quicpipe, plain loop",
    "batch": "Quicpipe, batch loop",
    "xdp": "Quicpipe, in the kernel (XDP)",
}


def _spawn(
    command: Sequence[str],
    core: int,
    undo: contextlib.ExitStack,
    descriptors: Sequence[int],
    *,
    pipes: bool = False,
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        pass_fds=descriptors,
        stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
        stdout=subprocess.PIPE if pipes else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=_ROOT,
    )
    undo.callback(_stop, process)
    os.sched_setaffinity(process.pid, {core})
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _compile() -> FilePath:
    program = _ROOT / "build" / "bench" / "c_loop"
    if program.exists() and program.stat().st_mtime > _C_SOURCE.stat().st_mtime:
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    command = ["cc", "-O2", "-o", str(program), str(_C_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotStart(f"the C loop does not compile: {done.stderr.strip()[:200]}")
    return program


def _registrations(between: Ends) -> Iterator[Change]:
    owner = 0
    for sock, ids in ((between.a, between.ids_a), (between.b, between.ids_b)):
        path = Path(between.address(sock), 0, HOST)
        for first in range(0, len(ids), IDS_PER_OWNER):
            yield OwnerMoved(owner, path)
            yield ConnectionIdsAdded(owner, tuple(ids[first : first + IDS_PER_OWNER]))
            owner += 1


def _await_synced(stream: socket.socket) -> None:
    reader = FrameReader()
    stream.settimeout(_START_PATIENCE_S)
    deadline = time.monotonic() + _START_PATIENCE_S
    while time.monotonic() < deadline:
        try:
            data = stream.recv(65536)
        except TimeoutError:
            break
        if not data:
            break
        if any(isinstance(report, Synced) for report in reader.reports(data)):
            return
    raise CannotStart("the worker did not start")


def _random_ids(count: int) -> list[bytes]:
    data = os.urandom(count * CONNECTION_ID_LENGTH)
    ids = (
        data[start : start + CONNECTION_ID_LENGTH]
        for start in range(0, len(data), CONNECTION_ID_LENGTH)
    )
    return [bytes([cid[0] & 0x7F]) + cid[1:] for cid in ids]
