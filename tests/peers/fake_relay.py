"""A relay in memory that does what it is told: forwards, refuses, says nothing, dies, comes back.

HTTP/3 by plain aioquic, one socket, no leases. What it is asked it notes.
"""

import asyncio
import json
from dataclasses import dataclass, field
from functools import cache

from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionIdIssued,
    ConnectionTerminated,
    HandshakeCompleted,
    ProtocolNegotiated,
    QuicEvent,
)
from aioquic.quic.packet import QuicErrorCode

from peers.identity import Identity
from peers.network import DatagramSocket
from relay.wire.address import Address
from relay.wire.connection_id import Towards, derive
from relay.wire.invariants import LongHeader, Malformed, parse_invariants
from relay.wire.outside import ADDRESS_PATH, AddressAnswer
from relay.wire.registration import RegisterAnswer, RegisterRequest

Answer = tuple[int, dict[str, str], bytes]

_TICK_S = 0.01


@dataclass
class Request:
    """What a client asked."""

    method: str
    path: str
    body: bytes
    source: Address
    authorization: str | None = None

    @property
    def fields(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.body)
        return found


@dataclass
class Client:
    """One HTTP/3 connection."""

    quic: QuicConnection
    source: Address
    is_established: bool = False
    http: H3Connection | None = None
    requests: dict[int, Request] = field(default_factory=dict)


@cache
def certificate() -> Identity:
    """The same for all fake relays of a test run: to make one takes time."""
    return Identity.generate()


