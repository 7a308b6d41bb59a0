"""Encodes the fields of a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from signalbox.serialization.encoder.json_text import dumps, dumps_fields
from signalbox.serialization.encoder.limits import INT64_END, INT64_MIN, MAX_TEXT, JSONValue
from signalbox.serialization.encoder.markers import LITERAL_KEY, WRAPPER_KEYS
from signalbox.serialization.encoder.objects import render
from signalbox.serialization.encoder.protocol import RedactorProtocol

_INFINITY: Final = math.inf


def encode_fields(values: Mapping[str, object], *, redactor: RedactorProtocol) -> dict[str, JSONValue]:
    """Encode the values of a row, {field: value} or {field: [old, new]}. The limits apply to each value.

    The values of a secret field are replaced, both of them in a change. Texts are redacted as data (see
    `Redactor.redact_data`).
    """
    fields: dict[str, JSONValue] = {}
    for name, value in values.items():
        if type(value) is list and 0 < len(value) <= 2:
            secret = any(redactor.should_redact(name, part) for part in value)
            fields[name] = [redactor.placeholder if secret else _encode_field(part, redactor) for part in value]
        else:
            fields[name] = (
                redactor.placeholder if redactor.should_redact(name, value) else _encode_field(value, redactor)
            )
    return fields


def dump_fields(values: dict[str, Any], *, non_scalar: frozenset[str], redactor: RedactorProtocol) -> str:
    """Return the JSON text of a row's values, {field: value} or {field: [old, new]}, as `encode_fields` encodes them.

    Secret fields must have been replaced already. ``non_scalar`` contains the fields whose values may be containers,
    floats, or of classes of the application. The other fields are encoded at once and searched as one text, which is
    several times faster. A text that short contains no value that is too long.
    """
    encoded_values = values
    for name in non_scalar:
        value = values.get(name)
        kind = type(value)
        if value is None or (kind is float and -_INFINITY < value < _INFINITY) or (kind is dict and not value):
            continue
        if encoded_values is values:
            encoded_values = {**values}
        encoded_values[name] = _encode_pair(value, redactor)
    text = dumps_fields(encoded_values)
    if len(text) <= MAX_TEXT and redactor.is_clean(text):
        return text
    return dumps(encode_fields(values, redactor=redactor))


def _encode_pair(value: Any, redactor: RedactorProtocol) -> JSONValue:
    """Return the value of a field, or its old and its new value, as JSON."""
    if type(value) is list and len(value) <= 2:
        return [_encode_field(part, redactor) for part in value]
    return _encode_field(value, redactor)


def _encode_field(value: Any, redactor: RedactorProtocol) -> JSONValue:
    """Return one field's value as JSON. Values of usual types are not passed to the encoder of objects."""
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is str:
        if len(value) <= MAX_TEXT and value.isascii() and "\0" not in value:
            return redactor.redact_data(value)
    elif kind is int:
        if INT64_MIN <= value < INT64_END:
            return value  # type: ignore[no-any-return]
    elif kind in _USUAL_TYPES and (plain := _USUAL_TYPES[kind](value)) is not None:
        return plain
    rendered = render(value, redactor=redactor)
    if kind is dict and isinstance(rendered, dict) and len(rendered) == 1 and not WRAPPER_KEYS.isdisjoint(rendered):
        return {LITERAL_KEY: rendered}
    return rendered


def _encode_datetime(value: datetime) -> str | None:
    return value.isoformat() if value.tzinfo is None or value.tzinfo is UTC else None


def _encode_decimal(value: Decimal) -> str | None:
    return text if len(text := str(value)) <= MAX_TEXT else None


_USUAL_TYPES: Final[Mapping[type, Callable[[Any], JSONValue]]] = {
    float: lambda value: value if math.isfinite(value) else None,
    datetime: _encode_datetime,
    date: date.isoformat,
    UUID: str,
    Decimal: _encode_decimal,
    dict: lambda value: None if value else value,
    list: lambda value: None if value else value,
}
"""Functions that return a value as JSON, or None if it is not a usual value of its type."""
