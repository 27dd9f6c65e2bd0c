"""Print what bcc makes of the structures in layout.h, as JSON: run by test_layout.py.

A process of its own, since bcc's compiler stays in the process that used it.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from bpf.build import SOURCE, load_bcc
from bpf.headers import default_cache, find_headers


def describe(type_: Any) -> Any:
    """Size, and the fields by name, offset, size and, if they are structures, their own fields."""
    if not (isinstance(type_, type) and issubclass(type_, ctypes.Structure)):
        return None
    fields = {}
    for name, field_type, *_ in type_._fields_:
        place = getattr(type_, name)
        fields[name] = [place.offset, place.size, describe(field_type)]
    return [ctypes.sizeof(type_), fields]


def main() -> None:
    bcc = load_bcc()
    if headers := find_headers(default_cache()):
        os.environ["BCC_KERNEL_SOURCE"] = str(headers)
    flags = [f"-I{SOURCE.parent}", f'-DRELAY_PINS="{Path(sys.argv[1])}"']
    flags += [f"-DRELAY_{name}=64" for name in ("CIDS", "OWNERS", "BUCKETS", "LINKS", "MISSES")]
    program = bcc.BPF(src_file=str(SOURCE), cflags=flags)
    maps = {
        name: [describe(program[name].Key), describe(program[name].Leaf)]
        for name in (
            "owner_by_cid",
            "owner_by_source",
            "owners",
            "buckets",
            "relay_config",
            "links",
        )
    }
    print(json.dumps(maps))


if __name__ == "__main__":
    main()
