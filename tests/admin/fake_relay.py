"""A relay as the admin listener sees it, with a real registry and nothing that forwards."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from relay.admin.app import AdminApp, Offer, create_admin_app
from relay.admin.guard import MAX_REQUESTS, Rules
from relay.admin.server import AdminServer
from relay.admin.sight import Sight
from relay.admin.source import Totals
from relay.core.admission import Grant
from relay.core.events import Cause
from relay.core.outcome import Outcome
from relay.core.path import Path
from relay.core.registration import id_hash
from relay.core.registry import Registry, RegistryLimits
from relay.core.watch import Watch
from relay.http3.report import Http3Counters
from relay.wire.address import Address
from relay.wire.registration import RegisterRequest

TOKEN = "a-token-for-operators-0123456789"
LISTENER = "192.0.2.1:4433"
WALL = 1_700_000_000.0


@dataclass
class FakeRelay:
    """`relay.admin.source.Source`, and what a test does to it."""

    now: float = 1_000.0
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    kernel: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    bytes_forwarded: int = 0
    is_draining: bool = False
    takes_tokens: bool = True
    kernel_owners: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        ids = count(1)
        self.registry = Registry(RegistryLimits(), new_id=lambda: f"{next(ids):032x}")
        self.revoked: list[str] = []
        self.watch: Watch | None = None

    def make_sight(self) -> Sight:
        """What the admin listener shows, with this relay's clock."""
        sight = Sight(self, clock=lambda: self.now, wall_clock=lambda: WALL + self.now)
        self.watch = sight.watch
        return sight

    def register(
        self, host: str = "198.51.100.7", port: int = 5000, key: int = 1, **more: object
    ) -> str:
        """Register one; returns the name that operators know it by."""
        grant = more.get("grant")
        request = RegisterRequest(key=key.to_bytes(16, "big"), num=2)
        is_known = self.registry.knows(request)
        answer = self.registry.register(
            request,
            Path(Address(host, port), 0, "192.0.2.1"),
            int(str(more.get("holder", key))),
            self.now,
            grant if isinstance(grant, Grant) else None,
        )
        self.follow()
        found = self.registry.find(id_hash(answer.id))
        if is_known and found and self.watch:
            self.watch.renewed(found.owner)
        return id_hash(answer.id)

    def follow(self, cause: Cause = Cause.EXPIRED) -> None:
        """As `Control` does."""
        changes = self.registry.take_changes()
        if self.watch is not None:
            self.watch.follow(changes, cause)

    # What the admin listener asks.

    def totals(self) -> Totals:
        return Totals(
            outcomes=dict(self.outcomes),
            bytes_forwarded=self.bytes_forwarded,
            http3=Http3Counters(3, 1, 5, 2, 9, {}, {}),
            registrations=len(self.registry),
            connection_ids=self.registry.connection_ids,
            kernel=self.kernel,
            refused=self.refused,
            is_draining=self.is_draining,
        )

    def limits(self) -> Mapping[str, int]:
        return {"registrations": 100_000, "connection_ids": 1_000_000}

    @property
    def lease_s(self) -> float:
        return 180.0

    def listener(self, index: int) -> str:
        return LISTENER

    def in_kernel(self, owner: int) -> bool:
        return owner in self.kernel_owners

    def end(self, name: str) -> bool:
        was_there = self.registry.end(name)
        self.follow(Cause.OPERATOR)
        return was_there

    def revoke(self, token_id: str) -> int | None:
        if not self.takes_tokens:
            return None
        self.revoked.append(token_id)
        ended = self.registry.revoke({token_id})
        self.follow(Cause.REVOKED)
        return ended


@dataclass
class Running:
    """An admin listener that serves."""

    relay: FakeRelay
    sight: Sight
    made: AdminApp
    server: AdminServer

    @property
    def port(self) -> int:
        return self.server.addresses[0].port

    async def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        host: str = "127.0.0.1",
        headers: Sequence[tuple[str, str]] = (),
    ) -> "Answer":
        """One request on a connection of its own."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        return await self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def send(self, request: bytes) -> "Answer":
        """The same, byte by byte as it is given; the server ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            async with asyncio.timeout(20):
                return Answer.parse(await reader.read())
        finally:
            writer.close()


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @classmethod
    def parse(cls, data: bytes) -> "Answer":
        head, _, body = data.partition(b"\r\n\r\n")
        if not head:
            return cls(0, {}, b"")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body = _unchunked(body)
        return cls(int(first.split(" ")[1]), headers, body)

    @property
    def text(self) -> str:
        return self.body.decode()


def bearer(token: str = TOKEN) -> tuple[str, str]:
    """The header."""
    return "Authorization", f"Bearer {token}"


@asynccontextmanager
async def running(
    relay: FakeRelay | None = None,
    rules: Rules | None = None,
    offer: Offer | None = None,
    max_requests: int = MAX_REQUESTS,
    listen: Sequence[Address] = (Address("127.0.0.1", 0),),
) -> AsyncIterator[Running]:
    """Serve on a free port of loopback."""
    relay = relay or FakeRelay()
    sight = relay.make_sight()
    made = create_admin_app(sight, rules or Rules(token=TOKEN), offer, max_requests)
    server = AdminServer(made.app)
    await server.start(listen)
    try:
        yield Running(relay, sight, made, server)
    finally:
        made.streams.close()
        await server.stop()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, not for ever."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  (nobody would set an event)
            await asyncio.sleep(0.01)


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        whole, body = whole + rest[:length], rest[length + 2 :]
    return whole
