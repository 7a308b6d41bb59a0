"""Any Python object becomes bounded JSON that every database accepts.

A foreign object is never trusted: its class is asked by `type()`, the methods called are the built-in types' own, and
what isn't known is named by its class and not by its `repr()`. Nothing here runs a query, reads a file or consumes an
iterator. What is secret is decided by a redactor, given as an argument (`signalbox.serialization.redaction.Redactor`).
"""

from __future__ import annotations

import codecs
import functools
import io
import json
import math
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from importlib.util import find_spec
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MemberDescriptorType, MethodType
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from uuid import UUID

from django.core.files import File
from django.db import models
from django.http import HttpRequest
from django.utils.duration import duration_iso_string
from django.utils.functional import LazyObject, Promise, empty

from signalbox.core import interrupts
from signalbox.core.text import sanitize_text, to_exact_str

_HAS_ORJSON: Final = find_spec("orjson") is not None  # the extra "fast"
if TYPE_CHECKING or _HAS_ORJSON:
    import orjson

JSONValue: TypeAlias = "dict[str, JSONValue] | list[JSONValue] | str | int | float | bool | None"

MAX_DEPTH: Final = 6
"""Containers within one another; what lies deeper is left out."""

MAX_ITEMS: Final = 50
"""Items of one container."""

MAX_TEXT: Final = 2_000
"""Characters of one text; the remark about the rest comes on top."""

MAX_BYTES: Final = 64 * 1024
"""Bytes of the JSON of one value."""

MAX_ERROR: Final = 500
"""Characters of an exception's text, with the remark."""

TOO_DEEP: Final = "… (too deep)"

TOO_LONG: Final = "… (too long)"

CYCLE: Final = "… (cycle)"

EXPRESSION_KEY: Final = "expression"
"""The only key of what stands for a value that the database computed and did not tell."""

LITERAL_KEY: Final = "literal"
"""The only key of what holds an application's own dict that would be taken for such a thing."""

_WRAPPER_KEYS: Final = frozenset({EXPRESSION_KEY, LITERAL_KEY})

ELLIPSIS: Final = "…"
"""The key, and the beginning of the last item, that tell how much of a container was left out."""

_MAX_KEY_LENGTH: Final = 200

_MAX_SHORT_TEXT: Final = 200  # so short that taking out secrets can't make it too long

_MAX_SORTED_ITEMS: Final = 1_000

_REMARKS_RESERVE_BYTES: Final = 2_048  # what the remarks and brackets after the end of the budget can take, generously

_REDACTION_MARGIN: Final = (
    256  # read beyond a text's end, so that the cut doesn't hide a secret's shape from the redactor
)

_INFINITY: Final = math.inf

_INT64_MIN: Final = -(2**63)

_INT64_END: Final = 2**63

_CONTROL_CHARS = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f]")

# The class's own attributes, past any metaclass.
_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__

_qualname: Callable[[type], str] = type.__dict__["__qualname__"].__get__

_module: Callable[[type], object] = type.__dict__["__module__"].__get__

_class_vars: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__


class RedactorProtocol(Protocol):
    """What encoding asks about secrets. `signalbox.serialization.redaction.Redactor` answers."""

    @property
    def placeholder(self) -> str:
        """What stands where a secret was."""

    def is_secret(self, name: str, /) -> bool:
        """Whether a value under this name is secret."""

    def is_configured_field(self, label: str, name: str, /) -> bool:
        """Whether this field of the model with this label in lower case is secret, whatever it is called."""

    def should_redact(self, name: str, value: object, /) -> bool:
        """Whether this value under this name is secret."""

    def get_secret_value_keys(self, mapping: Mapping[Any, Any], /) -> Collection[str]:
        """The keys of this mapping whose values are secret, as another entry tells their name."""

    def is_secret_flag(self, item: object, /) -> bool:
        """Whether this item of a sequence names the next one, and as a secret."""

    def is_secret_pair(self, pair: Sequence[Any], /) -> bool:
        """Whether this is a secret's name with its value."""

    def redact_text(self, text: str, /) -> str:
        """The free text without secrets."""

    def redact_data(self, text: str, /) -> str:
        """The text of a field without what is surely a secret."""

    def is_clean(self, text: str, /) -> bool:
        """Whether `data` surely takes nothing out of the texts in this JSON text."""


