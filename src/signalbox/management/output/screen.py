"""Output of a command to a terminal, with its width and colours, or to a file or pipe."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from signalbox.management.output.table import Cell, Column, Layout
from signalbox.management.output.text import escape_unprintable


class Output(Protocol):
    """The ``stdout`` of a command."""

    def write(self, text: str, /) -> object:
        """Write ``text``."""

    def flush(self) -> object:
        """Flush the output."""

    def isatty(self) -> bool:
        """Return whether it is a terminal."""


MIN_WIDTH: Final = 20
"""Minimum width in columns, also if the terminal reports less."""


class Screen:
    """Writes lines and tables to a terminal or a file."""

    def __init__(self, output: Output, options: Mapping[str, Any]) -> None:
        """``options`` are the command's: ``no_color`` and ``force_color`` decide as in all of Django's commands."""
        self._output = output
        self.is_terminal = output.isatty()
        """Whether the output is a terminal."""
        self.width: int | None = max(shutil.get_terminal_size().columns, MIN_WIDTH) if self.is_terminal else None
        """Columns of the terminal; ``None`` for a file or pipe, where nothing is truncated."""
        self._paint = _get_painter() if _should_colorize(self.is_terminal, options) else None
        self._encoding = getattr(output, "encoding", None) or "utf-8"

    def write_line(self, cells: Sequence[Cell] | str = ()) -> None:
        """Write one line."""
        parts = [Cell(cells)] if isinstance(cells, str) else list(cells)
        while parts and not parts[-1].text.strip():
            parts.pop()
        if parts:
            parts[-1] = parts[-1]._replace(text=parts[-1].text.rstrip())
        painted = "".join(map(self._render_cell, parts))
        # A terminal that can't show a character gets its code, not a traceback.
        self._output.write(painted.encode(self._encoding, "backslashreplace").decode(self._encoding) + "\n")

    def write_text(self, text: str, style: str = "") -> None:
        """Write text of any origin, with unprintable characters escaped."""
        for line in text.splitlines() or [""]:
            self.write_line([Cell(escape_unprintable(line), style)])

    def write_json(self, record: Mapping[str, Any]) -> None:
        """Write one JSON object on one line."""
        self._output.write(json.dumps(record) + "\n")

    def write_table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
        """Write a table."""
        row_list = list(rows)
        layout = Layout(columns, self.width, row_list)
        self.write_heading(layout)
        for row in row_list:
            self.write_line(layout.build_line(row))

    def write_heading(self, layout: Layout) -> None:
        """Write the titles of a table."""
        self.write_line([Cell(cell.text, "bold") if cell.text.strip() else cell for cell in layout.build_heading()])

    def flush(self) -> None:
        """Flush the output."""
        self._output.flush()

    def _render_cell(self, cell: Cell) -> str:
        return self._paint(cell.text, cell.style) if self._paint and cell.style and cell.text.strip() else cell.text


def _should_colorize(is_terminal: bool, options: Mapping[str, Any]) -> bool:
    """Return whether to use colours. For ``NO_COLOR`` see https://no-color.org."""
    if options.get("force_color"):
        return True
    is_disabled = options.get("no_color") or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return is_terminal and not is_disabled


def _get_painter() -> Callable[[str, str], str] | None:
    """Return a function that colours a text in a style; ``None`` if rich is not installed."""
    try:
        from rich.color import ColorSystem
        from rich.style import Style
    except ImportError:
        return None

    def paint(text: str, style: str) -> str:
        # The sixteen colours that the user configures in the terminal.
        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)

    return paint
