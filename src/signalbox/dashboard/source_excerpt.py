"""The lines of source around the place of an error."""

from __future__ import annotations

import linecache
import os
import sys
from typing import Final

from signalbox import conf
from signalbox.core.receivers import shorten_path
from signalbox.doctor.findings import SourceLine
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.source_code import redact_source

LINES_BEFORE: Final = 4
LINES_AFTER: Final = 3


def get_excerpt(file: str, line: int | None) -> tuple[SourceLine, ...]:
    """Return the lines around a place, as the file is now and without secrets.

    It is empty unless ``DASHBOARD["SHOW_SOURCE"]`` is set, and if this process has not imported the file.
    """
    if not conf.get().DASHBOARD.SHOW_SOURCE or not line:
        return ()
    path = _find_module_file(file)
    if path is None:
        return ()
    linecache.checkcache(path)
    source = redact_source("".join(linecache.getlines(path)), get_redactor()).split("\n")
    first, last = max(1, line - LINES_BEFORE), min(len(source), line + LINES_AFTER)
    return tuple(
        SourceLine(number=number, text=source[number - 1], highlighted=number == line)
        for number in range(first, last + 1)
    )


def _find_module_file(file: str) -> str | None:
    """Return the path of the imported module that is recorded as ``file``, None if there is none."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and (path == file or path.endswith(os.sep + file)) and shorten_path(path) == file:
            return path
    return None
