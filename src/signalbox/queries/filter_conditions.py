"""Filters as conditions on the rows of events and traces."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from django.db.models import OuterRef, Q, QuerySet, Subquery, TextField, Value
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, StrIndex, Substr
from django.db.models.lookups import IsNull

from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.models import Error, Trace
from signalbox.queries.event_errors import ERRORS_ONLY
from signalbox.queries.filter_values import list_compared_codes, list_status_codes
from signalbox.queries.sql_conditions import CallCondition, CallExists, Contains, ExactMatch, GlobMatch

if TYPE_CHECKING:
    from signalbox.queries.filter_values import Comparison, ObjectReference
    from signalbox.queries.filters import EventFilter

TEXT_COLUMNS: Final = ("signal", "sender", "object_key", "object_label", "actor_label")
"""Columns of an event that are searched for a text, with its data."""

REQUEST_PATH: Final = Substr("name", StrIndex("name", Value(" ")) + 1)
"""The path in the name of a request's trace, which begins with the method. A path may contain spaces too."""

ANY: Final = "*"
"""The value of ``error`` that matches each exception."""

OPERATOR_LOOKUPS: Final = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


Build = Callable[["EventFilter"], Q]
Conditions = Mapping[tuple[str, ...], Build]
"""Builds conditions, by the attributes of the filter that each of them reads."""


def build_event_q(event_filter: EventFilter) -> Q:
    """Return the condition on an event's row, without times."""
    return _combine(event_filter, EVENT_CONDITIONS)


def build_trace_q(event_filter: EventFilter) -> Q:
    """Return the condition on a trace's row, without times and without conditions on its events."""
    return _combine(event_filter, TRACE_CONDITIONS)


def build_events_of_trace_q(event_filter: EventFilter) -> Q:
    """Return the condition on one of a trace's events: all that is not about the trace itself."""
    about_traces = {name for attributes in TRACE_CONDITIONS for name in attributes}
    own = {key: build for key, build in EVENT_CONDITIONS.items() if about_traces.isdisjoint(key)}
    return _combine(event_filter, own)


def _combine(event_filter: EventFilter, conditions: Conditions) -> Q:
    found = Q()
    for attributes, build in conditions.items():
        found &= build(event_filter)
        # Each excluded value excludes events, so each has a condition of its own.
        for one in event_filter.excluded.split(attributes) if event_filter.excluded is not None else ():
            found &= ~build(one)
    return found


def trace_id_prefix_q(prefixes: Iterable[str]) -> Q:
    """Return the condition on rows whose trace id begins with one of ``prefixes``."""
    condition = Q()
    for start in prefixes:
        # Not LIKE: PostgreSQL uses no index for it, except with the C locale.
        between = (start.ljust(32, "0"), start.ljust(32, "f"))
        condition |= Q(trace_id=start) if len(start) == 32 else Q(trace_id__range=between)
    return condition


def values_q(column: str, values: Iterable[str]) -> Q:
    """Return the condition on a column with exactly one of ``values``; an empty one without values."""
    options = list(values)
    return Q(ExactMatch(column, options)) if options else Q()


def names_q(column: str, names: Iterable[str]) -> Q:
    """Return the condition on a column with names, in which ``*`` matches any characters."""
    options = list(names)
    condition = values_q(column, [name for name in options if "*" not in name])
    for name in options:
        if "*" in name:
            condition |= Q(GlobMatch(column, name))
    return condition


def _group_q(groups: Iterable[str]) -> Q:
    options = list(groups)
    if not options:
        return Q()
    condition = values_q("signal", [name for name, entry in BUILTIN_SIGNALS.items() if entry.group in options])
    return condition | ~values_q("signal", BUILTIN_SIGNALS) if "custom" in options else condition


def sender_q(senders: Iterable[str]) -> Q:
    """Return the condition on a sender, or on the app of one."""
    options = list(senders)
    condition = names_q("sender", [sender for sender in options if "." in sender or "*" in sender])
    for app in options:
        if "." not in app and "*" not in app:
            condition |= values_q("sender", [app]) | Q(GlobMatch("sender", f"{app}.*"))
    return condition


def object_q(objects: Iterable[ObjectReference]) -> Q:
    """Return the condition on one of some objects."""
    condition = Q()
    for sender, key in objects:
        condition |= values_q("sender", [sender] if sender else []) & values_q("object_key", [key])
    return condition


def _actor_q(names: Iterable[str]) -> Q:
    options = list(names)
    return names_q("actor_key", options) | names_q("actor_label", options)


def _receiver_q(event_filter: EventFilter) -> Q:
    """Return the condition on one call. With a receiver, the error and the duration are those of its call."""
    if not event_filter.receiver:
        return Q()
    durations = tuple((one.operator, one.number) for one in event_filter.get_comparisons("took"))
    return Q(CallExists("data", CallCondition(event_filter.receiver, event_filter.error, durations)))


