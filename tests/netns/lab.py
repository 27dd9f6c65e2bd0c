"""Networks of our own: namespaces, veth pairs, switches and routers, gone when the test is."""

import contextlib
import ctypes
import itertools
import os
import platform
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bpf.netlink import Mode, attach
from bpf.netlink import interface as netlink_interface

_CLONE_NEWNET = 0x4000_0000
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(Exception):
    """One of the commands that build a network; the text has its words."""


class Host:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._sockets: list[socket.socket] = []
        run("ip", "netns", "add", name)
        self.ip("link", "set", "lo", "up")
        # No neighbour discovery delays, and addresses that may be used at once.
        for key in ("net.ipv6.conf.all.accept_dad", "net.ipv6.conf.default.accept_dad"):
            self.sysctl(key, 0)

    @property
    def path(self) -> Path:
        """Of the namespace's file."""
        return Path("/run/netns") / self.name

    def ip(self, *arguments: str) -> None:
        """Run `ip` in it."""
        run("ip", "-n", self.name, *arguments)

    def run(self, *command: str) -> str:
        """Run a command in it; returns its output."""
        return run("nsenter", f"--net={self.path}", *command)

    def nft(self, text: str) -> None:
        """Load rules in nftables' language in it."""
        run("nsenter", f"--net={self.path}", "nft", "-f", "-", given=text)

    def sysctl(self, key: str, value: int) -> None:
        """Set a sysctl of the namespace."""
        with self.entered():
            (Path("/proc/sys") / key.replace(".", "/")).write_text(str(value))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in the namespace; what it opens stays there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        inside = os.open(self.path, os.O_RDONLY)
        try:
            _set_namespace(inside)
            yield
        finally:
            _set_namespace(before)
            os.close(inside)
            os.close(before)

    def udp(self, host: str, port: int = 0) -> socket.socket:
        """A bound socket in it, with a short timeout."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with self.entered():
            opened = socket.socket(family, socket.SOCK_DGRAM)
            self._sockets.append(opened)
            opened.bind((host, port))
        opened.settimeout(2.0)
        return opened

    def delete(self) -> None:
        for each in self._sockets:
            each.close()
        run("ip", "netns", "delete", self.name)


class Lab:
    """Makes hosts and wires; `close` removes them all."""

    def __init__(self) -> None:
        self._prefix = f"qp{os.getpid() % 10_000}x"
        self.hosts: list[Host] = []

    def host(self) -> Host:
        """A new, unconnected host."""
        self.hosts.append(Host(f"{self._prefix}{next(_numbers)}"))
        return self.hosts[-1]

    def router(self) -> Host:
        """A host that forwards between its interfaces, IPv4 and IPv6."""
        host = self.host()
        host.sysctl("net.ipv4.ip_forward", 1)
        host.sysctl("net.ipv6.conf.all.forwarding", 1)
        return host

    def wire(self, a: Host, a_name: str, b: Host, b_name: str) -> None:
        """A veth pair, up at both ends, that leaves no checksum to the hardware."""
        peer = ("peer", "name", b_name, "netns", b.name)
        a.ip("link", "add", a_name, "type", "veth", *peer)
        for host, name in ((a, a_name), (b, b_name)):
            offload_off(host, name)
            host.ip("link", "set", "dev", name, "up")

    def switch(self, ports: dict[str, Host], interface: str = "eth0") -> Host:
        """A host that bridges; each of `ports` has its `interface` on it."""
        switch = self.host()
        switch.ip("link", "add", "br0", "type", "bridge", "forward_delay", "0")
        switch.ip("link", "set", "dev", "br0", "up")
        for name, host in ports.items():
            self.wire(host, interface, switch, name)
            switch.ip("link", "set", "dev", name, "master", "br0")
            # A veth takes frames from a native XDP program only if it has one itself.
            attach_pass(switch, name)
        return switch

    def close(self) -> None:
        for host in self.hosts:
            host.delete()


def offload_off(host: Host, interface: str) -> None:
    """Let the sender compute checksums, and part what it sends together."""
    host.run("ethtool", "-K", interface, "tx", "off", "gso", "off", "tso", "off")


def attach_pass(host: Host, interface: str) -> None:
    """Give an interface a program that passes everything."""
    program = load_pass_program()
    with host.entered():
        attach(netlink_interface(interface).index, program, Mode.NATIVE)
    os.close(program)


def load_pass_program() -> int:
    """An XDP program of two instructions, `return XDP_PASS`; returns its descriptor."""
    xdp_pass, xdp_type, command = 2, 6, 5
    instructions = struct.pack("=BBhiBBhi", 0xB7, 0, 0, xdp_pass, 0x95, 0, 0, 0)
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"MIT")
    places = (ctypes.addressof(code), ctypes.addressof(licence))
    attributes = struct.pack("=IIQQIIQII16s", xdp_type, 2, *places, 0, 0, 0, 0, 0, b"pass")
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    loaded: int = _libc.syscall(number, command, attributes, len(attributes))
    if loaded < 0:
        raise OSError(ctypes.get_errno(), "loading a program that passes everything")
    return loaded


def run(*command: str, given: str | None = None) -> str:
    """Run a command to its end, with `given` on its stdin; returns its output.

    :raises CommandFailed: with what it said.
    """
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise CommandFailed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _set_namespace(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
