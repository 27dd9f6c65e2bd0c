"""Arrays that the kernel reads and fills in the batched calls, made once and used for ever."""

import numpy as np
from numpy.typing import NDArray

from relay.forwarding.batch_calls import (
    CONTROL,
    CONTROL_LENGTH,
    HEADER_WORDS,
    LENGTH,
    NAME,
    NAME_LENGTH,
    PART_COUNT,
    PART_WORDS,
    PARTS,
)

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

CACHE_LINE = 64
"""Bytes. Rows begin at multiples of it."""


def address_of(array: NDArray[np.generic]) -> int:
    """Where the array's first byte is. The array must outlive every use of it."""
    address: int = array.ctypes.data
    return address


def addresses_of_rows(array: NDArray[np.generic]) -> Words:
    """Where each row of the array begins."""
    rows = np.arange(array.shape[0], dtype=np.uint64)
    return rows * np.uint64(array.strides[0]) + np.uint64(address_of(array))


def padded(size: int) -> int:
    """A row length of at least `size` bytes, never a multiple of 4 KiB.

    Rows 64 KiB apart would all begin in the same set of a processor cache.
    """
    return -(-size // CACHE_LINE) * CACHE_LINE + 3 * CACHE_LINE


class ReceiveBuffers:
    """`count` messages, each with room for a datagram, a sender's address and control data."""

    def __init__(self, count: int, size: int, name_size: int, control_size: int) -> None:
        """`size`, `name_size` (of a sockaddr) and `control_size` are in bytes, for each message."""
        self.count = count
        self.size = size
        self.data: Bytes = np.zeros((count, padded(size)), np.uint8)
        self.names: Bytes = np.zeros((count, name_size), np.uint8)
        self.control: Bytes = np.zeros((count, control_size), np.uint8)
        self._parts: Words = np.zeros((count, PART_WORDS), np.uint64)
        self._parts[:, 0] = addresses_of_rows(self.data)
        self._parts[:, 1] = size
        self.headers: Words = np.zeros((count, HEADER_WORDS), np.uint64)
        self.headers[:, NAME] = addresses_of_rows(self.names)
        self.headers[:, NAME_LENGTH] = name_size
        self.headers[:, PARTS] = addresses_of_rows(self._parts)
        self.headers[:, PART_COUNT] = 1
        self.headers[:, CONTROL] = addresses_of_rows(self.control)
        self.address = address_of(self.headers)
        self.lengths: NDArray[np.uint32] = self.headers.view(np.uint32)[:, 2 * LENGTH]
        self.control_lengths: Words = self.headers[:, CONTROL_LENGTH]
        self.rearm()

    def rearm(self) -> None:
        """Give the kernel all the room for control data again: it shrinks this to what it used."""
        self.control_lengths[:] = self.control.shape[1]


class SendMessages:
    """`count` messages of one part each; whoever fills them says what they point at."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.parts: Words = np.zeros((count, PART_WORDS), np.uint64)
        self.part_addresses: Words = addresses_of_rows(self.parts)
        self.headers: Words = np.zeros((count, HEADER_WORDS), np.uint64)
        self.headers[:, PARTS] = self.part_addresses
        self.headers[:, PART_COUNT] = 1
        self.address = address_of(self.headers)
