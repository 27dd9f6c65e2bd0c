"""Whoever has the invite can write Initial packets: whatever is in them, nothing breaks."""

import struct

from aioquic._buffer import Buffer
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import pull_quic_header
from hypothesis import given, settings
from hypothesis import strategies as st

from peers.quic.connection import PEER, PeerConnection
from peers.quic.parts import PIPE_ALPN, TlsParts

from .quic_pair import PSK_PARTS, connection_ids

ORIGINAL_ID = bytes(range(12))
CLIENT_ID = connection_ids(1).take() or b""
"""Our own clients' first one: what a changed ClientHello names must fit what carries it."""
SIZE = 1200
HEADER = 1 + 4 + 1 + 12 + 1 + 12 + 1 + 2 + 2


def initial_keys(original_id: bytes, *, is_client: bool) -> CryptoPair:
    """RFC 9001 §5.2: anybody who has seen the first packet can derive them."""
    keys = CryptoPair()
    keys.setup_initial(cid=original_id, is_client=is_client, version=1)
    return keys


def initial_packet(
    payload: bytes, keys: CryptoPair, destination: bytes, source: bytes, number: int = 0
) -> bytes:
    """A datagram with one Initial packet, padded inside (RFC 9000 §17.2.2)."""
    payload = payload[: SIZE - HEADER - keys.aead_tag_size]
    payload += bytes(SIZE - HEADER - keys.aead_tag_size - len(payload))
    header = b"\xc1" + struct.pack(">I", 1)
    header += bytes([len(destination)]) + destination + bytes([len(source)]) + source + b"\x00"
    header += struct.pack(">H", 0x4000 | (2 + len(payload) + keys.aead_tag_size))
    header += struct.pack(">H", number)
    return keys.encrypt_packet(header, payload, number)


def payload_of(datagram: bytes, keys: CryptoPair) -> bytes:
    """The frames of the first packet."""
    buffer = Buffer(data=datagram)
    header = pull_quic_header(buffer, host_cid_length=12)
    offset = buffer.tell()
    _, payload, _ = keys.decrypt_packet(datagram[: header.packet_length], offset, 0)
    return payload


def crypto_frame(data: bytes) -> bytes:
    return b"\x06\x00" + struct.pack(">H", 0x4000 | len(data)) + data


def live(connection: PeerConnection) -> None:
    """Whatever it makes of it, it goes on and comes to an end."""
    now = 0.0
    for _ in range(200):
        for datagram in connection.outgoing(now):
            assert len(datagram) <= SIZE
        while connection.next_event() is not None:
            pass
        timer = connection.next_timer()
        if timer is None:
            return
        now = max(now, timer)
        connection.handle_time(now)
    raise AssertionError(f"still alive at {now}")


def serve(payload: bytes, parts: TlsParts = PSK_PARTS) -> PeerConnection:
    keys = initial_keys(ORIGINAL_ID, is_client=True)
    datagram = initial_packet(payload, keys, ORIGINAL_ID, CLIENT_ID)
    server = PeerConnection(parts=parts, connection_ids=connection_ids(2), first_datagram=datagram)
    server.start_server(0.0)
    live(server)
    return server


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_frames_in_an_invite(payload: bytes) -> None:
    serve(payload)
    serve(crypto_frame(payload))
    serve(crypto_frame(b"\x01" + len(payload).to_bytes(3, "big") + payload))


def client_hello(parts: TlsParts) -> bytes:
    """The frames of our own first packet."""
    client = PeerConnection(parts=parts, connection_ids=connection_ids(1))
    [datagram] = client.start_muted(0.0, 60.0)
    keys = initial_keys(client.original_destination_connection_id, is_client=False)
    return payload_of(datagram, keys)


@given(st.sampled_from([PSK_PARTS, TlsParts(PIPE_ALPN)]), st.data())
@settings(deadline=None, max_examples=300)
def test_any_change_to_a_client_hello(parts: TlsParts, data: st.DataObject) -> None:
    frames = bytearray(client_hello(parts))
    for _ in range(data.draw(st.integers(1, 3))):
        frames[data.draw(st.integers(4, len(frames) - 1))] = data.draw(st.integers(0, 255))
    server = serve(bytes(frames), parts)
    assert not server.is_handshake_complete


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_change_to_a_server_hello(data: st.DataObject) -> None:
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    [invite] = client.start_muted(0.0, 60.0)
    server = PeerConnection(
        parts=PSK_PARTS, connection_ids=connection_ids(2), first_datagram=invite
    )
    server.start_server(0.0)
    answer = server.outgoing(0.0)[0]
    original_id = client.original_destination_connection_id
    frames = bytearray(payload_of(answer, initial_keys(original_id, is_client=True)))
    for _ in range(data.draw(st.integers(1, 3))):
        frames[data.draw(st.integers(0, len(frames) - 1))] = data.draw(st.integers(0, 255))
    keys = initial_keys(original_id, is_client=False)
    forged = initial_packet(bytes(frames), keys, client.host_cid, server.host_cid)
    client.receive(forged, 0.0)
    live(client)


class _Fragile(PeerConnection):
    """Stands for a parser with a bug: none is known, but this input decides, not we."""

    def receive_datagram(self, data: bytes, addr: object, now: float) -> None:
        super().receive_datagram(data, addr, now)
        raise IndexError("out of range")


def test_what_breaks_the_parser_closes_the_connection_and_is_counted() -> None:
    keys = initial_keys(ORIGINAL_ID, is_client=True)
    datagram = initial_packet(client_hello(PSK_PARTS), keys, ORIGINAL_ID, CLIENT_ID)
    server = _Fragile(parts=PSK_PARTS, connection_ids=connection_ids(2), first_datagram=datagram)
    server.start_server(0.0)
    assert server.end is not None
    assert server.end.reason == "malformed input"
    assert server.statistics().malformed_received == 1
    live(server)


def test_a_retry_does_not_move_a_waiting_client() -> None:
    client = PeerConnection(parts=PSK_PARTS, connection_ids=connection_ids(1))
    client.start_muted(0.0, 60.0)
    # RFC 9000 §17.2.5: type 3, a token, and a tag that only the invite's readers can compute.
    retry = b"\xf0" + struct.pack(">I", 1) + b"\x0c" + client.host_cid + b"\x04abcdtoken"
    client.receive_datagram(retry + bytes(16), PEER, 1.0)
    assert client.is_muted
    assert client.outgoing(1.0) == []
