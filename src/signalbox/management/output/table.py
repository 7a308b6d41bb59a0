"""Tables that fit the terminal: the least important columns are dropped first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from signalbox.management.output.text import display_width, escape_unprintable, pad, truncate

COLUMN_GAP: Final = "  "


class Cell(NamedTuple):
    """A text and its style."""

    text: str
    style: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table. Widths are columns of the terminal."""

    title: str
    """Its heading."""
    width: int
    """Width if there is enough space."""
    min_width: int
    """Width if there is little space."""
    drop_order: int = 0
    """Columns with the greatest number are dropped first; those with 0 never."""
    align_right: bool = False
    """Whether it is set to the right, as numbers are."""
    keep_end: bool = False
    """Whether a truncated text keeps its end, as a dotted name should."""


class Layout:
    """The columns that are shown, and their widths."""

    def __init__(
        self, columns: Sequence[Column], max_width: int | None, rows: Sequence[Sequence[Cell]] | None = None
    ) -> None:
        """``max_width`` is the width of the terminal; ``None`` truncates nothing. ``rows`` narrow the columns."""
        self._columns = columns
        self._max_width = max_width
        wished = [column.width for column in columns]
        if rows is not None:
            longest = [
                max((display_width(escape_unprintable(row[i].text)) for row in rows), default=0)
                for i in range(len(columns))
            ]
            filled = [max(display_width(column.title), long) for column, long in zip(columns, longest, strict=True)]
            wished = filled if max_width is None else [min(pair) for pair in zip(wished, filled, strict=True)]
        self.widths = dict(enumerate(wished)) if max_width is None else fit_columns(columns, wished, max_width)

    def build_heading(self) -> list[Cell]:
        """Return the titles, laid out."""
        return self.build_line([Cell(column.title) for column in self._columns])

    def build_line(self, row: Sequence[Cell]) -> list[Cell]:
        """Return the cells of one line, gaps included."""
        found: list[Cell] = []
        for position, width in self.widths.items():
            column, cell = self._columns[position], row[position]
            text = escape_unprintable(cell.text)
            if self._max_width is not None:
                text = truncate(text, width, keep_end=column.keep_end)
            if found:
                found.append(Cell(COLUMN_GAP))
            found.append(Cell(pad(text, width, align_right=column.align_right), cell.style))
        return found


def fit_columns(columns: Sequence[Column], preferred: Sequence[int], max_width: int) -> dict[int, int]:
    """Return the width of each shown column, by its position.

    Widths and gaps add up to at most ``max_width``, unless the columns that are never dropped need more.
    """
    shown = list(range(len(columns)))
    while _total_width(min(columns[i].min_width, preferred[i]) for i in shown) > max_width:
        last = max(shown, key=lambda i: (columns[i].drop_order, i))
        if columns[last].drop_order == 0:
            return {i: min(columns[i].min_width, preferred[i]) for i in shown}
        shown.remove(last)
    widths = {i: preferred[i] for i in shown}
    while _total_width(widths.values()) > max_width:
        widest = max(
            (i for i in shown if widths[i] > columns[i].min_width), key=lambda i: widths[i] - columns[i].min_width
        )
        widths[widest] -= 1
    return widths


def _total_width(widths: Iterable[int]) -> int:
    padded = [width + len(COLUMN_GAP) for width in widths]
    return sum(padded) - len(COLUMN_GAP)
