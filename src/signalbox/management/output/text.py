"""Text for a terminal: escaping, width and truncation."""

from __future__ import annotations

import unicodedata


def escape_unprintable(text: str) -> str:
    """Return ``text`` with everything escaped that is not shown as a character.

    Labels come from a site's visitors: an escape sequence in one would drive the reader's terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape_char(char) for char in text)


def _escape_char(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def display_width(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes: two for a wide character, none for an accent of its own."""
    if text.isascii():
        return len(text)
    return sum(_char_width(char) for char in text)


def _char_width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def truncate(text: str, width: int, *, keep_end: bool = False) -> str:
    """Return ``text`` in at most ``width`` columns: its beginning, or its end if ``keep_end``."""
    if display_width(text) <= width:
        return text
    kept = ""
    room = width - 1
    for char in reversed(text) if keep_end else text:
        room -= _char_width(char)
        if room < 0:
            break
        kept += char
    return f"…{kept[::-1]}" if keep_end else f"{kept}…"


def pad(text: str, width: int, *, align_right: bool = False) -> str:
    """Return ``text`` with blanks up to ``width`` columns, before it if ``align_right``."""
    blanks = " " * (width - display_width(text))
    return blanks + text if align_right else text + blanks