def encode(value: Any, *, redactor: RedactorProtocol) -> JSONValue:
    """Render any object as JSON: bounded by the limits above, without secrets, and without harm. Never raises."""
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is str:
        if len(value) <= _MAX_SHORT_TEXT and value.isascii() and "\0" not in value:
            return redactor.redact_text(value)
    elif kind is int and _INT64_MIN <= value < _INT64_END:
        return value  # type: ignore[no-any-return]
    return _Encoder(redactor, redactor.redact_text).encode(value, 0)


def encode_fields(values: Mapping[str, object], *, redactor: RedactorProtocol) -> dict[str, JSONValue]:
    """Render a row's values, {field: value} or {field: [old, new]}, each bounded by itself.

    The value of a secret field is replaced, both values of a change, so that the change still shows. Texts are data:
    they lose what is surely a secret (see `Redactor.data`), and nothing else.
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
    """Return the JSON text of a row's values, {field: value} or {field: [old, new]}, as `encode_fields` renders them.

    Secret fields must have been replaced already. `special` names the fields whose values may be containers, or floats,
    or of a project's own making. The rest is encoded at once and looked through as one text, which is several times
    faster: a text so short holds no value that is too long, and the redactor knows where nothing is to be hidden.
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
    text = _dumps_fields(encoded_values)
    if len(text) <= MAX_TEXT and redactor.is_clean(text):
        return text
    return dumps(encode_fields(values, redactor=redactor))


def _encode_pair(value: Any, redactor: RedactorProtocol) -> JSONValue:
    """One field's value, or its old and its new one."""
    if type(value) is list and len(value) <= 2:
        return [_encode_field(part, redactor) for part in value]
    return _encode_field(value, redactor)


def _encode_field(value: Any, redactor: RedactorProtocol) -> JSONValue:
    """One field's value; the usual types leave early."""
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is str:
        if len(value) <= MAX_TEXT and value.isascii() and "\0" not in value:
            return redactor.redact_data(value)
    elif kind is int:
        if _INT64_MIN <= value < _INT64_END:
            return value  # type: ignore[no-any-return]
    elif kind is float:
        if math.isfinite(value):
            return value  # type: ignore[no-any-return]
    elif kind is datetime:
        if value.tzinfo is None or value.tzinfo is UTC:
            return value.isoformat()  # type: ignore[no-any-return]
    elif kind is date:
        return value.isoformat()  # type: ignore[no-any-return]
    elif kind is UUID:
        return str(value)
    elif kind is Decimal and len(text := str(value)) <= MAX_TEXT:
        return text
    elif (kind is dict or kind is list) and not value:
        return value  # type: ignore[no-any-return]
    elif kind is list and redactor.is_secret_pair(value):
        value = tuple(value)
    rendered = _Encoder(redactor, redactor.redact_data).encode(value, 0)
    if kind is dict and isinstance(rendered, dict) and len(rendered) == 1 and not _WRAPPER_KEYS.isdisjoint(rendered):
        return {LITERAL_KEY: rendered}
    return rendered


def is_recorded_expression(recorded: Any) -> bool:
    """Whether a field's recorded value is the text of an expression, whose value the database did not tell."""
    return isinstance(recorded, dict) and recorded.keys() == {EXPRESSION_KEY}


def unwrap_literal(recorded: Any) -> Any:
    """The value that was recorded of a field, or one of a change's two."""
    return recorded[LITERAL_KEY] if isinstance(recorded, dict) and recorded.keys() == {LITERAL_KEY} else recorded


