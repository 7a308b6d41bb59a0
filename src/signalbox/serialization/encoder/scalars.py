"""Encodes values that contain no others: numbers, dates, texts, classes, functions, files."""

from __future__ import annotations

import codecs
import io
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final
from uuid import UUID

from django.core.files import File
from django.utils.duration import duration_iso_string
from django.utils.functional import Promise

from signalbox.core import interrupts
from signalbox.core.text import sanitize_text, to_exact_str
from signalbox.serialization.encoder.introspection import (
    class_placeholder,
    get_class_path,
    get_instance_dict,
    mro,
    unreadable_placeholder,
)
from signalbox.serialization.encoder.limits import INT64_END, INT64_MIN, MAX_KEY_LENGTH

_CONTROL_CHARS = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f]")


def encode_key(key: Any) -> str:
    """Return a mapping's key as text."""
    kind = type(key)
    if kind is str:
        return sanitize_text(key)
    if key is None or kind is bool:
        return str(key)
    if kind is bytes:
        return sanitize_text(key[:MAX_KEY_LENGTH].decode("latin-1"))
    return str(encode_scalar(key))


def _encode_int(value: int) -> int | str:
    value = int.__index__(value)
    if INT64_MIN <= value < INT64_END:
        return value
    bits = value.bit_length()
    return str(value) if bits <= 4_096 else f"<integer of {bits} bits>"


def _encode_float(value: float) -> float | str:
    value = float.__add__(value, 0.0)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _encode_function(value: Any) -> str:
    value = getattr(value, "__func__", value)
    module, name = value.__module__, value.__qualname__
    return f"{module}.{name}" if type(module) is str else str(name)


def _encode_file(value: object) -> str | None:
    """Return the name of a Django file, which is `_name` in an upload. None for an empty file field."""
    attributes = get_instance_dict(value)
    name = attributes.get("name", attributes.get("_name"))
    return None if name is None else to_exact_str(name)


def _encode_open_file(value: Any) -> str:
    return value.name if type(value.name) is str else class_placeholder(value)


SCALAR_ENCODERS: Final[Mapping[type, Callable[[Any], Any]]] = {
    str: to_exact_str,
    int: _encode_int,
    float: _encode_float,
    complex: complex.__repr__,
    range: range.__repr__,
    Decimal: Decimal.__str__,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: duration_iso_string(timedelta.__add__(value, timedelta())),
    UUID: UUID.__str__,
    Promise: str,
    type: get_class_path,
    FunctionType: _encode_function,
    BuiltinFunctionType: _encode_function,
    MethodType: _encode_function,
    File: _encode_file,
    io.FileIO: _encode_open_file,
    io.BufferedReader: _encode_open_file,
    io.BufferedWriter: _encode_open_file,
    io.BufferedRandom: _encode_open_file,
    io.TextIOWrapper: _encode_open_file,
}


def encode_scalar(value: Any) -> Any:
    """Return a value that needs no redactor as text or number, and any other value as the name of its class."""
    try:
        for base in mro(type(value)):
            if render := SCALAR_ENCODERS.get(base):
                text = render(value)
                return sanitize_text(to_exact_str(text)) if issubclass(type(text), str) else text
    except Exception as error:  # noqa: BLE001 boundary: foreign code; the result says that it failed
        interrupts.raise_if_interrupt(error)
        return unreadable_placeholder(value)
    return class_placeholder(value)


def decode_readable(head: bytes, size: int) -> str | None:
    """Return the text that ``head``, the beginning of ``size`` bytes, contains. None if the bytes are not text.

    The end of ``head`` may be within a character.
    """
    try:
        text = codecs.utf_8_decode(head, "strict", size <= len(head))[0]
    except UnicodeDecodeError:
        return None
    return None if _CONTROL_CHARS.search(text) else text
