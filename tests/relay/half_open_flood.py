"""Floods a relay's HTTP/3 server with handshakes that are never finished; prints what it cost.

A process of its own, so that nothing else is measured: `python -m tests.relay.half_open_flood`.
"""

import asyncio
import gc
import json

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType, QuicProtocolVersion, pull_quic_header

from relay.core.path import Path
from relay.http3.quic import SUPPORTED_VERSION
from relay.wire.address import Address
from tests.lab.virtual_loop import run_virtual
from tests.relay.http3_client import World

COUNT = 10_000
BATCH = 64
"""Datagrams in one turn of the event loop, as a socket is drained."""


class InitialMaker:
    """Makes first datagrams quickly: one ClientHello, encrypted anew for each."""

    def __init__(self) -> None:
        client = QuicConnection(
            configuration=QuicConfiguration(is_client=True, alpn_protocols=["h3"])
        )
        client.connect(("192.0.2.1", 1), now=0.0)
        [(datagram, _)] = client.datagrams_to_send(now=0.0)
        header = pull_quic_header(Buffer(data=datagram), 8)
        crypto = CryptoPair()
        crypto.setup_initial(header.destination_cid, is_client=False, version=SUPPORTED_VERSION)
        payload_at = datagram.index(header.source_cid, 6 + len(header.destination_cid))
        payload_at += len(header.source_cid) + 1 + 2  # an empty token, and the length
        _, self._payload, _ = crypto.decrypt_packet(datagram[: header.packet_length], payload_at, 0)
        self._source_cid = header.source_cid

    def make(self, destination_cid: bytes, token: bytes = b"") -> bytes:
        """1,200 bytes with this destination connection ID, and this token."""
        crypto = CryptoPair()
        crypto.setup_initial(destination_cid, is_client=True, version=SUPPORTED_VERSION)
        head = bytes([0xC3]) + SUPPORTED_VERSION.to_bytes(4, "big")
        head += bytes([len(destination_cid)]) + destination_cid
        head += bytes([len(self._source_cid)]) + self._source_cid
        head += (0x4000 | len(token)).to_bytes(2, "big") + token
        size = 1200 - len(head) - 2
        number = bytes(4)
        payload = self._payload.ljust(size - len(number) - 16, b"\0")
        head += (0x4000 | size).to_bytes(2, "big") + number
        return crypto.encrypt_packet(head, payload[: size - len(number) - 16], 0)


def memory_kb(field: str) -> int:
    """A line of /proc/self/status: VmRSS is what this process has now, VmHWM the most it had.

    (`getrusage` would begin with the peak of the process that started this one.)
    """
    with open("/proc/self/status") as file:
        [line] = [line for line in file if line.startswith(field + ":")]
    return int(line.split()[1])


class Flood:
    """One server under attack."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._maker = InitialMaker()
        self.most_half_open = 0

    async def run(self, *, answers_retry: bool) -> None:
        """Begin COUNT handshakes from as many addresses, which are forged or are not."""
        for number in range(COUNT):
            host = f"198.18.{number // 250 % 256}.{number % 250}"
            path = Path(Address(host, 1024 + number % 60_000), 0, "198.51.100.1")
            cid = number.to_bytes(8, "big")
            self._world.server.receive_datagram(self._maker.make(cid), path)
            if number % BATCH == 0:
                await asyncio.sleep(0)
                sent, self._world.sent = self._world.sent, []
                self._world.sent_by_path.clear()
                if answers_retry:
                    for datagram, where in sent:
                        self._answer(datagram, where)
                half_open = self._world.server.counters.half_open
                self.most_half_open = max(self.most_half_open, half_open)

    def _answer(self, datagram: bytes, path: Path) -> None:
        header = pull_quic_header(Buffer(data=datagram), 12)
        if header.packet_type is QuicPacketType.RETRY:
            again = self._maker.make(header.source_cid, header.token)
            self._world.server.receive_datagram(again, path)


async def main() -> None:
    """Print a line of JSON for each of the two attacks."""
    for answers_retry in (False, True):
        async with World() as world:
            flood = Flood(world)
            await world.assert_serves()
            gc.collect()
            before = memory_kb("VmRSS")
            await flood.run(answers_retry=answers_retry)
            peak = memory_kb("VmHWM")
            world.sent.clear()
            await asyncio.sleep(60.0)
            gc.collect()
            result = {
                "answers_retry": answers_retry,
                "peak_kb": peak - before,
                "after_a_minute_kb": memory_kb("VmRSS") - before,
                "most_half_open": flood.most_half_open,
                "half_open_after_a_minute": world.server.counters.half_open,
                "retried": world.server.counters.retried,
            }
            await world.assert_serves()
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    if SUPPORTED_VERSION is not QuicProtocolVersion.VERSION_1:
        raise SystemExit("the first byte of an Initial differs between versions")
    run_virtual(main())
