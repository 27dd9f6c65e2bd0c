"""The routes of slots, for spoken codes (docs/protocol.md §11.2)."""

import secrets
from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.core.limits import RateLimits
from relay.core.rendezvous import RendezvousFull
from relay.core.slots import NoSuchSlot, Refusal, SlotConflict, SlotLimits, Slots, SlotsFull
from relay.long_poll import LongPolls
from relay.requests import (
    Clock,
    Problem,
    RateGuard,
    connection_of,
    decoded,
    json_answer,
    read_body,
    validated_path,
)
from relay.wire.slots import (
    CLAIM_PATH,
    END_PATH,
    OPEN_PATH,
    RECEIVE_PATH,
    SEND_PATH,
    ClaimRequest,
    End,
    EndRequest,
    OpenAnswer,
    OpenRequest,
    Received,
    ReceiveRequest,
    SendRequest,
)

SLOT_RATES = RateLimits(per_minute=30.0, burst=30)
"""Slots opened and claimed by one source: each claim of a stranger's number is a guess."""


class SlotsApp:
    """Serves the slots of one relay. For one event loop."""

    def __init__(
        self,
        limits: SlotLimits | None = None,
        *,
        rate_limits: RateLimits | None = None,
        clock: Clock | None = None,
        below: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        """:param clock: gives seconds; the running loop's unless given.
        :param below: gives random numbers from 0 to less than its argument.
        """
        limits = limits or SlotLimits()
        self._slots = Slots(limits, below=below)
        self._polls = LongPolls(2 * limits.max_slots)
        self._guard = RateGuard(rate_limits or SLOT_RATES, clock)
        self.routes = [
            Route(OPEN_PATH, self._open, methods=["POST"]),
            Route(CLAIM_PATH, self._claim, methods=["POST"]),
            Route(SEND_PATH, self._send, methods=["POST"]),
            Route(RECEIVE_PATH, self._receive, methods=["POST"]),
            Route(END_PATH, self._end, methods=["POST"]),
        ]

    def counters(self) -> Mapping[str, int]:
        """Its state, what was refused and how slots ended since the start."""
        return {
            "slots": len(self._slots),
            "slot_polls": len(self._polls),
            "slot_refused_rate": self._guard.refused,
            "slot_refused_polls": self._polls.refused,
            **{f"slot_refused_{why}": self._slots.refused[why] for why in Refusal},
            **{f"slot_ended_{how}": self._slots.ended[how] for how in End},
        }

    async def _open(self, request: Request) -> Response:
        body = await read_body(request)
        asked = decoded(OpenRequest.decode, body)
        source = self._guard.take(validated_path(connection_of(request)), "codes")
        try:
            slot = self._slots.open(asked.token, source, self._guard.now())
        except SlotsFull as error:
            raise Problem(429, str(error), retry_after_s=error.retry_after_s) from None
        except SlotConflict as error:
            raise Problem(409, str(error)) from None
        return json_answer(OpenAnswer(slot, int(self._slots.lifetime_s)).encode())

    async def _claim(self, request: Request) -> Response:
        body = await read_body(request)
        asked = decoded(ClaimRequest.decode, body)
        source = self._guard.take(validated_path(connection_of(request)), "codes")
        now = self._guard.now()
        try:
            self._slots.claim(asked.slot, asked.token, asked.message, source, now)
        except NoSuchSlot as error:
            raise Problem(404, str(error)) from None
        except SlotConflict as error:
            raise Problem(409, str(error)) from None
        except SlotsFull as error:
            raise Problem(429, str(error), retry_after_s=error.retry_after_s) from None
        finally:
            self._wake()
        return Response(status_code=204)

    async def _send(self, request: Request) -> Response:
        asked = decoded(SendRequest.decode, await read_body(request))
        try:
            self._slots.send(asked.token, asked.number, asked.message, self._guard.now())
        except NoSuchSlot as error:
            raise Problem(404, str(error)) from None
        except SlotConflict as error:
            raise Problem(409, str(error)) from None
        finally:
            self._wake()
        return Response(status_code=204)

    async def _receive(self, request: Request) -> Response:
        asked = decoded(ReceiveRequest.decode, await read_body(request))
        received = self._look(asked)
        if received is None and asked.wait:
            try:
                await self._polls.wait(asked.token, asked.wait)
            except RendezvousFull as error:
                raise Problem(429, str(error), retry_after_s=error.retry_after_s) from None
            # Once more and no oftener: who was woken by a second request of the same token must
            # not push that one out in turn.
            received = self._look(asked)
        return json_answer((received or Received(None, None)).encode())

    def _look(self, asked: ReceiveRequest) -> Received | None:
        try:
            return self._slots.receive(asked.token, asked.number, self._guard.now())
        except NoSuchSlot as error:
            raise Problem(404, str(error)) from None
        finally:
            self._wake()

    async def _end(self, request: Request) -> Response:
        asked = decoded(EndRequest.decode, await read_body(request))
        try:
            self._slots.end(asked.token, asked.end, self._guard.now())
        except NoSuchSlot as error:
            raise Problem(404, str(error)) from None
        finally:
            self._wake()
        return Response(status_code=204)

    def _wake(self) -> None:
        """Every call may have ended slots whose time has come, even one that failed."""
        for token in self._slots.take_changes():
            self._polls.wake(token)
