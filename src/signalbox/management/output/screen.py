"""Where a command writes: a terminal of some width, in colour or not, or a file or pipe."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from signalbox.management.output.table import Cell, Column, Layout
from signalbox.management.output.text import escape_unprintable


class Output(Protocol):
    """What is written to: a command's ``stdout``."""

    def write(self, text: str, /) -> object:
        """Write ``text``."""

    def flush(self) -> object:
        """Let what was written be seen."""

    def isatty(self) -> bool:
        """Tell whether a person looks at it."""


MIN_WIDTH: Final = 20
"""Columns that are used even where a terminal says it has fewer."""


class Screen:
    """Lines and tables, for a person or for a file."""

    def __init__(self, output: Output, options: Mapping[str, Any]) -> None:
        """``options`` are the command's: ``no_color`` and ``force_color`` decide as in all of Django's commands."""
        self._output = output
        self.is_terminal = output.isatty()
        """Whether a person looks at it."""
        self.width: int | None = max(shutil.get_terminal_size().columns, MIN_WIDTH) if self.is_terminal else None
        """Columns of the terminal; ``None`` for a file or pipe, where nothing is cut."""
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
        """Write lines that come from somewhere else."""
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
        """Let what was written be seen."""
        self._output.flush()

    def _render_cell(self, cell: Cell) -> str:
        return self._paint(cell.text, cell.style) if self._paint and cell.style and cell.text.strip() else cell.text


def _should_colorize(is_terminal: bool, options: Mapping[str, Any]) -> bool:
    """Tell whether colours are wanted; see https://no-color.org for the variable."""
    if options.get("force_color"):
        return True
    is_disabled = options.get("no_color") or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return is_terminal and not is_disabled


def _get_painter() -> Callable[[str, str], str] | None:
    """Return what colours a text by the name of a style; ``None`` where rich is not installed."""
    try:
        from rich.color import ColorSystem
        from rich.style import Style
    except ImportError:
        return None

    def paint(text: str, style: str) -> str:
        # The sixteen colours that a terminal's owner has chosen.
        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)

    return paint
