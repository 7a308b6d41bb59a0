"""Exceptions as they are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, NamedTuple


class SourceFrame(NamedTuple):
    """One frame of a traceback."""

    file: str
    """Path, relative to the project or to its packages."""
    line: int
    function: str
    """Qualified name of the function."""


class RaisedError(NamedTuple):
    """One exception that was raised, with the place where that happened."""

    time: int
    """Nanoseconds since the epoch: when it was recorded."""
    exception: str
    """Dotted name of its class; without a module if it is a built-in one."""
    message: str
    """Its text, redacted and limited; empty if it has none."""
    place: SourceFrame | None
    """The innermost frame of the project, otherwise the innermost frame. None if it has no traceback."""
    receiver: str
    """Dotted name of the receiver that raised it. Empty if no receiver did, as for a view."""
    frames: tuple[SourceFrame, ...]
    """The innermost frames, the outermost first."""


get_traceback: Callable[[BaseException], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__
"""Return the traceback of an exception. The class of the exception can't replace it."""

_get_exceptions: Callable[[BaseException], tuple[BaseException, ...]] = BaseExceptionGroup.__dict__[
    "exceptions"
].__get__

_CANCELLATIONS: Final = (asyncio.CancelledError, GeneratorExit)


def is_cancellation(error: BaseException) -> bool:
    """Return True if ``error`` ends work from outside: a coroutine was cancelled or closed. That is not a defect."""
    return issubclass(type(error), _CANCELLATIONS)


def iter_leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions of an exception group, also of nested ones. Yield nothing for another exception."""
    stack = [error]
    while stack:
        one = stack.pop()
        if issubclass(type(one), BaseExceptionGroup):
            stack.extend(reversed(_get_exceptions(one)))
        elif one is not error:
            yield one
