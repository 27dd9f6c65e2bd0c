"""Networks for the tests of this folder."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.bpf.lab import private_bpffs, skip_without_rights

from .lab import CommandFailed, Host, Lab
from .relay import KernelRelay

MakeRelay = Callable[[Host, str, Sequence[str]], KernelRelay]


@pytest.fixture(scope="session")
def pins() -> Iterator[Path]:
    """A bpffs of our own; skips where no program can be loaded."""
    skip_without_rights()
    with private_bpffs() as folder:
        yield folder


@pytest.fixture
def lab(pins: Path) -> Iterator[Lab]:
    """An empty network; skips where none can be made."""
    lab = Lab()
    try:
        lab.host()
    except (CommandFailed, OSError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(params=["native", "generic"])
def mode(request: pytest.FixtureRequest) -> str:
    """How the program is attached."""
    return str(request.param)


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    """The address family."""
    return int(request.param)


@pytest.fixture
def make_relay(pins: Path, mode: str) -> Iterator[MakeRelay]:
    """Makes a relay on a host; it is detached at the end."""
    relays: list[KernelRelay] = []

    def make(host: Host, address: str, interfaces: Sequence[str]) -> KernelRelay:
        relays.append(KernelRelay(host, address, interfaces, mode, pins / host.name))
        return relays[-1]

    yield make
    for relay in relays:
        relay.close()
