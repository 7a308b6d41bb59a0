"""Encodes any Python object within the limits, without secrets."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from enum import Enum
from itertools import islice
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from django.db import models
from django.http import HttpRequest
from django.utils.functional import LazyObject, Promise, empty

from signalbox.core import interrupts, object_keys
from signalbox.core.text import sanitize_text, to_exact_str
from signalbox.serialization.encoder.django_secrets import has_secret_pk, redact_request_path
from signalbox.serialization.encoder.exceptions import format_exception
from signalbox.serialization.encoder.introspection import (
    class_placeholder,
    get_class_var,
    get_dataclass_fields,
    get_instance_dict,
    mro,
    unreadable_placeholder,
)
from signalbox.serialization.encoder.json_text import stdlib_encode
from signalbox.serialization.encoder.limits import (
    CYCLE,
    ELLIPSIS,
    INT64_END,
    INT64_MIN,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_KEY_LENGTH,
    MAX_TEXT,
    REDACTION_MARGIN,
    TOO_DEEP,
    TOO_LONG,
    JSONValue,
)
from signalbox.serialization.encoder.protocol import RedactorProtocol
from signalbox.serialization.encoder.scalars import SCALAR_ENCODERS, decode_readable, encode_key

_MAX_SHORT_TEXT: Final = 200  # redaction can't make it longer than MAX_TEXT

_MAX_SORTED_ITEMS: Final = 1_000

_REMARKS_RESERVE_BYTES: Final = 2_048  # for remarks and brackets after the end of the budget


def encode(value: Any, *, redactor: RedactorProtocol) -> JSONValue:
    """Return any object as JSON, within the limits and without secrets. Raise nothing."""
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is str:
        if len(value) <= _MAX_SHORT_TEXT and value.isascii() and "\0" not in value:
            return redactor.redact_text(value)
    elif kind is int and INT64_MIN <= value < INT64_END:
        return value  # type: ignore[no-any-return]
    return _ObjectEncoder(redactor, redactor.redact_text).encode(value, 0)


def render(value: Any, *, redactor: RedactorProtocol) -> JSONValue:
    """Return a field's value as JSON, within the limits and without secrets. Raise nothing."""
    if type(value) is list and redactor.is_secret_pair(value):
        value = tuple(value)
    return _ObjectEncoder(redactor, redactor.redact_data).encode(value, 0)


_FREE_TEXT_TYPES: Final = frozenset({str, Promise})


