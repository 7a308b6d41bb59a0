"""Exceptions that a signal handler raised into the running thread, such as a task's time limit.

They can appear at any line, also within recording. They belong to the application and must reach it unchanged.
"""

from __future__ import annotations

import gc
import inspect
from types import FrameType
from typing import TYPE_CHECKING, Final

from signalbox.core.raised_error import get_traceback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_get_context: Final[Callable[[BaseException], BaseException | None]] = BaseException.__dict__["__context__"].__get__


def is_interrupt(error: BaseException) -> bool:
    """Return True if a signal handler raised ``error``: a frame of the handler is in its traceback.

    Python calls a handler with the interrupted frame as an argument, which no other function is called with by the
    frame itself. It does not matter whether the handler is still installed.
    """
    traceback = get_traceback(error)
    callers: list[FrameType] = []
    while traceback is not None:
        frame = traceback.tb_frame
        if any(argument in callers for argument in _iter_frame_arguments(frame)):
            return True
        callers.append(frame)
        traceback = traceback.tb_next
    return False


def raise_if_interrupt(error: BaseException) -> None:
    """Raise ``error`` again if a signal handler raised it. Call it first where recording catches every error."""
    if is_interrupt(error):
        raise error


def find_interrupt(error: BaseException, *, outside: BaseException | None) -> BaseException | None:
    """Return the interrupt that ``error`` is, or that it took the place of while it was being handled.

    ``outside`` is the exception that was being handled before. It and those behind it belong to earlier work.
    """
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and found is not outside and id(found) not in seen:
        if is_interrupt(found):
            return found
        seen.add(id(found))
        found = _get_context(found)
    return None


def _iter_frame_arguments(frame: FrameType) -> Iterator[FrameType]:
    """Yield the frames that the function of ``frame`` was called with, by themselves or among ``*args``."""
    code = frame.f_code
    has_varargs = bool(code.co_flags & inspect.CO_VARARGS)
    # Up to Python 3.12, reading f_locals leaves a copy of the variables in the frame, which keeps objects alive. So it
    # is read only if the frame holds a frame besides its caller. A finished frame, as a handler's, refers to both.
    frames = sum(type(referent) is FrameType for referent in gc.get_referents(frame))
    if not has_varargs and frames <= (frame.f_back is not None):
        return
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + has_varargs]:
        value = frame.f_locals.get(name)
        for argument in value if type(value) is tuple else (value,):
            if type(argument) is FrameType:  # isinstance() would run code of the argument's class
                yield argument
