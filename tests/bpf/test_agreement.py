"""Many generated and mutated frames: the kernel and the reference agree about every one."""

import random
import struct
import time
from collections import Counter
from collections.abc import Callable

from bpf.layout import KernelOutcome
from relay.core.outcome import Outcome
from relay.wire.address import Address

from . import agreement
from .frames import OTHER_MAC, OWN_MAC, PEER_MAC, Frame
from .lab import KernelUnderTest
from .scene import CIDS, PORT, RECEIVERS, RELAYS, SENDER_CIDS, SENDERS, Scene

FRAMES = 25_000
SEED = 20231121
EXPIRED_OWNER, EXPIRED_CID = 20, b"\x20" * 12


def populate(scene: Scene) -> None:
    """A scene with some of everything that the senders may hit upon."""
    scene.move(EXPIRED_OWNER, Address("192.0.2.99", 9))
    scene.add(EXPIRED_OWNER, EXPIRED_CID)
    scene.entry(EXPIRED_OWNER).lease_end_ns = time.monotonic_ns() - 10**9
    for number in range(10):
        host = f"192.0.2.{100 + number}" if number % 2 else f"2001:db8::{100 + number}"
        scene.move(30 + number, Address(host, 40_000 + number))
        scene.add(30 + number, bytes([0x30 + number]) * 12)


def generate(random_: random.Random) -> bytes:
    family = random_.choice((4, 6))
    cids = [*CIDS.values(), *SENDER_CIDS.values(), EXPIRED_CID, b"\x31" * 12, b"\x32" * 12]
    cid = random_.choice([CIDS[family]] * 8 + cids + [random_.randbytes(12)])
    first = random_.choice((0x40, 0x40, random_.randrange(256)))
    rest = random_.randbytes(random_.choice((0, 1, 20, 20, 20, 100, 1200, 1480, 1600)))
    payload = bytes([first]) + cid + rest
    if first & 0x80 and random_.random() < 0.7:  # a long header that means something
        source_cid = random_.choice(cids)
        payload = struct.pack("!BIB", first, 1, len(cid)) + cid + bytes([12]) + source_cid + rest
    if random_.random() < 0.1:
        payload = payload[: random_.randrange(len(payload) + 1)]
    host, port = random_.choice([SENDERS[family]] * 5 + [RECEIVERS[family]])
    return Frame(
        payload,
        (host, random_.choice((port, port, port, 1))),
        (RELAYS[family].host, random_.choice((PORT,) * 9 + (53,))),
        from_mac=random_.choice((PEER_MAC, PEER_MAC, OTHER_MAC)),
        to_mac=random_.choice((OWN_MAC,) * 9 + (OTHER_MAC,)),
        ttl=random_.choice((64, 255, 2, 1, 0)),
        tos=random_.randrange(256),
        dont_fragment=random_.random() < 0.5,
        checksum=random_.choice(("full", "full", "full", "none", "partial")),
    ).build()


def flip(frame: bytearray, random_: random.Random) -> None:
    for _ in range(random_.choice((1, 1, 1, 2, 5))):
        # Mostly in the headers, where it matters.
        end = len(frame) if random_.random() < 0.3 else min(len(frame), 70)
        frame[random_.randrange(end)] ^= 1 << random_.randrange(8)


def cut(frame: bytearray, random_: random.Random) -> None:
    del frame[random_.randrange(14, len(frame) + 1) :]


def extend(frame: bytearray, random_: random.Random) -> None:
    frame += random_.randbytes(random_.choice((1, 4, 60)))


def insert(frame: bytearray, random_: random.Random) -> None:
    at = random_.randrange(len(frame))
    frame[at:at] = random_.randbytes(random_.choice((1, 4)))


def number(frame: bytearray, random_: random.Random) -> None:
    """Put a remarkable number somewhere in the headers."""
    at = random_.randrange(12, min(len(frame), 62) - 1)
    frame[at : at + 2] = random_.choice((b"\0\0", b"\xff\xff", b"\0\x01", b"\0\x08", b"\x7f\xff"))


def tag(frame: bytearray, random_: random.Random) -> None:
    """IEEE 802.1Q or 802.1ad."""
    frame[12:12] = random_.choice((b"\x81\x00", b"\x88\xa8")) + random_.randbytes(2)


MUTATIONS: list[Callable[[bytearray, random.Random], None]] = [
    flip,
    cut,
    extend,
    insert,
    number,
    tag,
]


def test_generated_and_mutated_frames(kernel: KernelUnderTest) -> None:
    scene = Scene(kernel)
    populate(scene)
    random_ = random.Random(SEED)
    outcomes: Counter[KernelOutcome] = Counter()
    for count in range(FRAMES):
        frame = bytearray(generate(random_))
        if count % 2:
            random_.choice(MUTATIONS)(frame, random_)
        try:
            outcomes[agreement.check(kernel, scene.table, bytes(frame), PORT)] += 1
        except AssertionError as error:
            raise AssertionError(f"frame {count}: {bytes(frame).hex()}") from error
    # That it was worth it: no reason that a frame can have was left out.
    assert outcomes[KernelOutcome.FORWARDED] > FRAMES / 20
    rare = {
        KernelOutcome.RATE_LIMITED,
        KernelOutcome.ALLOWANCE_USED,
        KernelOutcome.PARTIAL_CHECKSUM,
        KernelOutcome.TOO_BIG,
        KernelOutcome.BUSY,
        KernelOutcome.ABORTED,
    }
    assert set(KernelOutcome) - rare <= set(outcomes)


def test_names_are_those_of_userspace() -> None:
    same = {"forwarded", "malformed", "http3", "unknown_cid", "unregistered_source", "too_big"}
    assert same <= {each.label for each in KernelOutcome}
    assert same <= {each.value for each in Outcome}
