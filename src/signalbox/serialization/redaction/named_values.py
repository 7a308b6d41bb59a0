"""Values after a secret name in a text: `password=…`, `"token": "…"`, `--password …`, pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from signalbox.serialization.redaction.names import NAME_KEYS, SECRET_PHRASES, VALUE_KEYS
from signalbox.serialization.redaction.placeholder import REDACTED

if TYPE_CHECKING:
    from signalbox.serialization.redaction.names import Names

# A name is read backwards from its separator, with the word before it: other words are not read.
_EQUALS = re.compile(r"={1,3}>?\s{0,8}")  # two patterns: one character is found much faster than one of two
_COLON = re.compile(r":[>=]?\s{0,8}")
# JSON within JSON has escaped quotation marks: one backslash, then three, seven, fifteen.
_ESCAPES: Final = r"\\{0,31}"
_REVERSED_NAME = re.compile(rf"!?\s{{0,8}}\]?\[?([\"']{_ESCAPES})?([\w.-]{{1,80}}+)(?: ([\w.-]{{1,40}}+))?")
# A pair, or an option in a list of arguments: `('password', 'abc')`, `['mysql', '--password', 'abc']`.
_QUOTED_PAIR = re.compile(
    rf"([\[(]\s{{0,8}}[bB]?)?({_ESCAPES}[\"'])(-{{0,2}}+)([\w.-]{{1,80}}+)\2,\s{{0,8}}(?:[bB](?=[\"']))?"
)
# `{"name": "DB_PASSWORD", "value": "abc"}`
_NAMED_VALUE = re.compile(
    rf"({_ESCAPES}[\"'])(?:{'|'.join(NAME_KEYS)})\1\s{{0,8}}:\s{{0,8}}({_ESCAPES}[\"'])([\w.-]{{1,80}}+)\2,"
    rf"\s{{0,8}}({_ESCAPES}[\"'])(?:{'|'.join(VALUE_KEYS)})\4\s{{0,8}}:\s{{0,8}}"
)
_CLI_OPTION = re.compile(r"--(?<!\S--)([\w-]{1,80}+)\s{1,8}(?!-)")
_VALUE = re.compile(
    # An escaped text ends at the mark with as many backslashes, or at one with fewer: the text around it ends there.
    r"(?P<escaped>(?P<escapes>\\{1,31})(?P<mark>[\"']))"
    r"(?:(?!(?P=mark))[^\\]|(?!(?P=escaped))(?=(?P=escapes))\\++.|(?!\\++(?P=mark))\\++)*+(?:(?P=escaped))?"
    r"|[bBrRuUfF]{0,2}(?P<quote>[\"'])(?:(?!(?P=quote))[^\\]|\\.)*+(?:(?P=quote))?"
    r"|[\[({][^\])}]*+[\])}]?"
    r"|(?:(?i:basic|bearer|digest|negotiate|token)\s{1,8})?"
    r"(?:[^\s&<>,;)}\]\"']|[,;)}\]\"'](?=[^\s&<>,;)}\]\"'])(?![\w.-]{1,80}=))++",
    re.DOTALL,
)
_BRACKET_OR_STRING = re.compile(
    r"\\.|[\[({]|[\])}]|(?<![a-zA-Z]{2})'(?:[^'\\]|\\.)*+'?|\"(?:[^\"\\]|\\.)*+\"?", re.DOTALL
)
_MAX_NAME_LENGTH: Final = 180
"""Characters before a separator in which a name is searched."""
_PHRASE_LAST_WORDS: Final = frozenset(phrase.rpartition(" ")[2] for phrase in SECRET_PHRASES)


def redact_named(text: str, redactor: Names) -> str:
    """Take out what follows a secret name and `=` or `:`."""
    return _redact_values(text, _separators(text), lambda match: _find_secret_name(text, match.start(), redactor))


def _separators(text: str) -> Iterator[re.Match[str]]:
    """Return the matches of both separators in the order of the text."""
    if "=" not in text:
        return _COLON.finditer(text)
    return iter(sorted([*_EQUALS.finditer(text), *_COLON.finditer(text)], key=re.Match.start))


def redact_json(text: str, redactor: Names) -> str:
    """Take out the values of secret names where the text itself is JSON."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    return _redact_values(
        text, _separators(text), lambda match: _find_secret_name(text, match.start(), redactor) or None
    )


def redact_pairs(text: str, redactor: Names) -> str:
    """Take out what is in quotation marks after a secret name in quotation marks."""
    text = _redact_values(
        text, _QUOTED_PAIR.finditer(text), lambda match: "" if _is_secret_pair(match, redactor) else None
    )
    return _redact_values(text, _NAMED_VALUE.finditer(text), lambda match: "" if redactor.is_secret(match[3]) else None)


def _is_secret_pair(match: re.Match[str], redactor: Names) -> bool:
    """Return whether this is the first of a pair, or an option, with a secret name."""
    return bool(match[1] or match[3]) and redactor.is_secret(match[4])


def redact_options(text: str, redactor: Names) -> str:
    """Take out the word after a secret option of a command line."""
    return _redact_values(text, _CLI_OPTION.finditer(text), lambda match: "" if redactor.is_secret(match[1]) else None)


def _redact_values(text: str, prefix: Iterable[re.Match[str]], get_quote: Callable[[re.Match[str]], str | None]) -> str:
    """Replace the value after each match of ``prefix``, unless ``get_quote`` returns None for the match.

    ``get_quote`` returns the quotation mark of the replacement, or an empty string for none.
    """
    pieces: list[str] = []
    done = 0
    for lead in prefix:
        if lead.start() < done or (quote := get_quote(lead)) is None:
            continue
        value = _VALUE.match(text, lead.end())
        if value is None:
            continue
        quote = value["escaped"] or value["quote"] or quote
        pieces += text[done : lead.end()], quote, REDACTED, quote
        done = _find_closing_bracket(text, value.start()) if text[value.start()] in "[({" else value.end()
    return "".join([*pieces, text[done:]]) if pieces else text


def _find_closing_bracket(text: str, start: int) -> int:
    """Return the index after the closing bracket, or the length of the text. Quoted brackets do not count."""
    depth = 0
    for found in _BRACKET_OR_STRING.finditer(text, start):
        depth += (found[0] in "[({") - (found[0] in "])}")
        if depth == 0:
            return found.end()
    return len(text)


def _find_secret_name(text: str, end: int, redactor: Names) -> str | None:
    """Return the quotation mark of the secret name that ends at ``end``: "" if it has none, None without a name."""
    match = _REVERSED_NAME.match(text[max(0, end - _MAX_NAME_LENGTH) : end][::-1])
    if match is None:
        return None
    name = match[2][::-1]
    if not redactor.is_secret(name):
        if match[3] is None or name.lower() not in _PHRASE_LAST_WORDS or match[1]:
            return None
        if not redactor.is_secret(f"{match[3][::-1]} {name}"):
            return None
    return (match[1] or "")[::-1]
