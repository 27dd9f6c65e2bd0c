"""`python -m bench.publish`: put the results of the last run into docs/benchmarks.md."""

import json
import re
import shutil
import sys
from pathlib import Path as FilePath
from typing import Any

from bench.flood import table as flood_table

RESULTS = FilePath("build/bench")
PAGE = FilePath("docs/benchmarks.md")
KEPT = FilePath("docs/benchmarks.json")
_FLOODS = """\
### Floods

Control process and worker on one core, the worst place for them; the load has the other. Beside
the pipe there is in turn a flood, and honest traffic between two registered peers, as many
packets a second. *Of a core that does nothing else*: what would pass there, by the relay's
processor time. The floods: `unknown` connection IDs; `http3`, short headers as of HTTP/3
connections that do not exist; `initials` and `garbage`, from 50,000 forged addresses; whole
`registrations`, as many as a core of clients makes. `/health` is asked on a registered peer's
connection, with the pipe idle; the longest stall of the event loop is what the relay itself saw
in the last minute of it all. Each row takes a minute: what remains of the memory is there for the
next flood (`tests/relay/half_open_flood.py` shows that unfinished handshakes leave nothing)."""
_BEGIN, _END = "<!-- the run -->", "<!-- end of the run -->"


def main() -> int:
    """Returns the exit code."""
    try:
        run = json.loads((RESULTS / "benchmarks.json").read_text())
        tables = (RESULTS / "benchmarks.md").read_text()
        page = PAGE.read_text()
        before, rest = page.split(_BEGIN)
        after = rest.split(_END)[1]
    except (OSError, ValueError, IndexError) as error:
        print(f"bench.publish: {error}; first run: make bench", file=sys.stderr)
        return 1
    plots = sorted(RESULTS.glob("*.svg"))
    for plot in plots:
        shutil.copy(plot, PAGE.parent / f"benchmarks-{plot.name}")
    others = [_control(), _flood(), _scale(), _bulk()]
    text = "\n\n".join([_with_plots(tables, [plot.stem for plot in plots]), *others])
    PAGE.write_text(f"{before}{_BEGIN}\n{text.strip()}\n{_END}{after}")
    KEPT.write_text(json.dumps(_slim(run), indent=1) + "\n")
    return 0


def _with_plots(tables: str, plots: list[str]) -> str:
    for stem in plots:
        title = re.compile(rf"^### ({re.escape(stem).replace('-', ',? ')})$", re.I | re.M)
        tables = title.sub(rf"### \1\n\n![\1](benchmarks-{stem}.svg)", tables)
    return tables.strip()


def _control() -> str:
    found = _read("control.json")
    if found is None:
        return ""
    health, registrations = found["health"], found["registrations"]
    idle, loaded = health["idle"], health["under load"]
    forwarded = f"{loaded['forwarded_per_second']:,.0f} packets/s"
    rate = f"{registrations['per_second_of_a_core']:,.0f} a second on a core"
    rows = {
        "`GET /health`, idle": _delays(idle),
        f"`GET /health`, the worker at full load ({forwarded})": _delays(loaded),
        "cold registrations: handshake, request, end": f"{registrations['per_second']:,.0f}/s",
        "processor time of the control process for each": (
            f"{registrations['control_cpu_ms']:.2f} ms, so {rate}"
        ),
    }
    where = "One core for the control process and one worker, another for the load and the client."
    return f"### The control process\n\n{where}\n\n{_table(rows)}"


def _flood() -> str:
    found = _read("flood.json")
    if found is None:
        return ""
    return f"{_FLOODS}\n\n{flood_table(found['floods'])}"


def _scale() -> str:
    found = _read("scale.json")
    if found is None:
        return ""
    before = f"{found['greatest_delay_ms_before']:.1f} ms"
    during = f"{found['greatest_delay_ms_of_those_spared']:.1f} ms"
    rows = {
        "memory for each connection ID": f"{found['bytes_per_connection_id']:.0f} bytes",
        "a killed worker's successor forwards after": f"{found['replaced_after_s']:.1f} s",
        f"greatest delay through the other workers meanwhile (before: {before})": during,
    }
    where = (
        f"{found['connection_ids']:,} connection IDs in {found['registrations']:,} registrations, "
        f"{found['workers']} workers. Memory is the growth of the proportional set size (PSS) of\n"
        "the control process and all workers together."
    )
    return f"### A million connection IDs\n\n{where}\n\n{_table(rows)}"


def _bulk() -> str:
    found = _read("bulk.json")
    if found is None:
        return ""
    pairs = [
        (f"{theirs:.1f} MB/s", f"{ours:.1f} MB/s", f"{ours / theirs:.2f}")
        for theirs, ours in found["comparison"]["rows"]
    ]
    shares = found["sharing"]["rates"]
    rows = {
        "median of the ratios": f"{found['comparison']['median_ratio']:.2f}",
        f"{len(shares)} pipes at once through one relay": (
            f"{min(shares):.1f} to {max(shares):.1f} MB/s each, Jain's index "
            f"{found['sharing']['jain']:.3f}"
        ),
    }
    for each in found["long"]:
        peaks = [f"{each[end]['peak_mb']:.0f} MB" for end in ("dialer", "accepter")]
        rows[f"{each['bytes'] / 1e6:,.0f} MB on one stream"] = (
            f"{each['rate']:.1f} MB/s; most memory: dialer {peaks[0]}, accepter {peaks[1]}"
        )
    where = (
        "One stream; each end is a process, and the relay (two processes) between ours. All\n"
        "share the machine's cores. Taken in turns."
    )
    head = "| aioquic's stock client and server, directly | ours, through the relay | ratio |"
    lines = "\n".join(f"| {' | '.join(row)} |" for row in pairs)
    return (
        f"### Bulk transfer between two peers\n\n{where}\n\n{head}\n|---|---|---|\n{lines}"
        f"\n\n{_table(rows)}"
    )


def _delays(found: dict[str, float]) -> str:
    return f"p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms"


def _table(rows: dict[str, str]) -> str:
    lines = "\n".join(f"| {what} | {figure} |" for what, figure in rows.items())
    return f"| | |\n|---|---|\n{lines}"


def _read(name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((RESULTS / name).read_text())
    except OSError:
        return None
    return found


def _slim(run: dict[str, Any]) -> dict[str, Any]:
    # The samples stay with whoever ran it.
    for part in run["parts"]:
        for result in part["results"]:
            del result["samples"]
    return run


if __name__ == "__main__":
    sys.exit(main())
