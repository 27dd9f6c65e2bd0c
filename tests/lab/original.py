"""Peers that behave as those of the Go original do, on aioquic alone (docs/protocol.md §7).

They share nothing with `peers` but the socket's type: what they put on the wire was read off the
original. Registration over HTTP/3 from the pipe's own socket, closed at once; keyed BLAKE2b
connection IDs; the dialer's first write withheld, its retransmissions sent, at most a minute apart;
ALPN "EXAMPLE", Ed25519 certificates that nobody checks, one bidirectional stream.
"""

import asyncio
import base64
import datetime
import hashlib
import itertools
import json
import os
import ssl
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionId
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StreamDataReceived,
)
from aioquic.quic.packet import QuicProtocolVersion
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from peers.network import DatagramSocket
from relay.wire.address import Address

CONNECTION_ID_LENGTH = 12
KEY_LENGTH = 16
REGISTERED = 10
ALPN = "EXAMPLE"
WAIT_S = 3600.0
"""How long its dialer waits for an answer."""

_MAX_PTO_COUNT = 8
"""From 0.2 s, doubled so often: 51 s. Go's QUIC never waits more than 60 s either."""


def connection_ids(key: bytes, *, high_bit: bool) -> Iterator[bytes]:
    """The key's connection IDs from counter 1: bit clear between peers, set towards HTTP/3."""
    for counter in itertools.count(1):
        message = counter.to_bytes(4, "big")
        digest = hashlib.blake2b(message, key=key, digest_size=CONNECTION_ID_LENGTH).digest()
        first = digest[0] | 0x80 if high_bit else digest[0] & 0x7F
        yield bytes([first]) + digest[1:]


class _Quic(QuicConnection):
    """Issues connection IDs from a given supply."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        supply: Iterator[bytes],
        original_destination_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
        )
        self._supply = supply
        self.host_cid = next(supply)
        self._host_cids[0].cid = self.host_cid
        self._local_initial_source_connection_id = self.host_cid

    def _replenish_connection_ids(self) -> None:
        # As many as the other side takes, and no more than were registered.
        while len(self._host_cids) < min(8, self._remote_active_connection_id_limit):
            self._host_cids.append(
                QuicConnectionId(
                    cid=next(self._supply),
                    sequence_number=self._host_cid_seq,
                    stateless_reset_token=os.urandom(16),
                )
            )
            self._host_cid_seq += 1

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        self._loss._pto_count = min(self._loss._pto_count, _MAX_PTO_COUNT)


class _Driver:
    """Pumps one connection: what it has to send goes to the relay, its timer runs in the loop."""

    def __init__(
        self,
        quic: _Quic,
        send: Callable[[list[bytes]], None],
        handle: Callable[[QuicEvent], None],
    ) -> None:
        self.quic = quic
        self._send = send
        self._handle = handle
        self._timer: asyncio.TimerHandle | None = None

    def receive(self, datagram: bytes, source: Address) -> None:
        self.quic.receive_datagram(datagram, source, asyncio.get_running_loop().time())
        self.pump()

    def pump(self) -> None:
        loop = asyncio.get_running_loop()
        while (event := self.quic.next_event()) is not None:
            self._handle(event)
        datagrams = [datagram for datagram, _ in self.quic.datagrams_to_send(loop.time())]
        if datagrams:
            self._send(datagrams)
        self.stop()
        due = self.quic.get_timer()
        if due is not None:
            self._timer = loop.call_at(due, self._expired, due)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _expired(self, due: float) -> None:
        self.quic.handle_timer(max(due, asyncio.get_running_loop().time()))
        self.pump()


class _Registration:
    """One request on an HTTP/3 connection of its own."""

    def __init__(self, quic: _Quic, relay: Address) -> None:
        self.status: int | None = None
        self.body = b""
        self.answered = asyncio.Event()
        self.terminated = asyncio.Event()
        self._relay = relay
        self._quic = quic
        self._http3: H3Connection | None = None

    def request(self, body: bytes) -> None:
        self._http3 = H3Connection(self._quic)
        stream_id = self._quic.get_next_available_stream_id()
        headers = [
            (b":authority", str(self._relay).encode()),
            (b":method", b"POST"),
            (b":path", b"/v1/register"),
            (b":scheme", b"https"),
            (b"content-length", str(len(body)).encode()),
            (b"accept-encoding", b"gzip"),
            (b"user-agent", b"quic-go HTTP/3"),
        ]
        self._http3.send_headers(stream_id, headers)
        self._http3.send_data(stream_id, body, end_stream=True)

    def handle(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.terminated.set()
            self.answered.set()
        if self._http3 is None:
            return
        for answer in self._http3.handle_event(event):
            if isinstance(answer, HeadersReceived):
                self.status = int(dict(answer.headers)[b":status"])
            elif isinstance(answer, DataReceived):
                self.body += answer.data
            if isinstance(answer, HeadersReceived | DataReceived) and answer.stream_ended:
                self.answered.set()


class OriginalPeer:
    """What its dialer and accepter have in common. An async context manager: it owns the socket."""

    def __init__(self, opened: DatagramSocket, relay: Address) -> None:
        """`opened` is a fresh socket of the relay's family."""
        self.key = os.urandom(KEY_LENGTH)
        self.relay = relay
        self.connected = asyncio.Event()
        self.alpn: str | None = None
        self.terminated: asyncio.Future[ConnectionTerminated] = (
            asyncio.get_running_loop().create_future()
        )
        self.pipe_sent_at: list[float] = []
        """When it sent datagrams of its pipe, in loop time."""
        self._socket = opened
        self._pipe: _Driver | None = None
        self._http3: _Driver | None = None
        self._received = bytearray()
        self._received_end = False
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._socket.start(self._receive)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in (self._pipe, self._http3):
            if each:
                each.stop()
        self._socket.close()

    async def register(self, num: int = REGISTERED) -> tuple[int, bytes]:
        """Register over a fresh HTTP/3 connection, and close that at once.

        :return: the answer's status and body.
        :raises ConnectionError: there was none.
        """
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=H3_ALPN,
            connection_id_length=CONNECTION_ID_LENGTH,
            supported_versions=[QuicProtocolVersion.VERSION_1],
            verify_mode=ssl.CERT_NONE,
            server_name="localhost",
        )
        quic = _Quic(configuration, connection_ids(os.urandom(KEY_LENGTH), high_bit=True))
        registration = _Registration(quic, self.relay)
        self._http3 = driver = _Driver(quic, self._send, registration.handle)
        quic.connect(self.relay, asyncio.get_running_loop().time())
        fields = {"key": base64.b64encode(self.key).decode(), "num": num}
        registration.request(json.dumps(fields).encode())
        driver.pump()
        await registration.answered.wait()
        quic.close()
        driver.pump()
        await registration.terminated.wait()
        driver.stop()
        self._http3 = None
        if registration.status is None:
            raise ConnectionError("the relay closed the connection without an answer")
        return registration.status, registration.body

    def write(self, data: bytes, *, end: bool = False) -> None:
        """Send on the stream, without limit. The accepter can only once it has received on it."""
        if self._pipe is None:
            raise RuntimeError("there is no pipe yet")
        self._pipe.quic.send_stream_data(0, data, end)
        self._pipe.pump()

    async def read(self, size: int) -> bytes:
        """Wait for exactly `size` bytes; fewer only at the stream's end."""
        while len(self._received) < size and not self._received_end:
            self._news.clear()
            await self._news.wait()
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def close(self) -> None:
        """Close the pipe with code 0, and wait until it is over."""
        if self._pipe is None:
            raise RuntimeError("there is no pipe yet")
        self._pipe.quic.close()
        self._pipe.pump()
        await self.terminated

    def _handle(self, event: QuicEvent) -> None:
        if isinstance(event, HandshakeCompleted):
            self.alpn = event.alpn_protocol
            self.connected.set()
        elif isinstance(event, StreamDataReceived) and event.stream_id == 0:
            self._received += event.data
            self._received_end = self._received_end or event.end_stream
            self._news.set()
        elif isinstance(event, ConnectionTerminated):
            self._received_end = True
            self._news.set()
            if not self.terminated.done():
                self.terminated.set_result(event)

    def _receive(self, batch: list[tuple[bytes, Address]]) -> None:
        for datagram, source in batch:
            if source != self.relay:
                continue
            # Its own destination connection IDs have one length, so the marker bit has one place.
            long_header = bool(datagram[0] & 0x80)
            marker = datagram[6] if long_header else datagram[1]
            driver = self._http3 if marker & 0x80 else self._pipe
            if driver:
                driver.receive(datagram, source)

    def _send(self, datagrams: list[bytes]) -> None:
        self._socket.send(datagrams, self.relay)

    def _send_pipe(self, datagrams: list[bytes]) -> None:
        self.pipe_sent_at.append(asyncio.get_running_loop().time())
        self._send(datagrams)


