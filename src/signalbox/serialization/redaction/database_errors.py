"""Values that databases repeat in their errors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from signalbox.serialization.redaction.placeholder import REDACTED

if TYPE_CHECKING:
    from signalbox.serialization.redaction.names import Names

# Messages of PostgreSQL `Key (token)=(abc) already exists.`, MySQL `Duplicate entry 'abc' for key 't.token'`.
FAILING_ROW = re.compile(r"(Failing row contains \().*", re.IGNORECASE | re.ASCII)
DETAIL_KEY = re.compile(
    r"(Key \(([^()\n]{1,200})\)=\()([^\n]{0,1000}?)(?=\)(?: (?:already|is|conflicts)\b|\.?$))", re.MULTILINE
)
# The `repr()` of such a message within another one has escaped quotation marks and line ends.
_ESCAPED = r"\\{0,31}'"
DUPLICATE_ENTRY = re.compile(
    rf"(Duplicate entry {_ESCAPED})([^\n]{{0,1000}}?)(?={_ESCAPED} for key {_ESCAPED}([^'\n\\]{{1,200}}){_ESCAPED})"
)
_LINE = r"(?:^|(?P<escaped>\\n))(?P<start>{start})(?P<rest>(?(escaped)(?:[^\n\\]|\\[^n])++|[^\n]++))"
# Messages of PostgreSQL `LINE 1: SELECT 'abc'`, `DETAIL:  Token "abc" is invalid.`,
# `invalid input syntax for type integer: "abc"`, of MySQL `Incorrect integer value: 'abc'`, `syntax to use near 'abc'`.
_STATEMENT_EXCERPT = re.compile(
    _LINE.replace("{start}", r"LINE \d{1,6}: |CONTEXT:  JSON data, line \d{1,6}: "), re.MULTILINE
)
_DETAIL = re.compile(_LINE.replace("{start}", "DETAIL:"), re.MULTILINE)
_QUOTED = re.compile(r"(?<!table )(?<!column )(?<!relation )(?<!constraint )\"[^\"\n]*+\"?")
INVALID_INPUT = re.compile(
    r"((?<![A-Za-z])(?:[Ii]nvalid (?:input|hexadecimal|byte|symbol) [^\"'\n:]{0,80}+: "
    r"|[Ii]ncorrect [A-Za-z]{1,20} value: |to use near ))([\"'])(?:(?!\2).)*+(\2?)",
    re.DOTALL,
)


def redact_excerpts(text: str, redactor: Names) -> str:
    """Take out the parts of a statement that PostgreSQL repeats on further lines of a message."""
    if not _has_lines(text):
        return text
    return _STATEMENT_EXCERPT.sub(lambda line: f"{line['escaped'] or ''}{line['start']}{REDACTED}", text)


def redact_details(text: str, redactor: Names) -> str:
    """Take out the texts that PostgreSQL quotes in the details of a message, on further lines."""
    return _DETAIL.sub(lambda line: _QUOTED.sub(f'"{REDACTED}"', line[0]), text) if _has_lines(text) else text


def _has_lines(text: str) -> bool:
    """Return whether the text, or one that it quotes, has several lines."""
    return "\n" in text or "\\n" in text


def redact_database_error(match: re.Match[str], names: str, redactor: Names) -> str:
    """Return the match, without its value if a column in ``names`` is secret."""
    return match[0] if not redactor.is_secret(names) else match[1] + REDACTED