class _ObjectEncoder:
    """Encodes one value, and counts the bytes that its parts may still use."""

    __slots__ = ("_ancestors", "_bytes_left", "_redact", "_redactor")

    def __init__(self, redactor: RedactorProtocol, redact: Callable[[str], str]) -> None:
        self._redactor = redactor
        self._redact = redact
        self._bytes_left = MAX_BYTES - _REMARKS_RESERVE_BYTES
        self._ancestors: set[int] = set()

    def encode(self, value: Any, depth: int) -> JSONValue:
        """Return the value as JSON. ``depth`` is the number of containers around it."""
        kind = type(value)
        if kind is str:
            return self._encode_text(value, True)
        if value is None or kind is bool:
            return self._spend(value, 5)  # type: ignore[no-any-return]
        try:
            for base in mro(kind):
                if scalar := SCALAR_ENCODERS.get(base):
                    plain = scalar(value)
                    return (
                        self._encode_text(plain, base in _FREE_TEXT_TYPES)
                        if type(plain) is str
                        else self._spend(plain, 24)
                    )
                if shape := _OBJECT_ENCODERS.get(base):
                    return shape(self, value, depth)
            if (fields := get_dataclass_fields(value)) is not None:
                return self._encode_mapping(value, fields, len(fields), depth)
        except Exception as error:  # noqa: BLE001 boundary: foreign code; the result says that it failed
            interrupts.raise_if_interrupt(error)
            return self._encode_text(unreadable_placeholder(value), False)
        return self._encode_text(class_placeholder(value), False)

    def _spend(self, value: Any, cost: int) -> Any:
        self._bytes_left -= cost
        return value

    def _encode_text(self, text: str, free: bool, limit: int = MAX_TEXT) -> str:
        """Return the text, cut to ``limit`` characters. Return a remark if the value has too few bytes left."""
        length = len(text)
        if length > limit:
            text = text[: limit + REDACTION_MARGIN]
        text = sanitize_text(text)
        if free:
            text = to_exact_str(self._redact(text))
        if length > limit or len(text) > limit:
            text = f"{text[:limit]}… ({length - limit:,} more)" if length > limit else text[:limit] + TOO_LONG
        if text.isascii() and text.isprintable():
            cost = len(text) + text.count('"') + text.count("\\") + 3
        else:
            cost = len(stdlib_encode(text).encode()) + 1
        if cost > self._bytes_left:
            self._bytes_left = 0
            return TOO_LONG
        return self._spend(text, cost)  # type: ignore[no-any-return]

    def _encode_mapping(
        self, value: object, items: Iterable[tuple[Any, Any]], size: int, depth: int, secret_keys: Collection[str] = ()
    ) -> JSONValue:
        if (remark := self._enter(value, depth)) is not None:
            return remark
        try:
            rendered: dict[str, JSONValue] = {}
            for key, item in islice(items, MAX_ITEMS):
                if self._bytes_left <= 0:
                    break
                name = encode_key(key)
                secret = self._redactor.should_redact(name, item) or name in secret_keys
                name = self._encode_text(name, True, MAX_KEY_LENGTH)
                while name in rendered:  # 1 and "1"
                    name += "'"
                    self._bytes_left -= 1
                rendered[name] = self._encode_placeholder() if secret else self.encode(item, depth + 1)
            if size > len(rendered):
                rendered[ELLIPSIS] = f"{size - len(rendered):,} more"
            return rendered
        finally:
            self._ancestors.discard(id(value))

    def _encode_items(self, value: object, items: Iterator[Any], size: int, depth: int) -> JSONValue:
        if (remark := self._enter(value, depth)) is not None:
            return remark
        try:
            rendered: list[JSONValue] = []
            secret = False
            for item in islice(items, MAX_ITEMS):
                if self._bytes_left <= 0:
                    break
                # By itself a list of two may be one of names; among other things it is a pair as tuples are.
                pair = type(item) is list and self._redactor.is_secret_pair(item)
                rendered.append(
                    self._encode_placeholder() if secret else self.encode(tuple(item) if pair else item, depth + 1)
                )
                secret = not secret and self._redactor.is_secret_flag(item)
            if size > len(rendered):
                rendered.append(f"{ELLIPSIS} ({size - len(rendered):,} more)")
            return rendered
        finally:
            self._ancestors.discard(id(value))

    def _enter(self, value: object, depth: int) -> str | None:
        """Register the container. Return a remark if it must not be entered."""
        if id(value) in self._ancestors:
            return self._encode_text(CYCLE, False)
        if depth >= MAX_DEPTH:
            return self._encode_text(TOO_DEEP, False)
        self._ancestors.add(id(value))
        self._bytes_left -= 4
        return None

    def _encode_placeholder(self) -> str:
        return self._encode_text(self._redactor.placeholder, False)

    # --- one method for each class of objects

    def from_dict(self, value: Any, depth: int) -> JSONValue:
        secret_keys = self._redactor.get_secret_value_keys(value)
        return self._encode_mapping(value, dict.items(value), dict.__len__(value), depth, secret_keys)

    def from_mapping_proxy(self, value: MappingProxyType[Any, Any], depth: int) -> JSONValue:
        return self._encode_mapping(
            value, value.items(), len(value), depth, self._redactor.get_secret_value_keys(value)
        )

    def from_list(self, value: Any, depth: int) -> JSONValue:
        return self._encode_items(value, list.__iter__(value), list.__len__(value), depth)

    def from_deque(self, value: Any, depth: int) -> JSONValue:
        return self._encode_items(value, deque.__iter__(value), deque.__len__(value), depth)

    def from_tuple(self, value: Any, depth: int) -> JSONValue:
        names = get_class_var(type(value), "_fields")
        size = tuple.__len__(value)
        if type(names) is tuple and len(names) == size:
            return self._encode_mapping(value, zip(names, tuple.__iter__(value), strict=True), size, depth)
        if type(value) is tuple and self._redactor.is_secret_pair(value):
            return self._encode_items(value, iter((value[0], self._redactor.placeholder)), 2, depth)
        return self._encode_items(value, tuple.__iter__(value), size, depth)

    def from_set(self, value: Any, depth: int) -> JSONValue:
        return self._encode_set(value, set.__iter__(value), set.__len__(value), depth)

    def from_frozenset(self, value: Any, depth: int) -> JSONValue:
        return self._encode_set(value, frozenset.__iter__(value), frozenset.__len__(value), depth)

    def _encode_set(self, value: object, items: Iterator[Any], size: int, depth: int) -> JSONValue:
        """Encode a set, sorted if it is small and its items are of one built-in type."""
        if size <= _MAX_SORTED_ITEMS:
            listed = [*items]
            kinds = {*map(type, listed)}
            comparable = len(kinds) == 1 and kinds <= {str, int, date, UUID, Decimal}
            items = iter(sorted(listed) if comparable else listed)
        return self._encode_items(value, items, size, depth)

    def from_bytes(self, value: Any, depth: int) -> JSONValue:
        return self._encode_bytes(
            value, bytes.__len__(value), bytes.__getitem__(value, slice(MAX_TEXT + REDACTION_MARGIN)), depth
        )

    def from_bytearray(self, value: Any, depth: int) -> JSONValue:
        head = bytearray.__getitem__(value, slice(MAX_TEXT + REDACTION_MARGIN))
        return self._encode_bytes(value, bytearray.__len__(value), bytes(head), depth)

    def from_memoryview(self, value: Any, depth: int) -> JSONValue:
        plain = value.ndim == 1 and value.itemsize == 1
        return self._encode_bytes(
            value, value.nbytes, bytes(value[: MAX_TEXT + REDACTION_MARGIN]) if plain else b"", depth
        )

    def _encode_bytes(self, value: object, size: int, head: bytes, depth: int) -> JSONValue:
        """Return the size of bytes, with their text if they are text.

        Other bytes are omitted, as secrets in them can't be found.
        """
        text = decode_readable(head, size)
        if text:
            return {"bytes": size, "text": self._encode_text(text, True, MAX_TEXT)}
        self._bytes_left -= 40
        return {"bytes": size}

    def from_enum(self, value: object, depth: int) -> JSONValue:
        return self.encode(get_instance_dict(value)["_value_"], depth)

    def from_lazy(self, value: object, depth: int) -> JSONValue:
        """Encode a `SimpleLazyObject` such as `request.user` without evaluating it."""
        wrapped = get_instance_dict(value).get("_wrapped", empty)
        return self._encode_text(class_placeholder(value), False) if wrapped is empty else self.encode(wrapped, depth)

    def from_model(self, value: models.Model, depth: int) -> JSONValue:
        meta = type(value)._meta
        attributes = get_instance_dict(value)
        pk: object
        if has_secret_pk(type(value), self._redactor):
            pk = self._redactor.placeholder
        elif fields := getattr(meta, "pk_fields", None):
            values = [attributes.get(field.attname) for field in fields]
            pk = values if len(values) > 1 else values[0]
        else:
            pk = attributes.get(meta.pk.attname)
        return {"model": self._encode_text(meta.label, False), "pk": self._encode_pk(pk, depth + 1)}

    def _encode_pk(self, pk: Any, depth: int) -> JSONValue:
        """Return a primary key. One of an application's class becomes its text, as in the object key."""
        if type(pk) is list:
            return [self._encode_pk(part, depth + 1) for part in pk]
        is_known = pk is None or any(base in SCALAR_ENCODERS for base in mro(type(pk)))
        return self.encode(pk if is_known else object_keys.key_to_text(pk), depth)

    def from_queryset(self, value: object, depth: int) -> JSONValue:
        return {"queryset": self._encode_text(get_instance_dict(value)["model"]._meta.label, False)}

    def from_request(self, value: object, depth: int) -> JSONValue:
        attributes = get_instance_dict(value)
        path = attributes.get("path")
        redacted_path = redact_request_path(path, value, redactor=self._redactor) if type(path) is str else path
        return {
            "method": self.encode(attributes.get("method"), depth + 1),
            "path": self.encode(redacted_path, depth + 1),
        }

    def from_exception(self, value: BaseException, depth: int) -> JSONValue:
        return self._encode_text(format_exception(value, redactor=self._redactor), False)

    def from_partial(self, value: functools.partial[Any], depth: int) -> JSONValue:
        return self.encode(value.func, depth)


_OBJECT_ENCODERS: Final[Mapping[type, Callable[[_ObjectEncoder, Any, int], JSONValue]]] = {
    dict: _ObjectEncoder.from_dict,
    list: _ObjectEncoder.from_list,
    tuple: _ObjectEncoder.from_tuple,
    set: _ObjectEncoder.from_set,
    frozenset: _ObjectEncoder.from_frozenset,
    deque: _ObjectEncoder.from_deque,
    MappingProxyType: _ObjectEncoder.from_mapping_proxy,
    bytes: _ObjectEncoder.from_bytes,
    bytearray: _ObjectEncoder.from_bytearray,
    memoryview: _ObjectEncoder.from_memoryview,
    Enum: _ObjectEncoder.from_enum,
    LazyObject: _ObjectEncoder.from_lazy,
    models.Model: _ObjectEncoder.from_model,
    models.QuerySet: _ObjectEncoder.from_queryset,
    HttpRequest: _ObjectEncoder.from_request,
    BaseException: _ObjectEncoder.from_exception,
    functools.partial: _ObjectEncoder.from_partial,
}