def unwrap_row_literal(recorded: Any) -> Any:
    """The value that was recorded of a field in a whole row, where a list of two is rendered like a change's two."""
    return (
        [unwrap_literal(part) for part in recorded]
        if isinstance(recorded, list) and len(recorded) <= 2
        else unwrap_literal(recorded)
    )


def format_exception(error: BaseException, *, redactor: RedactorProtocol | None = None) -> str:
    """`ValueError: text`, without secrets, of at most 500 characters. Never raises.

    Without a redactor nobody can tell what is secret in the text: then it is the class's name alone.
    """
    name = sanitize_text(_qualname(type(error)).rpartition("<locals>.")[2][:100])
    if redactor is None:
        return name
    max_length = MAX_ERROR - len(name) - 2
    try:
        text = to_exact_str(str(error))
    except Exception as error:  # noqa: BLE001 boundary: `__str__` is foreign code, and the answer tells that it failed
        interrupts.raise_if_interrupt(error)
        text = "(its text cannot be read)"
    is_truncated = len(text) > max_length
    text = redactor.redact_text(sanitize_text(text[: max_length + _REDACTION_MARGIN]))
    if is_truncated or len(text) > max_length:
        text = text[: max_length - len(TOO_LONG)] + TOO_LONG
    return f"{name}: {text}" if text else name


def redact_request_path(path: str, request: Any, *, redactor: RedactorProtocol) -> str:
    """A request's path without what its URL pattern names as a secret, as `activate/<str:token>/` does.

    Where a converter has made another value of it, the pattern stands for the path.
    """
    match = _get_instance_dict(request).get("resolver_match")
    if match is None:
        return path
    for name, value in match.kwargs.items():
        if redactor.is_secret(name) and (text := str(value)):
            if text not in path:
                return f"/{match.route}"
            path = path.replace(text, redactor.placeholder)
    return path


def has_secret_pk(model: type[models.Model], redactor: RedactorProtocol) -> bool:
    """Whether a model's primary key, or a part of it, is itself a secret (see `is_secret_field`)."""
    meta = model._meta
    return any(is_secret_field(field, model, redactor) for field in getattr(meta, "pk_fields", (meta.pk,)))


def is_secret_field(field: Any, model: type[models.Model], redactor: RedactorProtocol) -> bool:
    """Whether a field's values are secret: by its own name, because the model's owner says so, as the text that is the
    key of a `Token`, or as a foreign key that holds such a value of another model."""
    seen: list[Any] = []
    while field not in seen:
        labels = {one._meta.label_lower for one in (model, field.model, model._meta.concrete_model or model)}
        if redactor.is_secret(field.name) or any(redactor.is_configured_field(label, field.name) for label in labels):
            return True
        if field.primary_key and isinstance(field, models.CharField | models.TextField):
            return redactor.is_secret(f"{model._meta.object_name}_{field.name}")
        if not field.is_relation or not isinstance(field.related_model, type):
            return False
        seen.append(field)
        model, field = field.related_model, field.target_field
    return False


# --- JSON text --------------------------------------------------------------------------------------------------------


def _dumps_orjson(value: object) -> str:
    try:
        text = orjson.dumps(value, _encode_scalar, _OPTIONS).decode()
    except TypeError:  # a lone surrogate, a key that is no text, an integer beyond 64 bits
        return orjson.dumps(_to_builtin(value, 0), _encode_scalar, _OPTIONS).decode()
    if "\\u0000" in text:
        return orjson.dumps(_to_builtin(value, 0), _encode_scalar, _OPTIONS).decode()
    return text


def _dumps_native(value: object) -> str:
    """The same with orjson's own rendering of dates and times, which is that of `isoformat`, and no call for each."""
    try:
        text = orjson.dumps(value, _encode_orjson_default).decode()
    except TypeError:
        return _dumps_orjson(value)
    return _dumps_orjson(value) if "\\u0000" in text else text


def _encode_orjson_default(value: Any) -> Any:
    """What orjson asks of: mostly decimals."""
    return str(value) if type(value) is Decimal else _encode_scalar(value)


