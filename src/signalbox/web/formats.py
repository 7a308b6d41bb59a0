"""How values are written for people: durations, names, JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from re import findall
from typing import Any, Final, NamedTuple

from signalbox import catalog, encoding

LONG: Final = 60
"""Characters from which a text is shown as one inline diff, and cut in summaries."""

GIST: Final = (
    "action",
    "added",
    "removed",
    "created",
    "count",
    "fields",
    "values",
    "credentials",
    "setting",
    "exception",
)
"""Arguments that tell in a few words what an event is about."""

MOST_WORDS: Final = 4000
"""Words up to which two texts are compared word by word: the comparison is quadratic."""


def duration(microseconds: int | None) -> str:
    """Return a duration as a person would say it, with three significant digits: ``12.3 ms``."""
    if microseconds is None:
        return "\u2013"
    if microseconds < 1_000:
        return f"{microseconds} µs"
    if microseconds < 1_000_000:
        return f"{_three(microseconds / 1_000)} ms"
    seconds = microseconds / 1_000_000
    if seconds < 60:
        return f"{_three(seconds)} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {seconds:02} s"


def _three(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def group(signal: str) -> str:
    """Return a signal's group by its name: ``model`` for ``post_save``, ``custom`` for what Django doesn't know."""
    entry = catalog.BUILTIN.get(signal)
    return entry.group if entry else "custom"


def tail(dotted: str) -> str:
    """Return the last part of a dotted name."""
    return dotted.rpartition(".")[2]


def head(dotted: str) -> str:
    """Return a dotted name without its last part, with the dot that follows it."""
    before, dot, _ = dotted.rpartition(".")
    return before + dot


def short(sender: str) -> str:
    """Return a model's label as it is, and of a longer dotted name the last part."""
    return sender if sender.count(".") < 2 else tail(sender)


def text(value: Any) -> str:
    """Return a stored value as one line or as its own text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def pretty(value: Any) -> str:
    """Return a stored value as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def cut(value: str, width: int = LONG) -> str:
    """Return ``value`` in at most ``width`` characters, on one line."""
    line = " ".join(value.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


class Piece(NamedTuple):
    """A part of a diff: ``same``, ``old`` or ``new``."""

    kind: str
    text: str


class Changed(NamedTuple):
    """One changed field, ready to be shown."""

    field: str
    known: bool
    """Whether the old value is known."""
    old: str
    new: str
    pieces: tuple[Piece, ...]
    """An inline diff, where both are long texts."""


def changes(data: Mapping[str, Any]) -> list[Changed]:
    """Return the changes that an event's data tells of."""
    found = []
    for field, pair in (data.get("changes") or {}).items():
        if not isinstance(pair, list) or not pair:
            continue
        known = len(pair) > 1
        old, new = (encoding.literal(pair[0]) if known else None), encoding.literal(pair[-1])
        pieces: tuple[Piece, ...] = ()
        if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) >= LONG:
            pieces = inline(old, new)
        found.append(Changed(field, known, text(old) if known else "", text(new), pieces))
    return found


def touched(data: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that an event changed."""
    return frozenset(data.get("changes") or ())


def inline(old: str, new: str) -> tuple[Piece, ...]:
    """Return two texts as one sequence of same, old and new pieces, word by word."""
    before, after = _words(old), _words(new)
    if len(before) + len(after) > MOST_WORDS:
        return (Piece("old", old), Piece("new", new))
    pieces: list[Piece] = []
    for step, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if step == "equal":
            pieces.append(Piece("same", "".join(before[a:b])))
            continue
        if a < b:
            pieces.append(Piece("old", "".join(before[a:b])))
        if c < d:
            pieces.append(Piece("new", "".join(after[c:d])))
    return tuple(pieces)


def _words(value: str) -> list[str]:
    return findall(r"\w+|\s+|[^\w\s]", value)


def gist(data: Mapping[str, Any], most: int = 2) -> str:
    """Return the changes of an event in a few words: ``status open → paid, +2``."""
    found = changes(data)
    if found:
        said = [
            f"{c.field} {cut(c.old, 24)} → {cut(c.new, 24)}" if c.known else f"{c.field} → {cut(c.new, 24)}"
            for c in found[:most]
        ]
        return ", ".join(said) + (f", +{len(found) - most}" if len(found) > most else "")
    args = data.get("args")
    if isinstance(args, Mapping):
        return ", ".join(_said(args, GIST))
    return ""


def _said(args: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    for name in names:
        value = args.get(name)
        if value is True:
            yield name
        elif value not in (None, False, "", [], {}):
            yield cut(text(value), 40) if name in ("action", "exception") else f"{name} {cut(text(value), 40)}"
