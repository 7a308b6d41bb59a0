"""Secrets in paths and query strings."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus

from signalbox.serialization.redaction.percent_encoding import percent_decode
from signalbox.serialization.redaction.placeholder import REDACTED
from signalbox.serialization.redaction.redactor import DEFAULT_REDACTOR, Redactor, redact_text


def redact_query(query: str, redactor: Redactor = DEFAULT_REDACTOR) -> str:
    """Replace the secret values of a query string without its `?`; names and order stay, as do the other values."""
    oauth = "state=" in query
    return re.sub(r"[^&;]++", lambda pair: _redact_query_pair(pair[0], redactor, oauth), query)


def redact_path(path: str, redactor: Redactor = DEFAULT_REDACTOR) -> str:
    """Take secrets out of an address's path with its query and fragment, where it has them."""
    path, mark, fragment = path.partition("#")
    path, question, query = path.partition("?")
    return (
        redact_text(path, redactor) + question + redact_query(query, redactor) + mark + redact_query(fragment, redactor)
    )


def _redact_query_pair(pair: str, redactor: Redactor, oauth: bool) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return redact_text(pair, redactor)
    names, plain = percent_decode(unquote_plus(name)), percent_decode(unquote_plus(value))
    if names is not None and redact_text(names, redactor) != names:
        name = REDACTED
    if names is None or plain is None or redactor.is_secret(names) or (oauth and names == "code"):
        return f"{name}={REDACTED}"
    return f"{name}={value if redact_text(plain, redactor) == plain else REDACTED}"
