"""Formatting of values for display: durations, diffs, summaries and JSON. Does not query the database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from re import findall
from typing import Any, Final, NamedTuple

from signalbox.core import text as core_text
from signalbox.core.display_names import get_value_label
from signalbox.queries.local_time import describe_moment
from signalbox.serialization import encoder

LONG_TEXT_LENGTH: Final = 60
"""Length from which a text is shown as an inline diff, in characters."""

MAX_DIFF_PARTS: Final = 300
"""Maximum number of words, or lines, that are compared, without the common start and end of the texts.

The time of the comparison is cubic in that number if the same words are repeated.
"""

MAX_TEXT_DIFFS: Final = 10
"""Maximum number of fields of one event that are shown as inline diffs."""


def format_duration(microseconds: int | None) -> str:
    """Return a duration in microseconds as text; a dash for ``None``."""
    return core_text.format_duration(microseconds, unknown="\u2013")


def format_value(value: Any) -> str:
    """Return a stored value as JSON in one line; a text unchanged."""
    if isinstance(value, str):
        return value
    if encoder.is_not_restorable(value):
        return encoder.describe_not_restorable(value)
    return json.dumps(value, ensure_ascii=False)


def format_json(value: Any) -> str:
    """Return a stored value as indented JSON."""
    return json.dumps(value, ensure_ascii=False, indent=2)


class DiffPart(NamedTuple):
    """A part of a diff: ``same``, ``old`` or ``new``."""

    kind: str
    text: str


class FieldDiff(NamedTuple):
    """One changed field, formatted for display."""

    field: str
    has_old: bool
    """Whether the old value is known."""
    old: str
    new: str
    parts: tuple[DiffPart, ...]
    """An inline diff of two long texts; else empty."""
    old_label: str = ""
    """Label of the old value, if it is a choice, a foreign key or a moment."""
    new_label: str = ""


def get_field_diffs(data: Mapping[str, Any]) -> list[FieldDiff]:
    """Return the changed fields in an event's data, with inline diffs of long texts."""
    found, compared, labels = [], 0, data.get("labels")
    for field, has_old, old, new in _iter_changes(data):
        parts = diff_long_texts(old, new) if compared < MAX_TEXT_DIFFS else ()
        compared += bool(parts)
        found.append(
            FieldDiff(
                field,
                has_old,
                format_value(old) if has_old else "",
                format_value(new),
                parts,
                get_label(labels, field, old) if has_old else "",
                get_label(labels, field, new),
            )
        )
    return found


def get_label(labels: Any, field: str, value: Any) -> str:
    """Return what is shown beside a field's value: its recorded label, or the local time of a moment; or nothing."""
    return get_value_label(labels, field, value) or describe_moment(value)


def diff_long_texts(old: Any, new: Any) -> tuple[DiffPart, ...]:
    """Return the inline diff of two texts; empty if both are short or one is not a text."""
    if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) >= LONG_TEXT_LENGTH:
        return diff_text(old, new)
    return ()


def _iter_changes(data: Mapping[str, Any]) -> Iterator[tuple[str, bool, Any, Any]]:
    """Yield the name of each changed field, True if its old value is known, the old and the new value."""
    for field, pair in (data.get("changes") or {}).items():
        if isinstance(pair, list) and pair:
            old = encoder.unwrap_literal(pair[0]) if len(pair) > 1 else None
            yield field, len(pair) > 1, old, encoder.unwrap_literal(pair[-1])


def get_changed_fields(data: Mapping[str, Any]) -> frozenset[str]:
    """Return the fields that an event changed."""
    return frozenset(data.get("changes") or ())


def diff_text(old: str, new: str) -> tuple[DiffPart, ...]:
    """Return the diff of two texts: by words, by lines if there are too many words, else as a whole."""
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
    """Return the number of equal items at the start of both sequences."""
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
