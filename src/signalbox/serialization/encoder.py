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
from hashlib import blake2b
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

_FAST: Final = find_spec("orjson") is not None  # the extra "fast"
if TYPE_CHECKING or _FAST:
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
EXPRESSION: Final = "expression"
"""The only key of what stands for a value that the database computed and did not tell."""
LITERAL: Final = "literal"
"""The only key of what holds an application's own dict that would be taken for such a thing."""
_MARKS: Final = frozenset({EXPRESSION, LITERAL})
MORE: Final = "…"
"""The key, and the beginning of the last item, that tell how much of a container was left out."""

_MAX_KEY: Final = 200
_SHORT: Final = 200  # so short that taking out secrets can't make it too long
_SORTED_ITEMS: Final = 1_000
_REMARKS: Final = 2_048  # what the remarks and brackets after the end of the budget can take, generously
_MARGIN: Final = 256  # read beyond a text's end, so that the cut doesn't hide a secret's shape from the redactor
_INFINITY: Final = math.inf
_SMALLEST: Final = -(2**63)
_BEYOND: Final = 2**63

_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")

# The class's own attributes, past any metaclass.
_mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_qualname: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_module: Callable[[type], object] = type.__dict__["__module__"].__get__
_class_vars: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__


class Redacts(Protocol):
    """What encoding asks about secrets. `signalbox.serialization.redaction.Redactor` answers."""

    @property
    def mark(self) -> str:
        """What stands where a secret was."""

    def is_secret(self, name: str, /) -> bool:
        """Whether a value under this name is secret."""

    def hides_field(self, label: str, name: str, /) -> bool:
        """Whether this field of the model with this label in lower case is secret, whatever it is called."""

    def hides(self, name: str, value: object, /) -> bool:
        """Whether this value under this name is secret."""

    def values_named(self, mapping: Mapping[Any, Any], /) -> Collection[str]:
        """The keys of this mapping whose values are secret, as another entry tells their name."""

    def hides_next(self, item: object, /) -> bool:
        """Whether this item of a sequence names the next one, and as a secret."""

    def hides_second(self, pair: Sequence[Any], /) -> bool:
        """Whether this is a secret's name with its value."""

    def text(self, text: str, /) -> str:
        """The free text without secrets."""

    def data(self, text: str, /) -> str:
        """The text of a field without what is surely a secret."""

    def leaves(self, text: str, /) -> bool:
        """Whether `data` surely takes nothing out of the texts in this JSON text."""


def safe(value: Any, *, redactor: Redacts) -> JSONValue:
    """Render any object as JSON: bounded by the limits above, without secrets, and without harm. Never raises."""
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is str:
        if len(value) <= _SHORT and value.isascii() and "\0" not in value:
            return redactor.text(value)
    elif kind is int and _SMALLEST <= value < _BEYOND:
        return value  # type: ignore[no-any-return]
    return _Walk(redactor, redactor.text).render(value, 0)


def encode_fields(values: Mapping[str, object], *, redactor: Redacts) -> dict[str, JSONValue]:
    """Render a row's values, {field: value} or {field: [old, new]}, each bounded by itself.

    The value of a secret field is replaced, both values of a change, so that the change still shows. Texts are data:
    they lose what is surely a secret (see `Redactor.data`), and nothing else.
    """
    fields: dict[str, JSONValue] = {}
    for name, value in values.items():
        if type(value) is list and 0 < len(value) <= 2:
            secret = any(redactor.hides(name, part) for part in value)
            fields[name] = [redactor.mark if secret else _field(part, redactor) for part in value]
        else:
            fields[name] = redactor.mark if redactor.hides(name, value) else _field(value, redactor)
    return fields


def fields_text(values: dict[str, Any], *, special: frozenset[str], redactor: Redacts) -> str:
    """Return the JSON text of a row's values, {field: value} or {field: [old, new]}, as `encode_fields` renders them.

    Secret fields must have been replaced already. `special` names the fields whose values may be containers, or floats,
    or of a project's own making. The rest is encoded at once and looked through as one text, which is several times
    faster: a text so short holds no value that is too long, and the redactor knows where nothing is to be hidden.
    """
    quick = values
    for name in special:
        value = values.get(name)
        kind = type(value)
        if value is None or (kind is float and -_INFINITY < value < _INFINITY) or (kind is dict and not value):
            continue
        if quick is values:
            quick = {**values}
        quick[name] = _pair(value, redactor)
    text = _dumps_quick(quick)
    if len(text) <= MAX_TEXT and redactor.leaves(text):
        return text
    return dumps(encode_fields(values, redactor=redactor))


