"""The text of a filter: ``receiver:send_invoice took>50ms``, split into tokens and written as text again.

This module knows the syntax. ``filter_values`` parses the values, and ``filters`` applies them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final, NamedTuple

MAX_TEXT_LENGTH: Final = 1000
"""Maximum number of characters of a filter's text."""

MAX_TOKENS: Final = 50
"""Maximum number of tokens of a filter's text."""

MAX_VALUES: Final = 100
"""Maximum number of values of a filter. SQLite limits the depth of a condition, and each value takes time."""


class FilterError(ValueError):
    """A filter is not valid.

    Args:
        field: The name of the token, or the attribute of the filter; empty for an error of the syntax.
        value: The value that is not valid.
        expected: What was expected, and the remedy.
        position: Number of the token's first character in the text, from 1; None if the value is not from a text.
    """

    def __init__(self, field: str, value: object, expected: str, *, position: int | None = None) -> None:
        self.field = field
        """Name of the token, or of the filter's attribute."""
        self.value = value
        self.expected = expected
        self.position = position
        """Number of the token's first character, from 1."""
        place = "" if position is None else f"At character {position}: "
        what = f"{field} is {value!r};" if field else f"{value}."
        super().__init__(f"{place}{what} {expected}")

    def at(self, position: int) -> FilterError:
        """Return this error with the position of its token."""
        return FilterError(self.field, self.value, self.expected, position=position)


class TokenName(NamedTuple):
    """A name that a token can begin with."""

    attribute: str
    """Attribute of ``EventFilter``."""
    example: str
    """A token with this name."""
    description: str
    """What it selects."""
    has_globs: bool = False
    """Whether ``*`` in a value matches any characters."""
    operators: tuple[str, ...] = (":",)
    """Operators between the name and the value."""


ORDER_OPERATORS: Final = (">", ">=", "<", "<=")

TOKEN_NAMES: Final[Mapping[str, TokenName]] = MappingProxyType(
    {
        "signal": TokenName("signal", "signal:post_save", "name of the signal or bulk operation", has_globs=True),
        "group": TokenName("group", "group:model", "group of the signal"),
        "model": TokenName("sender", "model:shop.Order", "model of the sender, or an app's label", has_globs=True),
        "object": TokenName("object", "object:shop.Order:17", "one object; with model: only its key"),
        "receiver": TokenName("receiver", "receiver:send_invoice", "receiver that was called", has_globs=True),
        "error": TokenName("error", "error:TimeoutError", "part of an exception; * for any exception"),
        "fingerprint": TokenName("fingerprint", "fingerprint:1f3870be274f6c49", "group of errors of the trace"),
        "outcome": TokenName("outcome", "outcome:rolled_back", "outcome of the event"),
        "took": TokenName("comparisons", "took>50ms", "duration of the send", operators=ORDER_OPERATORS),
        "actor": TokenName("actor", "actor:ann", "name of the actor, or the primary key of a user", has_globs=True),
        "path": TokenName("path", "path:/orders/*", "path of the request", has_globs=True),
        "status": TokenName("status", "status:5xx", "status of the trace", operators=(":", *ORDER_OPERATORS)),
        "kind": TokenName("kind", "kind:request", "kind of the trace"),
        "trace": TokenName("trace", "trace:4bf92f35", "id of the trace, or its first 8 digits or more"),
        "database": TokenName("database", "database:default", "alias of the database"),
        "since": TokenName("since", "since:2h", "first moment: how long ago, a day, or a moment"),
        "until": TokenName("until", "until:2026-03-01", "end: how long ago, a day, or a moment"),
    }
)
"""The names of tokens, in the order in which a filter is written as text."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType({"sender": "model", "after": "since", "before": "until"})
"""Other names for tokens."""

LINE_ENDS: Final[Mapping[str, str]] = MappingProxyType({"n": "\n", "r": "\r"})
"""What a letter after a backslash means in quotes. The field of a page removes line ends."""

TEXT_NAME: Final = ""
"""The name of a token that is only a text to search for."""

_START: Final = re.compile(r"(?P<name>[^\W\d][\w.]*)(?P<operator>>=|<=|:|>|<|=)")
_UNENCODABLE: Final = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Token:
    """One part of a filter's text."""

    name: str
    """As written, in lower case; empty for a text to search for."""
    operator: str
    values: tuple[str, ...]
    """The values between commas, without quotes."""
    is_negated: bool = False
    start: int = 0
    """Index of its first character in the text."""
    end: int = 0
    """Index after its last character."""

    def __str__(self) -> str:
        values = ",".join(quote(value) for value in self.values) if self.name else quote(self.values[0], is_text=True)
        return f"{'-' * self.is_negated}{self.name}{self.operator}{values}"


