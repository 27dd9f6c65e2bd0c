"""A small HTTP/3 client over one socket that never blocks: for requests beside other work."""

import contextlib
import json
import select
import socket
import ssl
import time
from collections.abc import Callable

from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated

_PATIENCE_S = 10.0


class RequestFailed(Exception):
    """No answer, or another than was wanted."""


class Http3Client:
    """One connection from `sock` to the relay at `server`; whose certificate is not checked."""

    def __init__(self, sock: socket.socket, server: tuple[str, int]) -> None:
        self._sock = sock
        self._server = server
        configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
        configuration.verify_mode = ssl.CERT_NONE
        self._quic = QuicConnection(configuration=configuration)
        self._http = H3Connection(self._quic)
        self._answers: dict[int, tuple[int, bytes]] = {}
        self._done: set[int] = set()
        self._ended = False
        self._quic.connect(server, now=time.monotonic())
        self._flush()

    def request(self, method: str, path: str, body: bytes = b"", token: str | None = None) -> int:
        """Send a request; returns the number by which `answer` knows it."""
        stream = self._quic.get_next_available_stream_id()
        headers = [
            (b":method", method.encode()),
            (b":scheme", b"https"),
            (b":authority", b"relay"),
            (b":path", path.encode()),
            *([(b"authorization", f"Bearer {token}".encode())] if token else []),
        ]
        self._http.send_headers(stream, headers, end_stream=not body)
        if body:
            self._http.send_data(stream, body, end_stream=True)
        self._flush()
        return stream

    def step(self) -> None:
        """Take what has arrived, and do what is due."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram = self._sock.recv(65536, socket.MSG_DONTWAIT)
                self._quic.receive_datagram(datagram, self._server, now)
        timer = self._quic.get_timer()
        if timer is not None and timer <= now:
            self._quic.handle_timer(now)
        while (event := self._quic.next_event()) is not None:
            if isinstance(event, ConnectionTerminated):
                self._ended = True
            for each in self._http.handle_event(event):
                if isinstance(each, HeadersReceived):
                    status = int(dict(each.headers)[b":status"])
                    self._answers[each.stream_id] = (status, b"")
                elif isinstance(each, DataReceived):
                    status, body = self._answers.get(each.stream_id, (0, b""))
                    self._answers[each.stream_id] = (status, body + each.data)
                if isinstance(each, HeadersReceived | DataReceived) and each.stream_ended:
                    self._done.add(each.stream_id)
        self._flush()

    def answer(self, stream: int) -> tuple[int, bytes] | None:
        """Status and body, once they are complete.

        :raises RequestFailed: the connection has ended.
        """
        if stream in self._done:
            self._done.discard(stream)
            return self._answers.pop(stream)
        if self._ended:
            raise RequestFailed("the relay ended the connection")
        return None

    def wait(self, stream: int, meanwhile: Callable[[], None] | None = None) -> tuple[int, bytes]:
        """Wait for an answer, doing something else meanwhile.

        :raises RequestFailed: none came in time.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            found = self.answer(stream)
            if found is not None:
                return found
            if meanwhile is None:
                select.select([self._sock], [], [], 0.005)
            else:
                meanwhile()
            self.step()
        raise RequestFailed("no answer")

    def close(self) -> None:
        """Say good-bye."""
        self._quic.close()
        self._flush()

    def _flush(self) -> None:
        for datagram, _ in self._quic.datagrams_to_send(time.monotonic()):
            self._sock.sendto(datagram, self._server)


def registration(key: bytes, count: int, first: int = 1) -> bytes:
    """The body of a request for connection IDs `first` to `first + count - 1` of a 32-byte key."""
    from relay.wire.connection_id import Derivation
    from relay.wire.registration import RegisterRequest

    return RegisterRequest(key, count, Derivation.BLAKE3, first).encode()


def check(answer: tuple[int, bytes]) -> None:
    """:raises RequestFailed: it is not 200."""
    status, body = answer
    if status != 200:
        with contextlib.suppress(ValueError):
            body = str(json.loads(body).get("detail", body)).encode()
        raise RequestFailed(f"status {status}: {body.decode(errors='replace')[:200]}")
