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
DUPLICATE_ENTRY = re.compile(r"(Duplicate entry ')([^\n]{0,1000}?)(?=' for key '([^'\n]{1,200})')")
# Messages of PostgreSQL `LINE 1: SELECT 'abc'`, `DETAIL:  Token "abc" is invalid.`,
# `invalid input syntax for type integer: "abc"`, of MySQL `Incorrect integer value: 'abc'`, `syntax to use near 'abc'`.
_STATEMENT_EXCERPT = re.compile(r"^(LINE \d{1,6}: |CONTEXT:  JSON data, line \d{1,6}: )[^\n]++", re.MULTILINE)
_DETAIL = re.compile(r"^DETAIL:[^\n]++", re.MULTILINE)
_QUOTED = re.compile(r"(?<!table )(?<!column )(?<!relation )(?<!constraint )\"[^\"\n]*+\"?")
INVALID_INPUT = re.compile(
    r"((?<![A-Za-z])(?:[Ii]nvalid (?:input|hexadecimal|byte|symbol) [^\"'\n:]{0,80}+: "
    r"|[Ii]ncorrect [A-Za-z]{1,20} value: |to use near ))([\"'])(?:(?!\2).)*+(\2?)",
    re.DOTALL,
)


def redact_excerpts(text: str, redactor: Names) -> str:
    """Take out the parts of a statement that PostgreSQL repeats on further lines of a message."""
    return _STATEMENT_EXCERPT.sub(rf"\1{REDACTED}", text) if "\n" in text else text


def redact_details(text: str, redactor: Names) -> str:
    """Take out the texts that PostgreSQL quotes in the details of a message, on further lines."""
    return _DETAIL.sub(lambda detail: _QUOTED.sub(f'"{REDACTED}"', detail[0]), text) if "\n" in text else text


def redact_database_error(match: re.Match[str], names: str, redactor: Names) -> str:
    """Return the match, without its value if a column in ``names`` is secret."""
    return match[0] if not redactor.is_secret(names) else match[1] + REDACTED
