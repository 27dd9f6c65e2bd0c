"""A headless Chromium, driven over its DevTools protocol; no library, no network but loopback."""

import asyncio
import base64
import contextlib
import json
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, CloseConnection, Message, Request, TextMessage

PATIENCE_S = 30.0


def chromium() -> str:
    """The program; without one the test is skipped."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("there is no Chromium: apt-get install chromium")


class Tab:
    """One page."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._socket = WSConnection(ConnectionType.CLIENT)
        self._number = 0
        self._text = ""
        self.events: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, port: int, path: str) -> Self:
        """Connect to the DevTools of a page."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
        tab = cls(reader, writer)
        tab._send(Request(host=f"127.0.0.1:{port}", target=path))
        await tab._receive()
        return tab

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do something, and wait for it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._send(TextMessage(json.dumps(message)))
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for answer in await self._receive():
                    if answer.get("id") == self._number:
                        assert "error" not in answer, answer
                        result: dict[str, Any] = answer["result"]
                        return result
                    self.events.append(answer)

    async def go(self, url: str) -> None:
        """Show this page, and wait until it is there."""
        await self.call("Page.navigate", url=url)
        await self.until(f"location.href === '{url}' && document.readyState === 'complete'")

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until an expression is true; returns its value."""
        async with asyncio.timeout(PATIENCE_S):
            while not (value := await self.evaluate(script)):  # noqa: ASYNC110  (the page says)
                await asyncio.sleep(0.05)
            return value

    async def screenshot(self) -> bytes:
        """Of the whole page, as PNG."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def _send(self, event: Any) -> None:
        self._writer.write(self._socket.send(event))

    async def _receive(self) -> list[dict[str, Any]]:
        self._socket.receive_data(await self._reader.read(2**20) or None)
        found = []
        for event in self._socket.events():
            assert not isinstance(event, CloseConnection | BytesMessage)
            if isinstance(event, Message):
                self._text += str(event.data)
                if event.message_finished:
                    found.append(json.loads(self._text))
                    self._text = ""
        return found


@asynccontextmanager
async def browser(width: int = 1280, height: int = 1000) -> AsyncIterator[Tab]:
    """A Chromium with an empty page. It is ended at the end."""
    program = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            program,
            "--headless=new",
            "--no-sandbox",  # as root it has none; what it shows is ours
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--no-proxy-server",
            f"--window-size={width},{height}",
            f"--user-data-dir={folder}",
            "--remote-debugging-port=0",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port = await _devtools_port(Path(folder) / "DevToolsActivePort")
            tab = await Tab.open(port, await _page(port))
            try:
                await tab.call("Page.enable")
                await tab.call("Runtime.enable")
                await tab.call("Log.enable")
                yield tab
            finally:
                tab.close()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _devtools_port(file: Path) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(FileNotFoundError, IndexError, ValueError):
                return _first_number(file)
            await asyncio.sleep(0.05)


def _first_number(file: Path) -> int:
    return int(file.read_text().splitlines()[0])


async def _page(port: int) -> str:
    """The way to the DevTools of the page that it opened."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /json HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            pages = json.loads(await reader.readexactly(length))
            writer.close()
            for page in pages:
                if page["type"] == "page":
                    url = str(page["webSocketDebuggerUrl"])
                    return "/" + url.split("/", 3)[3]
            await asyncio.sleep(0.05)


def size_of_png(data: bytes) -> tuple[int, int]:
    """Width and height."""
    width, height = struct.unpack(">II", data[16:24])
    return width, height
