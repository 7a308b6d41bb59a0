"""Reads and replaces the tables that benchmarks write, between two comments of a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def read(path: Path, name: str) -> str:
    """Return the text between the comments of ``name``. Raises ``ValueError`` if they are missing."""
    return _split(path, name)[1]


def replace(path: Path, name: str, table: str) -> None:
    """Replace the text between the comments of ``name``. Raises ``ValueError`` if they are missing."""
    before, _, after = _split(path, name)
    path.write_text(f"{before}\n\n{table}\n\n{after}", encoding="utf-8")


def _split(path: Path, name: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, has_begin, rest = path.read_text(encoding="utf-8").partition(f"{begin}\n")
    found, has_end, after = rest.partition(end)
    if not (has_begin and has_end):
        raise ValueError(f"{path} has no comments {begin} and {end}")
    return before + begin, found, end + after
