"""Recognizes values that JSON has as they are."""

from __future__ import annotations

import math
from types import NoneType
from typing import Any, Final

_JSON_SCALARS: Final = frozenset({str, int, bool, NoneType})

_KEY_TYPES: Final = frozenset({str})

_MAX_JSON_CONTAINERS: Final = 10_000
"""Containers of one JSON value that are checked. A value that contains itself has more."""


def is_plain_json(value: Any) -> bool:
    """Return whether ``value`` consists of JSON types, exactly, with texts as keys."""
    pending = [value]
    if type(value) not in (dict, list):
        pending = [[value]]
    for container in pending:
        items = container
        if type(container) is dict:
            if not _KEY_TYPES.issuperset(map(type, container)):
                return False
            items = container.values()
        if _JSON_SCALARS.issuperset(map(type, items)):
            continue
        for item in items:
            kind = type(item)
            if kind is dict or kind is list:
                pending.append(item)
            elif kind not in _JSON_SCALARS and not (kind is float and math.isfinite(item)):
                return False
        if len(pending) > _MAX_JSON_CONTAINERS:
            return False
    return True
