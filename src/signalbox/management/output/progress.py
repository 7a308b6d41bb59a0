"""The progress of long work, on one line of a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from typing import Final, TextIO

from signalbox.core import clock

CLEAR_LINE: Final = "\r\x1b[K"
REDRAW_SECONDS: Final = 0.1
BAR_WIDTH: Final = 24
MIN_SECONDS_FOR_ESTIMATE: Final = 1.0


class Progress:
    """Shows one line on a terminal, and nothing elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, is_shown: bool = True) -> None:
        """``stream`` is by default stderr. Nothing is written unless it is a terminal and ``is_shown`` is true."""
        self._stream = stream or sys.stderr
        self._is_shown = is_shown and self._stream.isatty()
        self._name = ""
        self._started = self._drawn = 0.0

    def update(self, name: str, fraction: float | None, note: str = "") -> None:
        """Show how much of the work ``name`` is done, from 0 to 1, with the estimated time until its end.

        ``fraction`` is ``None`` if it is not known. Then only ``note`` is shown.
        """
        if not self._is_shown:
            return
        now = clock.monotonic()
        if name != self._name:
            self._name, self._started, self._drawn = name, now, float("-inf")
        if now - self._drawn < REDRAW_SECONDS and fraction != 1:
            return
        self._drawn = now
        parts = [name, *_format_fraction(fraction, now - self._started), note]
        text = "  ".join(part for part in parts if part)
        self._stream.write(CLEAR_LINE + text[: shutil.get_terminal_size().columns - 1])
        self._stream.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._name:
            self._stream.write(CLEAR_LINE)
            self._stream.flush()
            self._name = ""


def _format_fraction(fraction: float | None, elapsed: float) -> Iterator[str]:
    if fraction is None:
        return
    filled = round(fraction * BAR_WIDTH)
    yield f"[{'#' * filled}{'-' * (BAR_WIDTH - filled)}]"
    yield f"{fraction:4.0%}"
    if 0 < fraction < 1 and elapsed >= MIN_SECONDS_FOR_ESTIMATE:
        yield f"about {format_seconds(elapsed * (1 - fraction) / fraction)} left"


def format_seconds(seconds: float) -> str:
    """Return a duration as ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
