"""Texts that benchmarks measure with. `prose.txt` was written for them."""

from __future__ import annotations

from pathlib import Path

PROSE = Path(__file__).with_name("prose.txt").read_text().strip()


def ordinary(length: int) -> str:
    """Return text as people write it: 2 % digits, one mail address and one URL, for 500 or 5,000 characters."""
    return _cut(PROSE, length)


def letters(length: int) -> str:
    """Return text of letters and blanks only, for up to 5,000 characters."""
    return _cut(" ".join("".join(char for char in PROSE if char.isalpha() or char.isspace()).split()), length)


def _cut(text: str, length: int) -> str:
    if len(text) < length:
        raise ValueError(f"the corpus has {len(text)} characters, {length} were asked for")
    return text[:length]
