"""Converts values of fields to their recorded form and back.

A value is recorded as Django's ``python`` serializer gives it, and read by the field's ``to_python()``. A value that
does not survive this is marked as not restorable. Values of ordinary types are not checked: for each field it is
known which types it reads back.
"""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, connections, models, router
from django.db.models.fields.files import FieldFile
from django.utils.encoding import is_protected_type
from django.utils.functional import Promise

from signalbox.core import interrupts, object_keys, query_guard
from signalbox.core.event import Unknown
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.encoder import NotRestorable
from signalbox.serialization.plain_json import is_plain_json
from signalbox.serialization.redaction import Redactor, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_ALWAYS_EXACT: Final = frozenset({NoneType, Unknown})

_TEXT_TYPES: Final = frozenset({str, int, bool})

_INTEGER_TYPES: Final = frozenset({int, bool, str})

_EXACT_TYPES: Final[dict[type[models.Field[Any, Any]], frozenset[type]]] = {
    models.AutoField: _INTEGER_TYPES,
    models.BigAutoField: _INTEGER_TYPES,
    models.BigIntegerField: _INTEGER_TYPES,
    models.BinaryField: frozenset(),
    models.BooleanField: _INTEGER_TYPES,
    models.CharField: _TEXT_TYPES,
    models.DateField: frozenset({date, str}),
    models.DateTimeField: frozenset({datetime, date, str}),
    models.DecimalField: frozenset({Decimal, int, float, str}),
    models.DurationField: frozenset({timedelta, str}),
    models.EmailField: _TEXT_TYPES,
    models.FileField: frozenset({str}),
    models.FilePathField: _TEXT_TYPES,
    models.FloatField: frozenset({float, int, Decimal, str}),
    models.GenericIPAddressField: frozenset({str}),
    models.ImageField: frozenset({str}),
    models.IntegerField: _INTEGER_TYPES,
    models.JSONField: _TEXT_TYPES,
    models.PositiveBigIntegerField: _INTEGER_TYPES,
    models.PositiveIntegerField: _INTEGER_TYPES,
    models.PositiveSmallIntegerField: _INTEGER_TYPES,
    models.SlugField: _TEXT_TYPES,
    models.SmallAutoField: _INTEGER_TYPES,
    models.SmallIntegerField: _INTEGER_TYPES,
    models.TextField: _TEXT_TYPES,
    models.TimeField: frozenset({str}),
    models.URLField: _TEXT_TYPES,
    models.UUIDField: frozenset({UUID, str}),
}
"""Django's fields, and types whose recorded values they read back."""

_CONVERSIONS: Final = (
    "to_python",
    "get_prep_value",
    "get_db_prep_value",
    "get_db_prep_save",
    "value_to_string",
    "value_from_object",
)
"""Methods that convert values. A field that overrides none converts as its base class does."""

_SCALAR_TYPES: Final = frozenset({str, int, float, bool, Decimal, datetime, date, timedelta, UUID})


def get_value_field(field: Any) -> Any:
    """Return the field that converts the values of ``field``: the target of a foreign key, the output of a column that
    the database computes."""
    seen: list[Any] = []
    while field not in seen:
        seen.append(field)
        if field.is_relation and isinstance(field.related_model, type):
            field = field.target_field
        elif getattr(field, "generated", False):
            field = field.output_field
    return field


def get_django_class(field: Any) -> Any:
    """Return the field class of Django that converts values as ``field`` does; ``None`` if ``field`` overrides it."""
    kind = type(field)
    for base in kind.__mro__:
        if base in _EXACT_TYPES:
            same = all(getattr(base, name) is getattr(kind, name) for name in _CONVERSIONS)
            return base if same else None
    return None


