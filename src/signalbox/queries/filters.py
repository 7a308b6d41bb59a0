"""Which events are wanted: a value, read from options or a query string and put into a queryset."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_args

from django.apps import apps
from django.db.models import Exists, OuterRef, Q, QuerySet, TextField
from django.db.models.functions import Cast
from django.db.models.lookups import IContains
from django.utils import timezone

from signalbox.core.catalog import BUILTIN_SIGNALS, Group
from signalbox.core.event import Outcome
from signalbox.models import Event, Trace, to_microseconds, utc_now
from signalbox.queries import time_index

SIGNAL_GROUPS: Final[tuple[str, ...]] = get_args(Group)

TIME_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}

EXPECTED_TIME_FORMATS: Final = (
    'a time was expected: how long ago as "15m", "2h" or "3d", a day as 2026-03-01, or a moment as 2026-03-01T12:30.'
)


class FilterError(ValueError):
    """A value that chooses events can't be read."""

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(f"{field} is {value!r}; {expected}")
        self.field = field
        """Which part of the filter it was given for."""


class ObjectReference(NamedTuple):
    """An object as its events name it; written ``shop.Order:17``."""

    sender: str
    """The model, as ``shop.Order``."""
    key: str
    """The primary key as text."""

    def __str__(self) -> str:
        return f"{self.sender}:{self.key}"


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFilter:
    """Which events are wanted: those that meet every part; of a part with several values, any of them."""

    signal: tuple[str, ...] = ()
    """Names of signals, as ``post_save`` or ``shop.signals.order_paid``."""
    group: tuple[str, ...] = ()
    """Groups of the catalogue, as ``model``; ``custom`` for a project's own signals."""
    sender: tuple[str, ...] = ()
    """Senders, as ``shop.Order``; a name without a dot stands for the whole app: ``shop``."""
    actor: tuple[str, ...] = ()
    """Primary keys of users as text, or actors' names."""
    object: ObjectReference | None = None
    """The object that they are about."""
    trace: tuple[str, ...] = ()
    """Trace ids, or how they begin."""
    outcome: tuple[str, ...] = ()
    """Outcomes, as ``rolled_back``."""
    kind: tuple[str, ...] = ()
    """Kinds of traces, as ``request``; events of a trace that has not ended are of no kind yet."""
    database: tuple[str, ...] = ()
    """Aliases of the databases in which something changed."""
    text: str = ""
    """What a name, a label or the data contains, in upper or lower case."""
    since: dt.datetime | None = None
    """The first moment, aware."""
    until: dt.datetime | None = None
    """The moment after the last, aware."""

    @classmethod
    def parse(cls, params: Mapping[str, Any], *, now: dt.datetime | None = None) -> EventFilter:
        """Return the filter that command-line options or a query string ask for.

        ``params`` maps the names of this class's attributes to a text, a list of texts or ``None``; other keys are left
        alone, empty texts ask for nothing. Times are read in the current time zone, and back from ``now`` (aware).
        Raises ``FilterError`` for a value that can't be read.
        """
        several = {key: tuple(_to_strings(params.get(key))) for key in MULTI_VALUE_FIELDS}
        several["sender"] = tuple(map(_normalize_sender, several["sender"]))
        for key, allowed in (("outcome", tuple(Outcome)), ("group", SIGNAL_GROUPS)):
            for value in several[key]:
                if value not in allowed:
                    raise FilterError(key, value, f"one of {', '.join(allowed)} was expected.")
        for value in several["trace"]:
            if not re.fullmatch("[0-9a-f]{4,32}", value):
                raise FilterError("trace", value, "4 to 32 hexadecimal digits were expected.")
        now = now or utc_now()
        since, until = _get_single(params, "since"), _get_single(params, "until")
        return cls(
            **several,
            object=_parse_object(_get_single(params, "object")),
            text=_get_single(params, "text"),
            since=parse_time("since", since, now) if since else None,
            until=parse_time("until", until, now, end_of_day=True) if until else None,
        )

    def apply(self, queryset: QuerySet[Event]) -> QuerySet[Event]:
        """Return the events of ``queryset`` that are wanted.

        A time costs some small queries first, which find the ids between which its events must lie: see ``time_index``.
        """
        found = queryset.filter(self._to_q_without_time())
        if self.since is not None or self.until is not None:
            found = time_index.filter_by_time(found, self.since, self.until)
        return found

    def apply_to_traces(self, queryset: QuerySet[Trace]) -> QuerySet[Trace]:
        """Return the traces of ``queryset`` that are wanted, or in which a wanted event happened.

        A trace counts at the moment of its end, which is when its row is written.
        """
        found = queryset.filter(_values_q("kind", self.kind) & _actor_q(self.actor) & trace_id_prefix_q(self.trace))
        if self.text:
            named = Q(name__icontains=self.text) | Q(actor_label__icontains=self.text)
            found = found.filter(named | _data_contains_q(self.text))
        of_events = self._signal_q() & self._object_q()
        if of_events:
            events = Event.objects.using(queryset.db)
            found = found.filter(Exists(events.filter(of_events, trace_id=OuterRef("trace_id"))))
        if self.since is not None or self.until is not None:
            found = time_index.filter_by_time(found, self.since, self.until)
        return found

    def to_q(self) -> Q:
        """Return what an event's row must meet, ids left aside; an empty ``Q`` if every event is wanted."""
        condition = self._to_q_without_time()
        if self.since is not None:
            condition &= Q(time__gte=to_microseconds(self.since))
        if self.until is not None:
            condition &= Q(time__lt=to_microseconds(self.until))
        return condition

    def _to_q_without_time(self) -> Q:
        condition = self._signal_q() & self._object_q() & _actor_q(self.actor) & trace_id_prefix_q(self.trace)
        if self.kind:
            condition &= Q(Exists(Trace.objects.filter(trace_id=OuterRef("trace_id"), kind__in=self.kind)))
        if self.text:
            columns = ("signal", "sender", "object_key", "object_label", "actor_label")
            anywhere = _data_contains_q(self.text)
            for column in columns:
                anywhere |= Q(**{f"{column}__icontains": self.text})
            condition &= anywhere
        return condition

    def _signal_q(self) -> Q:
        condition = (
            _values_q("signal", self.signal) & _values_q("outcome", self.outcome) & _values_q("database", self.database)
        )
        if self.group:
            names = [name for name, entry in BUILTIN_SIGNALS.items() if entry.group in self.group]
            grouped = Q(signal__in=names)
            if "custom" in self.group:
                grouped |= ~Q(signal__in=list(BUILTIN_SIGNALS))
            condition &= grouped
        return condition

    def _object_q(self) -> Q:
        condition = _values_q("sender", [sender for sender in self.sender if "." in sender])
        for app in (sender for sender in self.sender if "." not in sender):
            condition |= Q(sender=app) | Q(sender__startswith=f"{app}.")
        if self.object is not None:
            condition &= Q(sender=self.object.sender, object_key=self.object.key)
        return condition


