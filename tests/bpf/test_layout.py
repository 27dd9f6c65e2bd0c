"""layout.h and bpf/layout.py say the same."""

import ctypes
import json
import re
import subprocess
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from bpf import layout
from bpf.build import SOURCE
from relay.wire.address import Address

from .lab import KernelUnderTest

HEADER = (SOURCE.parent / "layout.h").read_text()
MAPS = {
    "owner_by_cid": (layout.CidKey, layout.CidEntry),
    "owner_by_source": (layout.SourceKey, layout.OwnerRef),
    "owners": (None, layout.Owner),
    "buckets": (None, layout.Bucket),
    "relay_config": (None, layout.Config),
    "links": (None, layout.Link),
}


@pytest.fixture(scope="module")
def in_c(kernel: KernelUnderTest) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bpf.c_layout", str(kernel.pins.maps)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=root)
    assert done.returncode == 0, done.stderr
    described: dict[str, Any] = json.loads(done.stdout)
    return described


def describe(structure: type[ctypes.Structure]) -> list[Any]:
    fields = {}
    for field in structure._fields_:
        place, inner = getattr(structure, field[0]), field[1]
        within = describe(inner) if issubclass(inner, ctypes.Structure) else None
        fields[field[0]] = [place.offset, place.size, within]
    return [ctypes.sizeof(structure), fields]


@pytest.mark.parametrize("name", MAPS)
def test_every_field_lies_where_c_has_it(in_c: dict[str, Any], name: str) -> None:
    for structure, seen in zip(MAPS[name], in_c[name], strict=True):
        if structure is not None:
            assert seen == describe(structure)


def test_every_structure_of_the_header_has_its_mirror() -> None:
    assert set(re.findall(r"^struct (\w+) \{", HEADER, re.MULTILINE)) == set(layout.STRUCTURES)


@pytest.mark.parametrize(
    ("prefix", "mirror"), [("OUTCOME_", layout.KernelOutcome), ("WAY_", layout.Way)]
)
def test_enumerations_are_the_same(prefix: str, mirror: type[IntEnum]) -> None:
    names = re.findall(rf"^\t{prefix}(\w+),", HEADER, re.MULTILINE)
    assert {name: value for value, name in enumerate(names)} == {
        each.name: each.value for each in mirror
    }


@pytest.mark.parametrize("name", ["CID_LENGTH", "LISTENING_PORTS"])
def test_lengths_are_the_same(name: str) -> None:
    (value,) = re.findall(rf"^#define {name} (\d+)", HEADER, re.MULTILINE)
    assert int(value) == {"CID_LENGTH": layout.CID_SIZE}.get(name, layout.LISTENING_PORTS)


def test_the_words_that_are_read_at_once() -> None:
    owner = layout.Owner(lease_end_ns=1, packets=3, bytes=4)
    owner.hop.seen_ns = 2
    words = memoryview(bytes(owner)).cast("Q")
    assert [words[layout.OWNER_WORDS[name]] for name in layout.OWNER_WORDS] == [1, 2, 3, 4]


def test_the_counters_of_a_bucket() -> None:
    bucket = layout.Bucket(packets=1, bytes=2, dropped_packets=3, dropped_bytes=4)
    words = memoryview(bytes(bucket)).cast("Q")
    assert len(words) == layout.BUCKET_WORDS
    assert words[layout.BUCKET_COUNTERS :].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "::1", "255.255.255.255"])
def test_addresses_there_and_back(host: str) -> None:
    assert layout.unpack_ip(layout.pack_ip(host)) == host


@pytest.mark.parametrize("host", ["fe80::1%2", "fe80::1%eth0", "name", ""])
def test_what_is_no_address_by_itself(host: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        layout.source_key(Address(host, 1), Address("192.0.2.1", 1))


def test_the_fingerprint_is_of_this_layout() -> None:
    assert re.fullmatch(r"[0-9a-f]{8}", layout.fingerprint())
    assert layout.fingerprint() == layout.fingerprint()
