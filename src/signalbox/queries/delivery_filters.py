"""Filters of deliveries: the language of ``filter_language`` with names of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from django.db.models import Q

from signalbox.models import to_microseconds, utc_now
from signalbox.outbox import manual_changes
from signalbox.queries.filter_conditions import ANY, names_q, object_q, sender_q, trace_id_prefix_q, values_q
from signalbox.queries.filter_language import (
    MAX_VALUES,
    TEXT_NAME,
    FilterError,
    Token,
    TokenName,
    cut,
    parse_tokens,
    resolve_name,
)
from signalbox.queries.filter_values import parse_choice
from signalbox.queries.filters import read_value
from signalbox.queries.sql_conditions import Contains

STATE: Final = "state"

DELIVERY_TOKEN_NAMES: Final[Mapping[str, TokenName]] = MappingProxyType(
    {
        STATE: TokenName(STATE, "state:dead", "state of the delivery"),
        "receiver": TokenName("receiver", "receiver:send_invoice", "receiver to run", has_globs=True),
        "error": TokenName("error", "error:TimeoutError", "part of its last exception; * for any exception"),
        "signal": TokenName("signal", "signal:post_save", "signal of its event", has_globs=True),
        "model": TokenName("sender", "model:shop.Order", "model of its event, or an app's label", has_globs=True),
        "object": TokenName("object", "object:shop.Order:17", "object of its event; with model: only its key"),
        "key": TokenName("key", "key:customer-7", "ordering key", has_globs=True),
        "queue": TokenName("queue", "queue:mail", "name of the queue", has_globs=True),
        "trace": TokenName("trace", "trace:4bf92f35", "id of the trace of its event, or its first 8 digits or more"),
        "database": TokenName("database", "database:default", "alias of the database of its event"),
        "since": TokenName("since", "since:2h", "created from then on: how long ago, a day, or a moment"),
        "until": TokenName("until", "until:2026-03-01", "created before: how long ago, a day, or a moment"),
    }
)
"""The names of tokens."""

TEXT_COLUMNS: Final = ("receiver", "signal", "sender", "object_key", "ordering_key", "error")
"""Columns that are searched for a text without a name."""


class DeliveryChip(NamedTuple):
    """One token of a filter, as the page shows it."""

    name: str
    """The token up to its value, as ``-receiver:``; empty for a text."""
    value: str
    rest: str
    """The text of the filter without this token."""


class _Condition(NamedTuple):
    """What a token means."""

    name: str
    values: tuple[Any, ...]
    is_negated: bool


@dataclass(frozen=True, slots=True)
class DeliveryTokens:
    """The text of a filter of deliveries, and what it means."""

    text: str = ""
    error: str = ""
    """Why the text is not valid; empty if it is."""
    _tokens: tuple[Token, ...] = ()
    _conditions: tuple[_Condition, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the filter of ``text``. If the text is not valid, ``error`` has the message."""
        text = text.strip()
        try:
            tokens = parse_tokens(text, DELIVERY_TOKEN_NAMES)
            return cls(text, "", tuple(tokens), tuple(_read_tokens(tokens)))
        except FilterError as error:
            return cls(text, str(error))

    @property
    def state(self) -> str:
        """The state that all deliveries have; empty if the filter has none, or several."""
        states = [value for one in self._conditions if one.name == STATE and not one.is_negated for value in one.values]
        return states[0] if len(states) == 1 else ""

    @property
    def has_states(self) -> bool:
        """Whether a token is about the state."""
        return any(one.name == STATE for one in self._conditions)

    @property
    def has_others(self) -> bool:
        """Whether a token is about something else than the state."""
        return any(one.name != STATE for one in self._conditions)

    def with_state(self, state: str) -> str:
        """Return the text with this state instead of others; without a state if it is empty."""
        text = self.text
        for token in reversed(self._tokens):
            if token.name == STATE:
                text = cut(text, token)
        return f"{text} {Token(STATE, ':', (state,))}".strip() if state else text

    def without_states(self) -> DeliveryTokens:
        """Return the filter without conditions on the state."""
        return dataclasses.replace(self, _conditions=tuple(one for one in self._conditions if one.name != STATE))

    def list_chips(self) -> list[DeliveryChip]:
        """Return the tokens, each with the text without it."""
        return [
            DeliveryChip(
                f"{'-' * token.is_negated}{token.name}{token.operator}", ", ".join(token.values), cut(self.text, token)
            )
            for token in self._tokens
        ]

    def to_q(self, alias: str) -> Q:
        """Return the condition on a delivery in the database ``alias``."""
        found = Q()
        wanted: dict[str, tuple[Any, ...]] = {}
        for name, values, is_negated in self._conditions:
            if is_negated:
                for value in values:
                    found &= ~_build_q(name, (value,), alias)
            elif name == TEXT_NAME:
                found &= _build_q(name, values, alias)
            else:
                wanted[name] = wanted.get(name, ()) + values
        for name, values in wanted.items():
            found &= _build_q(name, values, alias)
        return found


