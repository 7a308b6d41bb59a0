"""How values are written for people: durations, names, JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from re import findall
from typing import Any, Final, NamedTuple

from signalbox.serialization import encoder

LONG_TEXT_LENGTH: Final = 60
"""Characters from which a text is shown as one inline diff, and cut in summaries."""

SUMMARY_ARGUMENTS: Final = (
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

MAX_DIFF_PARTS: Final = 300
"""Words, or lines, of two texts that are compared, once what they begin and end with alike is put aside: of the same
few words over and over, the comparison takes time by the cube of their number."""

MAX_TEXT_DIFFS: Final = 10
"""Fields of one event whose texts are compared."""


def format_duration(microseconds: int | None) -> str:
    """Return a duration as a person would say it, with three significant digits: ``12.3 ms``."""
    if microseconds is None:
        return "\u2013"
    if microseconds < 1_000:
        return f"{microseconds} µs"
    if microseconds < 1_000_000:
        return f"{_format_three_digits(microseconds / 1_000)} ms"
    seconds = microseconds / 1_000_000
    if seconds < 60:
        return f"{_format_three_digits(seconds)} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {seconds:02} s"


def _format_three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def format_value(value: Any) -> str:
    """Return a stored value as one line or as its own text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def format_json(value: Any) -> str:
    """Return a stored value as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def truncate(value: str, width: int = LONG_TEXT_LENGTH) -> str:
    """Return ``value`` in at most ``width`` characters, on one line."""
    line = " ".join(value.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


class DiffPart(NamedTuple):
    """A part of a diff: ``same``, ``old`` or ``new``."""

    kind: str
    text: str


class FieldDiff(NamedTuple):
    """One changed field, ready to be shown."""

    field: str
    has_old: bool
    """Whether the old value is known."""
    old: str
    new: str
    parts: tuple[DiffPart, ...]
    """An inline diff, where both are long texts."""


def get_field_diffs(data: Mapping[str, Any]) -> list[FieldDiff]:
    """Return the changes that an event's data tells of; long texts as inline diffs."""
    found, compared = [], 0
    for field, has_old, old, new in _iter_changes(data):
        parts: tuple[DiffPart, ...] = ()
        if (
            isinstance(old, str)
            and isinstance(new, str)
            and max(len(old), len(new)) >= LONG_TEXT_LENGTH
            and compared < MAX_TEXT_DIFFS
        ):
            parts = diff_text(old, new)
            compared += 1
        found.append(FieldDiff(field, has_old, format_value(old) if has_old else "", format_value(new), parts))
    return found


def _iter_changes(data: Mapping[str, Any]) -> Iterator[tuple[str, bool, Any, Any]]:
    """Yield each changed field, whether its old value is known, the old and the new one."""
    for field, pair in (data.get("changes") or {}).items():
        if isinstance(pair, list) and pair:
            old = encoder.unwrap_literal(pair[0]) if len(pair) > 1 else None
            yield field, len(pair) > 1, old, encoder.unwrap_literal(pair[-1])


def get_changed_fields(data: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that an event changed."""
    return frozenset(data.get("changes") or ())


def diff_text(old: str, new: str) -> tuple[DiffPart, ...]:
    """Return two texts as one sequence of same, old and new pieces: word by word, else line by line, else whole."""
    before, after = _split_words(old), _split_words(new)
    head = _common_prefix_length(before, after)
    tail = _common_prefix_length(before[head:][::-1], after[head:][::-1])
    left_before, left_after = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(left_before) + len(left_after) > MAX_DIFF_PARTS:
        left_before, left_after = _to_lines(left_before), _to_lines(left_after)
    if len(left_before) + len(left_after) > MAX_DIFF_PARTS:
        left_before, left_after = ["".join(left_before)], ["".join(left_after)]
    parts = [("same", "".join(before[:head])), *_diff_parts(left_before, left_after)]
    parts.append(("same", "".join(before[len(before) - tail :])))
    return tuple(DiffPart(kind, text) for kind, text in parts if text)


def _common_prefix_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return with how many items both begin."""
    return next(
        (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
        min(len(first), len(second)),
    )


def _diff_parts(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    for step, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if step == "equal":
            yield "same", "".join(before[a:b])
        else:
            yield "old", "".join(before[a:b])
            yield "new", "".join(after[c:d])


def _split_words(value: str) -> list[str]:
    return findall(r"\w+|\s+|[^\w\s]", value)


def _to_lines(words: Iterable[str]) -> list[str]:
    return "".join(words).splitlines(keepends=True)


def summarize_event(data: Mapping[str, Any], limit: int = 2) -> str:
    """Return the changes of an event in a few words: ``status open → paid, +2``."""
    found = list(_iter_changes(data))
    if found:
        texts = [
            f"{field} {truncate(format_value(old), 24)} → {truncate(format_value(new), 24)}"
            if has_old
            else f"{field} → {truncate(format_value(new), 24)}"
            for field, has_old, old, new in found[:limit]
        ]
        return ", ".join(texts) + (f", +{len(found) - limit}" if len(found) > limit else "")
    args = data.get("args")
    if isinstance(args, Mapping):
        return ", ".join(_summarize_arguments(args, SUMMARY_ARGUMENTS))
    return ""


def _summarize_arguments(args: Mapping[str, Any], names: Iterable[str]) -> Iterable[str]:
    for name in names:
        value = args.get(name)
        if value is True:
            yield name
        elif value not in (None, False, "", [], {}):
            yield (
                truncate(format_value(value), 40)
                if name in ("action", "exception")
                else f"{name} {truncate(format_value(value), 40)}"
            )
