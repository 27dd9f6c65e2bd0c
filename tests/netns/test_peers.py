"""Real pipes through the kernel: three hosts on a switch, the relay's and the peers' commands."""

import hashlib
import os
import subprocess
from pathlib import Path

from relay.wire.address import Address

from .lab import Host, Lab
from .processes import PATIENCE_S, RelayProcess, command, environment
from .test_networks import join

SIZE = 4_000_000
MOST_PASSED_UP = 0.01
FRAMES_AT_THE_EDGES = 20
"""Neighbour discovery just before and after the frames are counted."""


def received_frames(host: Host) -> int:
    """What the interface itself has counted."""
    (line,) = [line for line in host.run("cat", "/proc/net/dev").splitlines() if "eth0" in line]
    return int(line.split(":")[1].split()[1])


def transfer(
    hosts: tuple[Host, Host], relay: RelayProcess, where: Address, folder: Path, content: bytes
) -> bytes:
    """Dial on one host, accept on the other; returns what arrived there."""
    invite, copy = folder / "invite", folder / "copy"
    source = folder / "source"
    source.write_bytes(content)
    # Without it they would find their direct path over the switch, and leave the relay.
    options = ["--relay", str(where), "--relay-fingerprint", relay.fingerprint(), "--relay-only"]
    dial = ["-m", "peers", "dial", "--invite", str(invite), *options]
    accept = ["-m", "peers", "accept", "--invite", str(invite), "--relay-only"]
    with source.open("rb") as into, copy.open("wb") as out, open(os.devnull, "rb") as nothing:
        dialer = subprocess.Popen(
            command(hosts[0], *dial), env=environment(folder), stdin=into, stdout=subprocess.PIPE
        )
        try:
            accepter = subprocess.run(
                command(hosts[1], *accept),
                env=environment(folder),
                stdin=nothing,
                stdout=out,
                timeout=PATIENCE_S,
            )
            dialer.communicate(timeout=PATIENCE_S)
        finally:
            dialer.kill()
            dialer.wait()
    assert (dialer.returncode, accepter.returncode) == (0, 0)
    return copy.read_bytes()


def test_a_pipe_between_hosts_on_a_switch(
    lab: Lab, pins: Path, tmp_path: Path, mode: str, family: int
) -> None:
    host, a, b = lab.host(), lab.host(), lab.host()
    lab.switch({"r": host, "a": a, "b": b})
    where = Address(Address(join(host, "eth0", family, 0, 1), 0).host, 4433)
    for number, peer in ((2, a), (3, b)):
        join(peer, "eth0", family, 0, number)
    listen = Address("0.0.0.0" if family == 4 else "::", where.port)
    relay = RelayProcess(host, tmp_path, folder := pins / host.name, listen, "eth0", mode)
    relay.start()
    frames_before = received_frames(host)
    try:
        content = os.urandom(SIZE)
        copy = transfer((a, b), relay, where, tmp_path, content)
        frames = received_frames(host) - frames_before
    finally:
        relay.stop()
        host.run(*command(host, "-m", "relay", "xdp", "--pins", str(folder), "detach")[2:])
    assert hashlib.sha256(copy).digest() == hashlib.sha256(content).digest()
    counters = relay.last_counters()
    kernel = {
        name.removeprefix("kernel_"): count
        for name, count in counters.items()
        if name.startswith("kernel_") and count
    }
    # Multicast listener reports have an extension header.
    of_others = kernel.get("not_ours", 0) + kernel.get("ip_options", 0)
    passed_up = sum(kernel.values()) - kernel["forwarded"] - of_others
    assert kernel["forwarded"] > SIZE / 1500
    assert passed_up < MOST_PASSED_UP * kernel["forwarded"], kernel
    # Every frame that the interface received has its counter, and every one that was passed up
    # for the relay was counted again there: none is missing.
    assert abs(sum(kernel.values()) - frames) <= FRAMES_AT_THE_EDGES
    userspace = sum(counters[name] for name in USERSPACE)
    assert userspace == passed_up, (kernel, counters)


USERSPACE = (
    "forwarded",
    "http3",
    "malformed",
    "unknown_cid",
    "unregistered_source",
    "stray_peer_packet",
    "too_big",
    "send_failed",
    "control_queue_full",
)