def _dumps_stdlib(value: object) -> str:
    return _stdlib_encode(_to_builtin(value, 0))


_stdlib_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS if _HAS_ORJSON else 0

dumps: Callable[[object], str] = _dumps_orjson if _HAS_ORJSON else _dumps_stdlib
"""Compact JSON text, by orjson where it is installed, that PostgreSQL's jsonb, MariaDB and SQLite accept.

For values from `safe` and `encode_fields`, and containers built of them. Fields' values may stand in it raw (Decimal,
datetime, UUID, files, lazy texts); they are rendered, yet neither bounded nor redacted. An integer beyond 64 bits
becomes text, NaN and the infinities null, and an object of any other class is named by its class.
"""

_dumps_fields: Callable[[object], str] = _dumps_native if _HAS_ORJSON else _dumps_stdlib


def _to_builtin(value: Any, depth: int) -> Any:
    """The value in types that both encoders take alike."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return sanitize_text(to_exact_str(value))
    if issubclass(kind, float):
        return float.__add__(value, 0.0) if math.isfinite(value) else None
    if issubclass(kind, int) and _INT64_MIN <= int.__index__(value) < 2 * _INT64_END:
        return int.__index__(value)
    if issubclass(kind, Enum):
        return _to_builtin(_get_instance_dict(value)["_value_"], depth + 1)
    if depth >= 200:
        return TOO_DEEP
    if issubclass(kind, dict):
        return {_encode_key(key): _to_builtin(item, depth + 1) for key, item in dict.items(value)}
    if issubclass(kind, list) or kind is tuple:
        return [_to_builtin(item, depth + 1) for item in list(value)]
    return _to_builtin(_encode_scalar(value), depth + 1)


def _encode_scalar(value: Any) -> Any:
    """A value that needs no redactor, as text or number; anything else by its class."""
    try:
        for base in _mro(type(value)):
            if render := _SCALAR_ENCODERS.get(base):
                text = render(value)
                return sanitize_text(to_exact_str(text)) if issubclass(type(text), str) else text
    except Exception as error:  # noqa: BLE001 boundary: foreign code, and the answer tells that it failed
        interrupts.raise_if_interrupt(error)
        return _unreadable_placeholder(value)
    return _class_placeholder(value)


def _get_class_path(kind: type) -> str:
    """`module.Class`; the module's name can be any object that the class put there."""
    name = _qualname(kind)[:_MAX_KEY_LENGTH]
    try:
        module = _module(kind)
    except AttributeError:  # it was made outside of any module
        module = None
    return sanitize_text(f"{module[:_MAX_KEY_LENGTH]}.{name}" if type(module) is str else name)


def _decode_readable(head: bytes, size: int) -> str | None:
    """The text at the beginning of so many bytes, None if they are none; the end of `head` may cut a character."""
    try:
        text = codecs.utf_8_decode(head, "strict", size <= len(head))[0]
    except UnicodeDecodeError:
        return None
    return None if _CONTROL_CHARS.search(text) else text


def _class_placeholder(value: object) -> str:
    return f"<{_get_class_path(type(value))}>"


def _unreadable_placeholder(value: object) -> str:
    return f"<{_get_class_path(type(value))}: cannot be read>"


def _get_instance_dict(value: object) -> dict[str, Any]:
    """An object's attributes, past its `__getattribute__` and its properties."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:  # a class with __slots__
        return {}
    return attributes if type(attributes) is dict else {}


def _get_class_var(kind: type, name: str) -> Any:
    """What a class or its bases define under a name, None if nothing."""
    for base in _mro(kind):
        if name in (defined := _class_vars(base)):
            return defined[name]
    return None


def _get_dataclass_fields(value: object) -> list[tuple[str, Any]] | None:
    """A dataclass's fields with their values, but those with `repr=False`; None for any other object."""
    kind = type(value)
    fields = _get_class_var(kind, "__dataclass_fields__")
    if type(fields) is not dict:
        return None
    attributes = _get_instance_dict(value)
    pairs = []
    for name, field in fields.items():
        if not field.repr:
            continue
        slot = _get_class_var(kind, name)
        if name in attributes:
            pairs.append((name, attributes[name]))
        elif type(slot) is MemberDescriptorType:
            pairs.append((name, slot.__get__(value, kind)))
    return pairs