def _read_tokens(tokens: list[Token]) -> list[_Condition]:
    """Return what the tokens mean. Raises ``FilterError`` with the position of the first that is not valid."""
    number = sum(len(token.values) for token in tokens)
    if number > MAX_VALUES:
        raise FilterError("", f"The filter has {number} values", f"At most {MAX_VALUES} are accepted.")
    now = utc_now()
    has_model = any(resolve_name(token.name) == "model" and not token.is_negated for token in tokens)
    found: list[_Condition] = []
    for token in tokens:
        name = resolve_name(token.name)
        if name == TEXT_NAME:
            found.append(_Condition(name, token.values, token.is_negated))
            continue
        attribute = DELIVERY_TOKEN_NAMES[name].attribute
        if attribute in ("since", "until") and (
            token.is_negated or len(token.values) > 1 or any(one.name == name for one in found)
        ):
            expected = "it can't be negated." if token.is_negated else "one time was expected."
            raise FilterError(token.name, ", ".join(token.values), expected, position=token.start + 1)
        try:
            values = tuple(
                parse_choice(token.name, value, manual_changes.STATES)
                if attribute == STATE
                else read_value(token.name, attribute, value, now, has_model)
                for value in token.values
            )
        except FilterError as error:
            raise error.at(token.start + 1) from error
        found.append(_Condition(name, values, token.is_negated))
    return found


def _build_q(name: str, values: tuple[Any, ...], alias: str) -> Q:
    """Return the condition of a token with any of ``values``."""
    if name == STATE:
        return _any_of(manual_changes.build_state_q(alias, state) for state in values)
    return _CONDITIONS[name](values)


def _any_of(conditions: Iterable[Q]) -> Q:
    found = Q()
    for condition in conditions:
        found |= condition
    return found


def _error_q(texts: tuple[str, ...]) -> Q:
    return ~Q(error="") if ANY in texts else _any_of(Q(Contains("error", text)) for text in texts)


def _text_q(texts: tuple[str, ...]) -> Q:
    return _any_of(Q(Contains(column, text)) for text in texts for column in TEXT_COLUMNS)


_CONDITIONS: Final[Mapping[str, Callable[[tuple[Any, ...]], Q]]] = {
    "receiver": lambda names: names_q("receiver", [glob for name in names for glob in (name, f"*.{name}")]),
    "error": _error_q,
    "signal": lambda names: names_q("signal", names),
    "model": sender_q,
    "object": object_q,
    "key": lambda keys: names_q("ordering_key", keys),
    "queue": lambda names: names_q("queue", names),
    "trace": trace_id_prefix_q,
    "database": lambda aliases: values_q("database", aliases),
    "since": lambda times: Q(created__gte=to_microseconds(times[0])),
    "until": lambda times: Q(created__lt=to_microseconds(times[0])),
    TEXT_NAME: _text_q,
}
