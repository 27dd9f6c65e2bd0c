"""Keeps an error in the search for paths from the pipe that it is for."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Fallible(Protocol):
    """Has methods that something outside calls, which must go on whatever happens in them."""

    def fail(self, error: Exception) -> None:
        """One of them has raised this."""


_Owner = TypeVar("_Owner", bound=Fallible)
_Arguments = ParamSpec("_Arguments")


def fenced(
    method: Callable[Concatenate[_Owner, _Arguments], None],
) -> Callable[Concatenate[_Owner, _Arguments], None]:
    """Give what the method raises to its owner's `fail`."""

    @wraps(method)
    def inside(owner: _Owner, /, *arguments: _Arguments.args, **named: _Arguments.kwargs) -> None:
        try:
            method(owner, *arguments, **named)
        except Exception as error:  # any: a pipe must not die of its search for other paths
            owner.fail(error)

    return inside
