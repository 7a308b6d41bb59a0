"""Text as every database stores it."""

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
    """A short stand-in for a text that stays the same: "~" and 16 hex digits of BLAKE2b under this key, of any length.

    For the key of an object whose primary key is itself a secret (a session's key, a token). An empty key makes a
    checksum, with which anybody can try texts until one fits: only for what is no secret.
    """
    if len(key) > blake2b.MAX_KEY_SIZE:
        key = blake2b(key).digest()
    return "~" + blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=8, person=b"signalbox").hexdigest()


def to_exact_str(text: str) -> str:
    """Return the content of ``text`` as an instance of ``str`` itself, not of a subclass."""
    return str.__str__(text)
