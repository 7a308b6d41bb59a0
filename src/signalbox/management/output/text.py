"""Text as a terminal shows it: what is safe to write there, how wide it is, how it is cut."""

from __future__ import annotations

import unicodedata


def clean(text: str) -> str:
    """Return ``text`` with everything escaped that is not shown as a character.

    Labels come from a site's visitors: an escape sequence in one would drive the reader's terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def cells(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes: two for a wide character, none for an accent of its own."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int, *, end: bool = False) -> str:
    """Return ``text`` in at most ``width`` columns: its beginning, or with ``end`` its end."""
    if cells(text) <= width:
        return text
    kept = ""
    room = width - 1
    for char in reversed(text) if end else text:
        room -= _cells(char)
        if room < 0:
            break
        kept += char
    return f"…{kept[::-1]}" if end else f"{kept}…"


def padded(text: str, width: int, *, right: bool = False) -> str:
    """Return ``text`` with blanks up to ``width`` columns, before it if ``right``."""
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks


def took(microseconds: int | None) -> str:
    """Return a duration in three digits and a unit; nothing for an unknown one."""
    if microseconds is None:
        return ""
    for size, unit in ((1_000_000, "s"), (1_000, "ms")):
        if microseconds >= size:
            amount = microseconds / size
            return f"{amount:.{2 if amount < 10 else 1 if amount < 100 else 0}f} {unit}"
    return f"{microseconds} µs"
