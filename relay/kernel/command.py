"""The commands `quicpipe-relay xdp status` and `xdp detach`."""

import argparse
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bpf import layout, loader, netlink
from bpf.loader import KernelPathUnavailable
from bpf.netlink import Interface
from bpf.pins import KernelMaps, Pins, PinsInUse
from relay.kernel.config import DEFAULT_PINS
from relay.kernel.path import read_outcomes
from relay.wire.address import Address

_DONE, _FAILED = 0, 1

_EXAMPLES = """\
examples:
  quicpipe-relay xdp status
      interfaces, modes, entries, and what the kernel did in the last second
  quicpipe-relay xdp detach
      remove every relay's program and maps, also what a crash left behind
"""


def run_xdp(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    :raises SystemExit: after --help (0) or a mistake (2).
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "status":
            return _status(options.pins, options.seconds, options.owners)
        return _detach(options.pins, options.interface)
    except KernelPathUnavailable as error:
        return _fail(str(error))
    except PermissionError:
        return _fail("no right to look at BPF objects; run this as root")
    except OSError as error:
        return _fail(f"{error.strerror or error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quicpipe-relay xdp",
        description="The relay's forwarding in the kernel, of this network namespace.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--pins",
        metavar="FOLDER",
        type=Path,
        help="one relay's pins (QUICPIPE_XDP_PINS; default: all relays' in " + f"{DEFAULT_PINS})",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="status|detach")
    status = commands.add_parser("status", help="show what the kernel does")
    status.add_argument(
        "--seconds",
        metavar="S",
        type=_seconds,
        default=1.0,
        help="over which rates are measured (default: 1; 0: none)",
    )
    status.add_argument(
        "--owners", metavar="N", type=int, default=10, help="how many peers to show (default: 10)"
    )
    detach = commands.add_parser("detach", help="remove programs and maps")
    detach.add_argument(
        "--interface", metavar="NAME", action="append", help="this one only; repeatable"
    )
    return parser


def _status(folder: Path | None, seconds: float, owners: int) -> int:
    relays = _folders(folder)
    if not relays:
        _say("no relay forwards in the kernel here")
        return _DONE
    for pins in relays:
        _say(f"{pins.folder}: {'a relay runs' if _in_use(pins) else 'no relay runs'}")
        program = loader.pinned_program_id(pins)
        for link in _interfaces():
            if link.program_id and link.program_id == program:
                _say(f"  {link.name}: {link.mode.name.lower()} mode, MTU {link.mtu}")
        maps = KernelMaps.open(pins)
        if maps is None:
            _say("  its maps are of another version: `xdp detach`, or restart the relay")
            continue
        try:
            _show_maps(maps, seconds, owners)
        finally:
            maps.close()
    return _DONE


def _show_maps(maps: KernelMaps, seconds: float, most: int) -> None:
    present = [n for n, owner in enumerate(maps.owners) if owner.generation]
    sizes = maps.sizes
    ids = sum(1 for _ in maps.owner_by_cid.items())
    _say(
        f"  connection IDs: {ids} of {sizes.cids}; registrations: {len(present)} of {sizes.owners}"
    )
    config = layout.Config.from_buffer_copy(maps.relay_config.get(bytes(4)) or b"")
    families = [name for bit, name in ((1, "IPv4"), (2, "IPv6")) if config.fib & bit]
    _say(
        f"  next hops: {' and '.join(families) or 'no'} routes of the kernel; else learned, "
        f"for {config.hop_max_age_ns / 1e9:g} s"
    )
    before = read_outcomes(maps)
    time.sleep(seconds)
    _say(f"  {'outcome':<22}{'total':>16}{'per second':>14}")
    for name, total in read_outcomes(maps).items():
        if total:
            rate = f"{(total - before[name]) / seconds:14.0f}" if seconds else f"{'':>14}"
            _say(f"  {name:<22}{total:>16}{rate}")
    busiest = sorted(present, key=lambda number: maps.owners[number].packets, reverse=True)[:most]
    if busiest:
        _say(f"  {'peer':<46}{'way':<10}{'packets':>14}{'bytes':>18}{'lease':>8}")
    for number in busiest:
        _say(_owner_line(maps.owners[number]))


def _owner_line(owner: layout.Owner) -> str:
    path = owner.path
    peer = Address(layout.unpack_ip(path.remote), layout.unpack_port(path.remote_port))
    left = max(0.0, (owner.lease_end_ns - time.monotonic_ns()) / 1e9)
    way = layout.Way(owner.way).name.lower()
    return f"  {peer!s:<46}{way:<10}{owner.packets:>14}{owner.bytes:>18}{left:>6.0f} s"


def _detach(folder: Path | None, names: Sequence[str] | None) -> int:
    pins = _folders(folder)
    wanted = [loader.pinned_program_id(each) for each in pins] if folder else None
    for name in names or []:
        netlink.interface(name)  # so that a wrong name is not passed over
    for link in _interfaces():
        if names and link.name not in names:
            continue
        if wanted is not None and link.program_id not in wanted:
            continue
        if loader.is_relay_program(link.program_id):
            netlink.detach(link.index, link.mode)
            _say(f"{link.name}: detached")
    attached = {link.program_id for link in _interfaces()}
    for each in pins:
        if loader.pinned_program_id(each) not in attached:
            if _in_use(each):
                _say(f"{each.folder}: its relay runs and goes on without the kernel")
            each.remove()
            _say(f"{each.folder}: removed")
    return _DONE


def _folders(folder: Path | None) -> list[Pins]:
    if folder is not None:
        if not folder.is_dir():
            raise KernelPathUnavailable(f"{folder}: there is no such folder")
        return [Pins(folder)]
    if not DEFAULT_PINS.is_dir():
        return []
    return [Pins(entry) for entry in sorted(DEFAULT_PINS.iterdir()) if entry.is_dir()]


def _interfaces() -> list[Interface]:
    found = []
    for index, _ in socket.if_nameindex():
        try:
            found.append(netlink.interface_by_index(index))
        except OSError:
            continue  # gone in between
    return found


def _in_use(pins: Pins) -> bool:
    probe = Pins(pins.folder)
    try:
        probe.lock()
    except PinsInUse:
        return True
    probe.unlock()
    return False


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 3600.0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds from 0 to 3600")
    return seconds


def _say(line: str) -> None:
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(reason: str) -> int:
    sys.stderr.write(f"quicpipe-relay xdp: {reason}\n")
    return _FAILED
