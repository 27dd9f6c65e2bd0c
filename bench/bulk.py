"""`python -m bench.bulk`: how fast two peers move data through the relay.

Side by side, in turns: aioquic's stock asyncio server and client, one straight to the other, and
our dialer and accepter with the relay between them. Each is two processes of Python; the relay is
two more. Then twenty pipes at once through one relay: whether they share fairly; and one long
transfer: whether memory and speed stay flat.
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from bench.machine import describe

RESULTS = Path("build/bench/bulk.json")
TIME_LIMIT_S = 180
MB = 1_000_000

_ROOT = Path(__file__).resolve().parent.parent
_ENDS = (sys.executable, "-m", "bench.bulk_ends")


class BulkFailed(Exception):
    """A transfer did not come to its end; the message says which."""


@contextlib.contextmanager
def _process(*command: str, stdin: IO[str] | None = None) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        command,
        cwd=_ROOT,
        stdin=stdin or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _output(process: "subprocess.Popen[str]", what: str) -> list[dict[str, Any]]:
    out, err = process.communicate(timeout=TIME_LIMIT_S)
    if process.returncode:
        raise BulkFailed(f"{what}: {err.strip().splitlines()[-1:]}")
    return [json.loads(line) for line in out.splitlines()]


def stock(size: int) -> float:
    """MB/s of aioquic's own, directly."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with _process(*_ENDS, "stock-server", "127.0.0.1", port, str(size)) as server:
        assert server.stdout is not None
        if not server.stdout.readline():
            raise BulkFailed("the stock server did not start")
        with _process(*_ENDS, "stock-client", "127.0.0.1", port, str(size)) as client:
            [result] = _output(server, "the stock server")
            client.communicate(timeout=TIME_LIMIT_S)
    return _rate(result, size)


def ours(size: int, pipes: int = 1) -> tuple[list[float], list[dict[str, Any]]]:
    """MB/s of each pipe through the relay, and what dialer and accepter cost."""
    with _process(sys.executable, "-m", "relay", "--listen", "127.0.0.1:0") as relay:
        assert relay.stdout is not None
        address = relay.stdout.readline().split()[-1]
        arguments = (address, str(size), str(pipes))
        with (
            _process(*_ENDS, "dialer", *arguments) as dialer,
            _process(*_ENDS, "accepter", *arguments, stdin=dialer.stdout) as accepter,
        ):
            *received, cost = _output(accepter, "the accepter")
            dialer.wait(TIME_LIMIT_S)
            assert dialer.stderr is not None
            sender_cost = json.loads(dialer.stderr.readline())
    return [_rate(each, size) for each in received], [sender_cost, cost]


def _rate(result: dict[str, Any], size: int) -> float:
    if result["bytes"] != size:
        raise BulkFailed(f"{result['bytes']} bytes of {size} arrived")
    return size / float(result["seconds"]) / MB


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness: 1 if all are equal, 1/n if one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(each**2 for each in shares))


def _compare(pairs: int, size: int) -> dict[str, Any]:
    rows = []
    for _ in range(pairs):
        directly = stock(size)
        [through_relay], _ = ours(size)
        rows.append((directly, through_relay))
        print(
            f"  stock, direct {directly:6.1f} MB/s   ours, through the relay"
            f" {through_relay:6.1f} MB/s   ratio {through_relay / directly:.2f}"
        )
    ratio = statistics.median(mine / theirs for theirs, mine in rows)
    print(f"  median ratio {ratio:.2f}")
    return {"rows": rows, "median_ratio": ratio}


def _share(pipes: int, size: int) -> dict[str, Any]:
    rates, _ = ours(size, pipes)
    index = jain(rates)
    print(f"  {len(rates)} pipes, {min(rates):.1f} to {max(rates):.1f} MB/s each; Jain {index:.3f}")
    return {"rates": rates, "jain": index}


def _long(sizes: Sequence[int]) -> list[dict[str, Any]]:
    rows = []
    for size in sizes:
        [rate], (sender, receiver) = ours(size)
        rows.append({"bytes": size, "rate": rate, "dialer": sender, "accepter": receiver})
        print(
            f"  {size / MB:5.0f} MB at {rate:5.1f} MB/s; most memory: dialer"
            f" {sender['peak_mb']:.0f} MB, accepter {receiver['peak_mb']:.0f} MB"
        )
    return rows


def main() -> int:
    """Measure, print, and keep the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.bulk", description=__doc__)
    parser.add_argument("--pairs", type=int, default=5, help="how often both are measured")
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="only the comparison, three times")
    options = parser.parse_args()
    print("one transfer, stock and ours in turns:")
    try:
        results: dict[str, Any] = {
            "machine": describe(),
            "comparison": _compare(3 if options.quick else options.pairs, options.megabytes * MB),
        }
        if not options.quick:
            print("twenty pipes at once:")
            results["sharing"] = _share(20, 5 * MB)
            print("a long transfer beside a short one:")
            results["long"] = _long((100 * MB, 1000 * MB))
    except (BulkFailed, subprocess.TimeoutExpired) as error:
        print(f"bench.bulk: {error}", file=sys.stderr)
        return 1
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2, default=str) + "\n")
    print(f"figures: {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
