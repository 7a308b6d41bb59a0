"""Removes secrets from Python source code, and shows the rest as it is written."""

from __future__ import annotations

import re
import tokenize
from ast import literal_eval
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import StringIO
from token import tok_name
from typing import Final

from signalbox.serialization.redaction import REDACTED, Redactor

_FORMAT_FIELD: Final = re.compile(r"%(?:\(\w*\))?[-+ #0]*\d*(?:\.\d+)?[sdrfxa]|\{[^{}]*\}")
"""A part of a literal that is formatted later: it is not a secret."""
_ASSIGNMENT: Final = re.compile(r"[\w.-]+ ?= ?\S+")
_STRING_PARTS: Final = re.compile(r"([a-zA-Z]*(\"\"\"|'''|\"|'))(.*)\2", re.DOTALL)
_DEFAULT_GETTERS: Final = frozenset({"get", "getenv", "pop", "setdefault", "setattr", "getattr", "env"})
"""Functions whose arguments are a name and its value."""
_IGNORED: Final = frozenset({"NL", "NEWLINE", "COMMENT", "INDENT", "DEDENT", "ENCODING"})
_MIN_DIGITS: Final = 4
"""Digits of a number that may be a secret, such as a PIN."""


@lru_cache(maxsize=32)
def redact_source(text: str, redactor: Redactor) -> str:
    """Return source code without its secrets. The number of lines is the same.

    A literal is secret if it is the value of a secret name (``password = "…"``, ``{"token": "…"}``) or contains a
    secret. In comments and in texts of several lines, assignments and credentials are. Code such as ``user.password``
    is not. Text that is not Python is redacted as any other.
    """
    try:
        tokens = list(tokenize.generate_tokens(StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return "\n".join(map(redactor.redact_text, text.split("\n")))
    lines = list(StringIO(text))
    for token, replacement in reversed(list(_find_replacements(tokens, redactor))):
        (first, start), (last, end) = token.start, token.end
        lines[first - 1 : last] = (lines[first - 1][:start] + replacement + lines[last - 1][end:]).splitlines(
            keepends=True
        )
    return "".join(lines)


def _find_replacements(
    tokens: Sequence[tokenize.TokenInfo], redactor: Redactor
) -> Iterator[tuple[tokenize.TokenInfo, str]]:
    previous: list[tokenize.TokenInfo] = []
    for token in tokens:
        kind = tok_name[token.type]
        clean = token.string
        if kind == "COMMENT":
            clean = _redact_prose(token.string, redactor)
        elif kind == "STRING":
            clean = _redact_string(token.string, _get_given_name(previous, token), redactor)
        elif kind in {"FSTRING_MIDDLE", "TSTRING_MIDDLE"} and "{" not in token.string and "}" not in token.string:
            clean = _redact_literal(token.string, redactor)
        elif kind == "NUMBER" and sum(map(str.isdigit, token.string)) >= _MIN_DIGITS:
            name = _get_given_name(previous, token)
            clean = REDACTED if name and redactor.is_secret(name) else token.string
        if clean != token.string:
            yield token, clean
        if kind not in _IGNORED:
            previous.append(token)


def _redact_string(literal: str, name: str, redactor: Redactor) -> str:
    """Return a string literal without secrets, given the name that it is the value of."""
    parts = _STRING_PARTS.fullmatch(literal)
    if parts is None:
        return literal
    head, quote, body = parts.groups()
    if name and body and redactor.is_secret(name) and _FORMAT_FIELD.sub("", body):
        return head + REDACTED + "\n" * body.count("\n") + quote
    clean = _redact_prose(body, redactor) if "\n" in body else _redact_literal(body, redactor)
    return head + clean + quote


def _redact_literal(body: str, redactor: Redactor) -> str:
    """Return the text of a literal without secrets. Parts that are formatted later are not secret."""
    without_fields = _FORMAT_FIELD.sub("", body)
    return body if redactor.redact_text(without_fields) == without_fields else redactor.redact_text(body)


def _redact_prose(text: str, redactor: Redactor) -> str:
    """Return a comment or a docstring without secrets, in which ``password: the user's`` is a sentence."""
    clean = _ASSIGNMENT.sub(lambda found: _redact_literal(found[0], redactor), redactor.redact_data(text))
    return clean + "\n" * (text.count("\n") - clean.count("\n"))


def _get_given_name(previous: Sequence[tokenize.TokenInfo], token: tokenize.TokenInfo) -> str:
    """Return the name of the literal that follows the tokens ``previous``; empty if it has none."""
    if len(previous) < 2:
        return ""
    *_, before, operator = previous
    if operator.string in {"=", "==", "!=", ":="}:
        if before.string == "]" and len(previous) > 2:
            before = previous[-3]
        elif len(previous) > 3 and previous[-3].string == ":" and tok_name[previous[-4].type] == "NAME":
            before = previous[-4]  # an annotation
        return _get_name(before)
    if operator.string == ":" and tok_name[before.type] == "STRING":
        return _get_name(before)
    if operator.string == "," and tok_name[before.type] == "STRING" and _is_name_argument(previous):
        return _get_name(before)
    return ""


def _is_name_argument(previous: Sequence[tokenize.TokenInfo]) -> bool:
    """Return whether the last string names the value after it, as in ``getenv("TOKEN", "…")``."""
    for token in reversed(previous[:-2][-8:]):
        if token.string == "(":
            index = next(i for i, found in enumerate(previous) if found is token)
            return index > 0 and previous[index - 1].string in _DEFAULT_GETTERS
    return False


def _get_name(token: tokenize.TokenInfo) -> str:
    """Return the text of a name or a string literal."""
    if tok_name[token.type] == "STRING":
        try:
            value = literal_eval(token.string)
        except (SyntaxError, ValueError):
            return ""
        return value if isinstance(value, str) else ""
    return token.string if tok_name[token.type] == "NAME" else ""
