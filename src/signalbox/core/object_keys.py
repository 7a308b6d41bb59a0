"""A primary key as text: how events name the object that they are about."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from django.conf import settings

from signalbox.core import interrupts
from signalbox.core.text import digest, sanitize_text

MAX_LENGTH: Final = 200
"""Characters of the column; a longer key ends in a digest of the whole."""


DIGEST_PATTERN: Final = re.compile("~[0-9a-f]{16}")
"""The digest that is stored instead of a secret key."""


def has_text(value: Any) -> bool:
    """Return False if the value's own ``__str__`` fails."""
    try:
        str(value)
    except Exception as error:  # noqa: BLE001 - the application's class
        interrupts.raise_if_interrupt(error)
        return False
    return True


def _to_text(value: Any) -> str:
    """Return ``value`` as text, or the name of its class if its own ``__str__`` fails: no event is lost for its key."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - the application's class
        interrupts.raise_if_interrupt(error)
        return f"<{type(value).__name__}>"


def key_to_text(value: Any, *, secret: bool = False) -> str:
    """Return a primary key's value as text: empty for none, a JSON array if composite, a digest if secret."""
    if type(value) is int and not secret:
        return str(value)
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        if any(part is None for part in value):  # Django takes it for unset
            return ""
        found = json.dumps([part if isinstance(part, int) else _to_text(part) for part in value], separators=(",", ":"))
    else:
        found = _to_text(value)
    if secret:
        if DIGEST_PATTERN.fullmatch(found):  # a digest that was read from an event
            return found
        return digest(found, settings.SECRET_KEY.encode())
    found = sanitize_text(found)
    return found if len(found) <= MAX_LENGTH else found[: MAX_LENGTH - 20] + digest(found, b"")
