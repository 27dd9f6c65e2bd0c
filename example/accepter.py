"""Reads an invite, one line on standard input, answers it, and prints what arrives."""

import asyncio
import sys

from peers import Invite, PeersError, PipeClosed, accept
from peers.invite import read_line


async def main() -> None:
    """Answer the invite; it says where the relay is."""
    invite = Invite.decode(read_line(sys.stdin.buffer))
    async with await accept(invite) as pipe:
        print(f"connected to {pipe.peer}", file=sys.stderr)
        stream = await pipe.accept_stream()
        try:
            async for data in stream:
                print(data.decode(errors="replace"), end="", flush=True)
        except PipeClosed as closed:
            print(f"accepter: {closed}", file=sys.stderr)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (PeersError, BrokenPipeError) as error:
        sys.exit(f"accepter: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
