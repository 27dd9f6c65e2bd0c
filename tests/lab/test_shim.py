"""The shim between real sockets: who sees whom, what is lost, and what a rebinding does."""

import socket
import time

import pytest

from relay.wire.address import Address

from .shim import UdpShim


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def loopback(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _bound(loopback: str) -> socket.socket:
    opened = socket.socket(Address(loopback, 0).family, socket.SOCK_DGRAM)
    opened.settimeout(5)
    opened.bind((loopback, 0))
    return opened


def _address(opened: socket.socket) -> Address:
    return Address.from_sockaddr(opened.getsockname())


def _received(opened: socket.socket) -> tuple[bytes, Address]:
    datagram, sockaddr = opened.recvfrom(2048)
    return datagram, Address.from_sockaddr(sockaddr)


def test_each_peer_has_an_address_of_its_own_and_gets_its_answers(loopback: str) -> None:
    with _bound(loopback) as relay, _bound(loopback) as one, _bound(loopback) as other:
        with UdpShim(_address(relay)) as shim:
            one.sendto(b"one", shim.address)
            datagram, outward_one = _received(relay)
            assert datagram == b"one"
            other.sendto(b"other", shim.address)
            datagram, outward_other = _received(relay)
            assert datagram == b"other"
            assert outward_one != outward_other
            relay.sendto(b"answer", outward_one)
            assert _received(one) == (b"answer", shim.address)
        assert shim.counted == {"passed on": 3}


def test_rebinding_gives_another_port_and_closes_the_old_one(loopback: str) -> None:
    with _bound(loopback) as relay, _bound(loopback) as peer, UdpShim(_address(relay)) as shim:
        peer.sendto(b"first", shim.address)
        _, before = _received(relay)
        shim.rebind()
        peer.sendto(b"second", shim.address)
        datagram, after = _received(relay)
        assert datagram == b"second"
        assert after != before
        relay.sendto(b"to the old port", before)
        relay.sendto(b"to the new one", after)
        assert _received(peer) == (b"to the new one", shim.address)


def test_loses_and_delays() -> None:
    with _bound("127.0.0.1") as relay, _bound("127.0.0.1") as peer:
        with UdpShim(_address(relay), loss=0.3, delay_s=0.05) as shim:
            sent_at = time.monotonic()
            for number in range(200):
                peer.sendto(bytes([number]), shim.address)
            arrived = [_received(relay)[0]]
            assert time.monotonic() - sent_at >= 0.05
            relay.settimeout(0.5)
            try:
                while True:
                    arrived.append(_received(relay)[0])
            except TimeoutError:
                pass
        assert 100 < len(arrived) < 180
        assert arrived == sorted(arrived)
        assert shim.counted == {"passed on": len(arrived), "lost": 200 - len(arrived)}


def test_ends_by_itself() -> None:
    with _bound("127.0.0.1") as relay, _bound("127.0.0.1") as peer:
        with UdpShim(_address(relay), limit_s=0.1) as shim:
            time.sleep(0.5)
            peer.sendto(b"is anybody there?", shim.address)
        assert shim.counted == {}
