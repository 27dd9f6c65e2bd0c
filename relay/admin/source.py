"""What the admin listener wants to know of a relay, and what of it goes out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relay.core.outcome import Outcome
from relay.core.registration import Registration
from relay.http3.report import Http3Counters

KERNEL_DROPS = ("rate_limited", "allowance_used", "aborted")
"""What the kernel does not pass up but drops: outcomes of bpf/layout.h by name."""

_NOT_DROPS = frozenset({Outcome.FORWARDED.value, Outcome.HTTP3.value})


@dataclass(frozen=True, slots=True)
class Totals:
    """All counters at one moment; those of events count since the start."""

    outcomes: Mapping[str, int]
    """Datagrams that the workers read, by `Outcome`."""
    bytes_forwarded: int
    """By the workers."""
    http3: Http3Counters
    registrations: int = 0
    connection_ids: int = 0
    kernel: Mapping[str, int] = field(default_factory=dict)
    """Frames that the kernel saw, by its own outcomes, since its maps were made; empty: it does not
    forward."""
    kernel_bytes: int = 0
    """Forwarded in the kernel, as far as it was seen: `Sight` adds it."""
    receive_queue_full: int = 0
    """Datagrams that the system dropped before a worker read them."""
    answers_lost: int = 0
    """Of HTTP/3, that could not be sent."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Requests that were not admitted or not served, by reason."""
    rendezvous: Mapping[str, int] = field(default_factory=dict)
    is_draining: bool = False
    workers: int = 0
    """Forwarding processes that run."""
    certificate_until: float | None = None
    """When the relay's certificate expires, in seconds since 1970; None: unknown."""

    @property
    def packets(self) -> int:
        """Forwarded by whomever."""
        return self.outcomes.get(Outcome.FORWARDED, 0) + self.kernel.get("forwarded", 0)

    @property
    def bytes(self) -> int:
        """Of UDP payload, forwarded by whomever."""
        return self.bytes_forwarded + self.kernel_bytes

    @property
    def drops(self) -> dict[str, int]:
        """Datagrams that ended here, by reason; reasons that never occurred are among them."""
        drops = {name: count for name, count in self.outcomes.items() if name not in _NOT_DROPS}
        for name in KERNEL_DROPS if self.kernel else ():
            drops[f"kernel_{name}"] = self.kernel.get(name, 0)
        drops["receive_queue_full"] = self.receive_queue_full
        for reason, count in self.http3.refused.items():
            drops[f"http3_{reason}"] = count
        return drops


class Registrations(Protocol):
    """The registry, as far as the admin listener looks at it."""

    @property
    def by_owner(self) -> Mapping[int, Registration]:
        """All of them, to be looked at only."""

    def find(self, name: str) -> Registration | None:
        """By the hash of its id."""


class Source(Protocol):
    """A running relay."""

    def totals(self) -> Totals:
        """All counters, as last reported."""

    def limits(self) -> Mapping[str, int]:
        """How much of each there may be: `registrations`, `connection_ids`, and so on."""

    @property
    def lease_s(self) -> float:
        """Of a registration, in seconds."""

    @property
    def registry(self) -> Registrations:
        """All registrations."""

    def listener(self, index: int) -> str:
        """The address of a listener of the relay's."""

    def in_kernel(self, owner: int) -> bool:
        """Whether the kernel forwards for this one; what it passes up, the workers forward."""

    def end(self, name: str) -> bool:
        """End a registration, by the hash of its id; whether there was one."""

    def revoke(self, token_id: str) -> int | None:
        """Let a token in no more; how many registrations that has ended. None: there are no tokens
        here."""