def _error_q(event_filter: EventFilter) -> Q:
    if event_filter.receiver or not event_filter.error:
        return Q()
    if ANY in event_filter.error:
        return ERRORS_ONLY
    condition = Q(CallExists("data", CallCondition(errors=event_filter.error)))
    for text in event_filter.error:
        # A missing value is null in SQL, and its negation would be null too.
        condition |= Q(data__args__exception__isnull=False) & Q(Contains(KT("data__args__exception"), text))
    return condition


def _fingerprint_q(fingerprints: Iterable[str]) -> Q:
    options = list(fingerprints)
    errors = Error.objects.filter(values_q("fingerprint", options))
    return Q(trace_id__in=errors.values("trace_id")) if options else Q()


def _took_q(event_filter: EventFilter) -> Q:
    condition = Q()
    for one in () if event_filter.receiver else event_filter.get_comparisons("took"):
        condition &= Q(**{f"duration__{OPERATOR_LOOKUPS[one.operator]}": one.number})
    return condition


def _status_q(statuses: Iterable[str], comparisons: Iterable[Comparison]) -> Q:
    condition = values_q("status", [code for status in statuses for code in list_status_codes(status)])
    for one in comparisons:
        condition &= Q(status__in=list_compared_codes(one))
    return condition


def _path_q(paths: Iterable[str]) -> Q:
    """Return the condition on the name of a request's trace: the method, the path and perhaps a query string."""
    condition = Q()
    for path in paths:
        condition |= Q(GlobMatch(REQUEST_PATH, path)) | Q(GlobMatch(REQUEST_PATH, f"{path}?*"))
    return values_q("kind", ["request"]) & condition if condition else condition


def _text_of_event_q(texts: Iterable[str]) -> Q:
    condition = Q()
    for text in texts:
        anywhere = _data_contains_q(text)
        for column in TEXT_COLUMNS:
            anywhere |= Q(Contains(column, text))
        condition &= anywhere
    return condition


def _text_of_trace_q(texts: Iterable[str]) -> Q:
    condition = Q()
    for text in texts:
        condition &= Q(Contains("name", text)) | Q(Contains("actor_label", text)) | _data_contains_q(text)
    return condition


def _data_contains_q(text: str) -> Q:
    """Return the condition on the JSON text of the data, in which quotes, backslashes and line ends are escaped."""
    return Q(Contains(Cast("data", TextField()), json.dumps(text, ensure_ascii=False)[1:-1]))


def _trace_row_q(event_filter: EventFilter) -> Q:
    status = _status_q(event_filter.status, event_filter.get_comparisons("status"))
    return values_q("kind", event_filter.kind) & status & _path_q(event_filter.path)


def _of_trace(condition: Q) -> Q:
    return has_trace_q(Trace.objects.filter(condition)) if condition else Q()


def has_trace_q(traces: QuerySet[Trace]) -> Q:
    """Return the condition on an event whose trace is in ``traces``.

    Not EXISTS: PostgreSQL may turn it into a join that reads the whole table of traces. This is one index scan for
    each event.
    """
    first = traces.filter(trace_id=OuterRef("trace_id")).order_by().values("id")[:1]
    return Q(IsNull(Subquery(first), False))


TRACE_CONDITIONS: Final[Conditions] = {
    ("kind", "status", "path"): _trace_row_q,
    ("actor",): lambda given: _actor_q(given.actor),
    ("trace",): lambda given: trace_id_prefix_q(given.trace),
    ("fingerprint",): lambda given: _fingerprint_q(given.fingerprint),
    ("text",): lambda given: _text_of_trace_q(given.text),
}
"""Conditions on a trace's row."""

EVENT_CONDITIONS: Final[Conditions] = {
    ("signal",): lambda given: names_q("signal", given.signal),
    ("outcome",): lambda given: values_q("outcome", given.outcome),
    ("database",): lambda given: values_q("database", given.database),
    ("group",): lambda given: _group_q(given.group),
    ("sender",): lambda given: sender_q(given.sender),
    ("object",): lambda given: object_q(given.object),
    ("actor",): lambda given: _actor_q(given.actor),
    ("trace",): lambda given: trace_id_prefix_q(given.trace),
    ("fingerprint",): lambda given: _fingerprint_q(given.fingerprint),
    ("comparisons",): _took_q,
    # One condition, as a trace may have several rows.
    ("kind", "status", "path"): lambda given: _of_trace(_trace_row_q(given)),
    ("receiver",): _receiver_q,
    ("error",): _error_q,
    ("text",): lambda given: _text_of_event_q(given.text),
}
"""Conditions on an event's row, those that read its data last."""
