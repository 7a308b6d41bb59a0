"""Numbers with their nouns."""

from __future__ import annotations


def format_count(number: int, singular: str, plural: str = "") -> str:
    """Return the number with its noun, as ``1 row`` or ``2 rows``. The plural ends in ``s`` by default."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"