def _pair(value: Any, redactor: Redacts) -> JSONValue:
    """One field's value, or its old and its new one."""
    if type(value) is list and len(value) <= 2:
        return [_field(part, redactor) for part in value]
    return _field(value, redactor)


def _field(value: Any, redactor: Redacts) -> JSONValue:
    """One field's value; the usual types leave early."""
    kind = type(value)
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is str:
        if len(value) <= MAX_TEXT and value.isascii() and "\0" not in value:
            return redactor.data(value)
    elif kind is int:
        if _SMALLEST <= value < _BEYOND:
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
    elif kind is list and redactor.hides_second(value):
        value = tuple(value)
    rendered = _Walk(redactor, redactor.data).render(value, 0)
    if kind is dict and isinstance(rendered, dict) and len(rendered) == 1 and not _MARKS.isdisjoint(rendered):
        return {LITERAL: rendered}
    return rendered


def is_expression(told: Any) -> bool:
    """Whether a field's recorded value is the text of an expression, whose value the database did not tell."""
    return isinstance(told, dict) and told.keys() == {EXPRESSION}


def literal(told: Any) -> Any:
    """The value that was recorded of a field, or one of a change's two."""
    return told[LITERAL] if isinstance(told, dict) and told.keys() == {LITERAL} else told


def literal_of_row(told: Any) -> Any:
    """The value that was recorded of a field in a whole row, where a list of two is rendered like a change's two."""
    return [literal(part) for part in told] if isinstance(told, list) and len(told) <= 2 else literal(told)


