"""Listening: real ports, shared sockets, options, and what is said when it cannot be."""

import errno
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from relay.core.path import Path
from relay.forwarding.sockets import (
    AddressInUse,
    Listener,
    ListenError,
    ListenRequest,
    is_wildcard,
    open_listeners,
)
from relay.wire.address import Address
from tests.relay.families import needs_ipv6

V4 = Address("127.0.0.1", 0)
V6 = Address("::1", 0)


@pytest.fixture
def resources() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listen(
    resources: ExitStack, *addresses: Address, sockets_each: int = 1, patience_s: float = 0.0
) -> list[Listener]:
    requests = [ListenRequest(address) for address in addresses]
    listeners = open_listeners(requests, sockets_each, patience_s=patience_s)
    for listener in listeners:
        resources.callback(listener.close)
    return listeners


def receive_all(sockets: Sequence[socket.socket]) -> list[int]:
    """How many datagrams wait in each socket."""
    counts = []
    for each in sockets:
        counts.append(0)
        while True:
            try:
                each.recv(100)
            except BlockingIOError:
                break
            counts[-1] += 1
    return counts


@pytest.mark.parametrize("address", [V4, pytest.param(V6, marks=needs_ipv6)], ids=["ipv4", "ipv6"])
def test_a_port_of_the_systems_choice_is_shared_by_all_sockets(
    resources: ExitStack, address: Address
) -> None:
    (listener,) = listen(resources, address, sockets_each=4)
    assert listener.address.host == address.host
    assert listener.address.port != 0
    assert not listener.wildcard
    assert {Address.from_sockaddr(each.getsockname()) for each in listener.sockets} == {
        listener.address
    }
    for _ in range(200):
        with socket.socket(address.family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", listener.address.sockaddr)
    counts = receive_all(listener.sockets)
    assert sum(counts) == 200
    assert all(counts), "SO_REUSEPORT does not balance"


@needs_ipv6
def test_wildcards_that_ask_for_any_port_get_the_same(resources: ExitStack) -> None:
    v4, v6, other = listen(resources, Address("0.0.0.0", 0), Address("::", 0), V4, sockets_each=2)
    assert v4.wildcard
    assert v6.wildcard
    assert v4.address.port == v6.address.port
    assert other.address.port != v4.address.port
    assert [v4.index, v6.index, other.index] == [0, 1, 2]


@needs_ipv6
def test_families_stay_apart(resources: ExitStack) -> None:
    v4, v6 = listen(resources, Address("0.0.0.0", 0), Address("::", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", v4.address.port))
    assert receive_all([*v6.sockets, *v4.sockets]) == [0, 1]


@pytest.mark.parametrize("sockets_each", [1, 2])
@pytest.mark.parametrize("wildcard", [True, False])
def test_a_second_relay_on_the_same_port_is_refused(
    resources: ExitStack, sockets_each: int, wildcard: bool
) -> None:
    """Though both would share it, by SO_REUSEPORT, if they only were left to."""
    (first,) = listen(resources, V4, sockets_each=2)
    wanted = Address("0.0.0.0" if wildcard else "127.0.0.1", first.address.port)
    with pytest.raises(AddressInUse, match=r"is in use; is another relay running\?") as refused:
        listen(resources, wanted, sockets_each=sockets_each)
    assert str(wanted) in str(refused.value)


def test_a_relay_that_is_just_ending_is_waited_for(resources: ExitStack) -> None:
    (first,) = listen(resources, V4, sockets_each=2)
    timer = threading.Timer(0.2, first.close)
    timer.start()
    (second,) = listen(resources, first.address, sockets_each=2, patience_s=20.0)
    timer.join()
    assert second.address == first.address


def test_nothing_stays_open_when_one_address_fails(resources: ExitStack) -> None:
    (taken,) = listen(resources, V4)
    free = Address("127.0.0.1", free_port())
    with pytest.raises(AddressInUse):
        listen(resources, free, taken.address)
    assert listen(resources, free)[0].address == free


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_an_address_of_another_machine_is_refused(resources: ExitStack) -> None:
    with pytest.raises(ListenError, match="this machine has no such address"):
        listen(resources, Address("192.0.2.1", 0))
    with pytest.raises(ListenError, match=r"cannot listen on \[fe80::1%nonesuch\]:0"):
        listen(resources, Address("fe80::1%nonesuch", 0))


def test_a_port_without_permission_is_explained(
    resources: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(ListenError, match="no permission; ports below 1024 need a privilege"):
        listen(resources, Address("127.0.0.1", 443))


@pytest.mark.parametrize("number", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ipv6_the_default_is_ipv4_alone(
    resources: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    real = socket.socket.bind

    def bind(self: socket.socket, address: tuple[str, int]) -> None:
        if self.family == socket.AF_INET6:
            raise OSError(number, os.strerror(number))
        real(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    default = [ListenRequest(Address(host, 0), optional=True) for host in ("0.0.0.0", "::")]
    with caplog.at_level(logging.WARNING):
        (listener,) = open_listeners(default, 2)
    resources.callback(listener.close)
    assert listener.address.host == "0.0.0.0"
    (record,) = caplog.records
    assert record.getMessage().startswith(f"not listening on [::]:{listener.address.port}: ")
    with pytest.raises(ListenError, match="this machine has no"):
        listen(resources, Address("::", 0))


def test_buffers_are_large_and_logged(
    resources: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        default = plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with caplog.at_level(logging.INFO):
        (listener,) = listen(resources, V4)
    size = listener.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    assert size >= default
    assert f"buffers of {size} bytes to receive" in caplog.text


@needs_ipv6
def test_answers_leave_from_the_address_that_was_asked(resources: ExitStack) -> None:
    v4, v6 = listen(resources, Address("0.0.0.0", 0), Address("::", 0), sockets_each=2)
    for listener, local in ((v4, "127.0.0.5"), (v6, "::1")):
        with socket.socket(listener.address.family, socket.SOCK_DGRAM) as client:
            client.bind((local.replace("5", "6"), 0))
            client.settimeout(5.0)
            remote = Address.from_sockaddr(client.getsockname())
            listener.send(b"answer", Path(remote, listener.index, local))
            answer, source = client.recvfrom(100)
            assert (answer, source[:2]) == (b"answer", (local, listener.address.port))


def test_sockets_do_not_leak_into_other_processes(resources: ExitStack) -> None:
    (listener,) = listen(resources, V4)
    program = f"import os; os.fstat({listener.sockets[0].fileno()})"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, close_fds=False, timeout=20
    )
    assert b"Bad file descriptor" in done.stderr


def test_wildcards() -> None:
    assert is_wildcard(Address("0.0.0.0", 4433))
    assert is_wildcard(Address("::", 4433))
    assert not is_wildcard(V4)
