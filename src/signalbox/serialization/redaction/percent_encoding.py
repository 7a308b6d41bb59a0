"""Secrets in percent-encoded text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from signalbox.serialization.redaction.placeholder import REDACTED

if TYPE_CHECKING:
    from signalbox.serialization.redaction.names import Names

UNQUOTED_RUN = re.compile(r"[^\s\"'<>]++")
_MAX_DECODE_PASSES: Final = 8


def percent_decode(text: str) -> str | None:
    """Decode the text until it is not percent-encoded. None after too many passes."""
    for _ in range(_MAX_DECODE_PASSES):
        if "%" not in text:
            return text
        decoded = unquote(text)
        if decoded == text:
            return text
        text = decoded
    return None


def redact_decoded(run: str, redactor: Names) -> str:
    """Return a word as it is, or decoded and redacted if only decoding shows its secrets."""
    plain = percent_decode(run) if "%" in run else run
    if plain == run:
        return run
    clean = REDACTED if plain is None else redactor.redact_text(plain)
    return run if clean == plain else clean
