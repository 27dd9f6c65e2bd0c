"""A command's way to the admin listener: plain, blocking HTTP."""

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from relay.admin.settings import DEFAULT_PORT

MAX_ANSWER = 8 * 2**20
_PATIENCE_S = 5.0


class NoAnswer(Exception):
    """The relay does not answer, or refuses; one line for the user."""


class AdminClient:
    """Asks one admin listener, over one connection as long as that lives."""

    def __init__(self, url: str, token: str | None, patience_s: float = _PATIENCE_S) -> None:
        """:param url: such as `http://127.0.0.1:9443`; https where a proxy stands before it.
        :raises ValueError: it is none; the text says what was expected.
        """
        parts = urlsplit(url)
        try:
            port, host = parts.port, parts.hostname
        except ValueError:
            port = host = None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise ValueError(
                f"'{url[:80]}' is no address; expected http://127.0.0.1:{DEFAULT_PORT}"
            )
        self.url = url
        self._path = parts.path.rstrip("/")
        self._token = token
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(
                host, port, timeout=patience_s, context=context
            )
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=patience_s)

    def get(self, path: str) -> Any:
        """The JSON of an answer.

        :raises NoAnswer: there is none.
        """
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            self._connection.request("GET", self._path + path, headers=headers)
            answer = self._connection.getresponse()
            body = answer.read(MAX_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAnswer(f"no relay answers at {self.url}: {why}") from None
        try:
            value = json.loads(body)
        except ValueError:
            raise NoAnswer(f"{self.url} is no admin listener: that answer is no JSON") from None
        if answer.status != 200:
            detail = value.get("detail") if isinstance(value, dict) else None
            raise NoAnswer(f"{self.url} refuses ({answer.status}): {detail or answer.reason}")
        return value

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
