"""Compares what was observed with and without Signalbox, but for what is declared to differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

_RETURNING = re.compile(r" RETURNING (?:\"[^\"]+\"(?:\.\"[^\"]+\")?(?:, )?)+(?=$| /\*)")
_BULK = re.compile(
    r"(?:SELECT set_config\(.*\); )?"  # django-pghistory's
    r"(?:EXPLAIN (?:QUERY PLAN )?)?"  # django-silk's
    r"(?:UPDATE |DELETE FROM |INSERT OR IGNORE INTO |INSERT INTO .* ON CONFLICT DO NOTHING )",
    re.DOTALL,
)
_EXCERPT = re.compile(r"^(?P<head>.*)\nLINE \d+: (?P<line>.*)\n(?P<caret> *)\^", re.DOTALL)


def without_returning(found: Any) -> Any:
    """Return ``found`` without RETURNING at the end of bulk updates, bulk deletes and inserts that ignore conflicts:
    that they have it with Signalbox is declared."""
    match found:
        case str():
            return _RETURNING.sub("", found) if _BULK.match(found) else found
        case list():
            return [without_returning(item) for item in found]
        case dict():
            return {key: without_returning(value) for key, value in found.items()}
    return found


_BEGIN = "BEGIN IMMEDIATE"
_SILK_QUERIES = re.compile(r"INSERT INTO \"silk_sqlquery\" \([^)]*\)")
_SILK_TIMES = ('UPDATE "silk_request" SET ', 'INSERT INTO "silk_profile" ')
_SILK_DURATION = re.compile(r"(?<= )\d+\.\d+(?:e[+-]\d+)?(?=,)")


def without_begin(found: Any) -> Any:
    """Return ``found`` without the BEGIN of a write in autocommit.

    That packages which instrument the driver or Django's cursor see it is declared. The sites' own transactions begin
    with ``BEGIN``, so this one is never theirs. One that is not followed by another statement is kept.
    """
    match found:
        case list():
            return [
                without_begin(item)
                for item, after in zip(found, [*found[1:], None], strict=False)
                if not (_is_begin(item) and after is not None and not _is_begin(after))
            ]
        case dict():
            return {key: without_begin(value) for key, value in found.items()}
    return found


def _is_begin(item: Any) -> bool:
    return isinstance(item, list) and _BEGIN in item


def without_measurements(found: Any) -> Any:
    """Return statements without what django-silk measures while it runs: durations, stacks of calls, query plans.

    Stacks contain recording's own calls, and a plan contains RETURNING. The statements that silk stores are compared as
    what it has recorded.
    """
    match found:
        case str() if found.startswith(_SILK_TIMES):
            return _SILK_DURATION.sub("<duration>", found)
        case str() if part := _SILK_QUERIES.match(found):
            return part[0]
        case [str(sql), list(parameters), bool(many)] if sql.startswith(_SILK_TIMES):
            return [sql, ["<duration>" if isinstance(value, float) else value for value in parameters], many]
        case [str(sql), list(), bool()] if part := _SILK_QUERIES.match(sql):
            return [part[0]]
        case list():
            return [without_measurements(item) for item in found]
        case dict():
            return {key: without_measurements(value) for key, value in found.items()}
    return found


_KEYS = re.compile(r" IN \((\d+(?:, \d+)+)\)")
_PLACEHOLDERS = re.compile(r" IN \((%s(?:, %s)+)\)")


def with_sorted_keys(found: Any) -> Any:
    """Return ``found`` with the keys of each ``IN`` in order.

    A cascade selects rows by the keys of unordered rows, and PostgreSQL's own order of rows is not fixed.
    """
    match found:
        case str():
            return _KEYS.sub(lambda part: f" IN ({', '.join(sorted(part[1].split(', '), key=int))})", found)
        case list():
            has_keys = any(isinstance(item, str) and _has_only_keys(item) for item in found)
            return [_sort_keys(item) if has_keys else with_sorted_keys(item) for item in found]
        case dict():
            return {key: with_sorted_keys(value) for key, value in found.items()}
    return found


def _has_only_keys(sql: str) -> bool:
    """Return whether all parameters of ``sql`` are the keys of one ``IN``."""
    part = _PLACEHOLDERS.search(sql)
    return part is not None and part[1].count("%s") == sql.count("%s")


def _sort_keys(item: Any) -> Any:
    match item:
        case list() if all(isinstance(value, int) for value in item):
            return sorted(item)
        case dict():
            return {key: _sort_keys(value) for key, value in item.items()}
    return with_sorted_keys(item)


def without_repetition(statements: list[Any]) -> list[Any]:
    """Return ``statements`` without each that is the same as the one before it."""
    return [item for item, before in zip(statements, [None, *statements], strict=False) if item != before]


def alike(without: str, with_it: str) -> bool:
    """Return whether two of PostgreSQL's messages differ only in how much of the statement they quote: RETURNING at
    its end, which is declared, moves the part that is quoted."""
    one, other = _EXCERPT.match(without), _EXCERPT.match(with_it)
    if one is None or other is None or one["head"] != other["head"] or (";" in one["line"]) != (";" in other["line"]):
        return False
    return _around_caret(one) == _around_caret(other)


def _around_caret(found: re.Match[str]) -> str:
    place = len(found["caret"]) - len("LINE 1: ")
    return found["line"][max(place - 8, 0) : place + 8]


def differences(place: str, without: Any, with_it: Any) -> Iterator[str]:
    """Yield each difference between two records as lines of text: where it is, and what was and is found there."""
    if without == with_it or (isinstance(without, str) and isinstance(with_it, str) and alike(without, with_it)):
        return
    if isinstance(without, dict) and isinstance(with_it, dict):
        for key in [*without, *(key for key in with_it if key not in without)]:
            if key not in with_it or key not in without:
                which = "without" if key in without else "with"
                yield f"{place}, {key}: only {which} Signalbox: {shown((without | with_it)[key])}"
            else:
                yield from differences(f"{place}, {key}", without[key], with_it[key])
        return
    if isinstance(without, list) and isinstance(with_it, list):
        yield from _of_lists(place, without, with_it)
        return
    yield f"{place}:\n    without {shown(without)}\n    with    {shown(with_it)}"


def _of_lists(place: str, without: list[Any], with_it: list[Any]) -> Iterator[str]:
    before, after = ([json.dumps(item, sort_keys=True) for item in items] for items in (without, with_it))
    for tag, start, end, other_start, other_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        lines = [f"    without {shown(item)}" for item in without[start:end]]
        lines += [f"    with    {shown(item)}" for item in with_it[other_start:other_end]]
        yield "\n".join([f"{place}, from {start}:", *lines])


def shown(value: Any) -> str:
    """Return ``value`` as a text of bounded length."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 600 else f"{text[:600]}... ({len(text)} characters)"
