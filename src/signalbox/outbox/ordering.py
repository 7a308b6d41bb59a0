"""Ordering keys of deliveries: equal keys are the same text for every signal, in every process and in replays.

Deliveries to one receiver whose keys are the same text share a partition. The text of an object is its model and
primary key, so its saves, those of its proxy models and the changes of its relations are in one partition.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from django.apps import apps
from django.db import DatabaseError
from django.db.models import Model, QuerySet
from django.utils.duration import duration_iso_string
from django.utils.functional import Promise

from signalbox.core import loggers, object_keys
from signalbox.core.text import digest, sanitize_text
from signalbox.pipeline.delivery_errors import DeliveryError
from signalbox.serialization import encoder, field_values

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from signalbox.outbox.durable_receiver import DurableReceiver
    from signalbox.serialization.redaction import Redactor

logger = loggers.get_logger("outbox")


class OrderingKeyError(DeliveryError, DatabaseError):
    """The ordering key of a delivery can't be determined, so it could run at the same time as others of its key."""


class RowReference(NamedTuple):
    """The row of an event's object, and its fields that were not loaded."""

    model: type[Model]
    using: str
    primary_key: str
    """The primary key as text."""
    unloaded_fields: AbstractSet[str]
    """Names of fields that were not loaded, without those that must not be read."""


def get_partition_id(receiver_name: str, ordering_key: str) -> int:
    """Return the partition that a receiver's deliveries for one key share.

    Two keys have the same one with a probability of 1 in 2**64. Their deliveries then only wait for each other.
    """
    digest = blake2b(f"{receiver_name}\0{ordering_key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def get_ordering_key(
    durable: DurableReceiver,
    object_key: str,
    values: Mapping[str, Any],
    redactor: Redactor,
    row: RowReference | None = None,
) -> str:
    """Return the ordering key of a delivery; empty if it is not ordered.

    ``object_key`` is the key of the event's object, from ``build_object_key``. ``values`` are the arguments of a send,
    or the values of ``row``. Fields that were not loaded are read now, if the receiver's key needs them. Raises
    ``OrderingKeyError`` if the row was deleted.
    """
    key = durable.key
    if key is None:
        return ""
    if key == "pk":
        return object_key
    try:
        if row is not None and (row.unloaded_fields if callable(key) else key in row.unloaded_fields):
            values = _load_missing_fields(values, row)
        if callable(key):
            return format_key(key(values), redactor)
        value = values[key]
        if row is not None:
            value = _normalize_field_value(row.model, key, value, redactor)
        return format_key(value, redactor)
    except OrderingKeyError as error:
        raise OrderingKeyError(f"{durable.name} is ordered by {error}") from error
    except Exception:
        logger.exception(
            "The key %r of %s failed for %s; the object is used as its key.", key, durable.name, object_key
        )
        return object_key


class _DeletedRow(dict[str, Any]):
    """The known values of a deleted row. Reading another field raises ``OrderingKeyError``."""

    def __init__(self, values: Mapping[str, Any], row: RowReference) -> None:
        super().__init__(values)
        self.row = row

    def __missing__(self, name: str) -> Any:
        if name not in self.row.unloaded_fields:
            raise KeyError(name)
        label = self.row.model._meta.label
        raise OrderingKeyError(
            f"the field {name!r} of {label} {self.row.primary_key}, which was not loaded, and the row is deleted: "
            "load the field before the delete."
        )


def _load_missing_fields(values: Mapping[str, Any], row: RowReference) -> Mapping[str, Any]:
    meta = row.model._meta
    names = [field.name for field in meta.pk_fields]
    if all(name in values for name in names):
        primary_key = {name: values[name] for name in names}
    else:
        primary_key = dict(
            zip(names, json.loads(row.primary_key) if len(names) > 1 else [row.primary_key], strict=True)
        )
    queryset: QuerySet[Model] = QuerySet(row.model, using=row.using).filter(**primary_key)
    loaded = queryset.values(*row.unloaded_fields).first()
    return _DeletedRow(values, row) if loaded is None else {**values, **loaded}


