"""The tables of ``docs/json.md``, and their comparison with the output of programs."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

PAGE: Final = Path(__file__).parents[1] / "docs" / "json.md"

TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "time": lambda value: isinstance(value, str) and dt.datetime.fromisoformat(value).utcoffset() == dt.timedelta(),
    "trace id": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None,
    "span": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None,
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "value": lambda value: True,
    "null": lambda value: value is None,
}
"""What a type of the page accepts."""


def read_types(heading: str) -> dict[str, str]:
    """Return the type of each key in the tables of a section, or of the table after a comment."""
    text = PAGE.read_text(encoding="utf-8")
    if f"<!-- {heading} -->" in text:
        section = text.partition(f"<!-- {heading} -->\n")[2].partition("<!--")[0]
    else:
        section = re.split(r"^#+ |^<!-- ", text.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    types = dict(re.findall(r"^\| `([^`]+)` \| ([a-z ]+) \|", section, re.MULTILINE))
    assert types, heading
    return types


def find_differences(types: dict[str, str], records: Iterable[Any], *, optional: Iterable[str] = ()) -> list[str]:
    """Return keys that only the page or only the records have, and values with another type than the page says."""
    found = [item for record in records for item in _iter_leaves(record, types, "")]
    names = {name for name, _ in found}
    wrong = [
        f"{name}: {value!r} is not {types[name]}"
        for name, value in found
        if name in types and not any(TYPES[kind](value) for kind in types[name].split(" or "))
    ]
    return [
        *(f"{name} is not documented" for name in sorted(names - types.keys())),
        *(f"{name} is not written" for name in sorted(types.keys() - names - set(optional))),
        *wrong,
    ]


def _iter_leaves(value: Any, types: dict[str, str], name: str) -> Iterator[tuple[str, Any]]:
    """Yield the values that a table documents, with their names: ``fields[].name`` for items of a list or object."""
    if name in types:
        yield name, value
    elif any(other.startswith(f"{name}[].") for other in types):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _iter_leaves(item, types, f"{name}[]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _iter_leaves(inner, types, f"{name}.{key}" if name else key)
    else:
        yield name, value
