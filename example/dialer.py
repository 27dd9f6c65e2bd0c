"""Prints an invite, one line, waits for whoever answers it, and says hello every second.

The invite holds a one-time key: whoever reads it can answer it, so a pipe between two processes,
or ssh, is a good way for it and a public chat is not.
"""

import asyncio
import os
import sys

from peers import InviteKey, PeersError, RelayTrust, dial


async def main() -> None:
    """Dial through the relay at QHOST."""
    relay = os.environ.get("QHOST", "127.0.0.1:4433")
    trust = RelayTrust(os.environ.get("QFINGERPRINT"))
    async with await dial(relay, auth=InviteKey(), trust=trust) as dialing:
        print(dialing.invite.encode(), end="", flush=True)
        print("waiting for the accepter", file=sys.stderr)
        async with await dialing.pipe() as pipe:
            print(f"connected to {pipe.peer}", file=sys.stderr)
            stream = pipe.open_stream()
            while True:
                await stream.write(b"hello\n")
                await asyncio.sleep(1)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (PeersError, BrokenPipeError) as error:
        sys.exit(f"dialer: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
