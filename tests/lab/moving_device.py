"""A device that moves, in a network namespace of its own: `unshare -rn python -m …` runs this.

The dialer's real socket is bound to the wildcard address, and the kernel picks its source address.
In mid-transfer the address goes away and another one takes its place, as when a telephone leaves
the house. Prints one JSON object: both hashes, and the longest pause after the move in seconds.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from peers import InviteKey, PathPolicy, RelayName, RelayTrust, accept, dial

from .processes import PATIENCE_S, RelayProcess
from .transfer import Meter, receive, send

RELAY, BEFORE, AFTER = "10.0.0.1", "10.0.0.2", "10.0.0.3"
SIZE = 4_000_000
RATE = 1_500_000.0


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, timeout=PATIENCE_S)


def _arrive() -> None:
    _ip("link set lo up")
    for address in (RELAY, BEFORE, AFTER):
        _ip(f"address add {address}/32 dev lo")
    _ip(f"route replace local {RELAY} dev lo table local src {BEFORE}")


def _leave() -> None:
    _ip(f"route replace local {RELAY} dev lo table local src {AFTER}")
    _ip(f"address del {BEFORE}/32 dev lo")


async def _transfer(relay: RelayProcess, *, dialer_sends: bool) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    at_address, at_loopback = relay.addresses
    trust = RelayTrust(relay.fingerprint())
    dialing = await dial(
        str(at_address), auth=InviteKey(), trust=trust, path_policy=PathPolicy.RELAY_ONLY
    )
    accepters_invite = replace(dialing.invite, relay=RelayName(at_loopback.host, at_loopback.port))
    async with asyncio.timeout(2 * PATIENCE_S), dialing:
        answering = asyncio.create_task(accept(accepters_invite))
        dialer = await dialing.pipe()
        async with await answering as accepter:
            sender, receiver = (dialer, accepter) if dialer_sends else (accepter, dialer)
            meter = Meter()
            stream = sender.open_stream(unidirectional=True)
            sending = asyncio.create_task(send(stream, SIZE, rate=RATE))
            receiving = asyncio.create_task(receive(await receiver.accept_stream(), meter))
            await meter.until(SIZE // 4)
            await asyncio.to_thread(_leave)
            since = loop.time()
            sent, received = await sending, await receiving
            return {
                "sent": sent,
                "received": received,
                "pause_s": meter.longest_pause_s(since),
            }


def main(direction: str) -> None:
    """Run it; `direction` is `dialer-sends` or `dialer-receives`."""
    _arrive()
    with (
        tempfile.TemporaryDirectory() as state,
        RelayProcess(Path(state), RELAY, "127.0.0.1") as relay,
    ):
        dialer_sends = direction == "dialer-sends"
        print(json.dumps(asyncio.run(_transfer(relay, dialer_sends=dialer_sends))))


if __name__ == "__main__":
    main(sys.argv[1])