class FakeRelay:
    """Serves on a started-to-be socket until `kill` or `stop`."""

    def __init__(self, socket: DatagramSocket, identity: Identity | None = None) -> None:
        identity = identity or certificate()
        self._configuration = QuicConfiguration(
            is_client=False, alpn_protocols=["h3"], connection_id_length=12
        )
        self._configuration.certificate = identity.certificate
        self._configuration.private_key = identity.private_key
        self._socket = socket
        self._clients: dict[bytes, Client] = {}
        self._owners: dict[bytes, bytes] = {}  # connection ID to key
        self._addresses: dict[bytes, Address] = {}  # key to address
        self._ticker: asyncio.Task[None] | None = None
        self.requests: list[Request] = []
        """All requests, in the order in which they were complete."""
        self.script: list[Answer | None] = []
        """Answers to the next requests, instead of the usual; None: the usual."""
        self.silent = False
        """Whether it neither answers nor forwards."""
        self.refuses_token = 0
        """How many handshakes it ends as if it did not know its own Retry token."""
        self.interim = False
        """Whether it says "103 Early Hints" before each answer, and adds trailers to it."""
        self.flood = b""
        """If there is any, it is sent as each request's answer, without an end."""
        self.listeners: tuple[Address, ...] = ()
        """Where it says that it listens."""
        self.forwarded = 0

    @property
    def connections(self) -> int:
        """HTTP/3 connections that it has not forgotten."""
        return len({id(client) for client in self._clients.values()})

    @property
    def registered(self) -> int:
        """Connection IDs in all."""
        return len(self._owners)

    def start(self) -> "FakeRelay":
        self._socket.start(self._receive)
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        return self

    def kill(self) -> None:
        """As SIGKILL would: nobody is told anything."""
        self.silent = True
        if self._ticker is not None:
            self._ticker.cancel()
        self._socket.close()

    def stop(self) -> None:
        """As SIGTERM would: every client is told."""
        self.dismiss()
        self.kill()

    def dismiss(self) -> None:
        """End all connections, and go on."""
        for client in list(self._clients.values()):
            client.quic.close(error_code=0x100, reason_phrase="relay stopping")
            self._flush(client)

    def _receive(self, batch: list[tuple[bytes, Address]]) -> None:
        if self.silent:
            return
        for datagram, source in batch:
            header = parse_invariants(datagram)
            assert not isinstance(header, Malformed)
            key = self._owners.get(header.destination_cid)
            if key is not None:
                if source in self._addresses.values():
                    self.forwarded += 1
                    self._socket.send([datagram], self._addresses[key])
            elif isinstance(header, LongHeader):
                if header.source_cid not in self._owners:
                    self._http3(datagram, header.destination_cid, source, is_long=True)
            else:  # its own connection IDs are random: it knows them by heart, not by a bit
                self._http3(datagram, header.destination_cid, source, is_long=False)

    def _http3(self, datagram: bytes, cid: bytes, source: Address, *, is_long: bool) -> None:
        client = self._clients.get(cid)
        if client is None:
            if not is_long:
                return
            quic = QuicConnection(
                configuration=self._configuration, original_destination_connection_id=cid
            )
            client = Client(quic, source)
            self._clients[cid] = self._clients[quic.host_cid] = client
        if not client.is_established and source != client.source:
            return  # as our relay: a handshake stays where it began
        client.source = source
        now = asyncio.get_running_loop().time()
        client.quic.receive_datagram(datagram, source, now)
        if self.refuses_token and not client.is_established:
            self.refuses_token -= 1
            client.quic.close(error_code=QuicErrorCode.INVALID_TOKEN, frame_type=0)
        self._flush(client)

    def _flush(self, client: Client) -> None:
        while (event := client.quic.next_event()) is not None:
            self._handle(client, event)
        now = asyncio.get_running_loop().time()
        for datagram, address in client.quic.datagrams_to_send(now):
            if not self.silent:
                self._socket.send([datagram], address)

    def _handle(self, client: Client, event: QuicEvent) -> None:
        match event:
            case ConnectionIdIssued(connection_id=cid):
                self._clients[cid] = client
            case HandshakeCompleted():
                client.is_established = True
            case ProtocolNegotiated():
                client.http = H3Connection(client.quic)
            case ConnectionTerminated():
                self._clients = {c: each for c, each in self._clients.items() if each != client}
        if client.http is None:
            return
        for h3_event in client.http.handle_event(event):
            if isinstance(h3_event, HeadersReceived):
                headers = {name.decode(): value.decode() for name, value in h3_event.headers}
                client.requests[h3_event.stream_id] = Request(
                    headers[":method"],
                    headers[":path"],
                    b"",
                    client.source,
                    headers.get("authorization"),
                )
            if isinstance(h3_event, DataReceived):
                client.requests[h3_event.stream_id].body += h3_event.data
            if isinstance(h3_event, HeadersReceived | DataReceived) and h3_event.stream_ended:
                self._answer(client, h3_event.stream_id)

    def _answer(self, client: Client, stream: int) -> None:
        request = client.requests.pop(stream)
        self.requests.append(request)
        if self.flood:
            client.quic.send_stream_data(stream, self.flood)
            return
        scripted = self.script.pop(0) if self.script else None
        status, headers, body = scripted or self._usual(request)
        fields = [(b":status", str(status).encode())]
        fields += [(name.encode(), value.encode()) for name, value in headers.items()]
        assert client.http is not None
        if self.interim:
            client.http.send_headers(stream, [(b":status", b"103"), (b"retry-after", b"9")])
        client.http.send_headers(stream, fields, end_stream=not body)
        if body:
            client.http.send_data(stream, body, end_stream=not self.interim)
            if self.interim:
                client.http.send_headers(stream, [(b"x-trailer", b"1")], end_stream=True)

    def _usual(self, request: Request) -> Answer:
        if request.path == ADDRESS_PATH:
            return 200, {}, AddressAnswer(request.source, self.listeners).encode()
        if request.method == "DELETE":
            id_ = bytes.fromhex(request.path.rpartition("/")[2])
            key = next((key for key in self._addresses if key[:16] == id_), None)
            if key is None:
                return 404, {}, b""
            self._owners = {cid: owner for cid, owner in self._owners.items() if owner != key}
            del self._addresses[key]
            return 204, {}, b""
        asked = RegisterRequest.decode(request.body)
        for counter in range(asked.first, asked.first + asked.num):
            cid = derive(asked.key, counter, asked.derivation, Towards.PEER)
            self._owners[cid] = asked.key
        self._addresses[asked.key] = request.source
        count = sum(owner == asked.key for owner in self._owners.values())
        answer = RegisterAnswer(asked.key[:16].hex(), str(request.source), count, 180.0)
        return 200, {}, answer.encode()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = asyncio.get_running_loop().time()
            for client in {id(each): each for each in self._clients.values()}.values():
                timer = client.quic.get_timer()
                if timer is not None and timer <= now:
                    client.quic.handle_timer(now)
                    self._flush(client)
