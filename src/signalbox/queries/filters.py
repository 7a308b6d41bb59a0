"""Filters of events: read from a text, command-line options or a query string, applied to rows and signals."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, get_args

from django.db.models import Exists, OuterRef, Q, QuerySet

from signalbox.core.catalog import Group
from signalbox.core.event import Outcome
from signalbox.models import Event, Trace, to_microseconds, utc_now
from signalbox.queries import filter_conditions, filter_values, time_index
from signalbox.queries.filter_language import (
    MAX_VALUES,
    TEXT_NAME,
    TOKEN_NAMES,
    FilterError,
    Token,
    parse_tokens,
    resolve_name,
)
from signalbox.queries.filter_values import Comparison, ObjectReference
from signalbox.queries.sql_conditions import ExactRange

__all__ = ["Comparison", "EventFilter", "FilterError", "ObjectReference"]

SIGNAL_GROUPS: Final[tuple[str, ...]] = get_args(Group)


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFilter:
    """Conditions that an event must meet: all attributes; of several values of an attribute, any.

    In ``signal``, ``sender``, ``actor``, ``receiver`` and ``path``, ``*`` matches any characters.
    """

    signal: tuple[str, ...] = ()
    """Names of signals, as ``post_save`` or ``shop.signals.order_paid``."""
    group: tuple[str, ...] = ()
    """Groups of the catalogue, as ``model``; ``custom`` for a project's own signals."""
    sender: tuple[str, ...] = ()
    """Senders, as ``shop.Order``; a name without a dot selects the whole app: ``shop``."""
    object: tuple[ObjectReference, ...] = ()
    """Objects of the events."""
    receiver: tuple[str, ...] = ()
    """Names of receivers that were called, or their last parts, as ``send_invoice``."""
    error: tuple[str, ...] = ()
    """Parts of exceptions, as ``TimeoutError``, or ``*``. With ``receiver``, exceptions of its calls."""
    fingerprint: tuple[str, ...] = ()
    """Fingerprints of errors. The whole traces with such an error match."""
    outcome: tuple[str, ...] = ()
    """Outcomes, as ``rolled_back``."""
    comparisons: tuple[Comparison, ...] = ()
    """Durations and status codes; all must be met. With ``receiver``, durations of its calls."""
    actor: tuple[str, ...] = ()
    """Primary keys of users as text, or actors' names."""
    path: tuple[str, ...] = ()
    """Paths of requests, as ``/orders/*``."""
    status: tuple[str, ...] = ()
    """Statuses of traces, as ``404``, ``5xx`` or ``failed``."""
    kind: tuple[str, ...] = ()
    """Kinds of traces, as ``request``. Events of a trace that has not ended have no kind yet."""
    trace: tuple[str, ...] = ()
    """Trace ids, or their first eight digits or more."""
    database: tuple[str, ...] = ()
    """Aliases of the databases in which something changed."""
    text: tuple[str, ...] = ()
    """Texts that a name, a label or the data contains; all must be found. Upper and lower case are equal."""
    since: dt.datetime | None = None
    """The first moment, aware."""
    until: dt.datetime | None = None
    """The moment after the last, aware."""
    excluded: EventFilter | None = None
    """An event must meet none of these conditions. It has neither times nor excluded conditions."""

    @classmethod
    def parse(cls, params: Mapping[str, Any], *, now: dt.datetime | None = None) -> EventFilter:
        """Return the filter for command-line options.

        ``params`` maps the names of this class's attributes to a text, a list of texts or ``None``, and ``filter`` to
        the text of a filter. Other keys and empty texts are ignored. Times are read in the current time zone, and
        relative to ``now`` (aware). Raises ``FilterError`` for a value that is not valid.
        """
        tokens = [token for text in _to_strings(params.get(FILTER_PARAM)) for token in parse_tokens(text)]
        return _build(tokens + build_option_tokens(params), now or utc_now())

    @classmethod
    def parse_text(cls, text: str, *, now: dt.datetime | None = None) -> EventFilter:
        """Return the filter for a text such as ``receiver:send_invoice took>50ms``.

        Raises ``FilterError`` with the position of the invalid part.
        """
        return _build(parse_tokens(text), now or utc_now())

    def to_text(self) -> str:
        """Return the text of this filter, which ``parse_text()`` reads."""
        return " ".join(map(str, [*_list_tokens(self), *_list_tokens(self.excluded, is_negated=True)]))

    def __bool__(self) -> bool:
        return self != EventFilter()

    @property
    def is_indexed(self) -> bool:
        """Whether one statement finds the newest matches by an index; otherwise ranges of ids are searched."""
        used = self.get_used_attributes() - {"since", "until"}
        if self.excluded is not None or len(used) > 1:
            return False
        if self.since is not None and used == {"signal"}:
            return False  # PostgreSQL may read all events of the time
        return not used or (used <= {"signal", "object"} and self._is_one_name(used.pop()))

    def get_used_attributes(self) -> set[str]:
        """Return the names of the attributes that have a value."""
        return {one.name for one in fields(self) if getattr(self, one.name) not in ((), None)}

    @property
    def reads_data(self) -> bool:
        """Whether the JSON data of each event must be read."""
        return self._uses("text", "receiver", "error")

    @property
    def reads_traces(self) -> bool:
        """Whether the trace of each event must be read."""
        return self._uses("kind", "path", "status") or any(
            one.get_comparisons("status") for one in (self, self.excluded or self)
        )

    def _uses(self, *attributes: str) -> bool:
        excluded = self.excluded.get_used_attributes() if self.excluded is not None else set()
        return not (self.get_used_attributes() | excluded).isdisjoint(attributes)

    def _is_one_name(self, attribute: str) -> bool:
        values = getattr(self, attribute)
        return len(values) == 1 and (bool(values[0].sender) if attribute == "object" else "*" not in values[0])

    def get_comparisons(self, name: str) -> tuple[Comparison, ...]:
        """Return the comparisons of ``took`` or ``status``."""
        return tuple(one for one in self.comparisons if one.name == name)

    def split(self, attributes: Iterable[str]) -> list[EventFilter]:
        """Return one filter for each value of ``attributes``, which has only that value."""
        names = set(attributes)
        values: list[dict[str, Any]] = [{name: (one,)} for name in sorted(names) for one in getattr(self, name)]
        found = [EventFilter(**value) for value in values]
        if "status" in names:
            found += [EventFilter(comparisons=(one,)) for one in self.get_comparisons("status")]
        return found if "comparisons" not in names else [one for one in found if one.get_comparisons("took")]

    def apply(self, queryset: QuerySet[Event]) -> QuerySet[Event]:
        """Return the events of ``queryset`` that match.

        With a time, some small queries first find the range of ids. See ``time_index``.
        """
        found = queryset.filter(filter_conditions.build_event_q(self))
        if self.since is not None or self.until is not None:
            found = time_index.filter_by_time(found, self.since, self.until)
        return found

    def apply_to_traces(self, queryset: QuerySet[Trace]) -> QuerySet[Trace]:
        """Return the traces of ``queryset`` that match, or that contain a matching event.

        The time of a trace is that of its end, when its row is written.
        """
        found = queryset.filter(filter_conditions.build_trace_q(self))
        of_events = filter_conditions.build_events_of_trace_q(self)
        if of_events:
            events = Event.objects.using(queryset.db)
            found = found.filter(Exists(events.filter(of_events, trace_id=OuterRef("trace_id"))))
        if self.since is not None or self.until is not None:
            found = time_index.filter_by_time(found, self.since, self.until)
        return found

    def to_q(self) -> Q:
        """Return the condition on an event's row, without ranges of ids; an empty ``Q`` if every event matches."""
        condition = filter_conditions.build_event_q(self)
        if self.since is not None:
            condition &= Q(time__gte=to_microseconds(self.since))
        if self.until is not None:
            condition &= Q(time__lt=to_microseconds(self.until))
        return condition

    def select_newest(self, events: QuerySet[Event]) -> QuerySet[Event]:
        """Return those of ``events`` that match, the newest first, in the order of an index if one finds them.

        With ``=`` and an order by the id only, PostgreSQL may read the primary key, with all newer events that do not
        match. With ranges and an order by all columns, it uses their index.
        """
        values = self._get_index_values()
        if not values:
            return events.filter(self.to_q()).order_by("-id")
        found = events.filter(*(ExactRange(column, value) for column, value in values.items()))
        if self.until is not None:
            found = found.filter(time__lt=to_microseconds(self.until))
        return found.order_by(*(f"-{column}" for column in values), "-id")

    def _get_index_values(self) -> dict[str, str]:
        """Return the columns of the index that finds the newest matches, with the values; empty if none does."""
        # A scan with ranges does not end at a least id, only one with "=" does.
        if not self.is_indexed or self.since is not None:
            return {}
        if self.object:
            return {"sender": self.object[0].sender, "object_key": self.object[0].key}
        return {"signal": self.signal[0]} if self.signal else {}

    def matches_signal(self, name: str, group: str) -> bool:
        """Return whether the attributes ``signal`` and ``group`` match a signal, which may not have been sent."""
        excluded = self.excluded or EventFilter()
        if filter_values.matches_any(name, excluded.signal) or group in excluded.group:
            return False
        return (not self.signal or filter_values.matches_any(name, self.signal)) and (
            not self.group or group in self.group
        )


