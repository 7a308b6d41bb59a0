"""Format the traceback of an attempt as it is stored: redacted and limited."""

from __future__ import annotations

from traceback import format_tb
from typing import Final

from signalbox.core.text import sanitize_text
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

MAX_TRACEBACK_CHARS: Final = 8_000
"""Maximum length of a stored traceback."""

MAX_CHAINED_EXCEPTIONS: Final = 5
"""Maximum number of exceptions of a chain in a stored traceback."""


def format_traceback(error: BaseException) -> str:
    """Return the redacted traceback of ``error`` and its causes, the first cause first, truncated at the start."""
    redactor = get_redactor()
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None and len(parts) < MAX_CHAINED_EXCEPTIONS:
        frames = "".join(format_tb(current.__traceback__))
        parts.insert(0, redactor.redact_text(frames) + encoder.format_exception(current, redactor=redactor))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    text = sanitize_text("\n\n".join(parts))
    return text if len(text) <= MAX_TRACEBACK_CHARS else "…" + text[-MAX_TRACEBACK_CHARS:]
