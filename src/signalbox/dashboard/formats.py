"""How values are written for people: durations, names, JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from re import findall
from typing import Any, Final, NamedTuple

from signalbox.core import catalog
from signalbox.serialization import encoder

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

MOST_PARTS: Final = 300
"""Words, or lines, of two texts that are compared, once what they begin and end with alike is put aside: of the same
few words over and over, the comparison takes time by the cube of their number."""

MOST_TEXTS: Final = 10
"""Fields of one event whose texts are compared."""


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
    """Return the changes that an event's data tells of; long texts as inline diffs."""
    found, compared = [], 0
    for field, known, old, new in _pairs(data):
        pieces: tuple[Piece, ...] = ()
        if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) >= LONG and compared < MOST_TEXTS:
            pieces = inline(old, new)
            compared += 1
        found.append(Changed(field, known, text(old) if known else "", text(new), pieces))
    return found


def _pairs(data: Mapping[str, Any]) -> Iterator[tuple[str, bool, Any, Any]]:
    """Yield each changed field, whether its old value is known, the old and the new one."""
    for field, pair in (data.get("changes") or {}).items():
        if isinstance(pair, list) and pair:
            old = encoder.literal(pair[0]) if len(pair) > 1 else None
            yield field, len(pair) > 1, old, encoder.literal(pair[-1])


def touched(data: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that an event changed."""
    return frozenset(data.get("changes") or ())


def inline(old: str, new: str) -> tuple[Piece, ...]:
    """Return two texts as one sequence of same, old and new pieces: word by word, else line by line, else whole."""
    before, after = _words(old), _words(new)
    head = _alike(before, after)
    tail = _alike(before[head:][::-1], after[head:][::-1])
    left_before, left_after = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(left_before) + len(left_after) > MOST_PARTS:
        left_before, left_after = _lines(left_before), _lines(left_after)
    if len(left_before) + len(left_after) > MOST_PARTS:
        left_before, left_after = ["".join(left_before)], ["".join(left_after)]
    pieces = [("same", "".join(before[:head])), *_compared(left_before, left_after)]
    pieces.append(("same", "".join(before[len(before) - tail :])))
    return tuple(Piece(kind, said) for kind, said in pieces if said)


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """Return with how many items both begin."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _compared(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    for step, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if step == "equal":
            yield "same", "".join(before[a:b])
        else:
            yield "old", "".join(before[a:b])
            yield "new", "".join(after[c:d])


def _words(value: str) -> list[str]:
    return findall(r"\w+|\s+|[^\w\s]", value)


def _lines(words: Iterable[str]) -> list[str]:
    return "".join(words).splitlines(keepends=True)


def gist(data: Mapping[str, Any], most: int = 2) -> str:
    """Return the changes of an event in a few words: ``status open → paid, +2``."""
    found = list(_pairs(data))
    if found:
        said = [
            f"{field} {cut(text(old), 24)} → {cut(text(new), 24)}" if known else f"{field} → {cut(text(new), 24)}"
            for field, known, old, new in found[:most]
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
