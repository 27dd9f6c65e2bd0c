"""The web page: one file, with a content security policy that lets nothing else in."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Self

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Page:
    """The page and the headers that go with it."""

    html: bytes
    headers: Mapping[str, str]

    @classmethod
    def load(cls) -> Self:
        """Read it, and name its script and style by their hashes."""
        html = files("relay.admin").joinpath("page.html").read_bytes()
        hashes: dict[bytes, list[str]] = {b"script": [], b"style": []}
        for kind, text in _INLINE.findall(html):
            digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
            hashes[kind].append(f"'sha256-{digest}'")
        policy = [
            "default-src 'none'",
            f"script-src {' '.join(hashes[b'script'])}",
            f"style-src {' '.join(hashes[b'style'])}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
        return cls(
            html,
            {
                "content-type": "text/html; charset=utf-8",
                "content-security-policy": "; ".join(policy),
            },
        )