def _encode_key(key: Any) -> str:
    """A mapping's key as text."""
    kind = type(key)
    if kind is str:
        return sanitize_text(key)
    if key is None or kind is bool:
        return str(key)
    if kind is bytes:
        return sanitize_text(key[:_MAX_KEY_LENGTH].decode("latin-1"))
    return str(_encode_scalar(key))


def _encode_int(value: int) -> int | str:
    value = int.__index__(value)
    if _INT64_MIN <= value < _INT64_END:
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
    """A Django file's name, `_name` where an upload keeps it so; None for an empty file field."""
    attributes = _get_instance_dict(value)
    name = attributes.get("name", attributes.get("_name"))
    return None if name is None else to_exact_str(name)


def _encode_open_file(value: Any) -> str:
    return value.name if type(value.name) is str else _class_placeholder(value)


_SCALAR_ENCODERS: Final[Mapping[type, Callable[[Any], Any]]] = {
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
    type: _get_class_path,
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

_FREE_TEXT_TYPES: Final = frozenset({str, Promise})


class _Encoder:
    """One rendering: the way down, and what is left of the budget."""

    __slots__ = ("_ancestors", "_bytes_left", "_redact", "_redactor")

    def __init__(self, redactor: RedactorProtocol, redact: Callable[[str], str]) -> None:
        self._redactor = redactor
        self._redact = redact
        self._bytes_left = MAX_BYTES - _REMARKS_RESERVE_BYTES
        self._ancestors: set[int] = set()

    def encode(self, value: Any, depth: int) -> JSONValue:
        """The value in JSON's types. `depth` counts the containers around it."""
        kind = type(value)
        if kind is str:
            return self._encode_text(value, True)
        if value is None or kind is bool:
            return self._spend(value, 5)  # type: ignore[no-any-return]
        try:
            for base in _mro(kind):
                if scalar := _SCALAR_ENCODERS.get(base):
                    plain = scalar(value)
                    return (
                        self._encode_text(plain, base in _FREE_TEXT_TYPES)
                        if type(plain) is str
                        else self._spend(plain, 24)
                    )
                if shape := _OBJECT_ENCODERS.get(base):
                    return shape(self, value, depth)
            if (fields := _get_dataclass_fields(value)) is not None:
                return self._encode_mapping(value, fields, len(fields), depth)
        except Exception as error:  # noqa: BLE001 boundary: foreign code, and the answer tells that it failed
            interrupts.raise_if_interrupt(error)
            return self._encode_text(_unreadable_placeholder(value), False)
        return self._encode_text(_class_placeholder(value), False)

    def _spend(self, value: Any, cost: int) -> Any:
        self._bytes_left -= cost
        return value

    def _encode_text(self, text: str, free: bool, limit: int = MAX_TEXT) -> str:
        """The text within its limit, and within what is left for the value."""
        length = len(text)
        if length > limit:
            text = text[: limit + _REDACTION_MARGIN]
        text = sanitize_text(text)
        if free:
            text = to_exact_str(self._redact(text))
        if length > limit or len(text) > limit:
            text = f"{text[:limit]}… ({length - limit:,} more)" if length > limit else text[:limit] + TOO_LONG
        if text.isascii() and text.isprintable():
            cost = len(text) + text.count('"') + text.count("\\") + 3
        else:
            cost = len(_stdlib_encode(text).encode()) + 1
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
                name = _encode_key(key)
                secret = self._redactor.should_redact(name, item) or name in secret_keys
                name = self._encode_text(name, True, _MAX_KEY_LENGTH)
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
        """Note the container, or tell why it isn't entered."""
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
        names = _get_class_var(type(value), "_fields")
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
        """In order where that is cheap and asks no foreign class to compare."""
        if size <= _MAX_SORTED_ITEMS:
            listed = [*items]
            kinds = {*map(type, listed)}
            comparable = len(kinds) == 1 and kinds <= {str, int, date, UUID, Decimal}
            items = iter(sorted(listed) if comparable else listed)
        return self._encode_items(value, items, size, depth)

    def from_bytes(self, value: Any, depth: int) -> JSONValue:
        return self._encode_bytes(
            value, bytes.__len__(value), bytes.__getitem__(value, slice(MAX_TEXT + _REDACTION_MARGIN)), depth
        )

    def from_bytearray(self, value: Any, depth: int) -> JSONValue:
        head = bytearray.__getitem__(value, slice(MAX_TEXT + _REDACTION_MARGIN))
        return self._encode_bytes(value, bytearray.__len__(value), bytes(head), depth)

    def from_memoryview(self, value: Any, depth: int) -> JSONValue:
        plain = value.ndim == 1 and value.itemsize == 1
        return self._encode_bytes(
            value, value.nbytes, bytes(value[: MAX_TEXT + _REDACTION_MARGIN]) if plain else b"", depth
        )

    def _encode_bytes(self, value: object, size: int, head: bytes, depth: int) -> JSONValue:
        """Readable bytes as text, which may hold a secret to take out. Of others only the size is told: nobody can tell
        whether they hold one."""
        text = _decode_readable(head, size)
        if text:
            return {"bytes": size, "text": self._encode_text(text, True, MAX_TEXT)}
        self._bytes_left -= 40
        return {"bytes": size}

    def from_enum(self, value: object, depth: int) -> JSONValue:
        return self.encode(_get_instance_dict(value)["_value_"], depth)

    def from_lazy(self, value: object, depth: int) -> JSONValue:
        """A `SimpleLazyObject` such as `request.user`: never woken."""
        wrapped = _get_instance_dict(value).get("_wrapped", empty)
        return self._encode_text(_class_placeholder(value), False) if wrapped is empty else self.encode(wrapped, depth)

    def from_model(self, value: models.Model, depth: int) -> JSONValue:
        meta = type(value)._meta
        attributes = _get_instance_dict(value)
        pk: object
        if has_secret_pk(type(value), self._redactor):
            pk = self._redactor.placeholder
        elif fields := getattr(meta, "pk_fields", None):
            values = [attributes.get(field.attname) for field in fields]
            pk = values if len(values) > 1 else values[0]
        else:
            pk = attributes.get(meta.pk.attname)
        return {"model": self._encode_text(meta.label, False), "pk": self.encode(pk, depth + 1)}

    def from_queryset(self, value: object, depth: int) -> JSONValue:
        return {"queryset": self._encode_text(_get_instance_dict(value)["model"]._meta.label, False)}

    def from_request(self, value: object, depth: int) -> JSONValue:
        attributes = _get_instance_dict(value)
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


_OBJECT_ENCODERS: Final[Mapping[type, Callable[[_Encoder, Any, int], JSONValue]]] = {
    dict: _Encoder.from_dict,
    list: _Encoder.from_list,
    tuple: _Encoder.from_tuple,
    set: _Encoder.from_set,
    frozenset: _Encoder.from_frozenset,
    deque: _Encoder.from_deque,
    MappingProxyType: _Encoder.from_mapping_proxy,
    bytes: _Encoder.from_bytes,
    bytearray: _Encoder.from_bytearray,
    memoryview: _Encoder.from_memoryview,
    Enum: _Encoder.from_enum,
    LazyObject: _Encoder.from_lazy,
    models.Model: _Encoder.from_model,
    models.QuerySet: _Encoder.from_queryset,
    HttpRequest: _Encoder.from_request,
    BaseException: _Encoder.from_exception,
    functools.partial: _Encoder.from_partial,
}
