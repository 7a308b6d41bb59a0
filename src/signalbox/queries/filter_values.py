"""The values of a filter: objects, times, durations and status codes, read from text."""

from __future__ import annotations

import datetime as dt
import operator
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, NamedTuple

from django.apps import apps
from django.utils import timezone

from signalbox.queries.filter_language import FilterError

if TYPE_CHECKING:
    from collections.abc import Iterable

TIME_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

EXPECTED_TIME_FORMATS: Final = (
    'a time was expected: how long ago as "15m", "2h" or "3d", a day as 2026-03-01, or a moment as 2026-03-01T12:30.'
)

TRACE_ID_PREFIX: Final = re.compile("[0-9a-f]{8,32}")
"""A trace id or its beginning. Tables show eight digits."""

EXPECTED_TRACE_ID: Final = "8 to 32 hexadecimal digits"

DURATION_UNITS: Final = {"us": 1, "µs": 1, "μs": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000}
"""Units of a duration, in microseconds. Two characters look like µ."""

MAX_DURATION_US: Final = 10**15
"""Greatest duration that is accepted: 31 years."""

OPERATORS: Final = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


class ObjectReference(NamedTuple):
    """An object as its events name it; written ``shop.Order:17``."""

    sender: str
    """The model, as ``shop.Order``; empty if the filter names the model separately."""
    key: str
    """The primary key as text."""

    def __str__(self) -> str:
        return f"{self.sender}:{self.key}" if self.sender else self.key


class Comparison(NamedTuple):
    """A comparison with a number."""

    name: str
    """``took``, in microseconds, or ``status``."""
    operator: str
    """``>``, ``>=``, ``<`` or ``<=``."""
    number: int

    def __str__(self) -> str:
        return (
            f"{self.name}{self.operator}{format_duration(self.number) if self.name == 'took' else f'{self.number:03}'}"
        )


def matches_any(name: str, globs: Iterable[str]) -> bool:
    """Return whether ``name`` matches one of ``globs``, in which ``*`` matches any characters."""
    return any(re.fullmatch(".*".join(map(re.escape, glob.split("*"))), name, re.DOTALL) for glob in globs)


def parse_comparison(name: str, sign: str, text: str) -> Comparison:
    """Return the comparison of ``took`` with a duration or of ``status`` with a code."""
    if name == "took":
        return Comparison(name, sign, parse_duration(name, text))
    if not re.fullmatch("[0-9]{3}", text):
        raise FilterError(name, text, f"a code of three digits was expected, as {name}{sign}500.")
    return Comparison(name, sign, int(text))


def parse_duration(field: str, text: str) -> int:
    """Return the microseconds of a duration with a unit, such as ``50ms``."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(us|µs|μs|ms|s|m)", text)
    microseconds = round(float(match[1]) * DURATION_UNITS[match[2]]) if match else MAX_DURATION_US + 1
    if microseconds > MAX_DURATION_US:
        raise FilterError(field, text, "a duration with a unit was expected: 500us, 50ms, 1.5s or 2m.")
    return microseconds


def format_duration(microseconds: int) -> str:
    """Return a duration as a filter contains it, exactly."""
    for unit in ("m", "s", "ms"):
        if microseconds and microseconds % DURATION_UNITS[unit] == 0:
            return f"{microseconds // DURATION_UNITS[unit]}{unit}"
    return f"{microseconds}us"


def parse_status(text: str) -> str:
    """Return a status of traces: a code, ``5xx`` for all that begin with 5, or a word such as ``failed``."""
    if re.fullmatch("[0-9]xx", text, re.IGNORECASE):
        if text[0] not in "12345":
            raise FilterError("status", text, "one of 1xx, 2xx, 3xx, 4xx and 5xx was expected.")
        return text.lower()
    return text


def list_status_codes(text: str) -> list[str]:
    """Return the codes of a class such as ``5xx``; for other texts the text."""
    return [f"{text[0]}{number:02}" for number in range(100)] if re.fullmatch("[1-5]xx", text) else [text]


def list_compared_codes(comparison: Comparison) -> list[str]:
    """Return the codes of HTTP that meet ``comparison``."""
    compare = OPERATORS[comparison.operator]
    return [str(code) for code in range(100, 600) if compare(code, comparison.number)]


def parse_path(text: str) -> str:
    """Return a path of requests, with ``*`` for any characters."""
    if not text.startswith(("/", "*")):
        raise FilterError("path", text, "a path was expected, as /orders/17/ or /orders/*.")
    return text


def parse_choice(field: str, text: str, choices: Iterable[str]) -> str:
    """Return ``text`` if it is one of ``choices``; upper and lower case are equal."""
    names = tuple(map(str, choices))
    if text.lower() in names:
        return text.lower()
    close = get_close_matches(text.lower(), names, n=1)
    suggestion = f" Did you mean {close[0]!r}?" if close else ""
    raise FilterError(field, text, f"one of {', '.join(names)} was expected.{suggestion}")


def parse_trace_id(text: str) -> str:
    """Return a trace id or its beginning."""
    if not TRACE_ID_PREFIX.fullmatch(text := text.lower()):
        raise FilterError("trace", text, f"{EXPECTED_TRACE_ID} were expected.")
    return text


def parse_object(text: str, *, has_model: bool) -> ObjectReference:
    """Return an object. With ``has_model`` the filter names the model separately, and the text may be only a key."""
    sender, colon, key = text.partition(":")
    if colon and "." in sender and key:
        return ObjectReference(normalize_sender(sender), key)
    if has_model:
        return ObjectReference("", text)
    raise FilterError("object", text, "a model and a primary key were expected, as shop.Order:17.")


def normalize_sender(sender: str) -> str:
    """Return a model's label in the case that events contain, also for its name only; return other names unchanged."""
    if sender.count(".") == 1:
        try:
            return str(apps.get_model(sender)._meta.label)
        except LookupError:
            return sender
    if (
        "." in sender
        or "*" in sender
        or apps.is_installed(sender)
        or sender in {c.label for c in apps.get_app_configs()}
    ):
        return sender
    models = apps.get_models(include_auto_created=True)
    found = {model._meta.label for model in models if model.__name__.lower() == sender.lower()}
    return found.pop() if len(found) == 1 else sender


def parse_time(field: str, text: str, now: dt.datetime, *, end_of_day: bool = False) -> dt.datetime:
    """Return the time that ``text`` contains; of a day its start, or with ``end_of_day`` the start of the next day.

    Raises ``FilterError``, with the name ``field``, for a text that is not a time.
    """
    try:
        if ago := re.fullmatch(r"([0-9]+)([smhdw])", text):
            return now - dt.timedelta(**{TIME_UNITS[ago[2]]: int(ago[1])})
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            day = dt.datetime.fromisoformat(text)
            if end_of_day and day.date() == dt.date.max:  # the last day that Python has
                return dt.datetime.max.replace(tzinfo=dt.UTC)
            return timezone.make_aware(day + dt.timedelta(days=end_of_day))
        timestamp = dt.datetime.fromisoformat(text)
        return timezone.make_aware(timestamp) if timezone.is_naive(timestamp) else timestamp
    except (ValueError, OverflowError) as error:
        raise FilterError(field, text, EXPECTED_TIME_FORMATS) from error
