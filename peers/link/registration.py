"""Registering at the relay (docs/protocol.md §3.1): one request, and what its answers mean."""

from dataclasses import dataclass, field

from relay.wire.body import MalformedRequest
from relay.wire.connection_id import Derivation
from relay.wire.registration import (
    MAX_CONNECTION_IDS_PER_REQUEST,
    REGISTER_PATH,
    RegisterAnswer,
    RegisterRequest,
)

from ..errors import RegistrationFailed
from .connection import RelayConnection, Response

_OK = 200
_TOO_EARLY = 425
_TOO_EARLY_RETRY_S = 0.2
"""The relay has not validated our address yet; its next packet will change that."""
_PASSING = frozenset({_TOO_EARLY, 429, 503})
"""Statuses that a later attempt may not meet again."""


@dataclass(slots=True)
class Registration:
    """What the relay holds for one key, as far as we know. Kept by the link that made it."""

    key: bytes = field(repr=False)
    derivation: Derivation
    count: int = 0
    """Connection IDs number 1 to `count` are registered."""
    id: str = field(default="", repr=False)
    """Permits to end the registration."""
    address: str = ""
    """Our own address as the relay sees it."""
    lease_s: float = 0.0


async def register(
    connection: RelayConnection, authority: str, registration: Registration, first: int, last: int
) -> None:
    """Have the connection IDs number `first` to `last` registered, in as few requests as it takes.

    :raises RegistrationFailed: the relay refuses; `retry_after_s` is set if that may pass.
    :raises RelayUnreachable: the connection ended first.
    """
    while first <= last:
        num = min(last - first + 1, MAX_CONNECTION_IDS_PER_REQUEST)
        request = RegisterRequest(registration.key, num, registration.derivation, first)
        response = await connection.request("POST", authority, REGISTER_PATH, request.encode())
        answer = _read(response)
        first += num
        registration.count = max(registration.count, first - 1)
        registration.id = answer.id
        registration.address = answer.address
        registration.lease_s = answer.lease


def _read(response: Response) -> RegisterAnswer:
    if response.status != _OK:
        raise RegistrationFailed(
            f"the relay refused to register us: {response.problem()}",
            status=response.status,
            retry_after_s=_retry_after(response),
        )
    try:
        return RegisterAnswer.decode(response.body)
    except MalformedRequest as error:
        raise RegistrationFailed(f"the relay's answer makes no sense: {error}") from None


def _retry_after(response: Response) -> float | None:
    if response.status == _TOO_EARLY:
        return _TOO_EARLY_RETRY_S
    return response.retry_after_s() if response.status in _PASSING else None