def _normalize_field_value(model: type[Model], name: str, value: Any, redactor: Redactor) -> Any:
    """Return the object key that a foreign key refers to, or the Python value of another field."""
    field: Any = model._meta.get_field(name)
    value = field.to_python(value)
    target = field.related_model if field.is_relation else None
    if value is None or target is None or not field.target_field.primary_key:
        recorded = field_values.build_recorder(field, redactor).record(value)
        return value if isinstance(recorded, encoder.NotRestorable) else recorded
    return build_object_key(target._meta.label, _format_primary_key(target, value, redactor))


def get_model_label(signal: str, sender: str, args: Any) -> str:
    """Return the label of the model of the event's object, given the recorded arguments."""
    if not isinstance(args, Mapping):
        return sender
    if signal == "m2m_changed":
        return str(args.get("object", sender))
    instance = args.get("instance", args.get("user"))
    return str(instance["model"]) if isinstance(instance, Mapping) and "model" in instance else sender


def build_object_key(label: str, key: str) -> str:
    """Return the key of an object: the label of its concrete model, and its primary key as text.

    It is empty without a primary key.
    """
    if not key:
        return ""
    model = find_model(label)
    concrete = None if model is None else model._meta.concrete_model
    return _truncate_key(f"{label if concrete is None else concrete._meta.label} {key}")


def find_model(label: str) -> type[Model] | None:
    """Return the model with this label; ``None`` if this version of the code has none."""
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        return None


def _format_primary_key(model: type[Model], value: Any, redactor: Redactor) -> str:
    secret = encoder.has_secret_pk(model, redactor)
    return object_keys.key_to_text(value, secret=secret, redact=redactor.redact_data)


def build_instance_key(instance: Any, redactor: Redactor) -> str:
    """Return the key of ``instance``; empty if it is not a model instance or has no primary key."""
    if not isinstance(instance, Model):
        return ""
    return build_object_key(instance._meta.label, _format_primary_key(instance.__class__, instance.pk, redactor))


def format_key(value: Any, redactor: Redactor) -> str:
    """Return the text of a key: the same for equal values, and never empty, because an empty text means no key.

    A digest replaces a text that contains a secret. Raises ``TypeError`` for an object that has no stable text.
    """
    plain = _to_jsonable(value, redactor)
    text = sanitize_text(plain) if isinstance(plain, str) and plain else encoder.dumps(plain)
    return _truncate_key(text) if redactor.redact_text(text) == text else object_keys.digest_secret(text)


def build_secret_key(value: Any, redactor: Redactor) -> str:
    """Return the digest that is the key of a secret value: the same for equal values.

    It is the placeholder of secrets for an object that has no stable text.
    """
    try:
        return object_keys.digest_secret(encoder.dumps(_to_jsonable(value, redactor)))
    except TypeError:
        return redactor.placeholder


def _truncate_key(key: str) -> str:
    return key if len(key) <= 200 else key[:180] + digest(key, b"")


def _to_jsonable(value: Any, redactor: Redactor) -> Any:
    """Return ``value`` as JSON types, as it is after it was stored or sent to another process."""
    match value:
        case Enum():
            return _to_jsonable(value.value, redactor)
        case None | bool() | int() | float():
            return value
        case str() | Promise() | UUID():
            return str(value)
        case Model():
            if found := build_instance_key(value, redactor):
                return found
            raise TypeError(f"an unsaved {value._meta.label} has no key")
        case type():
            return value._meta.label if issubclass(value, Model) else f"{value.__module__}.{value.__qualname__}"
        case list() | tuple():
            return [_to_jsonable(item, redactor) for item in value]
        case set() | frozenset():
            return sorted(format_key(item, redactor) for item in value)
        case dict():
            return {name: _to_jsonable(value[name], redactor) for name in sorted(value)}
    return _scalar_to_text(value)


def _scalar_to_text(value: Any) -> str:
    match value:
        case Decimal():
            text = f"{value:f}"
            return text.rstrip("0").rstrip(".") if "." in text else text
        case dt.datetime():
            return (value if value.tzinfo is None else value.astimezone(dt.UTC)).isoformat()
        case dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return duration_iso_string(value)
        case bytes() | bytearray() | memoryview():
            return value.hex()
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} can't be a key")