class OriginalDialer(OriginalPeer):
    """Its dialer: `invite`, then wait for `connected`."""

    def __init__(self, opened: DatagramSocket, relay: Address) -> None:
        super().__init__(opened, relay)
        self._withheld: bytes | None = None

    async def invite(self) -> str:
        """Make the invite (one line of JSON), and register."""
        configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=[ALPN],
            connection_id_length=CONNECTION_ID_LENGTH,
            idle_timeout=WAIT_S,
            supported_versions=[QuicProtocolVersion.VERSION_1],
            verify_mode=ssl.CERT_NONE,
        )
        quic = _Quic(configuration, connection_ids(self.key, high_bit=False))
        quic.connect(self.relay, asyncio.get_running_loop().time())
        self._pipe = _Driver(quic, self._withhold_first, self._handle)
        self._pipe.pump()
        if self._withheld is None:
            raise RuntimeError("the connection made no Initial packet")
        status, body = await self.register()
        if status != 200:
            raise ConnectionError(f"the relay answered {status}: {body!r}")
        return json.dumps({"packet": base64.b64encode(self._withheld).decode()}) + "\n"

    def _withhold_first(self, datagrams: list[bytes]) -> None:
        if self._withheld is None:
            self._withheld = datagrams.pop(0)
        if datagrams:
            self._send_pipe(datagrams)


class OriginalAccepter(OriginalPeer):
    """Its accepter: `accept` the invite, then wait for `connected`."""

    async def accept(self, invite: str, *, idle_timeout_s: float = 60.0) -> None:
        """Register, and answer the invite's packet."""
        status, body = await self.register()
        if status != 200:
            raise ConnectionError(f"the relay answered {status}: {body!r}")
        packet = base64.b64decode(json.loads(invite)["packet"], validate=True)
        configuration = QuicConfiguration(
            is_client=False,
            alpn_protocols=[ALPN],
            connection_id_length=CONNECTION_ID_LENGTH,
            idle_timeout=idle_timeout_s,
            supported_versions=[QuicProtocolVersion.VERSION_1],
        )
        configuration.certificate, configuration.private_key = ed25519_certificate()
        destination_cid = packet[6 : 6 + packet[5]]
        quic = _Quic(configuration, connection_ids(self.key, high_bit=False), destination_cid)
        self._pipe = _Driver(quic, self._send_pipe, self._handle)
        self._pipe.receive(packet, self.relay)


def ed25519_certificate() -> tuple[x509.Certificate, Ed25519PrivateKey]:
    """A self-signed certificate without a name that anybody would check."""
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, None)
    )
    return certificate, key