def build_recorder(field: Any, redactor: Redactor) -> ValueRecorder:
    """Return the recorder of the values of ``field``."""
    field = get_value_field(field)
    base = get_django_class(field)
    if base is models.JSONField:
        return _JSONRecorder(field, redactor)
    if base is models.BinaryField:
        return _BinaryRecorder(field, redactor)
    if base is not None and issubclass(base, models.FileField):
        return _TextRecorder(field, redactor, _EXACT_TYPES[base], FieldFile, FieldFile.__str__)
    if base is models.GenericIPAddressField:  # an IPv6 address has several spellings
        return _TextRecorder(field, redactor, _EXACT_TYPES[base], str, field.get_prep_value)
    if base is models.TimeField:
        return _TextRecorder(field, redactor, _EXACT_TYPES[base], time, time.isoformat)
    if base is not None:
        return ValueRecorder(field, redactor, _EXACT_TYPES[base])
    modules = [kind.__module__ for kind in type(field).__mro__]
    if any(module.startswith("django.contrib.gis.") for module in modules):
        return _UnsupportedRecorder(field, redactor)
    if isinstance(getattr(field, "base_field", None), models.Field) and hasattr(field, "size"):  # an array
        return _ArrayRecorder(field, redactor)
    return _OwnRecorder(field, redactor)


def read_value(field: Any, recorded: Any) -> Any:
    """Return the value of ``field`` that an event or a delivery contains in its recorded form.

    Raises the field's errors for a value that it can't read: most often ``ValidationError``, ``ValueError`` or
    ``TypeError``.
    """
    return None if recorded is None else build_recorder(field, get_redactor()).read(recorded)


class ValueRecorder:
    """Records the values of one field."""

    __slots__ = ("_redactor", "exact_types", "field", "is_json")

    def __init__(self, field: Any, redactor: Redactor, exact_types: Iterable[type] = ()) -> None:
        self.field = field
        self._redactor = redactor
        self.exact_types: set[type] = {*_ALWAYS_EXACT, *exact_types}
        """Types whose values are recorded as they are. A look-up here is faster than ``record()``."""
        self.is_json = False
        """Whether containers are recorded as they are if they contain only JSON, as empty ones do."""

    def record(self, value: Any) -> Any:
        """Return the recorded form of ``value``: a value of JSON, a scalar, or ``NotRestorable``."""
        if type(value) in self.exact_types or isinstance(value, NotRestorable):
            return value
        return query_guard.call_without_queries(self._record_checked, value, connection=None)

    def encodes(self, value: Any) -> bool:
        """Return whether ``value`` has parts that an encoder converts to JSON."""
        return False

    def _record_checked(self, value: Any) -> Any:
        try:
            rendered = encoder.render(value, redactor=self._redactor)
            if isinstance(rendered, dict | list):
                if self._is_readable(value, rendered):
                    return rendered
                text = encoder.dumps(rendered)
                if self._is_secret(value, text):
                    return NotRestorable(text)  # the field's own text may contain the secret
            for convert in (self._serialize, _to_exact_text, self.field.get_prep_value, self.field.to_python):
                recorded = _try(convert, value)
                if _is_plain(recorded) and not _is_pickle(recorded) and self._is_readable(value, recorded):
                    return recorded
            return NotRestorable(self._describe(value, rendered))
        except Exception as error:  # noqa: BLE001 - the application's own classes
            interrupts.raise_if_interrupt(error)
            return NotRestorable(encoder.class_placeholder(value))

    def _is_secret(self, value: Any, text: str) -> bool:
        """Return whether ``text`` contains a redacted value, or the rest of ``value`` may contain a secret."""
        if isinstance(value, bytes | bytearray | memoryview) or self._redactor.placeholder in text:
            return True
        return bool(redact(value, self._redactor) != value)

    def _serialize(self, value: Any) -> Any:
        """Return ``value`` as Django's ``python`` serializer gives it."""
        if not is_protected_type(value):
            value = self.field.value_to_string(SimpleNamespace(**{self.field.attname: value}))
        return _to_scalar(value)

    def _describe(self, value: Any, rendered: Any) -> str:
        """Return a text that describes ``value`` to people."""
        if isinstance(rendered, dict | list):
            return encoder.dumps(rendered)
        if object_keys.has_text(value):
            text = _try(self._serialize, value)
            if isinstance(text, str) and not _is_pickle(text):
                return text
        return str(rendered)

    def _is_readable(self, value: Any, recorded: Any) -> bool:
        """Return whether the field reads ``recorded`` as a value with the same column value as ``value``."""
        try:
            found = self.read(_to_json(recorded))
            written = self._prepare(value)
            # PostgreSQL's jsonb writes 1e16 and larger whole numbers as integers.
            if isinstance(recorded, float) and recorded.is_integer() and abs(recorded) >= 1e16:
                return _is_same(written, self._prepare(self.read(int(recorded))))
            if _is_same(written, self._prepare(found)):
                return True
            # A field that encrypts writes something else each time.
            is_random = not _is_same(written, self._prepare(value))
            return is_random and type(found) is type(value) and _is_same(found, value)
        except Exception as error:  # noqa: BLE001 - the field's own code on a value that it may not know
            interrupts.raise_if_interrupt(error)
            return False

    def stores_equally(self, first: Any, second: Any) -> bool:
        """Return whether the field writes the same into the column for both values."""

        def compare() -> bool:
            return _is_same(self._prepare(first), self._prepare(second))

        return _try(lambda _: query_guard.call_without_queries(compare, connection=None), None) is True

    def _prepare(self, value: Any) -> Any:
        model = getattr(self.field, "model", None)
        alias = DEFAULT_DB_ALIAS if model is None else router.db_for_write(model)
        return self.field.get_db_prep_save(value, connections[alias])

    def read(self, recorded: Any) -> Any:
        """Return the value of its recorded form. Raises the field's errors for a value that it can't read."""
        return self.field.to_python(recorded)


