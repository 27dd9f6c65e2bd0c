"""From sources to a program on the interfaces. What cannot be done is one line that says why."""

import contextlib
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from . import layout, netlink
from .netlink import Interface, Mode
from .pins import PROGRAM_FUNCTION, KernelMaps, Pins, PinSizes
from .syscall import open_pin, program_by_id, program_info

BUILD_TIMEOUT_S = 60.0
"""It takes half a second; on a slow, busy machine perhaps ten."""

_log = logging.getLogger(__name__)


class KernelPathUnavailable(Exception):
    """The kernel cannot forward; the text is one line that says why and what to do."""


class WantedMode(StrEnum):
    """How the program is to be attached."""

    AUTO = "auto"
    """Native where the driver can, else generic."""
    NATIVE = "native"
    GENERIC = "generic"


_MODES = {
    WantedMode.AUTO: (Mode.NATIVE, Mode.GENERIC),
    WantedMode.NATIVE: (Mode.NATIVE,),
    WantedMode.GENERIC: (Mode.GENERIC,),
}


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface that takes part."""

    index: int
    name: str
    mode: Mode


def build(pins: Pins, sizes: PinSizes) -> int:
    """Compile and load the program in a process of its own; returns its descriptor.

    It is pinned as `pins.next_program` until it is attached.

    :raises KernelPathUnavailable: if that does not succeed.
    """
    pins.next_program.unlink(missing_ok=True)
    command = [sys.executable, "-m", f"{__package__}.build"]
    command += ["--pins", str(pins.maps), "--program", str(pins.next_program)]
    for name, number in sizes._asdict().items():
        command += [f"--{name}", str(number)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise KernelPathUnavailable(
            f"compiling the XDP program took more than {BUILD_TIMEOUT_S:.0f} s"
        ) from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        _log.debug("building the XDP program failed:\n%s", done.stderr)
        raise KernelPathUnavailable(f"building the XDP program failed: {said[-1]}")
    return open_pin(pins.next_program)


def attach_all(
    program: int, names: Sequence[str], wanted: WantedMode, pins: Pins, maps: KernelMaps
) -> list[Attachment]:
    """Attach to every interface, instead of this relay's own earlier program where there is one.

    :raises KernelPathUnavailable: and then nothing is attached that was not before.
    """
    own = pinned_program_id(pins)
    links = [_usable(name, own) for name in names]
    for link in links:
        enlist(maps, link, Mode.NONE)
    fresh: list[Attachment] = []
    attachments = []
    try:
        for link in links:
            attachments.append(Attachment(link.index, link.name, _attach(program, link, wanted)))
            if not link.program_id:
                fresh.append(attachments[-1])
    except KernelPathUnavailable:
        for attachment in fresh:
            netlink.detach(attachment.index, attachment.mode)
        raise
    for link, attachment in zip(links, attachments, strict=True):
        enlist(maps, link, attachment.mode)
    pins.adopt_program()
    _leave_others(maps, {attachment.index for attachment in attachments}, own)
    return attachments


def enlist(maps: KernelMaps, link: Interface, mode: Mode) -> None:
    """Tell the program about an interface, and let frames leave by it."""
    key = link.index.to_bytes(4, sys.byteorder)
    entry = layout.Link(native=mode is Mode.NATIVE, mtu=link.mtu)
    entry.mac[:] = link.mac
    if maps.links.get(key) != bytes(entry):
        maps.links.put(key, bytes(entry))
        maps.egress.put(key, key)


def delist(maps: KernelMaps, index: int) -> None:
    """Let no frame leave by an interface any more."""
    key = index.to_bytes(4, sys.byteorder)
    maps.egress.delete(key)
    maps.links.delete(key)


def detach_own(name: str, program_id: int | None) -> None:
    """Detach this very program, if it is there."""
    with contextlib.suppress(OSError):
        link = netlink.interface(name)
        if program_id is not None and link.program_id == program_id:
            netlink.detach(link.index, link.mode)


def is_relay_program(program_id: int) -> bool:
    """Whether a loaded program is a relay's, by its name; False for 0."""
    name = _program_name(program_id)
    return name == PROGRAM_FUNCTION


def _leave_others(maps: KernelMaps, indexes: set[int], own: int | None) -> None:
    """Detach from interfaces that took part in an earlier run and no longer do."""
    for key, _ in list(maps.links.items()):
        index = int.from_bytes(key, sys.byteorder)
        if index not in indexes:
            with contextlib.suppress(OSError):
                detach_own(netlink.interface_by_index(index).name, own)
            delist(maps, index)


def _usable(name: str, own_program: int | None) -> Interface:
    try:
        link = netlink.interface(name)
    except OSError as error:
        raise KernelPathUnavailable(f"{error.strerror}; `ip link` names them") from None
    if len(link.mac) != layout.MAC_SIZE:
        raise KernelPathUnavailable(f"{name} is no Ethernet interface")
    if not link.program_id or link.program_id == own_program:
        return link
    if is_relay_program(link.program_id):
        raise KernelPathUnavailable(
            f"{name} has the program of another relay: "
            f"stop that, then `quicpipe-relay xdp detach --interface {name}`"
        )
    raise KernelPathUnavailable(
        f"{name} has an XDP program of somebody else "
        f"({_program_name(link.program_id) or 'without a name'}, id {link.program_id}): "
        f"remove it (`ip link set dev {name} xdp off`) or leave the interface out"
    )


def _attach(program: int, link: Interface, wanted: WantedMode) -> Mode:
    """Attach in the first mode that works; an earlier program's mode goes before all others."""
    modes = _MODES[wanted]
    previous = None
    try:
        if link.program_id and link.mode in modes:
            modes = (link.mode,)
            previous = program_by_id(link.program_id)
        elif link.program_id:
            netlink.detach(link.index, link.mode)
        return _attach_in_some(program, link, modes, previous)
    except OSError as error:
        raise KernelPathUnavailable(f"{link.name}: {error.strerror}") from None
    finally:
        if previous is not None:
            os.close(previous)


def _attach_in_some(
    program: int, link: Interface, modes: Sequence[Mode], previous: int | None
) -> Mode:
    problems = []
    for mode in modes:
        try:
            netlink.attach(link.index, program, mode, instead_of=previous)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise
            problems.append(f"{mode.name.lower()} mode: {error.strerror}")
        else:
            if problems:
                _log.info("%s: %s; attached in %s mode", link.name, problems[0], mode.name.lower())
            return mode
    raise KernelPathUnavailable(f"{link.name}: {'; '.join(problems)}")


def pinned_program_id(pins: Pins) -> int | None:
    """The program that this relay attached last; None if there is none."""
    try:
        descriptor = open_pin(pins.program)
    except OSError:
        return None
    try:
        return program_info(descriptor).id
    finally:
        os.close(descriptor)


def _program_name(program_id: int) -> str:
    if not program_id:
        return ""
    try:
        descriptor = program_by_id(program_id)
    except OSError:
        return ""
    try:
        return program_info(descriptor).name
    finally:
        os.close(descriptor)
