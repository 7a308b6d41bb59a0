"""Tables that fit: columns give way to a narrow terminal, the least important first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from signalbox.management.output.text import cells, clean, cut, padded

GAP: Final = "  "


class Cell(NamedTuple):
    """A text, and how it is shown where there is colour."""

    text: str
    style: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table. Widths are columns of the terminal."""

    title: str
    """Its heading."""
    width: int
    """What it takes where there is room."""
    least: int
    """What it takes where there is little."""
    rank: int = 0
    """Columns with the greatest rank are left out first; those with 0 never."""
    right: bool = False
    """Whether it is set to the right, as numbers are."""
    end: bool = False
    """Whether a text that is cut keeps its end, as a dotted name should."""


class Layout:
    """Which columns are shown, and how wide."""

    def __init__(
        self, columns: Sequence[Column], room: int | None, rows: Sequence[Sequence[Cell]] | None = None
    ) -> None:
        """``room`` is the terminal's width: without one nothing is cut. ``rows``, where known, narrow the columns."""
        self._columns = columns
        self._room = room
        wished = [column.width for column in columns]
        if rows is not None:
            longest = [max((cells(clean(row[i].text)) for row in rows), default=0) for i in range(len(columns))]
            filled = [max(cells(column.title), long) for column, long in zip(columns, longest, strict=True)]
            wished = filled if room is None else [min(pair) for pair in zip(wished, filled, strict=True)]
        self.widths = dict(enumerate(wished)) if room is None else fit(columns, wished, room)

    def heading(self) -> list[Cell]:
        """Return the titles, laid out."""
        return self.line([Cell(column.title) for column in self._columns])

    def line(self, row: Sequence[Cell]) -> list[Cell]:
        """Return the cells of one line, gaps included."""
        found: list[Cell] = []
        for position, width in self.widths.items():
            column, cell = self._columns[position], row[position]
            text = clean(cell.text)
            if self._room is not None:
                text = cut(text, width, end=column.end)
            if found:
                found.append(Cell(GAP))
            found.append(Cell(padded(text, width, right=column.right), cell.style))
        return found


def fit(columns: Sequence[Column], wished: Sequence[int], room: int) -> dict[int, int]:
    """Return the positions of the columns that are shown with their widths, at most ``room`` together with the gaps
    between them; the columns of rank 0 are shown even where that is not enough."""
    shown = list(range(len(columns)))
    while _together(min(columns[i].least, wished[i]) for i in shown) > room:
        last = max(shown, key=lambda i: (columns[i].rank, i))
        if columns[last].rank == 0:
            return {i: min(columns[i].least, wished[i]) for i in shown}
        shown.remove(last)
    widths = {i: wished[i] for i in shown}
    while _together(widths.values()) > room:
        widest = max((i for i in shown if widths[i] > columns[i].least), key=lambda i: widths[i] - columns[i].least)
        widths[widest] -= 1
    return widths


def _together(widths: Iterable[int]) -> int:
    each = [width + len(GAP) for width in widths]
    return sum(each) - len(GAP)