class _TextRecorder(ValueRecorder):
    """Records values of one type as texts that the field reads back."""

    __slots__ = ("_to_text", "_type")

    def __init__(
        self,
        field: Any,
        redactor: Redactor,
        exact_types: Iterable[type],
        value_type: type,
        to_text: Callable[[Any], str],
    ) -> None:
        super().__init__(field, redactor, exact_types)
        self._type, self._to_text = value_type, to_text

    def record(self, value: Any) -> Any:
        return self._to_text(value) if isinstance(value, self._type) else super().record(value)


class _OwnRecorder(ValueRecorder):
    """Records the values of a field that overrides the conversion of Django's fields."""

    __slots__ = ()

    def _record_checked(self, value: Any) -> Any:
        if type(value) in _SCALAR_TYPES:
            recorded = _to_json(value)
            if self._is_readable(value, recorded):
                if value:  # an empty text or a zero proves nothing about other values of its type
                    self.exact_types.add(type(value))
                return value
        return super()._record_checked(value)


class _JSONRecorder(ValueRecorder):
    """Records JSON as the field's encoder writes it."""

    __slots__ = ("_encodes_plain",)

    def __init__(self, field: Any, redactor: Redactor) -> None:
        super().__init__(field, redactor, _EXACT_TYPES[models.JSONField])
        own = field.encoder or json.JSONEncoder
        self._encodes_plain = field.decoder is not None or any(
            getattr(own, name) is not getattr(json.JSONEncoder, name) for name in ("encode", "iterencode")
        )
        self.is_json = not self._encodes_plain
        if self._encodes_plain:
            self.exact_types = set(_ALWAYS_EXACT)

    def record(self, value: Any) -> Any:
        if type(value) in self.exact_types or isinstance(value, NotRestorable):
            return value
        if not self._encodes_plain and is_plain_json(value):
            return value
        return query_guard.call_without_queries(self._record_checked, value, connection=None)

    def encodes(self, value: Any) -> bool:
        return not is_plain_json(value)

    def _record_checked(self, value: Any) -> Any:
        try:
            written = json.loads(json.dumps(value, cls=self.field.encoder), parse_constant=_refuse_constant)
            if self.field.decoder is not None:
                again = json.dumps(self.read(written), cls=self.field.encoder)
                if not _is_same(json.loads(again), written):
                    return self._mark(value)
        except Exception as error:  # noqa: BLE001 - the application's encoder, decoder and values
            interrupts.raise_if_interrupt(error)
            return self._mark(value)
        return written

    def _mark(self, value: Any) -> NotRestorable:
        return NotRestorable(encoder.dumps(encoder.render(value, redactor=self._redactor)))

    def read(self, recorded: Any) -> Any:
        decoder = self.field.decoder
        return recorded if decoder is None else json.loads(json.dumps(recorded), cls=decoder)


