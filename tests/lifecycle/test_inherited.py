"""Sockets that are open already: who passes them, and which are taken."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.http3_client import Http3Client, check
from relay.forwarding.sockets import ListenRequest, open_listeners
from relay.lifecycle.inherited import UnfitSocket, by_address, close_all, take_listen_descriptors
from relay.wire.address import Address
from tests.lab.processes import PROJECT, environment
from tests.relay.families import needs_ipv6

PATIENCE_S = 30.0


def bound(host: str = "127.0.0.1", port: int = 0, *, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_DGRAM)
    if shared:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind((host, port))
    return opened


@pytest.fixture
def group() -> Iterator[list[socket.socket]]:
    """Three on one address."""
    first = bound(shared=True)
    sockets = [first, *(bound(port=first.getsockname()[1], shared=True) for _ in range(2))]
    yield sockets
    for each in sockets:
        each.close()


def address_of(opened: socket.socket) -> Address:
    return Address.from_sockaddr(opened.getsockname())


def copies(sockets: list[socket.socket]) -> list[socket.socket]:
    return [each.dup() for each in sockets]


@pytest.mark.parametrize("wanted", [1, 2, 3, 5])
def test_as_many_as_are_wanted_are_used(group: list[socket.socket], wanted: int) -> None:
    inherited = by_address(copies(group))
    request = ListenRequest(address_of(group[0]))
    (listener,) = open_listeners([request], wanted, inherited=inherited)
    assert inherited == {}
    assert listener.address == request.address
    assert len(listener.sockets) == wanted
    inodes = [os.fstat(each.fileno()).st_ino for each in (*group, *listener.sockets)]
    assert inodes[3 : 3 + min(3, wanted)] == inodes[: min(3, wanted)]
    assert all(not each.getblocking() for each in listener.sockets)
    listener.close()


def test_what_is_missing_is_opened(group: list[socket.socket]) -> None:
    inherited = by_address(copies(group[:1]))
    requests = [ListenRequest(address_of(group[0])), ListenRequest(Address("127.0.0.2", 0))]
    passed, opened = open_listeners(requests, 2, inherited=inherited)
    assert (len(passed.sockets), len(opened.sockets)) == (2, 2)
    passed.close()
    opened.close()


def test_what_is_not_asked_for_is_left(group: list[socket.socket]) -> None:
    inherited = by_address(copies(group))
    (listener,) = open_listeners([ListenRequest(Address("127.0.0.2", 0))], 1, inherited=inherited)
    assert list(inherited) == [address_of(group[0])]
    close_all(inherited)
    assert inherited == {}
    listener.close()


def test_fewer_sockets_mean_fewer_workers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sockets of another user can have no company: all listeners get as many as the poorest."""
    with bound() as alone:
        monkeypatch.setattr(
            "relay.forwarding.sockets._bound",
            lambda address, shared: (
                (_ for _ in ()).throw(OSError(98, "Address already in use"))
                if shared and address == address_of(alone)
                else bound(address.host, address.port, shared=True)
            ),
        )
        inherited = by_address([alone.dup()])
        requests = [ListenRequest(address_of(alone)), ListenRequest(Address("127.0.0.2", 0))]
        listeners = open_listeners(requests, 3, inherited=inherited)
    assert [len(each.sockets) for each in listeners] == [1, 1]
    assert "1 sockets were passed, and there can be no more" in caplog.text
    for each in listeners:
        each.close()


@needs_ipv6
def test_a_socket_for_both_families_is_refused() -> None:
    opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    opened.bind(("::", 0))
    with pytest.raises(UnfitSocket, match="BindIPv6Only=ipv6-only"):
        by_address([opened])
    assert opened.fileno() == -1


def test_a_socket_that_is_bound_to_nothing_is_refused() -> None:
    with pytest.raises(UnfitSocket, match="bound to no port"):
        by_address([socket.socket(socket.AF_INET, socket.SOCK_DGRAM)])


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "-1", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_what_was_not_passed_to_this_process_is_not_touched(variables: dict[str, str]) -> None:
    left = {**variables, "LISTEN_FDNAMES": "x", "HOME": "/root"}
    assert take_listen_descriptors(left) == {}
    assert left == {"HOME": "/root"}  # nobody that we start shall believe it


PASS_ON = """
import os, sys
count = int(sys.argv[1])
numbers = [int(each) for each in sys.argv[2:2 + count]]
copies = [os.dup(each) for each in numbers]
for place, number in enumerate(copies, 3):
    os.dup2(number, place)
    os.set_inheritable(place, True)
variables = {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid())}
os.execve(sys.executable, [sys.executable, *sys.argv[2 + count:]], {**os.environ, **variables})
"""


def start(tmp_path: Path, passed: list[socket.socket], *arguments: str) -> "subprocess.Popen[str]":
    """A relay that gets sockets as systemd passes them."""
    numbers = [str(each.fileno()) for each in passed]
    command = ["-c", PASS_ON, str(len(passed)), *numbers, "-m", "relay", *arguments]
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment(STATE_DIRECTORY=str(tmp_path)),
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[each.fileno() for each in passed],
        text=True,
    )


def test_a_relay_listens_where_its_manager_wants_it(
    tmp_path: Path, group: list[socket.socket]
) -> None:
    """All that came meanwhile waits in the socket."""
    with bound() as stranger, socket.socket(socket.AF_UNIX) as other:
        for _ in range(5):
            stranger.sendto(b"\x40" + bytes(12), group[0].getsockname())
        process = start(tmp_path, [other, *group], "--workers", "3", "--open")
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == (
                f"quicpipe-relay listening on {address_of(group[0])}\n"
            )
            # From the same socket, so to the same worker: what came before was read before.
            client = Http3Client(stranger, group[0].getsockname())
            check(client.wait(client.request("GET", "/health")))
            process.terminate()
            _, said = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.communicate()
    assert "descriptor 3 that was passed is no UDP socket; ignored" in said
    assert "unknown_cid=5" in said
    assert f"{address_of(group[0])}: 3 sockets" in said


def test_what_the_operator_says_comes_first(tmp_path: Path, group: list[socket.socket]) -> None:
    process = start(tmp_path, group, "--listen", "127.0.0.1:0", "--workers", "1")
    try:
        assert process.stdout is not None
        assert str(address_of(group[0])) not in process.stdout.readline()
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.communicate()
    assert f"passed a socket on {address_of(group[0])}, where the relay is not to listen" in said
