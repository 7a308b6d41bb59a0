"""Converts primary keys to object keys, which are texts."""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.utils.encoding import force_bytes

from signalbox.core import interrupts
from signalbox.core.text import digest, sanitize_text

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_LENGTH: Final = 200
"""Characters of the column; a longer key ends in a digest of the whole key."""


DIGEST_PATTERN: Final = re.compile("~[0-9a-f]{16}")
"""The digest that is stored instead of a secret key."""


def has_text(value: Any) -> bool:
    """Return False if the value's class gives it no text, or its own ``__str__`` fails."""
    kind: Any = type(value)
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:
        return False
    try:
        str(value)
    except Exception as error:  # noqa: BLE001 - the application's class
        interrupts.raise_if_interrupt(error)
        return False
    return True


def _to_text(value: Any) -> str:
    """Return ``value`` as text, or the name of its class if its ``__str__`` fails, so that the event is recorded.

    An enum's member has the text of its value, as in the database.
    """
    try:
        return str(value.value if isinstance(value, Enum) else value)
    except Exception as error:  # noqa: BLE001 - the application's class
        interrupts.raise_if_interrupt(error)
        return f"<{type(value).__name__}>"


def digest_secret(text: str) -> str:
    """Return the digest that is stored instead of a secret text. It is the same for equal texts.

    The key is the oldest of ``SECRET_KEY_FALLBACKS``, or ``SECRET_KEY``. Thus digests stay the same while a key is
    rotated: they change when the old key is removed from the fallbacks.
    """
    return digest(text, force_bytes([settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS][-1]))


def key_to_text(value: Any, *, secret: bool = False, redact: Callable[[str], str] | None = None) -> str:
    """Return a primary key as text: a JSON array if it is composite, a digest if it is secret, empty for ``None``.

    A key is also secret if ``redact`` changes its text.
    """
    if type(value) is int and not secret:
        return str(value)
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        if any(part is None for part in value):  # Django treats it as unset
            return ""
        found = json.dumps([part if isinstance(part, int) else _to_text(part) for part in value], separators=(",", ":"))
    else:
        found = _to_text(value)
    if secret or (redact is not None and redact(found) != found):
        if DIGEST_PATTERN.fullmatch(found):  # a digest that was read from an event
            return found
        return digest_secret(found)
    found = sanitize_text(found)
    return found if len(found) <= MAX_LENGTH else found[: MAX_LENGTH - 20] + digest(found, b"")
