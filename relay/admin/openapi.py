"""The OpenAPI 3.1 document of the admin listener. Tests hold the application to it."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from relay.admin.listing import DEFAULT_LIMIT, MAX_LIMIT
from relay.admin.orders import ORDERS
from relay.admin.questions import (
    FORWARDERS,
    MAX_DURATION_S,
    MAX_NUMBER,
    MAX_START,
    MAX_TEXT,
)
from relay.admin.stream import KINDS
from relay.core.events import BACKLOG
from relay.problem import PROBLEM_TYPE

DOCUMENT_PATH = "/openapi.json"

Json = dict[str, object]

_TEXT: Json = {"type": "string"}
_MAYBE_TEXT: Json = {"type": ["string", "null"]}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number", "minimum": 0}
_MOMENT: Json = {"type": "number", "description": "Seconds since 1970."}
_MAYBE_MOMENT: Json = {"type": ["number", "null"], "description": "Seconds since 1970."}
_COUNTS: Json = {"type": "object", "additionalProperties": _COUNT}
_RATES: Json = {"type": "object", "additionalProperties": _NUMBER}
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_ADDRESS: Json = {
    "anyOf": [
        {"type": "string", "pattern": rf"^{_IPV4}(/([12]?[0-9]|3[0-2])|:{_PORT})?$"},
        {"type": "string", "format": "ipv6"},
    ],
    "examples": ["192.0.2.7", "192.0.2.0/24", "192.0.2.7:4433", "[2001:db8::7]:4433"],
}
_ID: Json = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def document() -> Json:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quicpipe relay: admin listener",
            "version": _version(),
            "description": "What an operator sees, and may do. docs/operating.md",
        },
        "paths": {
            "/health": {"get": _health()},
            DOCUMENT_PATH: {"get": _read("openapi", "This document.", _ok({"type": "object"}), [])},
            "/v1/overview": {"get": _read("overview", "The state now.", _ok(_ref("Overview")), [])},
            "/v1/history": {
                "get": _read(
                    "history",
                    "The last minutes in steps of a second, the oldest first.",
                    _ok(_object(steps={"type": "array", "items": _ref("Step")})),
                    [],
                )
            },
            "/v1/registrations": {"get": _list()},
            "/v1/registrations/{id}": {"get": _one(), "delete": _end()},
            "/v1/revoked/{token_id}": {"put": _revoke()},
            "/v1/events": {"get": _events()},
        },
        "components": {
            "schemas": {
                "Problem": _problem_schema(),
                "Registration": _object(**_registration()),
                "OneRegistration": _object(
                    **_registration(),
                    connection_id_list={
                        "type": "array",
                        "items": {"type": "string", "pattern": "^[0-9a-f]{24}$"},
                    },
                ),
                "Overview": _object(**_overview()),
                "Step": _object(
                    at=_MOMENT,
                    packets_per_s=_NUMBER,
                    bytes_per_s=_NUMBER,
                    dropped_per_s=_NUMBER,
                    registrations=_COUNT,
                ),
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "admin.token-file. Every write wants it; reading does where "
                    "the operator says so, and beyond loopback.",
                }
            },
        },
    }


def _health() -> Json:
    answers = {
        "200": _answer("It takes registrations.", _object(status={"const": "ok"})),
        # 503 is the guard's, too, when there are too many requests; but it lets this one pass.
        "503": _answer("It is being drained.", _object(status={"const": "draining"})),
    }
    return {
        "operationId": "health",
        "summary": "Whether the relay takes registrations.",
        "responses": {**answers, **_problems("400", "403", "421")},
    }


def _list() -> Json:
    parameters = [
        _parameter(
            "address",
            _ADDRESS,
            "An IP address, a network, or an address with its port; IPv6 likewise.",
        ),
        _parameter("subject", {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}),
        _parameter("token_id", {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}),
        _parameter("forwarded_by", {"type": "string", "enum": list(FORWARDERS)}),
        _parameter(
            "held", {"type": "boolean"}, "Whether the peer's HTTP/3 connection to the relay lives."
        ),
        _parameter("order", {"type": "string", "enum": list(ORDERS)}, "Most, or latest, first."),
        _parameter(
            "start",
            {"type": "integer", "minimum": 0, "maximum": MAX_START},
            "`next` of the answer before; what changes meanwhile may be missing, or come twice.",
        ),
        _parameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        ),
    ]
    page = _object(
        registrations={"type": "array", "items": _ref("Registration"), "maxItems": MAX_LIMIT},
        next={"type": ["integer", "null"], "minimum": 0},
    )
    return _read("listRegistrations", "Registrations.", _ok(page), parameters)


def _one() -> Json:
    operation = _read(
        "getRegistration",
        "All about one registration.",
        {**_ok(_ref("OneRegistration")), **_problems("404")},
        [_path("id", _ID)],
    )
    return operation


def _end() -> Json:
    return _write(
        "endRegistration",
        "End a registration at once.",
        {"204": {"description": "It has ended."}, **_problems("404")},
        [_path("id", _ID)],
    )


def _revoke() -> Json:
    token_id: Json = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
    return _write(
        "revokeToken",
        "Let a token in no more, until the list of revoked tokens is read again; end what it has "
        "begun.",
        {
            **_ok(_object(ended={**_COUNT, "description": "So many registrations."})),
            **_problems("404", "409"),
        },
        [_path("token_id", token_id)],
    )


def _events() -> Json:
    kinds: Json = {"type": "array", "items": {"type": "string", "enum": list(KINDS)}}
    parameters: list[Json] = [
        _parameter("kind", kinds, "Repeatable; all but `sample` unless one is named."),
        _parameter(
            "after",
            {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER},
            "The last event that the client has; what it has missed comes first.",
        ),
        _parameter(
            "backlog",
            {"type": "integer", "minimum": 0, "maximum": BACKLOG},
            "Without `after`: so many of the last events first.",
        ),
        _parameter(
            "duration",
            {"type": "integer", "minimum": 0, "maximum": MAX_DURATION_S},
            "Seconds after which it ends; without it, never.",
        ),
        {
            "name": "Last-Event-ID",
            "in": "header",
            "schema": {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER},
            "description": "As `after`; browsers send it.",
        },
    ]
    stream: Json = {
        "200": {
            "description": "Server-sent events: `created`, `renewed`, `moved`, `idle`, `refused`, "
            "`closed`, `sample`; `lost` with the number of those that are missing there, if the "
            "client is too slow; `end` when the relay stops.",
            "content": {"text/event-stream": {"schema": _event_schema()}},
        }
    }
    return _read("events", "What happens, as it happens.", stream, parameters)


def _event_schema() -> Json:
    """Of each event in the stream."""
    return {
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": [*KINDS, "lost", "end"]},
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "description": "An object: `kind`, `at` (seconds since 1970), and what applies of "
                "`registration`, `address`, `before`, `subject`, `reason`, `more`; of `lost`, the "
                "`count`; of `sample`, the last second.",
            },
            "retry": {"type": "integer"},
        },
        "additionalProperties": False,
    }


def _registration() -> dict[str, Json]:
    count = _object(packets=_COUNT, bytes=_COUNT)
    return {
        "id": {**_ID, "description": "Names it here; it permits nothing at the relay itself."},
        "address": {**_TEXT, "description": "Where the peer is reached."},
        "listener": {**_TEXT, "description": "The relay's address that it registered at."},
        "connection_ids": _COUNT,
        "held": {"type": "boolean", "description": "Whether its HTTP/3 connection lives."},
        "since": {**_MOMENT, "description": "Seconds since 1970; after a restart, of that."},
        "last_seen": {**_MOMENT, "description": "When anything last came from it."},
        "expires": {**_MAYBE_MOMENT, "description": "When it ends unless something comes."},
        "subject": {**_MAYBE_TEXT, "description": "Whose token it came by."},
        "token_id": _MAYBE_TEXT,
        "forwarded_by": {"type": "string", "enum": list(FORWARDERS)},
        "packets": {**_COUNT, "description": "That it sent and that were forwarded."},
        "bytes": {**_COUNT, "description": "Of their UDP payload."},
        "packets_per_s": _NUMBER,
        "bytes_per_s": _NUMBER,
        "last_forwarded": _MAYBE_MOMENT,
        "kernel": count,
        "userspace": count,
    }


def _overview() -> dict[str, Json]:
    return {
        "at": _MOMENT,
        "started": _MOMENT,
        "status": {"type": "string", "enum": ["ok", "draining"]},
        "registrations": _COUNT,
        "connection_ids": _COUNT,
        "limits": _COUNTS,
        "packets": {**_COUNT, "description": "Forwarded since the start."},
        "bytes": _COUNT,
        "packets_per_s": {**_NUMBER, "description": "In the last second."},
        "bytes_per_s": _NUMBER,
        "kernel_packets": {
            "type": ["integer", "null"],
            "description": "Of `packets`; null: the kernel does not forward.",
        },
        "drops": {**_COUNTS, "description": "Datagrams that ended here, by reason."},
        "drops_per_s": _RATES,
        "refused": {**_COUNTS, "description": "Requests that were refused, by reason."},
        "http3": _object(
            connections=_COUNT,
            half_open=_COUNT,
            handshakes=_COUNT,
            requests=_COUNT,
            retried=_COUNT,
        ),
        "events": _COUNTS,
    }


def _read(name: str, summary: str, answers: Json, parameters: Sequence[Json]) -> Json:
    return {
        "operationId": name,
        "summary": summary,
        "parameters": list(parameters),
        "security": [{}, {"token": []}],
        "responses": {**answers, **_problems("400", "401", "403", "421", "503")},
    }


def _write(name: str, summary: str, answers: Json, parameters: Sequence[Json]) -> Json:
    return {
        **_read(name, summary, answers, parameters),
        "security": [{"token": []}],
    }


def _ok(schema: Json) -> Json:
    return {"200": _answer("As asked for.", schema)}


def _answer(text: str, schema: Json) -> Json:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


_PROBLEMS = {
    "400": "A parameter is not as it should be.",
    "401": "The token is missing or wrong.",
    "403": "Another site asks, or there is no token by which anything could be changed.",
    "404": "There is no such thing.",
    "409": "This relay takes no tokens.",
    "421": "The Host is not a name of this listener.",
    "503": "Too many at once.",
}


def _problems(*codes: str) -> Json:
    return {
        code: {
            "description": _PROBLEMS[code],
            "content": {PROBLEM_TYPE: {"schema": _ref("Problem")}},
        }
        for code in codes
    }


def _problem_schema() -> Json:
    return _object(type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT)


def _object(**properties: Mapping[str, object]) -> Json:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, schema: Json, text: str = "") -> Json:
    parameter: Json = {"name": name, "in": "query", "schema": schema}
    return {**parameter, "description": text} if text else parameter


def _path(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _version() -> str:
    try:
        return version("quicpipe")
    except PackageNotFoundError:
        return "0"
