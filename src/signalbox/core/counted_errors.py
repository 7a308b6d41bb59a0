"""Remembers which exceptions were counted, so that an exception is counted once wherever it passes through."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import CodeType, TracebackType
from typing import Final, NamedTuple, TypeVar

from signalbox.core import clock
from signalbox.core.raised_error import get_traceback, iter_leaves

Function = TypeVar("Function", bound=Callable[..., object])

_counting_codes: Final[set[CodeType]] = set()


def counts_errors(function: Function) -> Function:
    """Mark ``function``: an exception that leaves it has been counted. Use it as a decorator."""
    _counting_codes.add(function.__code__)
    return function


# ------------------------------------------------------------------ exceptions that pass through several sends

MAX_RAISED_ERRORS: Final = 100
"""Exceptions of receivers that are kept until the outermost send ends. Beyond that the oldest are forgotten."""

raised_errors: ContextVar[list[BaseException] | None] = ContextVar("signalbox_raised_errors", default=None)
"""The exceptions that receivers have raised since the outermost send began; ``None`` outside of a send.

Nested sends share the list, also those in other tasks and threads, which have a copy of the context.
"""


def collect_raised_errors() -> bool:
    """Return True if this send is the outermost one. If so, start to collect exceptions."""
    if raised_errors.get() is not None:
        return False
    raised_errors.set([])
    return True


def has_raised_before(error: BaseException) -> bool:
    """Return True if ``error`` was counted since the outermost send began, and remember it otherwise.

    Outside of a send nothing is remembered: see ``was_counted()``.
    """
    raised = raised_errors.get()
    if raised is None:
        return False
    known = set(map(id, raised))
    if id(error) in known or ((leaves := set(map(id, iter_leaves(error)))) and leaves <= known):
        return True
    raised.append(error)
    del raised[:-MAX_RAISED_ERRORS]
    return False


# ------------------------------------------------------------------ exceptions that ended a trace

MAX_ENDINGS: Final = 1_000
"""Exceptions that are remembered after they ended a trace."""


class _Ending(NamedTuple):
    """An exception that ended a trace.

    It has numbers instead of the exception: a reference to it would keep the objects of all its frames. Another
    exception at the same address differs by the place where it passed through the end of a trace.
    """

    time: int
    """Monotonic nanoseconds."""
    innermost: tuple[int, int]
    """Addresses of the innermost entry of its traceback, and of the code there."""
    end: tuple[int, int] | None
    """Address of the code that the trace surrounds, and the instruction there. None if no such frame is known."""


_endings: Final[OrderedDict[int, _Ending]] = OrderedDict()
"""By the addresses of the exceptions, the oldest first."""


def remember_ending(error: BaseException) -> None:
    """Remember that ``error`` ends a trace now, and has been counted."""
    entries = list(_iter_entries(error))
    # A frame of a generator at the start is that of @contextmanager, into which the exception is thrown and which its
    # traceback will not contain.
    generators = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
    end = next((_get_place(one) for one in entries if not one.tb_frame.f_code.co_flags & generators), None)
    _endings.pop(id(error), None)
    _endings[id(error)] = _Ending(clock.monotonic_ns(), _get_innermost(entries), end)
    if len(_endings) > MAX_ENDINGS:
        _endings.popitem(last=False)


def has_ended_trace(error: BaseException, since: int) -> bool:
    """Return True if ``error`` has ended a trace, and was counted, after the monotonic nanoseconds ``since``."""
    ending = _endings.get(id(error))
    if ending is None or ending.time < since:
        return False
    entries = list(_iter_entries(error))
    return ending.innermost == _get_innermost(entries) and (
        ending.end is None or ending.end in map(_get_place, entries)
    )


def was_counted(error: BaseException, since: int) -> bool:
    """Return True if ``error`` was counted before, or if it is a group of exceptions that all were.

    Args:
        error: The exception.
        since: When the work began that it ends now, in monotonic nanoseconds.
    """
    if _was_counted(error, since):
        return True
    leaves = list(iter_leaves(error))
    return bool(leaves) and all(_was_counted(one, since) for one in leaves)


def _was_counted(error: BaseException, since: int) -> bool:
    if has_ended_trace(error, since):
        return True
    return any(entry.tb_frame.f_code in _counting_codes for entry in _iter_entries(error))


def _iter_entries(error: BaseException) -> Iterator[TracebackType]:
    """Yield the entries of the traceback, the outermost first."""
    entry = get_traceback(error)
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _get_place(entry: TracebackType) -> tuple[int, int]:
    return id(entry.tb_frame.f_code), entry.tb_lasti


def _get_innermost(entries: list[TracebackType]) -> tuple[int, int]:
    return (id(entries[-1]), id(entries[-1].tb_frame.f_code)) if entries else (0, 0)
