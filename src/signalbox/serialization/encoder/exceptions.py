"""Formats exceptions without secrets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from signalbox.core import interrupts, query_guard
from signalbox.core.text import sanitize_text, to_exact_str
from signalbox.serialization.encoder.introspection import get_class_var, qualname
from signalbox.serialization.encoder.limits import MAX_ERROR, REDACTION_MARGIN, TOO_LONG
from signalbox.serialization.encoder.protocol import RedactorProtocol


def format_exception(error: BaseException, *, redactor: RedactorProtocol | None = None) -> str:
    """Return `ValueError: text`, without secrets and of at most 500 characters. Raise nothing.

    Queries within its ``__str__`` are blocked. Without a redactor the text can't be redacted, so only the name of the
    class is returned.
    """
    name = sanitize_text(qualname(type(error)).rpartition("<locals>.")[2][:100])
    if redactor is None:
        return name
    max_length = MAX_ERROR - len(name) - 2
    try:
        read = str if _runs_no_code(error) else partial(query_guard.call_without_queries, str, connection=None)
        text = to_exact_str(read(error))
    # Boundary: `__str__` is foreign code; the result says that it failed.
    except (Exception, SystemExit, GeneratorExit) as error:  # noqa: BLE001
        interrupts.raise_if_interrupt(error)
        text = "(its text cannot be read)"
    is_truncated = len(text) > max_length
    text = redactor.redact_text(sanitize_text(text[: max_length + REDACTION_MARGIN]))
    if is_truncated or len(text) > max_length:
        text = text[: max_length - len(TOO_LONG)] + TOO_LONG
    return f"{name}: {text}" if text else name


_PLAIN_TYPES: Final = frozenset({str, int, float, bool, bytes, type(None)})
_PLAIN_METHODS: Final = (BaseException.__dict__["__str__"], KeyError.__dict__["__str__"])
"""They only read ``args``."""
_get_args: Final[Callable[[BaseException], tuple[Any, ...]]] = BaseException.__dict__["args"].__get__


def _runs_no_code(error: BaseException) -> bool:
    """Return True if ``str(error)`` calls no method in Python, so that it needs no guard. Most exceptions are so."""
    is_builtin = any(get_class_var(type(error), "__str__") is one for one in _PLAIN_METHODS)
    return is_builtin and _PLAIN_TYPES.issuperset(map(type, _get_args(error)))
