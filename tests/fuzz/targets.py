"""What is fuzzed, in groups. A target takes any bytes and must return, at once, without raising.

Each feeds one input to every parser of its group; what a parser may raise is what its docstring
names, and nothing else. Where two ways to read the same bytes exist, they must agree.
"""

import asyncio
from collections.abc import Callable

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from peers.connection_ids import ConnectionIdSource
from peers.endpoint import destination_cid
from peers.errors import CodeInvalid, InviteInvalid
from peers.invite import Invite
from peers.nat import natpmp, pcp
from peers.paths import message, probe
from peers.quic.connection import PeerConnection
from peers.quic.parts import HTTP3_ALPN, TlsParts
from peers.relay_name import RelayName
from peers.rendezvous.code import Code, looks_like_code
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.table import ConnectionIdsAdded, ForwardingTable, OwnerMoved
from relay.http3.server import Failure
from relay.wire import outside, registration, rendezvous, slots
from relay.wire.address import Address
from relay.wire.body import MalformedRequest
from relay.wire.invariants import LongHeader, Malformed, parse_invariants
from tests.lab.virtual_loop import run_virtual
from tests.peers.test_quic_hostile import client_hello, crypto_frame, live, serve
from tests.relay.http3_client import World

Target = Callable[[bytes], None]

_PEER = Address("192.0.2.1", 1000)
_OWN_ID = bytes(range(12))
_PROBE_KEY = bytes(32)
_BODIES: tuple[Callable[[bytes], object], ...] = (
    registration.RegisterRequest.decode,
    registration.RegisterAnswer.decode,
    outside.AddressAnswer.decode,
    rendezvous.ChallengeAnswer.decode,
    rendezvous.ListenRequest.decode,
    rendezvous.ListenAnswer.decode,
    rendezvous.WaitRequest.decode,
    lambda body: rendezvous.WaitAnswer.decode(body, 0),
    rendezvous.EndRequest.decode,
    rendezvous.InviteRequest.decode,
    rendezvous.NameAnswer.decode,
    slots.OpenRequest.decode,
    slots.OpenAnswer.decode,
    slots.ClaimRequest.decode,
    slots.SendRequest.decode,
    slots.ReceiveRequest.decode,
    slots.Received.decode,
    slots.EndRequest.decode,
)


class Broken(Exception):
    """Something that must hold does not; the text says what."""


def datagrams(data: bytes) -> None:
    """The version-independent header, at the relay and at a peer (RFC 8999)."""
    parsed = parse_invariants(data)
    found = destination_cid(data)
    if isinstance(parsed, Malformed):
        expected = None
    elif isinstance(parsed, LongHeader):
        expected = parsed.destination_cid
    else:
        expected = data[1:13]
    if found != expected:
        raise Broken(f"the peer reads {found!r}, the relay {expected!r}")
    table = ForwardingTable()
    table.apply(OwnerMoved(0, Path(_PEER, 0, "198.51.100.1")))
    table.apply(ConnectionIdsAdded(0, (_OWN_ID,)))
    verdict = table.decide(data, _PEER)
    if (verdict.outcome is Outcome.FORWARDED) != (expected == _OWN_ID):
        raise Broken(f"{verdict} for {expected!r}")


def bodies(data: bytes) -> None:
    """The JSON of requests at the relay, and of its answers at a peer."""
    for decode in _BODIES:
        try:
            decode(data)
        except MalformedRequest:
            continue


def invites(data: bytes) -> None:
    """What a person pastes: invites, codes, names of relays."""
    try:
        invite = Invite.decode(data)
    except InviteInvalid:
        pass
    else:
        if Invite.decode(invite.encode()) != invite:
            raise Broken("an invite changes when it is written and read again")
    text = data.decode(errors="replace")
    looks_like_code(text)
    for parse, error in ((Code.parse, CodeInvalid), (RelayName.parse, ValueError)):
        try:
            parse(text)
        except error:
            continue


def paths(data: bytes) -> None:
    """What peers tell each other about paths: control messages and probes."""
    parsed = message.parse(data)
    if not isinstance(parsed, message.Malformed):
        again = message.parse(message.encode(parsed))
        if again != parsed:
            raise Broken(f"{parsed} is read as {again}")
    receiver = probe.ProbeReceiver(_PROBE_KEY)
    receiver.start()
    receiver.open(data)
    receiver.open(_sealed(data))


def _sealed(body: bytes) -> bytes:
    """An authentic probe, number 1, with any body: what a hostile peer can send (§13)."""
    header = b"\x40" + probe.ProbeKey(_PROBE_KEY).id(1)
    seal = blake3(b"quicpipe/1 probe seal", key=_PROBE_KEY).digest(length=32)
    return header + ChaCha20Poly1305(seal).encrypt((1).to_bytes(12, "big"), body, header)


def gateways(data: bytes) -> None:
    """What a home's router answers: NAT-PMP and PCP."""
    natpmp.decode_answer(data)
    pcp.decode_answer(data)
    pcp.is_older_version(data)


def handshakes(data: bytes) -> None:
    """QUIC between peers before anything is authenticated: datagrams, frames, TLS messages."""
    if not data:
        return
    kind, rest = data[0] % 5, data[1:]
    match kind:
        case 0:
            serve(rest)
        case 1:
            serve(crypto_frame(rest))
        case 2:
            serve(_mutated(rest))
        case _:
            client = PeerConnection(
                parts=TlsParts(alpn=HTTP3_ALPN, server_name="relay.example"),
                connection_ids=ConnectionIdSource.towards_http3(),
            )
            client.start(0.0)
            client.outgoing(0.0)
            client.receive(rest, 0.1)
            live(client)


def _mutated(edits: bytes) -> bytes:
    """Our own ClientHello with some of its bytes replaced: two bytes of position, one of value."""
    frames = bytearray(_hello())
    for at in range(0, len(edits) - 2, 3):
        frames[int.from_bytes(edits[at : at + 2], "big") % len(frames)] = edits[at + 2]
    return bytes(frames)


def _hello() -> bytes:
    if not _HELLO:
        _HELLO.append(client_hello(TlsParts("quicpipe/1")))
    return _HELLO[0]


_HELLO: list[bytes] = []


def http3(data: bytes) -> None:
    """The relay's HTTP/3, after a handshake: streams, frames, QPACK, and QUIC frames of any kind.

    The input is a list of pieces: a byte that says where, a byte for the length, and the bytes.
    """
    run_virtual(_http3(data))


async def _http3(data: bytes) -> None:
    async with World() as world:
        client = await world.connect()
        at = 0
        for _ in range(_MOST_PIECES):
            if at + 2 > len(data):
                break
            where, length = data[at], data[at + 1]
            piece = data[at + 2 : at + 2 + length]
            at += 2 + length
            try:
                if where & 0x80:
                    client.quic.inject(where & 0x3F, piece)
                else:
                    client.send(_STREAMS[where % len(_STREAMS)], piece, end=bool(where & 0x40))
            except (AssertionError, RuntimeError, ValueError):
                continue  # aioquic's client does not do that; its own faults are not looked for
            client.transmit()
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        if Failure.INTERNAL_ERROR in world.server.counters.failures:
            raise Broken("an internal error of the server")
        await world.assert_serves()


_MOST_PIECES = 16
_STREAMS = (0, 4, 8, 2, 6, 10, 14, 18)
"""Requests, and the client's unidirectional streams beside those that it has opened."""

TARGETS: dict[str, Target] = {
    each.__name__: each for each in (datagrams, bodies, invites, paths, gateways, handshakes, http3)
}
