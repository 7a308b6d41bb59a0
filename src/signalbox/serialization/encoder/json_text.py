"""Writes encoded values as JSON text, with orjson or the standard library."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from signalbox.core.text import sanitize_text, to_exact_str
from signalbox.serialization.encoder.introspection import get_instance_dict
from signalbox.serialization.encoder.limits import INT64_END, INT64_MIN, TOO_DEEP
from signalbox.serialization.encoder.scalars import encode_key, encode_scalar

_HAS_ORJSON: Final = find_spec("orjson") is not None  # the extra "fast"

if TYPE_CHECKING or _HAS_ORJSON:
    import orjson


def dumps_orjson(value: object) -> str:
    """Return ``value`` as JSON text, by orjson."""
    try:
        text = orjson.dumps(value, encode_scalar, _OPTIONS).decode()
    except TypeError:  # a lone surrogate, a key that is not a text, an integer beyond 64 bits
        return orjson.dumps(_to_builtin(value, 0), encode_scalar, _OPTIONS).decode()
    if "\\u0000" in text:
        return orjson.dumps(_to_builtin(value, 0), encode_scalar, _OPTIONS).decode()
    return text


def _dumps_native(value: object) -> str:
    """Return JSON text in which orjson formats dates and datetimes, as `isoformat()` does but faster.

    orjson formats a `time` wrongly for some microseconds, so times must be texts already.
    """
    try:
        text = orjson.dumps(value, _encode_orjson_default).decode()
    except TypeError:
        return dumps_orjson(value)
    return dumps_orjson(value) if "\\u0000" in text or _ODD_OFFSET.search(text) else text


_ODD_OFFSET: Final = re.compile(r"T\d\d:\d\d:\d\d(?:\.\d+)?[+-](?!00:00\")")
"""A time with an offset from UTC, which orjson rounds to minutes. Before 1972 there were offsets with seconds."""


def _encode_orjson_default(value: Any) -> Any:
    """Return a value that orjson can't encode, most often a Decimal, in another form."""
    return str(value) if type(value) is Decimal else encode_scalar(value)


def dumps_stdlib(value: object) -> str:
    """Return ``value`` as JSON text, by the standard library."""
    return stdlib_encode(_to_builtin(value, 0))


def dumps_row_stdlib(values: dict[str, Any]) -> str:
    """Return the JSON text of a row. To encode usual types one by one is faster than to convert them."""
    try:
        members = [_member_heads[name] + _ROW_ENCODERS[type(value)](value) for name, value in values.items()]
        return _check_storable(f"{{{','.join(members)}}}")
    except (KeyError, ValueError):  # another type, a number that JSON can't hold, NUL, a lone surrogate
        return dumps_stdlib(values)


def dumps_columns_stdlib(values: Sequence[Any]) -> str:
    """Return the columns of a table as a JSON list, in the same way as ``dumps_row_stdlib``."""
    try:
        return _check_storable(_dump_scalars(values))
    except (KeyError, ValueError):
        return dumps_stdlib(values)


def _check_storable(text: str) -> str:
    """Return ``text``. Raises ``ValueError`` if it contains NUL or a lone surrogate."""
    if "\\u0000" in text:
        raise ValueError("The text contains NUL.")
    if not text.isascii():
        text.encode()
    return text


def _dump_int64(value: int) -> str:
    if not INT64_MIN <= value < INT64_END:
        raise ValueError(value)
    return str(value)


def _dump_finite_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(value)
    return repr(value)


def _dump_time(value: datetime | time) -> str:
    if value.tzinfo is not None and value.tzinfo is not UTC:  # another zone is foreign code
        raise ValueError(value)
    return f'"{value.isoformat()}"'


stdlib_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class _MemberHeads(dict[str, str]):
    """Names of fields as a JSON object has them, with the colon. ``lru_cache`` takes as long as encoding the name."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _MAX_NAMES:
            self.clear()
        head = self[name] = f"{stdlib_encode(name)}:"
        return head


_MAX_NAMES: Final = 10_000
_member_heads: Final = _MemberHeads()

_SCALAR_ENCODERS: Final[Mapping[type, Callable[[Any], str]]] = {
    str: stdlib_encode,
    bool: lambda value: "true" if value else "false",
    type(None): lambda value: "null",
    int: _dump_int64,
    float: lambda value: _dump_finite_float(value + 0.0),  # as ``_to_builtin()``: without the sign of -0.0
    Decimal: lambda value: f'"{value!s}"',  # without "!s" it is formatted, which takes twice as long
    datetime: _dump_time,
    date: lambda value: f'"{value.isoformat()}"',
    time: _dump_time,
    UUID: lambda value: f'"{value}"',
}


def _dump_scalars(values: Sequence[Any]) -> str:
    return f"[{','.join([_SCALAR_ENCODERS[type(value)](value) for value in values])}]"


_ROW_ENCODERS: Final[Mapping[type, Callable[[Any], str]]] = {
    **_SCALAR_ENCODERS,
    float: _dump_finite_float,
    list: _dump_scalars,  # a change of a field is a list of two scalars
}

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS if _HAS_ORJSON else 0

dumps: Callable[[object], str] = dumps_orjson if _HAS_ORJSON else dumps_stdlib
"""Return compact JSON text that PostgreSQL's jsonb, MariaDB and SQLite accept. Uses orjson if it is installed.

The argument is a value that `encode` or `encode_fields` returned, or a container of them. Raw values of fields
(Decimal, datetime, UUID, files, lazy texts) are encoded without limits and redaction. An integer beyond 64 bits becomes
text, NaN and the infinities become null, and an object of another class becomes the name of its class.
"""

dumps_fields: Callable[[dict[str, Any]], str] = _dumps_native if _HAS_ORJSON else dumps_row_stdlib
"""Return the JSON text of a row, by the fastest function."""

dumps_columns: Callable[[Sequence[Any]], str] = dumps_orjson if _HAS_ORJSON else dumps_columns_stdlib
"""Return the columns of a table as a JSON list, by the fastest function."""


def _to_builtin(value: Any, depth: int) -> Any:
    """Return the value in types that orjson and the standard library encode equally."""
    kind = type(value)
    if kind is str:  # most values are of the exact types
        return sanitize_text(value)
    if value is None or kind is bool or (kind is int and INT64_MIN <= value < 2 * INT64_END):
        return value
    if issubclass(kind, str):
        return sanitize_text(to_exact_str(value))
    if issubclass(kind, float):
        return float.__add__(value, 0.0) if math.isfinite(value) else None
    if issubclass(kind, int) and INT64_MIN <= int.__index__(value) < 2 * INT64_END:
        return int.__index__(value)
    if issubclass(kind, Enum):
        return _to_builtin(get_instance_dict(value)["_value_"], depth + 1)
    if depth >= 200:
        return TOO_DEEP
    if issubclass(kind, dict):
        return {encode_key(key): _to_builtin(item, depth + 1) for key, item in dict.items(value)}
    if issubclass(kind, list) or kind is tuple:
        if kind is list and _are_integers(value):  # the keys of a bulk operation
            return value
        return [_to_builtin(item, depth + 1) for item in list(value)]
    return _to_builtin(encode_scalar(value), depth + 1)


def _are_integers(values: list[Any]) -> bool:
    return {*map(type, values)} == {int} and min(values) >= INT64_MIN and max(values) < INT64_END
