"""Describes an exception: its class, its redacted message and where it was raised. Nothing else of it is kept."""

from __future__ import annotations

import os
import sysconfig
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import signalbox
from signalbox.core import clock
from signalbox.core.raised_error import RaisedError, SourceFrame, get_traceback
from signalbox.core.receivers import shorten_path
from signalbox.core.text import fit_column
from signalbox.serialization.encoder import format_exception
from signalbox.serialization.encoder.introspection import get_class_path

if TYPE_CHECKING:
    from types import TracebackType

    from signalbox.serialization.encoder.protocol import RedactorProtocol

MAX_FRAMES: Final = 20
"""Innermost frames that are kept of a traceback."""
MAX_NAME_LENGTH: Final = 200

_PACKAGE_FOLDERS: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_FOREIGN_ROOTS: Final = tuple(
    path + os.sep
    for path in {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
        os.path.dirname(signalbox.__file__),
    }
)


def describe_error(
    error: BaseException, *, redactor: RedactorProtocol, receiver: str = "", text: str | None = None
) -> RaisedError:
    """Return what is recorded of ``error``. Raise nothing.

    Args:
        error: The exception.
        redactor: Removes secrets from its message.
        receiver: Dotted name of the receiver that raised it.
        text: What ``format_exception()`` returned for it, if that is known.
    """
    frames, place = _read_traceback(get_traceback(error))
    if text is None:
        text = format_exception(error, redactor=redactor)
    return RaisedError(
        time=clock.now(),
        exception=fit_column(get_class_path(type(error)).removeprefix("builtins."), MAX_NAME_LENGTH),
        message=text.partition(": ")[2],
        place=place,
        receiver=fit_column(receiver, MAX_NAME_LENGTH),
        frames=frames,
    )


def describe_class(path: str) -> RaisedError:
    """Return what is recorded of an exception if only its class is known, by the dotted name."""
    name = fit_column(path.removeprefix("builtins."), MAX_NAME_LENGTH)
    return RaisedError(time=clock.now(), exception=name, message="", place=None, receiver="", frames=())


def _read_traceback(traceback: TracebackType | None) -> tuple[tuple[SourceFrame, ...], SourceFrame | None]:
    """Return the innermost frames, and the innermost of the project or, without any, of all."""
    innermost: deque[TracebackType] = deque(maxlen=MAX_FRAMES)
    of_project: TracebackType | None = None
    while traceback is not None:
        innermost.append(traceback)
        if is_project_file(traceback.tb_frame.f_code.co_filename):
            of_project = traceback
        traceback = traceback.tb_next
    if not innermost:
        return (), None
    return tuple(map(_describe_frame, innermost)), _describe_frame(of_project or innermost[-1])


def _describe_frame(traceback: TracebackType) -> SourceFrame:
    code = traceback.tb_frame.f_code
    # None: the instruction belongs to no line, as in generated code.
    return SourceFrame(_shorten(code.co_filename), traceback.tb_lineno or 0, fit_column(code.co_qualname, 200))


@lru_cache(maxsize=1024)
def _shorten(path: str) -> str:
    return fit_column(shorten_path(path)[-300:], 300)


@lru_cache(maxsize=1024)
def is_project_file(path: str) -> bool:
    """Return True if ``path`` is a source file outside of Python, its packages and Signalbox."""
    if path.startswith("<") or any(folder in path for folder in _PACKAGE_FOLDERS):
        return False
    return not path.startswith(_FOREIGN_ROOTS)
