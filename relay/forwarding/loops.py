"""Which forwarding loop a worker runs: the batch loop where the system has what it needs."""

import logging
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from relay.forwarding.batch_calls import BatchUnavailable, load_calls, set_gro
from relay.forwarding.plain_loop import PlainLoop

if TYPE_CHECKING:
    from relay.forwarding.worker import ForwardingLoop

logger = logging.getLogger(__name__)


def make_loop(
    sockets: Sequence[socket.socket], up: socket.socket, wake: Sequence[int]
) -> "ForwardingLoop":
    """The quickest loop that works here; see `relay.forwarding.worker.MakeLoop`."""
    try:
        calls = load_calls()
    except BatchUnavailable as missing:
        logger.info("forwarding without batches: %s", missing)
        return make_plain_loop(sockets, up, wake)
    from relay.forwarding.batch_loop import BatchLoop

    return BatchLoop(sockets, up, wake, calls)


def make_plain_loop(
    sockets: Sequence[socket.socket], up: socket.socket, wake: Sequence[int]
) -> "ForwardingLoop":
    """One datagram at a time; works everywhere."""
    for each in sockets:
        set_gro(each, on=False)
    return PlainLoop(sockets, up, wake)
