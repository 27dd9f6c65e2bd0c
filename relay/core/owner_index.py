"""Which owners belong to something: to an HTTP/3 connection, to an address."""

from typing import Generic, TypeVar

K = TypeVar("K")


class OwnerIndex(Generic[K]):
    """Owner numbers by key. Nearly always one: a tuple of one takes a quarter of what a set does.

    Adding and discarding take time with the number of owners of that key, so keep those few.
    """

    def __init__(self) -> None:
        self._owners: dict[K, tuple[int, ...]] = {}

    def get(self, key: K) -> tuple[int, ...]:
        """The owners of `key`, none if it is not here."""
        return self._owners.get(key, ())

    def add(self, key: K, owner: int) -> None:
        """Add an owner that `key` does not have."""
        self._owners[key] = (*self.get(key), owner)

    def discard(self, key: K, owner: int) -> None:
        """Take an owner from `key`, if it has it."""
        left = tuple(each for each in self.get(key) if each != owner)
        if left:
            self._owners[key] = left
        else:
            self._owners.pop(key, None)

    def pop(self, key: K) -> tuple[int, ...]:
        """Forget `key`; returns the owners that it had."""
        return self._owners.pop(key, ())
