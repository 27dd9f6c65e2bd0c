"""What everything that is closed with a code and a reason does at the end of `async with`."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from .errors import CloseCode


class ClosedAtExit(ABC):
    """An async context manager that closes itself; the other end learns whether all went well."""

    __slots__ = ()

    @abstractmethod
    async def close(self, code: int = CloseCode.DONE, reason: str = "") -> None:
        """Close it, with what the other end is told (docs/protocol.md §6.3)."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.close(CloseCode.FAILED, "the application failed")
