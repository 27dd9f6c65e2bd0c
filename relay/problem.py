"""Error bodies that say what was wrong and what was expected (RFC 9457)."""

import json
from http import HTTPStatus

PROBLEM_TYPE = "application/problem+json"


def problem_body(status: int, detail: str) -> bytes:
    """The JSON of one problem; `type` is about:blank, so `title` is the status's own phrase."""
    problem = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return json.dumps(problem).encode()
