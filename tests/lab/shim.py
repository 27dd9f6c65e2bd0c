"""Between real peers and a real relay: a thread that loses, delays, and plays the NAT.

Peers take the shim's address for the relay's. Each peer gets an outward socket of its own, so that
the relay sees as many addresses as there are peers. `rebind` gives peers new outward sockets: to
the relay they have another port from then on, which the peers themselves cannot see.
"""

import contextlib
import heapq
import random
import selectors
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from relay.wire.address import Address

MAX_CLIENTS = 512
"""Sockets of peers at a time (who looks for its relay opens one a second); of more, the one that
has sent nothing for the longest time is forgotten."""
LATE_S = 0.03
MAX_DELAYED = 10_000
_BATCH = 64
_BUFFER = 4 * 2**20
_LARGEST = 65_535


class UdpShim:
    """A context manager: the thread runs inside it, and for `limit_s` real seconds at most."""

    def __init__(
        self,
        relay: Address,
        *,
        loss: float = 0.0,
        delay_s: float = 0.0,
        seed: int = 1,
        limit_s: float = 300.0,
        own_addresses: bool = False,
    ) -> None:
        """`loss` (0 to 1) and `delay_s` apply to each datagram each way, and may be changed.

        :param own_addresses: each peer has an address of its own at the relay (127.1.0.0/16), not
            just a port: they stand behind different NATs.
        """
        self._own_addresses = own_addresses
        self._numbers: dict[Address, int] = {}  # of the clients
        self._number = 0
        self.loss = loss
        self.delay_s = delay_s
        self.late = 0.0
        """Share of datagrams that come `LATE_S` later than their neighbours."""
        self.duplicate = 0.0
        """Share of datagrams that come twice."""
        self.counted: Counter[str] = Counter()
        """Datagrams by what became of them. Written by the thread; read it when that has ended."""
        self._relay = relay
        self._random = random.Random(seed)
        self._deadline = time.monotonic() + limit_s
        self._selector = selectors.DefaultSelector()
        self._front = self._open()
        self._front.bind(("::1" if relay.family == socket.AF_INET6 else "127.0.0.1", 0))
        self.address = Address.from_sockaddr(self._front.getsockname())
        """What the peers are told is the relay's."""
        self._outward: OrderedDict[Address, socket.socket] = OrderedDict()  # by their last use
        self._delayed: list[tuple[float, int, bytes, Address, bool]] = []
        self._sequence = 0
        self._running = True
        self._commands: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="udp-shim", daemon=True)

    def __enter__(self) -> Self:
        self._selector.register(self._front, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._command(self._stop)
        self._thread.join(10)
        self._wake.close()
        if self._thread.is_alive():
            raise RuntimeError("the shim's thread does not end")

    def rebind(self) -> None:
        """From now on each peer has another port at the relay; what goes to the old one is lost.

        :raises TimeoutError: the thread has ended, or hangs.
        """
        done = threading.Event()
        self._command(self._close_outward)
        self._command(done.set)
        if not done.wait(10):
            raise TimeoutError("the shim does not answer: its time is over")

    def _command(self, command: Callable[[], object]) -> None:
        self._commands.put(command)
        with contextlib.suppress(BrokenPipeError):  # its time was over: the thread has ended
            self._wake.send(b"!")

    def _run(self) -> None:
        try:
            while self._running and (now := time.monotonic()) < self._deadline:
                self._send_delayed(now)
                for key, _ in self._selector.select(self._patience(now)):
                    if key.fileobj is self._woken:
                        self._obey()
                    else:
                        self._receive(key.fileobj, key.data)  # type: ignore[arg-type]  # a socket
        finally:
            self._close_outward()
            self._front.close()
            self._woken.close()
            self._selector.close()

    def _patience(self, now: float) -> float:
        until = self._delayed[0][0] if self._delayed else self._deadline
        return max(0.0, until - now)

    def _obey(self) -> None:
        self._woken.recv(_BATCH)
        while not self._commands.empty():
            self._commands.get()()

    def _stop(self) -> None:
        self._running = False

    def _receive(self, receiver: socket.socket, client: Address | None) -> None:
        """Take a batch from the peers (`client` is None), or from the relay for one peer."""
        for _ in range(_BATCH):
            if receiver.fileno() < 0:
                return  # closed by a rebinding in this very turn of the loop
            try:
                datagram, sockaddr = receiver.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            except OSError:  # an ICMP message: the relay is down
                self.counted["unreachable"] += 1
                continue
            if client is None:
                self._pass_on(datagram, Address.from_sockaddr(sockaddr), to_relay=True)
            else:
                self._pass_on(datagram, client, to_relay=False)

    def _pass_on(self, datagram: bytes, client: Address, *, to_relay: bool) -> None:
        if self._random.random() < self.loss:
            self.counted["lost"] += 1
            return
        for _ in range(2 if self._random.random() < self.duplicate else 1):
            late_s = LATE_S if self._random.random() < self.late else 0.0
            self._carry(datagram, client, self.delay_s + late_s, to_relay=to_relay)

    def _carry(self, datagram: bytes, client: Address, delay_s: float, *, to_relay: bool) -> None:
        if not delay_s:
            self._send(datagram, client, to_relay)
        elif len(self._delayed) >= MAX_DELAYED:
            self.counted["queue full"] += 1
        else:
            self._sequence += 1
            due = time.monotonic() + delay_s
            heapq.heappush(self._delayed, (due, self._sequence, datagram, client, to_relay))

    def _send_delayed(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            _, _, datagram, client, to_relay = heapq.heappop(self._delayed)
            self._send(datagram, client, to_relay)

    def _send(self, datagram: bytes, client: Address, to_relay: bool) -> None:
        try:
            if to_relay:
                self._outward_socket(client).send(datagram)
            else:
                self._front.sendto(datagram, client)
            self.counted["passed on"] += 1
        except OSError:
            self.counted["not sent"] += 1

    def _outward_socket(self, client: Address) -> socket.socket:
        known = self._outward.get(client)
        if known:
            self._outward.move_to_end(client)
            return known
        if len(self._outward) >= MAX_CLIENTS:
            longest_idle, forgotten = self._outward.popitem(last=False)
            self._numbers.pop(longest_idle, None)
            self._selector.unregister(forgotten)
            forgotten.close()
        opened = self._open()
        if self._own_addresses:
            self._number += client not in self._numbers
            number = self._numbers.setdefault(client, self._number)
            opened.bind((f"127.1.{number // 250 % 250}.{number % 250 + 1}", 0))
        opened.connect(self._relay)
        self._outward[client] = opened
        self._selector.register(opened, selectors.EVENT_READ, client)
        return opened

    def _close_outward(self) -> None:
        for each in self._outward.values():
            self._selector.unregister(each)
            each.close()
        self._outward.clear()

    def _open(self) -> socket.socket:
        opened = socket.socket(self._relay.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            opened.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        return opened
