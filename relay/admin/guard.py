"""Before anything is answered: for whom the request is, whence it comes, and whether it may.

- The Host must be an IP address, `localhost` or a name that the operator gave: a page that has its
  own name resolve to 127.0.0.1 (DNS rebinding) shows its name here.
- There is no CORS, and what a browser says comes from another site is refused besides.
- Every write wants the bearer token (RFC 6750), and so does reading where the operator says so.
"""

import hmac
import ipaddress
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.problem import PROBLEM_TYPE, problem_body

PAGE_PATH = "/"
HEALTH_PATH = "/health"

MAX_REQUESTS = 64
"""Worked on at once; an event stream is one."""

_READS = frozenset({"GET", "HEAD"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]{1,253})(?::[0-9]{1,5})?")
_OWN_SITE = frozenset({"same-origin", "none"})

HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
}
"""On every answer that does not say otherwise."""


class Denied(StrEnum):
    """Why a request was not answered. The value is its name in every report."""

    HOST = "host"
    CROSS_SITE = "cross_site"
    TOKEN = "token"
    BUSY = "busy"


@dataclass(slots=True)
class Rules:
    """What holds now; replaced on reload."""

    hosts: Collection[str] = ()
    """Names besides IP addresses and localhost, in lower case."""
    token: str | None = None
    """None: nobody may write."""
    reads_want_token: bool = False


class Guard:
    """An ASGI middleware."""

    def __init__(self, app: ASGIApp, rules: Rules, max_requests: int = MAX_REQUESTS) -> None:
        self.rules = rules
        self.denied = dict.fromkeys(Denied, 0)
        """What was not answered since the start, by reason."""
        self._app = app
        self._max_requests = max_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none: refused before it is opened
                await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                given = {name.lower() for name, _ in headers}
                headers += [each for each in HEADERS.items() if each[0] not in given]
                message = {**message, "headers": headers}
            await send(message)

        refusal = self._judge(scope)
        if refusal is not None:
            reason, status, detail, more = refusal
            self.denied[reason] += 1
            await _answer(send_with_headers, status, detail, more)
            return
        self._running += 1
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._running -= 1

    def _judge(self, scope: Scope) -> tuple[Denied, int, str, Mapping[bytes, bytes]] | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        if not self._is_our_host(headers.get(b"host", [])):
            detail = (
                "this listener has another name: use its IP address or localhost, or let the "
                "operator add the name to admin.hosts"
            )
            return Denied.HOST, 421, detail, {}
        if not _is_own_site(scope, headers):
            return Denied.CROSS_SITE, 403, "no other site may ask here", {}
        if (refused := self._judge_token(scope, headers)) is not None:
            return Denied.TOKEN, *refused
        if self._running >= self._max_requests and scope["path"] != HEALTH_PATH:
            return Denied.BUSY, 503, "too many requests at once", {b"retry-after": b"1"}
        return None

    def _is_our_host(self, values: list[bytes]) -> bool:
        if len(values) != 1:
            return False
        match = _HOST.fullmatch(values[0].decode("latin-1"))
        if match is None:
            return False
        name = match[1].lower().removesuffix(".")
        return name == "localhost" or name in self.rules.hosts or _is_address(name)

    def _judge_token(
        self, scope: Scope, headers: Mapping[bytes, list[bytes]]
    ) -> tuple[int, str, Mapping[bytes, bytes]] | None:
        is_read = scope["method"] in _READS
        # The page holds no secret, and asks for the token itself.
        is_free = scope["path"] in (HEALTH_PATH, PAGE_PATH)
        if is_read and (is_free or not self.rules.reads_want_token):
            return None
        if self.rules.token is None:
            detail = "nothing can be changed here: the operator gave no token (admin.token-file)"
            return 403, detail, {}
        given = headers.get(b"authorization", [])
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        wanted = self.rules.token.encode()
        if scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), wanted):
            return None
        challenge = b'Bearer realm="quicpipe-relay admin"'
        if given:
            challenge += b', error="invalid_token"'
        detail = "the token is wrong" if given else "send the token: 'Authorization: Bearer …'"
        return 401, detail, {b"www-authenticate": challenge}


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_own_site(scope: Scope, headers: Mapping[bytes, list[bytes]]) -> bool:
    """By what browsers say of themselves (Fetch Metadata); others say nothing."""
    sites = headers.get(b"sec-fetch-site", [b"none"])
    if all(site.decode("latin-1") in _OWN_SITE for site in sites):
        return True
    is_link = headers.get(b"sec-fetch-mode") == [b"navigate"]
    return is_link and scope["path"] == PAGE_PATH and scope["method"] in _READS


async def _answer(send: Send, status: int, detail: str, more: Mapping[bytes, bytes]) -> None:
    body = problem_body(status, detail)
    headers = [
        (b"content-type", PROBLEM_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *more.items(),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
