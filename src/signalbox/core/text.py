"""Text as every database stores it, and durations as text."""

from __future__ import annotations

import re
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

_HAS_ORJSON: Final = find_spec("orjson") is not None  # the extra "fast"
if TYPE_CHECKING or _HAS_ORJSON:
    pass

_SURROGATES = re.compile("[\ud800-\udfff]")


def sanitize_text(text: str) -> str:
    """Replace what PostgreSQL refuses in text and jsonb, NUL and lone surrogates, by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def fit_column(text: str, length: int) -> str:
    """Return ``text`` as every database accepts it in a column of ``length`` characters."""
    return sanitize_text(to_exact_str(text)[:length])


def digest(text: str, key: bytes) -> str:
    """Return "~" and 16 hex digits of the BLAKE2b digest of ``text`` with ``key``, which may have any length.

    It replaces a primary key that is a secret (a session's key, a token). With an empty key it is a checksum. Other
    texts can be compared with a checksum, so use that only for texts that are not secret.
    """
    if len(key) > blake2b.MAX_KEY_SIZE:
        key = blake2b(key).digest()
    return "~" + blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=8, person=b"signalbox").hexdigest()


def to_exact_str(text: str) -> str:
    """Return the content of ``text`` as an instance of ``str`` itself, not of a subclass."""
    return str.__str__(text)


def format_duration(microseconds: int | None, *, unknown: str = "") -> str:
    """Return a duration as text: ``12.3 ms``, ``1.84 s``, ``2 m 05 s`` or ``3 h 07 m``.

    Below a minute it has three significant digits and one unit.

    Args:
        microseconds: The duration, or None if it is not known.
        unknown: What is returned for None.
    """
    if microseconds is None:
        return unknown
    if microseconds < 1_000:
        return f"{microseconds} µs"
    if microseconds < 999_500:  # from there on it is rounded to a second
        return f"{_format_three_digits(microseconds / 1_000)} ms"
    seconds = microseconds / 1_000_000
    if seconds < 59.95:
        return f"{_format_three_digits(seconds)} s"
    minutes, whole_seconds = divmod(round(seconds) if seconds < 60 else int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {whole_seconds:02} s"


def _format_three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 99.95 else f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
