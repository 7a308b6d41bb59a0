"""Serialize the arguments of a send for another process: JSON with tags for other types, and keys for objects."""

from __future__ import annotations

import datetime as dt
import math
from base64 import b64decode, b64encode
from decimal import Decimal
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.utils.dateparse import parse_duration
from django.utils.duration import duration_iso_string
from django.utils.functional import LazyObject, Promise, empty

from signalbox.serialization import encoder, field_values
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Callable

TYPE_TAG: Final = "$"

MAX_DEPTH: Final = 20
"""Maximum depth of nested containers, which is that of ``redact`` too."""


class NotSerializable(TypeError):
    """A value is neither a JSON type, nor of a tagged type, nor a saved model instance."""


class TooDeepMarker:
    """Replaces a value with too many nested containers, which can't be serialized."""


def mark_too_deep(value: Any) -> Any:
    """Return ``value``, or a ``TooDeepMarker`` if it is too deep. To be called before ``redact`` truncates it."""
    return TooDeepMarker() if _is_deeper_than(value, MAX_DEPTH) else value


def _is_deeper_than(value: Any, max_depth: int) -> bool:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple | set | frozenset):
        return False
    return max_depth == 0 or any(_is_deeper_than(item, max_depth - 1) for item in value)


def serialize(value: Any, depth: int = 0) -> Any:
    """Return ``value`` as JSON types, from which ``deserialize`` returns an equal value.

    Raises ``NotSerializable`` for a value that would change.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -(2**53) < value < 2**53 else {TYPE_TAG: "int", "v": str(value)}
    if kind is float:
        return value if math.isfinite(value) else {TYPE_TAG: "float", "v": str(value)}
    if kind is TooDeepMarker or (depth >= MAX_DEPTH and issubclass(kind, dict | list | tuple | set | frozenset)):
        raise NotSerializable(f"it has more than {MAX_DEPTH} nested containers")
    if kind is dict:
        return _serialize_dict(value, depth)
    if kind is list:
        return [serialize(item, depth + 1) for item in value]
    if kind in _COLLECTION_TYPES:
        return {TYPE_TAG: kind.__name__, "v": [serialize(item, depth + 1) for item in value]}
    if kind in _TEXT_CODECS:
        return {TYPE_TAG: kind.__name__, "v": _TEXT_CODECS[kind][0](value)}
    return _serialize_object(value, depth)


def resolve_lazy(value: Any) -> Any:
    """Return ``value``, or the evaluated one of a lazy object such as ``request.user`` or a translation.

    Raises ``NotSerializable`` for a lazy object that was not evaluated yet.
    """
    if issubclass(type(value), LazyObject):
        wrapped = value.__dict__.get("_wrapped", empty)
        if wrapped is empty:
            raise NotSerializable("it is lazy and was not evaluated yet")
        return wrapped
    return str(value) if isinstance(value, Promise) else value


def _serialize_dict(value: dict[Any, Any], depth: int) -> Any:
    for key in value:
        if type(key) is not str:
            raise NotSerializable(f"a dict in it has a key of type {type(key).__name__}; only texts are keys in JSON")
    serialized = {key: serialize(item, depth + 1) for key, item in value.items()}
    return {TYPE_TAG: "dict", "v": serialized} if TYPE_TAG in serialized else serialized


def _serialize_object(value: Any, depth: int) -> Any:
    if issubclass(type(value), LazyObject | Promise):
        return serialize(resolve_lazy(value), depth)
    if isinstance(value, Model):
        if value.pk is None or value._state.adding:  # a key that Python generates exists before the row
            raise NotSerializable(f"it is an unsaved {value._meta.label}; only saved objects can be loaded again")
        return {
            TYPE_TAG: "model",
            "v": [value._meta.label, _serialize_key(type(value), value.pk, depth + 1), value._state.db or "default"],
        }
    if isinstance(value, type):
        return {TYPE_TAG: "class", "v": _get_class_name(value)}
    if isinstance(value, str):
        return str.__str__(value)  # a subclass, such as TextChoices, becomes a plain text
    if isinstance(value, int):
        return serialize(int(value), depth)
    raise NotSerializable(f"it is a {type(value).__module__}.{type(value).__qualname__}")


def _serialize_key(model: type[Model], key: Any, depth: int) -> Any:
    """Return a primary key as JSON types. A value of the application's own class is read by its field."""
    fields: list[Any] = list(model._meta.pk_fields)
    if len(fields) == 1:
        return _serialize_field_value(fields[0], key, depth)
    parts = [_serialize_field_value(field, part, depth + 1) for field, part in zip(fields, key, strict=True)]
    return {TYPE_TAG: "tuple", "v": parts}


def _serialize_field_value(field: Any, value: Any, depth: int) -> Any:
    try:
        return serialize(value, depth)
    except NotSerializable:
        recorded = field_values.build_recorder(field, get_redactor()).record(value)
        if isinstance(recorded, encoder.NotRestorable):
            raise
        return {TYPE_TAG: "field", "v": [field.model._meta.label, field.name, serialize(recorded, depth)]}


