"""The filter of the timeline: parsed from a query string, formatted as one, and applied to events."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self
from urllib.parse import urlencode

from django.db.models import Q, QuerySet

from signalbox.models import Event
from signalbox.queries.filter_language import TEXT_NAME, Token, cut, parse_tokens, resolve_name
from signalbox.queries.filters import EventFilter, FilterError, build_option_tokens

TEXT_PARAM: Final = "q"
"""The parameter with the text of the filter."""

SYSTEM_PARAM: Final = "system"
"""The parameter that shows traces of the system: ``1``."""

OLD_PARAMS: Final = (
    "text",
    "group",
    "signal",
    "sender",
    "object",
    "actor",
    "outcome",
    "kind",
    "status",
    "since",
    "until",
)
"""Parameters of addresses from before there was a text. They are translated."""

MAX_OLD_VALUE_LENGTH: Final = 200


class FilterChip(NamedTuple):
    """One token of the filter, as the page shows it."""

    name: str
    """The token up to its value, as ``-signal:``; empty for a text."""
    value: str
    query_string: str
    """The query string without this token."""


def clean_param(value: str) -> str:
    """Return a value of the query string that every database accepts: PostgreSQL rejects NUL in text."""
    return value.replace("\0", "")[:MAX_OLD_VALUE_LENGTH]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimelineFilter:
    """The filter of a query string."""

    text: str = ""
    """The text of the filter, unchanged."""
    event_filter: EventFilter = field(default_factory=EventFilter)
    """The text as a filter of events; empty if it is not valid."""
    show_system: bool = False
    """Whether the unfiltered timeline also shows traces of the system."""
    error: str = ""
    """Why the text is not valid; empty if it is."""

    @classmethod
    def parse(cls, params: Mapping[str, str]) -> Self:
        """Return the query for ``params``. If the text is not valid, ``error`` has the message."""
        text = " ".join([params.get(TEXT_PARAM, "").strip(), translate_old_params(params)]).strip()
        found = cls(text=text, show_system=params.get(SYSTEM_PARAM) == "1")
        try:
            return dataclasses.replace(found, event_filter=EventFilter.parse_text(text))
        except FilterError as error:
            return dataclasses.replace(found, error=str(error))

    def without_time(self) -> Self:
        """Return the query without its range of time."""
        return self._without("since", "until")

    def has_token(self, token: Token) -> bool:
        """Return whether the filter has a token with the same name and values."""
        return not self.error and any(_is_same(token, one) for one in parse_tokens(self.text))

    def toggle(self, token: Token) -> Self:
        """Return the query without ``token`` if it has it, otherwise with it instead of others with its name."""
        rest = self._without(token.name)
        return rest if self.has_token(token) else rest._with_text(f"{rest.text} {token}".strip())

    def _without(self, *names: str) -> Self:
        """Return the query without the tokens of ``names`` that are not negated."""
        if self.error:
            return self
        text = self.text
        for token in reversed(parse_tokens(self.text)):
            if not token.is_negated and resolve_name(token.name) in names:
                text = cut(text, token)
        return self._with_text(text)

    def _with_text(self, text: str) -> Self:
        return type(self).parse({**self.params, TEXT_PARAM: text})

    def __bool__(self) -> bool:
        return bool(self.event_filter)

    @property
    def is_quiet(self) -> bool:
        """Whether traces of the system are left out. A filter searches all traces."""
        return not self.show_system and not self.event_filter

    @property
    def params(self) -> dict[str, str]:
        """The parameters of this query, by name."""
        found = {TEXT_PARAM: self.text, SYSTEM_PARAM: "1" if self.show_system else ""}
        return {name: value for name, value in found.items() if value}

    @property
    def query_string(self) -> str:
        """The query string for this filter."""
        return urlencode(self.params)

    def list_chips(self) -> list[FilterChip]:
        """Return the tokens of a valid filter, each with the query string without it."""
        if self.error:
            return []
        return [self._build_chip(token) for token in parse_tokens(self.text)]

    def _build_chip(self, token: Token) -> FilterChip:
        sign = "-" if token.is_negated else ""
        without = dataclasses.replace(self, text=cut(self.text, token)).query_string
        return FilterChip(f"{sign}{token.name}{token.operator}", ", ".join(token.values), without)

    def to_q(self) -> Q:
        """Return the condition on an event's row."""
        return self.event_filter.to_q()

    def select(self, events: QuerySet[Event]) -> QuerySet[Event]:
        """Return those of ``events`` that the timeline shows, the newest first."""
        if self.is_quiet:  # a range, for the reason that ``select_newest()`` has
            return events.filter(is_system__lte=False).order_by("-is_system", "-id")
        return self.event_filter.select_newest(events)

    def apply(self, queryset: QuerySet[Event]) -> QuerySet[Event]:
        """Return the events of ``queryset`` that match. With a time, small queries first find the range of ids."""
        return self.event_filter.apply(queryset)


def _is_same(token: Token, other: Token) -> bool:
    return (
        other.name != TEXT_NAME
        and resolve_name(other.name) == token.name
        and other.values == token.values
        and other.is_negated == token.is_negated
    )


def has_old_params(params: Mapping[str, str]) -> bool:
    """Return whether a query string has parameters that are now tokens."""
    return any(params.get(name) for name in OLD_PARAMS)


def translate_old_params(params: Mapping[str, str]) -> str:
    """Return the text that means the same as parameters that are now tokens."""
    old = {name: value for name in OLD_PARAMS if (value := clean_param(params.get(name, "")).strip())}
    if old.get("outcome") == "errors":
        del old["outcome"]
        old["error"] = "*"
    tokens = [_rename(token) for token in build_option_tokens(old)]
    if "error" in old:
        tokens.append(Token("error", ":", ("*",)))
    return " ".join(map(str, tokens))


def _rename(token: Token) -> Token:
    return token if token.name == TEXT_NAME else dataclasses.replace(token, name=resolve_name(token.name))
