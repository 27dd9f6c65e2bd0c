"""Long wires between hosts, and the shim's process that serves them."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.netns.lab import Host, Lab
from tests.netns.processes import PROJECT, command


@dataclass(frozen=True, slots=True)
class Count:
    """What went one way through a wire. Bytes with the headers of the link."""

    frames: int
    bytes: int
    dropped: int


class Wires:
    """The shim: a host whose process delays what passes. Close it before the lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._host = lab.host()
        # It only passes frames: nothing of its own may appear on the wires.
        self._host.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        self._process = subprocess.Popen(
            command(self._host, "-m", "tests.nat.shim"),
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._count = 0

    def wire(self, a: Host, a_name: str, b: Host, b_name: str, delay_s: float) -> "Wire":
        """Connect two hosts by a wire; `delay_s` applies each way."""
        self._count += 1
        name = f"w{self._count}"
        ends = (f"{name}a", f"{name}b")
        for host, interface, end in ((a, a_name, ends[0]), (b, b_name, ends[1])):
            self._lab.wire(host, interface, self._host, end)
        self._ask("wire", name=name, ends=ends, delay_s=delay_s)
        return Wire(self, name)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()

    def _ask(self, do: str, **values: object) -> list[dict[str, int]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": do, **values}), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            print("the shim has ended", file=sys.stderr)
            raise RuntimeError("the shim has ended; see its words on stderr")
        answer: list[dict[str, int]] = json.loads(line)
        return answer


class Wire:
    """One wire. Direction 0 is from the host that was named first."""

    def __init__(self, wires: Wires, name: str) -> None:
        """For `Wires`."""
        self._wires = wires
        self._name = name

    def set(self, **values: float) -> None:
        """Change `delay_s` (each way), `loss` (0 to 1) or `cut` (truth)."""
        self._wires._ask("set", name=self._name, **values)

    def counts(self) -> tuple[Count, Count]:
        """What has passed in direction 0 and 1, since the start."""
        a, b = self._wires._ask("counts", name=self._name)
        return Count(**a), Count(**b)

    def record(self, file: Path | None) -> None:
        """Write all frames that enter to a file from now on; None: end that."""
        self._wires._ask("record", name=self._name, file=None if file is None else str(file))


def recorded(file: Path) -> Iterator[tuple[int, bytes]]:
    """The frames of a recording so far, each with its direction."""
    content = file.read_bytes()
    position = 0
    while position + 5 <= len(content):
        side, length = struct.unpack_from("!BI", content, position)
        position += 5
        if position + length > len(content):
            return
        yield side, content[position : position + length]
        position += length
