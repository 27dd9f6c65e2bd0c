"""The application does what its OpenAPI document says, whatever is asked."""

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from requests import Request
from schemathesis import GenerationMode

from relay.admin.openapi import document
from tests.admin.in_thread import InThread


def paths() -> dict[str, dict[str, object]]:
    """Operations by path and method."""
    found: Any = document()["paths"]
    return dict(found)


@pytest.fixture(scope="module")
def listener() -> Iterator[InThread]:
    made = InThread()
    made.start()
    try:
        yield made
    finally:
        made.stop()


OPERATIONS = [(path, method) for path, methods in paths().items() for method in methods]


def ask(case: Any, port: int) -> schemathesis.Response:
    """Send what was made up, over a connection of its own.

    Schemathesis' own way wants urllib3 as it is; where niquests is installed, it is another.
    """
    sent = Request(**case.as_transport_kwargs(base_url=f"http://127.0.0.1:{port}")).prepare()
    url = urlsplit(str(sent.url))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20.0)
    try:
        target = url.path + ("?" + url.query if url.query else "")
        body = sent.body if isinstance(sent.body, bytes | str) else None
        connection.request(str(sent.method), target, body, dict(sent.headers))
        answer = connection.getresponse()
        headers: dict[str, list[str]] = {}
        for name, value in answer.getheaders():
            headers.setdefault(name.lower(), []).append(value)
        return schemathesis.Response(answer.status, headers, answer.read(), sent, 0.0, False)
    finally:
        connection.close()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_the_document_says(
    listener: InThread, path: str, method: str, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_dict(document())
    operation = schema[path][method.upper()]
    answers = set()

    @settings(
        max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        if path == "/v1/events":  # one that does not end would keep the test waiting
            case.query = {**(case.query or {}), "duration": 0}
        response = ask(case, listener.port)
        answers.add(response.status_code)
        case.validate_response(response)

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing in it can be wrong
    assert not [each for each in answers if each >= 500]