def clean(text: str) -> str:
    """Replace what PostgreSQL refuses in text and jsonb, NUL and lone surrogates, by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def column(text: str, length: int) -> str:
    """The text as every database takes it into a column of so many characters."""
    return clean(_plain_text(text)[:length])


def exception_text(error: BaseException, *, redactor: Redacts | None = None) -> str:
    """`ValueError: text`, without secrets, of at most 500 characters. Never raises.

    Without a redactor nobody can tell what is secret in the text: then it is the class's name alone.
    """
    name = clean(_qualname(type(error)).rpartition("<locals>.")[2][:100])
    if redactor is None:
        return name
    room = MAX_ERROR - len(name) - 2
    try:
        text = _plain_text(str(error))
    except Exception:  # noqa: BLE001 boundary: `__str__` is foreign code, and the answer tells that it failed
        text = "(its text cannot be read)"
    cut = len(text) > room
    text = redactor.text(clean(text[: room + _MARGIN]))
    if cut or len(text) > room:
        text = text[: room - len(TOO_LONG)] + TOO_LONG
    return f"{name}: {text}" if text else name


def digest(text: str, key: bytes) -> str:
    """A short stand-in for a text that stays the same: "~" and 16 hex digits of BLAKE2b under this key, of any length.

    For the key of an object whose primary key is itself a secret (a session's key, a token). An empty key makes a
    checksum, with which anybody can try texts until one fits: only for what is no secret.
    """
    if len(key) > blake2b.MAX_KEY_SIZE:
        key = blake2b(key).digest()
    return "~" + blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=8, person=b"signalbox").hexdigest()


def path_told(path: str, request: Any, *, redactor: Redacts) -> str:
    """A request's path without what its URL pattern names as a secret, as `activate/<str:token>/` does.

    Where a converter has made another value of it, the pattern stands for the path.
    """
    match = _own(request).get("resolver_match")
    if match is None:
        return path
    for name, value in match.kwargs.items():
        if redactor.is_secret(name) and (text := str(value)):
            if text not in path:
                return f"/{match.route}"
            path = path.replace(text, redactor.mark)
    return path


def has_secret_key(model: type[models.Model], redactor: Redacts) -> bool:
    """Whether a model's primary key, or a part of it, is itself a secret (see `is_secret_field`)."""
    meta = model._meta
    return any(is_secret_field(field, model, redactor) for field in getattr(meta, "pk_fields", (meta.pk,)))


def is_secret_field(field: Any, model: type[models.Model], redactor: Redacts) -> bool:
    """Whether a field's values are secret: by its own name, because the model's owner says so, as the text that is the
    key of a `Token`, or as a foreign key that holds such a value of another model."""
    seen: list[Any] = []
    while field not in seen:
        labels = {one._meta.label_lower for one in (model, field.model, model._meta.concrete_model or model)}
        if redactor.is_secret(field.name) or any(redactor.hides_field(label, field.name) for label in labels):
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
        text = orjson.dumps(value, _scalar, _OPTIONS).decode()
    except TypeError:  # a lone surrogate, a key that is no text, an integer beyond 64 bits
        return orjson.dumps(_plain(value, 0), _scalar, _OPTIONS).decode()
    if "\\u0000" in text:
        return orjson.dumps(_plain(value, 0), _scalar, _OPTIONS).decode()
    return text


def _dumps_native(value: object) -> str:
    """The same with orjson's own rendering of dates and times, which is that of `isoformat`, and no call for each."""
    try:
        text = orjson.dumps(value, _number_text).decode()
    except TypeError:
        return _dumps_orjson(value)
    return _dumps_orjson(value) if "\\u0000" in text else text


def _number_text(value: Any) -> Any:
    """What orjson asks of: mostly decimals."""
    return str(value) if type(value) is Decimal else _scalar(value)


def _dumps_standard(value: object) -> str:
    return _standard(_plain(value, 0))


_standard = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS if _FAST else 0

dumps: Callable[[object], str] = _dumps_orjson if _FAST else _dumps_standard
"""Compact JSON text, by orjson where it is installed, that PostgreSQL's jsonb, MariaDB and SQLite accept.

For values from `safe` and `encode_fields`, and containers built of them. Fields' values may stand in it raw (Decimal,
datetime, UUID, files, lazy texts); they are rendered, yet neither bounded nor redacted. An integer beyond 64 bits
becomes text, NaN and the infinities null, and an object of any other class is named by its class.
"""


_dumps_quick: Callable[[object], str] = _dumps_native if _FAST else _dumps_standard


def _plain(value: Any, depth: int) -> Any:
    """The value in types that both encoders take alike."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return clean(_plain_text(value))
    if issubclass(kind, float):
        return float.__add__(value, 0.0) if math.isfinite(value) else None
    if issubclass(kind, int) and _SMALLEST <= int.__index__(value) < 2 * _BEYOND:
        return int.__index__(value)
    if issubclass(kind, Enum):
        return _plain(_own(value)["_value_"], depth + 1)
    if depth >= 200:
        return TOO_DEEP
    if issubclass(kind, dict):
        return {_key_text(key): _plain(item, depth + 1) for key, item in dict.items(value)}
    if issubclass(kind, list) or kind is tuple:
        return [_plain(item, depth + 1) for item in list(value)]
    return _plain(_scalar(value), depth + 1)


def _scalar(value: Any) -> Any:
    """A value that needs no redactor, as text or number; anything else by its class."""
    try:
        for base in _mro(type(value)):
            if render := _SCALARS.get(base):
                text = render(value)
                return clean(_plain_text(text)) if issubclass(type(text), str) else text
    except Exception:  # noqa: BLE001 boundary: foreign code, and the answer tells that it failed
        return _unreadable(value)
    return _class_mark(value)


# --- Any object -------------------------------------------------------------------------------------------------------


def _plain_text(text: str) -> str:
    """A text of the very type str, whatever a subclass makes of it."""
    return str.__str__(text)


def _dotted(kind: type) -> str:
    """`module.Class`; the module's name can be any object that the class put there."""
    name = _qualname(kind)[:_MAX_KEY]
    try:
        module = _module(kind)
    except AttributeError:  # it was made outside of any module
        module = None
    return clean(f"{module[:_MAX_KEY]}.{name}" if type(module) is str else name)


def _readable(head: bytes, size: int) -> str | None:
    """The text at the beginning of so many bytes, None if they are none; the end of `head` may cut a character."""
    try:
        text = codecs.utf_8_decode(head, "strict", size <= len(head))[0]
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _class_mark(value: object) -> str:
    return f"<{_dotted(type(value))}>"


def _unreadable(value: object) -> str:
    return f"<{_dotted(type(value))}: cannot be read>"


def _own(value: object) -> dict[str, Any]:
    """An object's attributes, past its `__getattribute__` and its properties."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:  # a class with __slots__
        return {}
    return attributes if type(attributes) is dict else {}


def _class_var(kind: type, name: str) -> Any:
    """What a class or its bases define under a name, None if nothing."""
    for base in _mro(kind):
        if name in (defined := _class_vars(base)):
            return defined[name]
    return None


def _dataclass_fields(value: object) -> list[tuple[str, Any]] | None:
    """A dataclass's fields with their values, but those with `repr=False`; None for any other object."""
    kind = type(value)
    fields = _class_var(kind, "__dataclass_fields__")
    if type(fields) is not dict:
        return None
    own = _own(value)
    pairs = []
    for name, field in fields.items():
        if not field.repr:
            continue
        slot = _class_var(kind, name)
        if name in own:
            pairs.append((name, own[name]))
        elif type(slot) is MemberDescriptorType:
            pairs.append((name, slot.__get__(value, kind)))
    return pairs


def _key_text(key: Any) -> str:
    """A mapping's key as text."""
    kind = type(key)
    if kind is str:
        return clean(key)
    if key is None or kind is bool:
        return str(key)
    if kind is bytes:
        return clean(key[:_MAX_KEY].decode("latin-1"))
    return str(_scalar(key))


def _integer(value: int) -> int | str:
    value = int.__index__(value)
    if _SMALLEST <= value < _BEYOND:
        return value
    bits = value.bit_length()
    return str(value) if bits <= 4_096 else f"<integer of {bits} bits>"


def _number(value: float) -> float | str:
    value = float.__add__(value, 0.0)
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _function(value: Any) -> str:
    value = getattr(value, "__func__", value)
    module, name = value.__module__, value.__qualname__
    return f"{module}.{name}" if type(module) is str else str(name)


def _file(value: object) -> str | None:
    """A Django file's name, `_name` where an upload keeps it so; None for an empty file field."""
    own = _own(value)
    name = own.get("name", own.get("_name"))
    return None if name is None else _plain_text(name)


def _open_file(value: Any) -> str:
    return value.name if type(value.name) is str else _class_mark(value)


_SCALARS: Final[Mapping[type, Callable[[Any], Any]]] = {
    str: _plain_text,
    int: _integer,
    float: _number,
    complex: complex.__repr__,
    range: range.__repr__,
    Decimal: Decimal.__str__,
    datetime: datetime.isoformat,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: lambda value: duration_iso_string(timedelta.__add__(value, timedelta())),
    UUID: UUID.__str__,
    Promise: str,
    type: _dotted,
    FunctionType: _function,
    BuiltinFunctionType: _function,
    MethodType: _function,
    File: _file,
    io.FileIO: _open_file,
    io.BufferedReader: _open_file,
    io.BufferedWriter: _open_file,
    io.BufferedRandom: _open_file,
    io.TextIOWrapper: _open_file,
}
_FREE_TEXT: Final = frozenset({str, Promise})


class _Walk:
    """One rendering: the way down, and what is left of the budget."""

    __slots__ = ("_above", "_left", "_redact", "_redactor")

    def __init__(self, redactor: Redacts, redact: Callable[[str], str]) -> None:
        self._redactor = redactor
        self._redact = redact
        self._left = MAX_BYTES - _REMARKS
        self._above: set[int] = set()

    def render(self, value: Any, depth: int) -> JSONValue:
        """The value in JSON's types. `depth` counts the containers around it."""
        kind = type(value)
        if kind is str:
            return self._text(value, True)
        if value is None or kind is bool:
            return self._spend(value, 5)  # type: ignore[no-any-return]
        try:
            for base in _mro(kind):
                if scalar := _SCALARS.get(base):
                    plain = scalar(value)
                    return self._text(plain, base in _FREE_TEXT) if type(plain) is str else self._spend(plain, 24)
                if shape := _SHAPES.get(base):
                    return shape(self, value, depth)
            if (fields := _dataclass_fields(value)) is not None:
                return self._mapping(value, fields, len(fields), depth)
        except Exception:  # noqa: BLE001 boundary: foreign code, and the answer tells that it failed
            return self._text(_unreadable(value), False)
        return self._text(_class_mark(value), False)

    def _spend(self, value: Any, cost: int) -> Any:
        self._left -= cost
        return value

    def _text(self, text: str, free: bool, limit: int = MAX_TEXT) -> str:
        """The text within its limit, and within what is left for the value."""
        length = len(text)
        if length > limit:
            text = text[: limit + _MARGIN]
        text = clean(text)
        if free:
            text = _plain_text(self._redact(text))
        if length > limit or len(text) > limit:
            text = f"{text[:limit]}… ({length - limit:,} more)" if length > limit else text[:limit] + TOO_LONG
        if text.isascii() and text.isprintable():
            cost = len(text) + text.count('"') + text.count("\\") + 3
        else:
            cost = len(_standard(text).encode()) + 1
        if cost > self._left:
            self._left = 0
            return TOO_LONG
        return self._spend(text, cost)  # type: ignore[no-any-return]

    def _mapping(
        self, value: object, items: Iterable[tuple[Any, Any]], size: int, depth: int, named: Collection[str] = ()
    ) -> JSONValue:
        if (remark := self._enter(value, depth)) is not None:
            return remark
        try:
            rendered: dict[str, JSONValue] = {}
            for key, item in islice(items, MAX_ITEMS):
                if self._left <= 0:
                    break
                name = _key_text(key)
                secret = self._redactor.hides(name, item) or name in named
                name = self._text(name, True, _MAX_KEY)
                while name in rendered:  # 1 and "1"
                    name += "'"
                    self._left -= 1
                rendered[name] = self._mark() if secret else self.render(item, depth + 1)
            if size > len(rendered):
                rendered[MORE] = f"{size - len(rendered):,} more"
            return rendered
        finally:
            self._above.discard(id(value))

    def _items(self, value: object, items: Iterator[Any], size: int, depth: int) -> JSONValue:
        if (remark := self._enter(value, depth)) is not None:
            return remark
        try:
            rendered: list[JSONValue] = []
            secret = False
            for item in islice(items, MAX_ITEMS):
                if self._left <= 0:
                    break
                # By itself a list of two may be one of names; among other things it is a pair as tuples are.
                pair = type(item) is list and self._redactor.hides_second(item)
                rendered.append(self._mark() if secret else self.render(tuple(item) if pair else item, depth + 1))
                secret = not secret and self._redactor.hides_next(item)
            if size > len(rendered):
                rendered.append(f"{MORE} ({size - len(rendered):,} more)")
            return rendered
        finally:
            self._above.discard(id(value))

    def _enter(self, value: object, depth: int) -> str | None:
        """Note the container, or tell why it isn't entered."""
        if id(value) in self._above:
            return self._text(CYCLE, False)
        if depth >= MAX_DEPTH:
            return self._text(TOO_DEEP, False)
        self._above.add(id(value))
        self._left -= 4
        return None

    def _mark(self) -> str:
        return self._text(self._redactor.mark, False)

    # --- one method for each class of objects

    def from_dict(self, value: Any, depth: int) -> JSONValue:
        named = self._redactor.values_named(value)
        return self._mapping(value, dict.items(value), dict.__len__(value), depth, named)

    def from_proxy(self, value: MappingProxyType[Any, Any], depth: int) -> JSONValue:
        return self._mapping(value, value.items(), len(value), depth, self._redactor.values_named(value))

    def from_list(self, value: Any, depth: int) -> JSONValue:
        return self._items(value, list.__iter__(value), list.__len__(value), depth)

    def from_deque(self, value: Any, depth: int) -> JSONValue:
        return self._items(value, deque.__iter__(value), deque.__len__(value), depth)

    def from_tuple(self, value: Any, depth: int) -> JSONValue:
        names = _class_var(type(value), "_fields")
        size = tuple.__len__(value)
        if type(names) is tuple and len(names) == size:
            return self._mapping(value, zip(names, tuple.__iter__(value), strict=True), size, depth)
        if type(value) is tuple and self._redactor.hides_second(value):
            return self._items(value, iter((value[0], self._redactor.mark)), 2, depth)
        return self._items(value, tuple.__iter__(value), size, depth)

    def from_set(self, value: Any, depth: int) -> JSONValue:
        return self._set(value, set.__iter__(value), set.__len__(value), depth)

    def from_frozenset(self, value: Any, depth: int) -> JSONValue:
        return self._set(value, frozenset.__iter__(value), frozenset.__len__(value), depth)

    def _set(self, value: object, items: Iterator[Any], size: int, depth: int) -> JSONValue:
        """In order where that is cheap and asks no foreign class to compare."""
        if size <= _SORTED_ITEMS:
            listed = [*items]
            kinds = {*map(type, listed)}
            comparable = len(kinds) == 1 and kinds <= {str, int, date, UUID, Decimal}
            items = iter(sorted(listed) if comparable else listed)
        return self._items(value, items, size, depth)

    def from_bytes(self, value: Any, depth: int) -> JSONValue:
        return self._bytes(value, bytes.__len__(value), bytes.__getitem__(value, slice(MAX_TEXT + _MARGIN)), depth)

    def from_bytearray(self, value: Any, depth: int) -> JSONValue:
        head = bytearray.__getitem__(value, slice(MAX_TEXT + _MARGIN))
        return self._bytes(value, bytearray.__len__(value), bytes(head), depth)

    def from_memoryview(self, value: Any, depth: int) -> JSONValue:
        plain = value.ndim == 1 and value.itemsize == 1
        return self._bytes(value, value.nbytes, bytes(value[: MAX_TEXT + _MARGIN]) if plain else b"", depth)

    def _bytes(self, value: object, size: int, head: bytes, depth: int) -> JSONValue:
        """Readable bytes as text, which may hold a secret to take out. Of others only the size is told: nobody can tell
        whether they hold one."""
        text = _readable(head, size)
        if text:
            return {"bytes": size, "text": self._text(text, True, MAX_TEXT)}
        self._left -= 40
        return {"bytes": size}

    def from_enum(self, value: object, depth: int) -> JSONValue:
        return self.render(_own(value)["_value_"], depth)

    def from_lazy(self, value: object, depth: int) -> JSONValue:
        """A `SimpleLazyObject` such as `request.user`: never woken."""
        wrapped = _own(value).get("_wrapped", empty)
        return self._text(_class_mark(value), False) if wrapped is empty else self.render(wrapped, depth)

    def from_model(self, value: models.Model, depth: int) -> JSONValue:
        meta = type(value)._meta
        own = _own(value)
        pk: object
        if has_secret_key(type(value), self._redactor):
            pk = self._redactor.mark
        elif fields := getattr(meta, "pk_fields", None):
            values = [own.get(field.attname) for field in fields]
            pk = values if len(values) > 1 else values[0]
        else:
            pk = own.get(meta.pk.attname)
        return {"model": self._text(meta.label, False), "pk": self.render(pk, depth + 1)}

    def from_queryset(self, value: object, depth: int) -> JSONValue:
        return {"queryset": self._text(_own(value)["model"]._meta.label, False)}

    def from_request(self, value: object, depth: int) -> JSONValue:
        own = _own(value)
        path = own.get("path")
        told = path_told(path, value, redactor=self._redactor) if type(path) is str else path
        return {"method": self.render(own.get("method"), depth + 1), "path": self.render(told, depth + 1)}

    def from_exception(self, value: BaseException, depth: int) -> JSONValue:
        return self._text(exception_text(value, redactor=self._redactor), False)

    def from_partial(self, value: functools.partial[Any], depth: int) -> JSONValue:
        return self.render(value.func, depth)


_SHAPES: Final[Mapping[type, Callable[[_Walk, Any, int], JSONValue]]] = {
    dict: _Walk.from_dict,
    list: _Walk.from_list,
    tuple: _Walk.from_tuple,
    set: _Walk.from_set,
    frozenset: _Walk.from_frozenset,
    deque: _Walk.from_deque,
    MappingProxyType: _Walk.from_proxy,
    bytes: _Walk.from_bytes,
    bytearray: _Walk.from_bytearray,
    memoryview: _Walk.from_memoryview,
    Enum: _Walk.from_enum,
    LazyObject: _Walk.from_lazy,
    models.Model: _Walk.from_model,
    models.QuerySet: _Walk.from_queryset,
    HttpRequest: _Walk.from_request,
    BaseException: _Walk.from_exception,
    functools.partial: _Walk.from_partial,
}