class _ArrayRecorder(ValueRecorder):
    """Records the items of PostgreSQL's arrays."""

    __slots__ = ("_element",)

    def __init__(self, field: Any, redactor: Redactor) -> None:
        super().__init__(field, redactor)
        self._element = build_recorder(field.base_field, redactor)

    def record(self, value: Any) -> Any:
        if type(value) not in (list, tuple):
            return super().record(value)
        if self._element.exact_types.issuperset(map(type, value)):
            return list(value)
        items = list(map(self._element.record, value))
        if any(isinstance(item, NotRestorable) for item in items):
            return NotRestorable(encoder.dumps(encoder.render(value, redactor=self._redactor)))
        return items

    def read(self, recorded: Any) -> Any:
        if not isinstance(recorded, list):
            return super().read(recorded)
        return [None if item is None else self._element.read(item) for item in recorded]


class _BinaryRecorder(ValueRecorder):
    """Records bytes that are a text. Only the number of other bytes is recorded: secrets in them can't be found."""

    __slots__ = ()

    def _record_checked(self, value: Any) -> Any:
        if isinstance(value, bytes | bytearray | memoryview):
            rendered: Any = encoder.render(value, redactor=self._redactor)
            return value if "text" in rendered or rendered["bytes"] == 0 else NotRestorable(encoder.dumps(rendered))
        return super()._record_checked(value)

    def read(self, recorded: Any) -> Any:
        if isinstance(recorded, dict) and recorded.keys() <= {"bytes", "text"}:
            content = str(recorded.get("text", "")).encode()
            if len(content) == recorded.get("bytes"):
                return content
        raise ValueError("the bytes were not recorded completely")


class _UnsupportedRecorder(ValueRecorder):
    """Records only the class of geometries."""

    __slots__ = ()

    def _record_checked(self, value: Any) -> Any:
        return NotRestorable(encoder.class_placeholder(value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _try(convert: Callable[[Any], Any], value: Any) -> Any:
    """Return ``convert(value)``, or ``_FAILED`` if it fails."""
    try:
        return convert(value)
    except Exception as error:  # noqa: BLE001 - the application's own classes
        interrupts.raise_if_interrupt(error)
        return _FAILED


_FAILED: Final = object()


def _is_plain(value: Any) -> bool:
    return type(value) in _SCALAR_TYPES or (type(value) in (NoneType, dict, list) and is_plain_json(value))


def _is_pickle(text: Any) -> bool:
    """Return whether a text is a pickle in base64, compressed or not: secrets in it can't be found."""
    if not isinstance(text, str) or not text.startswith(("gA", "eA", "eJ", "eN")):
        return False
    try:
        head = b64decode(text[:8], validate=True)
    except ValueError:
        return False
    return head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"x\x01", b"x\x9c", b"x\xda"))


def _to_exact_text(value: Any) -> Any:
    return str.__str__(value) if isinstance(value, str) else _FAILED


_BASES: Final[tuple[tuple[type, Callable[[Any], Any]], ...]] = (
    (str, str.__str__),
    (bool, bool),
    (int, int.__index__),
    (float, lambda value: float.__add__(value, 0.0)),
    (Promise, str),
)


def _to_scalar(value: Any) -> Any:
    """Return a value of a subclass as one of its base class."""
    if type(value) in _SCALAR_TYPES:
        return value
    for base, convert in _BASES:
        if isinstance(value, base):
            return convert(value)
    if isinstance(value, Decimal | datetime | date | time):
        return encoder.encode_scalar(value)
    return value


def _to_json(value: Any) -> Any:
    """Return ``value`` as an event that was stored contains it."""
    return json.loads(encoder.dumps(value))


def _is_same(first: Any, second: Any) -> bool:
    """Return whether two values are equal, and booleans only to booleans."""
    return (type(first) is bool) is (type(second) is bool) and bool(first == second)
