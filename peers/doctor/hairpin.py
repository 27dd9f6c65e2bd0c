"""Whether our NAT lets two of its inside reach each other by their outside addresses.

RFC 4787 §6. Both sockets send, since a NAT may filter what comes back in as it does from outside.
"""

import asyncio
import os

from relay.wire.address import Address

from ..network import DatagramSocket
from .taps import TappedNetwork

TOKEN = 24
"""Random bytes of a datagram."""
AT_S = (0.0, 0.1, 0.3, 0.6)
"""Seconds after the beginning at which both send."""
PATIENCE_S = 1.2
"""Seconds until it is taken for impossible."""


async def hairpins(
    network: TappedNetwork,
    first: tuple[DatagramSocket, Address],
    second: tuple[DatagramSocket, Address],
) -> bool:
    """Each socket with its outside address: whether one reaches the other by it."""
    token = os.urandom(TOKEN)
    arrived = asyncio.Event()

    def take(datagram: bytes, _: Address) -> bool:
        if datagram == token:
            arrived.set()
            return True
        return False

    async def send() -> None:
        begin = asyncio.get_running_loop().time()
        for at_s in AT_S:
            await asyncio.sleep(begin + at_s - asyncio.get_running_loop().time())
            first[0].send([token], second[1])
            second[0].send([token], first[1])

    network.takers.append(take)
    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(PATIENCE_S):
            await arrived.wait()
    except TimeoutError:
        return False
    finally:
        sending.cancel()
        network.takers.remove(take)
    return True
