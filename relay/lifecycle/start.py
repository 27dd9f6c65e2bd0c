"""What a relay finds when it starts: sockets that are open already, and a relay before it."""

import logging
import os
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from relay.config import Config
from relay.core.leases import Record
from relay.forwarding.sockets import (
    Listener,
    ListenError,
    ListenRequest,
    OpenSockets,
    open_listeners,
)
from relay.lifecycle.inherited import UnfitSocket, close_all, take_listen_descriptors
from relay.lifecycle.predecessor import HandOverFailed, OtherRelay, Predecessor

logger = logging.getLogger(__name__)


class CannotStart(Exception):
    """One line for the operator."""


@dataclass(frozen=True)
class Opened:
    """The sockets of a relay, and who had them before."""

    config: Config
    """Listens where the service manager wants it, if the operator has not said where."""
    listeners: tuple[Listener, ...]
    predecessor: Predecessor | None
    control_path: Path | None
    """Where the control socket is to be; None: nowhere."""


def open_sockets(
    config: Config, environment: MutableMapping[str, str], *, listen_is_chosen: bool
) -> Opened:
    """Open what is not open already.

    :param listen_is_chosen: whether the operator said where to listen.
    :raises CannotStart: and nothing is left open.
    """
    try:
        passed = take_listen_descriptors(environment)
    except UnfitSocket as error:
        raise CannotStart(str(error)) from None
    if passed and not listen_is_chosen:
        config = replace(config, listen=tuple(map(ListenRequest, passed)))
    control_path, predecessor = None, None
    try:
        control_path, predecessor = _find_predecessor(config)
        inherited = predecessor.sockets if predecessor is not None else passed
        listeners = open_listeners(config.listen, config.workers, inherited=inherited)
        if passed and predecessor is None:
            _warn_of_unused(passed)
    except (HandOverFailed, ListenError) as error:
        if predecessor is not None:
            predecessor.close()
        raise CannotStart(str(error)) from None
    finally:
        close_all(passed)  # what is used has been taken out
    if predecessor is not None:
        close_all(predecessor.sockets)
        logger.info("this relay goes on with the work of process %s", predecessor.pid)
    return Opened(config, tuple(listeners), predecessor, control_path)


def merged(first: Sequence[Record], second: Sequence[Record]) -> list[Record]:
    """What two keepers know of the registrations; where both know one, the first is right, but
    only the second may know the token by which it came."""
    others = {record.key_digest: record for record in second}
    found = []
    for record in first:
        other = others.pop(record.key_digest, None)
        if other is not None and record.grant is None:
            record = replace(record, grant=other.grant, valid_until=other.valid_until)
        found.append(record)
    return [*found, *others.values()]


def _find_predecessor(config: Config) -> tuple[Path | None, Predecessor | None]:
    """Where the control socket is to be, and who has it.

    :raises CannotStart: the operator named it, and another relay has it.
    :raises HandOverFailed: see `Predecessor.find`.
    """
    path = config.control_path
    is_named = config.control_socket is not None
    if path is None or (config.is_anywhere and not is_named):
        return None, None
    try:
        return path, Predecessor.find(path, config.listen)
    except OtherRelay as error:
        if is_named:
            raise CannotStart(f"{path}: {error}; choose another --control-socket") from None
        logger.info("%s: %s; so this one has no control socket", path, error)
        return None, None


def _warn_of_unused(passed: OpenSockets) -> None:
    for address in passed:
        logger.warning(
            "the service manager passed a socket on %s, where the relay is not to listen", address
        )


def successor_command(original: Sequence[str], executable: str) -> list[str]:
    """How to start this program again, as it is installed now.

    :param original: `sys.orig_argv`.
    :param executable: `sys.executable`.
    """
    return [executable or original[0], *original[1:]]


def is_first_process() -> bool:
    """Whether a container ends when this process does."""
    return os.getpid() == 1
