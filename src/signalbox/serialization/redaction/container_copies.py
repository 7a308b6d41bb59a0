"""Copies plain containers without their secrets.

The values of events are redacted while they are encoded (`serialization/encoder/objects.py`), by the same rules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from signalbox.serialization.redaction.placeholder import REDACTED
from signalbox.serialization.redaction.redactor import Redactor, redact_text

_MAX_DEPTH: Final = 20


def redact(value: Any, redactor: Redactor) -> Any:
    """Copy plain containers without their secrets: mappings by key, pairs by their first half, texts by `redact_text`.

    Mappings become dicts, and sequences become lists or tuples. Other objects are returned unchanged; lazy objects are
    not evaluated. A container below 20 others, or one that contains itself, is replaced.
    """
    return _redact(value, redactor, ())


def _redact(value: Any, redactor: Redactor, ancestors: tuple[int, ...]) -> Any:
    kind = type(value)
    if issubclass(kind, str):
        return redact_text(str(value), redactor)
    if issubclass(kind, bytes):
        text = value.decode("latin-1")
        clean = redact_text(text, redactor)
        return value if clean == text else clean.encode("latin-1")
    if not issubclass(kind, Mapping | Sequence | AbstractSet) or issubclass(kind, range | bytearray | memoryview):
        return value
    if id(value) in ancestors or len(ancestors) >= _MAX_DEPTH:
        return REDACTED
    ancestors = (*ancestors, id(value))
    if issubclass(kind, Mapping):
        named = redactor.get_secret_value_keys(value)
        return {
            redact_text(key, redactor) if type(key) is str else key: REDACTED
            if redactor.should_redact(str(key), item) or key in named
            else _redact(item, redactor, ancestors)
            for key, item in value.items()
        }
    if issubclass(kind, AbstractSet):
        made = frozenset if issubclass(kind, frozenset) else set
        return made(_redact(item, redactor, ancestors) for item in value)
    if issubclass(kind, tuple) and redactor.is_secret_pair(value):
        return (_redact(value[0], redactor, ancestors), REDACTED)
    items: list[Any] = []
    secret = False
    for item in value:
        if secret:
            items.append(REDACTED)
        elif type(item) is list and redactor.is_secret_pair(item):
            items.append([_redact(item[0], redactor, ancestors), REDACTED])
        else:
            items.append(_redact(item, redactor, ancestors))
        secret = not secret and redactor.is_secret_flag(item)
    return tuple(items) if issubclass(kind, tuple) else items
