"""What a request asks for: its parameters, read strictly. Pure."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from relay.admin.listing import DEFAULT_LIMIT, MAX_LIMIT, Network, Wanted
from relay.admin.orders import ORDERS
from relay.admin.stream import KINDS, SAMPLE, Ask
from relay.core.events import BACKLOG, EventKind

FORWARDERS = ("kernel", "userspace")
MAX_TEXT = 128
"""Characters of a subject or an id: no more are let in by tokens."""
MAX_NUMBER = 2**53
MAX_START = 10**9
MAX_DURATION_S = 86_400

_T = TypeVar("_T")

Parameters = Sequence[tuple[str, str]]


class BadQuestion(ValueError):
    """The text says which parameter, and what was expected."""


def wanted_registrations(parameters: Parameters) -> Wanted:
    """Which registrations are to be listed.

    :raises BadQuestion: that cannot be said.
    """
    given = _single(parameters, _LIST)
    network: Network | None = None
    port: int | None = None
    if "address" in given:
        network, port = _read("address", _address, given["address"])
    return Wanted(
        network=network,
        port=port,
        subject=_take(given, "subject", _text, None),
        token_id=_take(given, "token_id", _text, None),
        in_kernel=_take(given, "forwarded_by", _one_of(FORWARDERS), None) == "kernel"
        if "forwarded_by" in given
        else None,
        held=_take(given, "held", _boolean, None),
        order=_take(given, "order", _one_of(ORDERS), None),
        start=_take(given, "start", _integer(0, MAX_START), 0),
        limit=_take(given, "limit", _integer(1, MAX_LIMIT), DEFAULT_LIMIT),
    )


def wanted_events(parameters: Parameters, last_event_id: str | None) -> Ask:
    """Which events are to be told.

    :param last_event_id: the header of that name, which says where a browser was.
    :raises BadQuestion: that cannot be said.
    """
    kinds = [value for name, value in parameters if name == "kind"]
    for kind in kinds:
        _read("kind", _one_of(KINDS), kind)
    given = _single([each for each in parameters if each[0] != "kind"], _EVENTS)
    after = _take(given, "after", _integer(0, MAX_NUMBER), None)
    if last_event_id is not None:
        after = _read("Last-Event-ID", _integer(0, MAX_NUMBER), last_event_id)
    wanted = [EventKind(kind) for kind in kinds if kind != SAMPLE] if kinds else list(EventKind)
    return Ask(
        frozenset(wanted),
        samples=SAMPLE in kinds,
        after=after,
        backlog=_take(given, "backlog", _integer(0, BACKLOG), 0),
        duration_s=_take(given, "duration", _integer(0, MAX_DURATION_S), None),
    )


def no_parameters(parameters: Parameters) -> None:
    """:raises BadQuestion: there are some."""
    _single(parameters, ())


_LIST = (
    "address",
    "subject",
    "token_id",
    "forwarded_by",
    "held",
    "order",
    "start",
    "limit",
)
_EVENTS = ("after", "backlog", "duration")


def _single(parameters: Parameters, known: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in parameters:
        if name not in known:
            there = f"there are {', '.join(known)}" if known else "there are none here"
            raise BadQuestion(f"there is no parameter {_quoted(name)}; {there}")
        if name in given:
            raise BadQuestion(f"'{name}' is given twice")
        given[name] = value
    return given


def _take(given: Mapping[str, str], name: str, read: Callable[[str], _T], default: _T) -> _T:
    return _read(name, read, given[name]) if name in given else default


def _read(name: str, read: Callable[[str], _T], text: str) -> _T:
    try:
        return read(text)
    except ValueError as error:
        raise BadQuestion(f"'{name}' is {_quoted(text)}; expected {error}") from None


def _text(text: str) -> str:
    if not 1 <= len(text) <= MAX_TEXT:
        raise ValueError(f"1 to {MAX_TEXT} characters")
    return text


def _boolean(text: str) -> bool | None:
    if text not in ("true", "false"):
        raise ValueError("true or false")
    return text == "true"


def _one_of(words: Sequence[str]) -> Callable[[str], str | None]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return text

    return read


def _integer(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        is_number = text.isascii() and text.isdecimal() and len(text) <= 16
        number = int(text) if is_number else -1
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return read


def _address(text: str) -> tuple[Network | None, int | None]:
    """An IP address, a network, or an address with a port."""
    try:
        return ipaddress.ip_network(text, strict=False), None
    except ValueError:
        pass
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        if (":" in host) != is_bracketed:
            raise ValueError
        ip = ipaddress.ip_address(host.strip("[]"))
        return ipaddress.ip_network(ip), _integer(1, 65_535)(port)
    except ValueError:
        raise ValueError(
            "an IP address, a network such as 192.0.2.0/24, or an address with its port"
        ) from None


def _quoted(text: str) -> str:
    shown = text if len(text) <= 60 else text[:57] + "..."
    return "'" + "".join(each if each.isprintable() else "?" for each in shown) + "'"