def quote(value: str, *, is_text: bool = False) -> str:
    """Return ``value`` as it is written in a token, in quotes if necessary.

    With ``is_text`` it is a token of its own, which must not look like one with a name.
    """
    is_plain = value and not any(character.isspace() or character in '",' for character in value)
    if is_plain and not (is_text and (value.startswith("-") or _START.match(value))):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    for letter, line_end in LINE_ENDS.items():
        escaped = escaped.replace(line_end, f"\\{letter}")
    return f'"{escaped}"'


def resolve_name(name: str) -> str:
    """Return the name in ``TOKEN_NAMES`` for a name or an alias."""
    return ALIASES.get(name, name)


def parse_tokens(text: str, names: Mapping[str, TokenName] = TOKEN_NAMES) -> list[Token]:
    """Return the tokens of ``text``, which begin with ``names``.

    Raises ``FilterError`` with the position of the first error.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise FilterError("", f"The filter has {len(text)} characters", f"At most {MAX_TEXT_LENGTH} are accepted.")
    bad = _UNENCODABLE.search(text)
    if bad is not None:
        what = f"The filter contains the character {bad[0]!r}"
        raise FilterError("", what, "Databases do not accept it. Remove it.", position=bad.start() + 1)
    tokens = list(_iter_tokens(text, names))
    if len(tokens) > MAX_TOKENS:
        raise FilterError("", f"The filter has {len(tokens)} tokens", f"At most {MAX_TOKENS} are accepted.")
    return tokens


def _iter_tokens(text: str, names: Mapping[str, TokenName]) -> Iterator[Token]:
    position = 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position == len(text):
            return
        start = position
        is_negated = text[start] == "-" and start + 1 < len(text) and not text[start + 1].isspace()
        position += is_negated
        match = _START.match(text, position)
        if match is None:
            values, position = _read_values(text, position, is_list=False)
            token = Token(TEXT_NAME, "", tuple(values), is_negated, start, position)
        else:
            name, operator = match["name"].lower(), match["operator"]
            values, position = _read_values(text, match.end(), is_list=operator == ":")
            token = Token(name, operator, tuple(values), is_negated, start, position)
            _check_name(token, match["name"], names)
        if not token.values:
            example = names[resolve_name(token.name)].example if token.name else "post_save"
            what = f"{text[start:position]!r} has no value"
            raise FilterError("", what, f"Write it as {example}.", position=start + 1)
        yield token


def _read_values(text: str, position: int, *, is_list: bool) -> tuple[list[str], int]:
    """Return the values that begin at ``position``, without empty ones, and the index after them."""
    values = [""]
    opened: int | None = None
    while position < len(text):
        character = text[position]
        if opened is not None and character == "\\" and position + 1 < len(text):
            position += 1
            values[-1] += LINE_ENDS.get(text[position], text[position])
        elif character == '"':
            opened = position if opened is None else None
        elif opened is None and character.isspace():
            break
        elif opened is None and is_list and character == ",":
            values.append("")
        else:
            values[-1] += character
        position += 1
    if opened is not None:
        raise FilterError("", "The quote has no end", 'Add a " at the end of the value.', position=opened + 1)
    return [value for value in values if value], position


def _check_name(token: Token, written: str, names: Mapping[str, TokenName]) -> None:
    """Raise ``FilterError`` unless the token's name and operator are known."""
    known = names.get(resolve_name(token.name))
    if known is None:
        suggestion = _suggest_name(token, written, names)
        raise FilterError("", f"{written!r} is not a token", suggestion, position=token.start + 1)
    if token.operator not in known.operators:
        what = f"{token.name!r} does not accept {token.operator!r}"
        raise FilterError("", what, f"Write it as {known.example}.", position=token.start + 1)


def _suggest_name(token: Token, written: str, names: Mapping[str, TokenName]) -> str:
    accepted = [*names, *(alias for alias, name in ALIASES.items() if name in names)]
    close = get_close_matches(token.name, accepted, n=1)
    if close:
        operator = names[resolve_name(close[0])].operators[0]
        suggestion = f" Did you mean {close[0]}{operator}?"
    elif written.count(".") == 1 and token.values:
        suggestion = f" Did you mean object:{written}:{token.values[0]}?"
    else:
        suggestion = ""
    return f"Use one of {', '.join(accepted)}, or quotes for a text.{suggestion}"


def is_token(text: str) -> bool:
    """Return whether a word of a command line is part of a filter: a text, or a name and an operator after a minus."""
    return not text.startswith("-") or _START.match(text, 1) is not None


def cut(text: str, token: Token) -> str:
    """Return ``text`` without ``token``, which was parsed from it."""
    return " ".join([text[: token.start].rstrip(), text[token.end :].lstrip()]).strip()


def describe_tokens() -> str:
    """Return the tokens with their meaning as text, one on a line, for the help of a command."""
    return "\n".join(f"  {known.example:<24}{known.description}" for known in TOKEN_NAMES.values())
