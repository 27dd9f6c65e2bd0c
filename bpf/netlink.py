"""Interfaces and their XDP programs, by rtnetlink alone (linux/if_link.h)."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag

_NETLINK_EXT_ACK = 11  # linux/netlink.h: errors come with a text
_SOL_NETLINK = 270
_CAP_ACK = 10  # errors come without a copy of the request

_NLMSG_ERROR = 2
_RTM_NEWLINK, _RTM_GETLINK, _RTM_SETLINK = 16, 18, 19
_NLM_F_REQUEST, _NLM_F_ACK = 1, 4
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_XDP = 1, 3, 4, 43
_IFLA_XDP_FD, _IFLA_XDP_ATTACHED, _IFLA_XDP_FLAGS, _IFLA_XDP_PROG_ID = 1, 2, 3, 4
_IFLA_XDP_EXPECTED_FD = 8
_NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, device type, index, flags, change


class Mode(IntEnum):
    """How a program is attached; the value is the kernel's (enum of IFLA_XDP_ATTACHED)."""

    NONE = 0
    NATIVE = 1
    GENERIC = 2
    HARDWARE = 3
    SEVERAL = 4


class _Flags(IntFlag):
    IF_NONE_EXISTS = 1
    GENERIC = 2
    NATIVE = 4
    REPLACE = 16


_MODE_FLAGS = {Mode.NATIVE: _Flags.NATIVE, Mode.GENERIC: _Flags.GENERIC}


@dataclass(frozen=True, slots=True)
class Interface:
    """What the kernel says about one interface."""

    index: int
    name: str
    mac: bytes
    """6 bytes; empty where the device has no Ethernet address."""
    mtu: int
    mode: Mode
    program_id: int
    """Of the attached XDP program; 0 for none."""


def interface(name: str) -> Interface:
    """Ask for one interface.

    :raises OSError: ENODEV if there is none of that name.
    """
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        raise OSError(errno.ENODEV, f"there is no interface {name}") from None
    return interface_by_index(index)


def interface_by_index(index: int) -> Interface:
    """Ask for one interface.

    :raises OSError: ENODEV if there is none of that index.
    """
    reply = _request(_RTM_GETLINK, _LINK.pack(0, 0, index, 0, 0))
    attributes = dict(_attributes(reply[_LINK.size :]))
    xdp = dict(_attributes(attributes.get(_IFLA_XDP, b"")))
    return Interface(
        index=index,
        name=attributes[_IFLA_IFNAME].rstrip(b"\0").decode(),
        mac=attributes.get(_IFLA_ADDRESS, b""),
        mtu=int.from_bytes(attributes[_IFLA_MTU], "little"),
        mode=Mode(xdp.get(_IFLA_XDP_ATTACHED, b"\0")[0]),
        program_id=int.from_bytes(xdp.get(_IFLA_XDP_PROG_ID, b""), "little"),
    )


def attach(index: int, program: int, mode: Mode, instead_of: int | None = None) -> None:
    """Attach the program with the descriptor `program`; it stays when this process ends.

    `instead_of` is the descriptor of the program that is there and is replaced in place; without it
    there must be none.

    :raises OSError: with the driver's own words where it has any.
    """
    flags = _MODE_FLAGS[mode]
    if instead_of is None:
        flags |= _Flags.IF_NONE_EXISTS
    else:
        flags |= _Flags.REPLACE
    _set_program(index, program, flags, instead_of)


def detach(index: int, mode: Mode) -> None:
    """Remove whatever XDP program is attached in that mode.

    :raises OSError: without the rights.
    """
    _set_program(index, -1, _MODE_FLAGS[mode], None)


def _set_program(index: int, program: int, flags: _Flags, expected: int | None) -> None:
    nested = _attribute(_IFLA_XDP_FD, struct.pack("=i", program))
    nested += _attribute(_IFLA_XDP_FLAGS, struct.pack("=I", flags))
    if expected is not None:
        nested += _attribute(_IFLA_XDP_EXPECTED_FD, struct.pack("=i", expected))
    link = _LINK.pack(0, 0, index, 0, 0)
    _request(_RTM_SETLINK, link + _attribute(_IFLA_XDP | _NLA_F_NESTED, nested), _NLM_F_ACK)


def _request(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Send one request; returns the body of its one answer."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        netlink.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        netlink.settimeout(5.0)
        size = _HEADER.size + len(body)
        netlink.send(_HEADER.pack(size, kind, _NLM_F_REQUEST | flags, 1, 0) + body)
        answer = netlink.recv(65536)
    size, answered, answer_flags, _, _ = _HEADER.unpack_from(answer)
    body = answer[_HEADER.size : size]
    if answered == _NLMSG_ERROR:
        _raise_error(body, answer_flags)
    return body


def _raise_error(body: bytes, flags: int) -> None:
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return
    text = os.strerror(-code)
    if flags & _NLM_F_ACK_TLVS and flags & _NLM_F_CAPPED:
        said = dict(_attributes(body[4 + _HEADER.size :])).get(_NLMSGERR_ATTR_MSG)
        if said:
            text = said.rstrip(b"\0").decode(errors="replace")
    raise OSError(-code, text)


def _attribute(kind: int, payload: bytes) -> bytes:
    size = 4 + len(payload)
    return struct.pack("=HH", size, kind) + payload + bytes(-size % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & _NLA_TYPE_MASK, data[at + 4 : at + size]
        at += size + -size % 4