def _get_class_name(value: type) -> str:
    name = value._meta.label if issubclass(value, Model) else f"{value.__module__}:{value.__qualname__}"
    try:
        imported = None if value.__module__ == "__main__" else import_class(name)
    except (LookupError, ImportError):
        imported = None
    if imported is not value:
        raise NotSerializable(f"the class {name} can't be imported by its name, so no other process finds it")
    return name


def deserialize(value: Any) -> Any:
    """Return the value that was given to ``serialize``. Objects are loaded, and deleted ones have only their key.

    Raises ``LookupError`` or ``ImportError`` for a model or class that this version of the code does not have.
    """
    if isinstance(value, list):
        return [deserialize(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(TYPE_TAG)
    if kind is None:
        return {key: deserialize(item) for key, item in value.items()}
    content = value["v"]
    if kind == "dict":
        return {key: deserialize(item) for key, item in content.items()}
    if kind == "model":
        label, key, using = content
        return load_instance(label, deserialize(key), using)
    if kind == "class":
        return import_class(content)
    if kind == "field":
        label, name, recorded = content
        return field_values.read_value(apps.get_model(label)._meta.get_field(name), deserialize(recorded))
    if collection := _COLLECTION_TYPES_BY_NAME.get(kind):
        return collection(deserialize(item) for item in content)
    return _DECODERS[kind](content)


def from_recorded(value: Any, using: str) -> Any:
    """Return a recorded value as ``serialize`` would have. Objects and bytes are recognized by their recorded form.

    ``using`` is the database of the objects.
    """
    if isinstance(value, list):
        return [from_recorded(item, using) for item in value]
    if not isinstance(value, dict):
        return serialize(value)
    if value.keys() == {"model", "pk"} and (instance := _parse_recorded_object(value, using)):
        return instance
    if (content := parse_recorded_bytes(value)) is not None:
        return serialize(content)
    serialized = {key: from_recorded(item, using) for key, item in value.items()}
    return {TYPE_TAG: "dict", "v": serialized} if TYPE_TAG in serialized else serialized


def _parse_recorded_object(value: dict[str, Any], using: str) -> Any:
    try:
        model: type[Model] = apps.get_model(value["model"])
        fields, key = model._meta.pk_fields, value["pk"]
        parts = [field.to_python(part) for field, part in zip(fields, [key] if len(fields) == 1 else key, strict=True)]
    except (LookupError, ValueError, TypeError, AttributeError, ValidationError):
        return None  # a dict of the application
    return {
        TYPE_TAG: "model",
        "v": [model._meta.label, _serialize_key(model, parts[0] if len(parts) == 1 else tuple(parts), 0), using],
    }


def parse_recorded_bytes(value: dict[str, Any]) -> bytes | None:
    """Return the bytes of this recorded form; ``None`` if it is incomplete or another form."""
    text = value.get("text")
    if value.keys() != {"bytes", "text"} or not isinstance(text, str):
        return None
    content = text.encode()
    return content if len(content) == value["bytes"] else None


def load_instance(label: str, key: Any, using: str) -> Model:
    """Return the object of the model ``label`` with this primary key, or an unsaved one that has only the key."""
    model: type[Model] = apps.get_model(label)
    instance: Model | None = QuerySet(model, using=using).filter(pk=key).first()
    if instance is not None:
        return instance
    names = [field.attname for field in model._meta.pk_fields]
    return build_unsaved_instance(
        model, dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True)), using
    )


def build_unsaved_instance(model: type[Model], values: dict[str, Any], using: str) -> Model:
    """Return an unsaved instance with ``values`` by attribute. Its other fields are deferred and can't be loaded."""
    names = [field.attname for field in model._meta.concrete_fields if field.attname in values]
    instance = model.from_db(using, names, [values[name] for name in names])
    instance._state.adding = True
    return instance


def import_class(name: str) -> Any:
    """Return the class of this name, ``module:Class`` or dotted, or the model of this label.

    Raises ``ImportError`` if there is none.
    """
    if name.count(".") == 1 and ":" not in name:
        try:
            return apps.get_model(name)
        except LookupError:
            pass
    try:
        return resolve_name(name)
    except (AttributeError, ValueError) as error:
        raise ImportError(f"{name} can't be imported: {error}") from error


def _parse_duration(text: str) -> dt.timedelta:
    return parse_duration(text) or dt.timedelta()


_TEXT_CODECS: Final[dict[type, tuple[Callable[[Any], str], Callable[[str], Any]]]] = {
    Decimal: (str, Decimal),
    UUID: (str, UUID),
    dt.datetime: (dt.datetime.isoformat, dt.datetime.fromisoformat),
    dt.date: (dt.date.isoformat, dt.date.fromisoformat),
    dt.time: (dt.time.isoformat, dt.time.fromisoformat),
    dt.timedelta: (duration_iso_string, _parse_duration),
    bytes: (lambda value: b64encode(value).decode(), b64decode),
}
_COLLECTION_TYPES: Final = (tuple, set, frozenset)
_COLLECTION_TYPES_BY_NAME: Final[dict[str, Callable[[Any], Any]]] = {kind.__name__: kind for kind in _COLLECTION_TYPES}
_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    **{kind.__name__: read for kind, (_, read) in _TEXT_CODECS.items()},
    "int": int,
    "float": float,
}