MULTI_VALUE_FIELDS: Final = ("signal", "group", "sender", "actor", "trace", "outcome", "kind", "database")
"""Parts of a filter that may have several values."""


def _data_contains_q(text: str) -> Q:
    return Q(IContains(Cast("data", TextField()), text))


def _values_q(column: str, values: Iterable[str]) -> Q:
    options = list(values)
    if not options:
        return Q()
    return Q(**{column: options[0]}) if len(options) == 1 else Q(**{f"{column}__in": options})


def _actor_q(names: Iterable[str]) -> Q:
    options = list(names)
    return Q(actor_key__in=options) | Q(actor_label__in=options) if options else Q()


def trace_id_prefix_q(prefixes: Iterable[str]) -> Q:
    """Return what rows of traces meet whose ids begin so, or are these."""
    condition = Q()
    for start in prefixes:
        # Not LIKE: outside of the C locale PostgreSQL has no use for an index there.
        between = (start.ljust(32, "0"), start.ljust(32, "f"))
        condition |= Q(trace_id=start) if len(start) == 32 else Q(trace_id__range=between)
    return condition


def _to_strings(value: object) -> list[str]:
    if value is None:
        return []
    values = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return [text for item in values if (text := str(item).strip())]


def _get_single(params: Mapping[str, object], key: str) -> str:
    values = _to_strings(params.get(key))
    if len(values) > 1:
        raise FilterError(key, ", ".join(values), "one value was expected.")
    return values[0] if values else ""


def _parse_object(text: str) -> ObjectReference | None:
    if not text:
        return None
    sender, colon, key = text.partition(":")
    if not (colon and "." in sender and key):
        raise FilterError("object", text, "a model and a primary key were expected, as shop.Order:17.")
    return ObjectReference(_normalize_sender(sender), key)


def _normalize_sender(sender: str) -> str:
    """Return a model's label as its events have it, in whatever case it was written; other names stay as they are."""
    try:
        return str(apps.get_model(sender)._meta.label) if sender.count(".") == 1 else sender
    except LookupError:
        return sender


def parse_time(field: str, text: str, now: dt.datetime, *, end_of_day: bool = False) -> dt.datetime:
    """Return the moment that ``text`` tells; of a whole day its first, or the first of the next with ``end_of_day``.

    Raises ``FilterError``, about ``field``, for a text that can't be read.
    """
    try:
        if ago := re.fullmatch(r"(\d+)([smhdw])", text):
            return now - dt.timedelta(**{TIME_UNITS[ago[2]]: int(ago[1])})
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            day = dt.datetime.fromisoformat(text)
            if end_of_day and day.date() == dt.date.max:  # there is no day after it
                return dt.datetime.max.replace(tzinfo=dt.UTC)
            return timezone.make_aware(day + dt.timedelta(days=end_of_day))
        timestamp = dt.datetime.fromisoformat(text)
        return timezone.make_aware(timestamp) if timezone.is_naive(timestamp) else timestamp
    except (ValueError, OverflowError) as error:
        raise FilterError(field, text, EXPECTED_TIME_FORMATS) from error