FILTER_PARAM: Final = "filter"
"""The option with the text of a filter."""

MULTI_VALUE_FIELDS: Final = ("signal", "group", "sender", "actor", "trace", "outcome", "kind", "database", "status")
"""Options that may have several values."""

SINGLE_VALUE_FIELDS: Final = ("object", "text", "since", "until")
"""Options that have one value."""


def describe_params(params: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Return the values that ``EventFilter.parse()`` reads, as they were given."""
    several = {key: values for key in MULTI_VALUE_FIELDS if (values := _to_strings(params.get(key)))}
    single = {key: value for key in (FILTER_PARAM, *SINGLE_VALUE_FIELDS) if (value := _get_single(params, key))}
    return {**several, **single}


def build_option_tokens(params: Mapping[str, Any]) -> list[Token]:
    """Return the tokens that mean the same as the options or parameters of a filter, except its text."""
    several = [(name, tuple(_to_strings(params.get(name)))) for name in MULTI_VALUE_FIELDS]
    single = [(name, _get_single(params, name)) for name in SINGLE_VALUE_FIELDS]
    return [
        *(Token(name, ":", values) for name, values in several if values),
        *(Token("", "", (value,)) if name == "text" else Token(name, ":", (value,)) for name, value in single if value),
    ]


def _build(tokens: Iterable[Token], now: dt.datetime) -> EventFilter:
    """Return the filter that the tokens mean."""
    found = list(tokens)
    number = sum(len(token.values) for token in found)
    if number > MAX_VALUES:
        raise FilterError("", f"The filter has {number} values", f"At most {MAX_VALUES} are accepted.")
    has_model = any(resolve_name(token.name) == "model" and not token.is_negated for token in found)
    sides: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    for token in found:
        try:
            attribute, values = _read_token(token, now, has_model=has_model)
        except FilterError as error:
            if not token.end:  # an option
                raise
            raise error.at(token.start + 1) from error
        side = sides[token.is_negated]
        if attribute in ("since", "until"):
            if attribute in side or token.is_negated or len(values) > 1:
                raise _build_time_error(token)
            side[attribute] = values[0]
        else:
            known = side.setdefault(attribute, ())
            side[attribute] = known + tuple(value for value in dict.fromkeys(values) if value not in known)
    excluded = EventFilter(**sides[True]) if sides[True] else None
    return EventFilter(**sides[False], excluded=excluded)


def _build_time_error(token: Token) -> FilterError:
    expected = "it can't be negated." if token.is_negated else "one time was expected."
    return FilterError(token.name, ", ".join(token.values), expected, position=token.start + 1 if token.end else None)


def _read_token(token: Token, now: dt.datetime, *, has_model: bool) -> tuple[str, tuple[Any, ...]]:
    """Return the attribute of a filter that the token sets, and its values."""
    if token.name == TEXT_NAME:
        return "text", token.values
    name = resolve_name(token.name)
    attribute = TOKEN_NAMES[name].attribute
    if token.operator != ":":
        return "comparisons", (filter_values.parse_comparison(name, token.operator, token.values[0]),)
    return attribute, tuple(read_value(token.name, attribute, value, now, has_model) for value in token.values)


MAX_VALUE_LENGTH: Final = 200
"""Maximum number of characters of a value: that of the longest column."""

MAX_LONG_VALUE_LENGTH: Final = 500
"""Maximum number of characters of a value that is compared with the data: dotted names and exceptions can be long."""


def read_value(name: str, attribute: str, value: str, now: dt.datetime, has_model: bool) -> Any:
    """Return the value that a text means for an attribute of a filter.

    Args:
        name: The name of the token, for the error.
        attribute: The attribute.
        value: The text.
        now: What relative times refer to, aware.
        has_model: Whether the filter names a model, so that an object may be only a key.

    Raises:
        FilterError: The text is not valid.
    """
    limit = MAX_LONG_VALUE_LENGTH if attribute in ("receiver", "error") else MAX_VALUE_LENGTH
    if len(value) > limit:
        raise FilterError(name, f"{value[:30]}…", f"at most {limit} characters were expected.")
    match attribute:
        case "outcome":
            return filter_values.parse_choice(name, value, tuple(Outcome))
        case "group":
            return filter_values.parse_choice(name, value, SIGNAL_GROUPS)
        case "sender":
            return filter_values.normalize_sender(value)
        case "object":
            return filter_values.parse_object(value, has_model=has_model)
        case "trace":
            return filter_values.parse_trace_id(value)
        case "status":
            return filter_values.parse_status(value)
        case "path":
            return filter_values.parse_path(value)
        case "since" | "until":
            return filter_values.parse_time(name, value, now, end_of_day=attribute == "until")
    return value


def _list_tokens(event_filter: EventFilter | None, *, is_negated: bool = False) -> list[Token]:
    """Return the tokens that mean the same as a filter, without its excluded conditions."""
    if event_filter is None:
        return []
    tokens = []
    for name, known in TOKEN_NAMES.items():
        value = getattr(event_filter, known.attribute)
        if known.attribute == "comparisons":
            tokens += [
                Token("took", one.operator, (filter_values.format_duration(one.number),), is_negated)
                for one in event_filter.get_comparisons("took")
            ]
        elif known.attribute in ("since", "until"):
            tokens += [] if value is None else [Token(name, ":", (value.isoformat(),), is_negated)]
        elif value:
            tokens.append(Token(name, ":", tuple(map(str, value)), is_negated))
    for one in event_filter.get_comparisons("status"):
        tokens.append(Token("status", one.operator, (f"{one.number:03}",), is_negated))
    return tokens + [Token(TEXT_NAME, "", (text,), is_negated) for text in event_filter.text]


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
