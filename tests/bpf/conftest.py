"""The program is built once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from bpf.pins import Pins

from .lab import KernelUnderTest, private_bpffs, skip_without_rights


@pytest.fixture(scope="session")
def kernel() -> Iterator[KernelUnderTest]:
    """The program, loaded; skips where that cannot be."""
    skip_without_rights()
    with private_bpffs() as folder:
        kernel = KernelUnderTest(Pins(folder / "relay"))
        try:
            yield kernel
        finally:
            kernel.close()
