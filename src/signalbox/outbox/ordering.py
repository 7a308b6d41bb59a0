"""What puts deliveries in order: one text for one key, whichever signal, process or past event it comes from.

Deliveries of one receiver whose keys are the same text share a lane. An object's text is its model and primary key, so
that its saves, those of its proxies and the changes of its relations are one row of deliveries.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
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

from signalbox.core import object_keys
from signalbox.core.text import digest, sanitize_text
from signalbox.pipeline.deliveries import DeliveryError
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from signalbox.outbox.registry import DurableReceiver
    from signalbox.serialization.redaction import Redactor

logger = logging.getLogger("signalbox")


class OrderingKeyError(DeliveryError, DatabaseError):
    """What a delivery is ordered by can't be known: it would run beside others of its key."""


class RowReference(NamedTuple):
    """The row that an event is about, and what nobody has read of it."""

    model: type[Model]
    using: str
    primary_key: str
    """Its primary key as text."""
    unloaded_fields: AbstractSet[str]
    """Names of fields that may be read, and were not."""


def get_partition_id(receiver_name: str, ordering_key: str) -> int:
    """Return the number of the lane that a receiver's deliveries for one key share.

    Two keys may meet in one lane, once in 2**64: they then wait for each other, and nothing else happens.
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
    """Return what a delivery is ordered by; empty for nothing. ``about`` is the object, as ``object_key`` tells it.

    ``values`` are a send's arguments, or those of ``row``: what was not read of it is read now, if the key asks for it.
    Raises ``NotOrdered`` if it is gone.
    """
    wanted = durable.key
    if wanted is None:
        return ""
    if wanted == "pk":
        return object_key
    try:
        if row is not None and (row.unloaded_fields if callable(wanted) else wanted in row.unloaded_fields):
            values = _load_missing_fields(values, row)
        if callable(wanted):
            return format_key(wanted(values), redactor)
        found = values[wanted]
        return format_key(
            found if row is None else _normalize_field_value(row.model, wanted, found, redactor), redactor
        )
    except OrderingKeyError as error:
        raise OrderingKeyError(f"{durable.name} is ordered by {error}") from error
    except Exception:
        logger.exception(
            "The key %r of %s can't be told of %s; the object is its key.", wanted, durable.name, object_key
        )
        return object_key


class _DeletedRow(dict[str, Any]):
    """A row's values, as far as they are known: the row is gone."""

    def __init__(self, values: Mapping[str, Any], row: RowReference) -> None:
        super().__init__(values)
        self.row = row

    def __missing__(self, name: str) -> Any:
        if name not in self.row.unloaded_fields:
            raise KeyError(name)
        label = self.row.model._meta.label
        raise OrderingKeyError(
            f"the field {name!r} of {label} {self.row.primary_key}, which was not loaded, and the row is gone: "
            "load the field before the delete."
        )


def _load_missing_fields(values: Mapping[str, Any], row: RowReference) -> Mapping[str, Any]:
    meta = row.model._meta
    names = [field.name for field in meta.pk_fields]
    if all(name in values for name in names):
        found = {name: values[name] for name in names}
    else:
        found = dict(zip(names, json.loads(row.primary_key) if len(names) > 1 else [row.primary_key], strict=True))
    read = QuerySet(row.model, using=row.using).filter(**found).values(*row.unloaded_fields).first()
    return _DeletedRow(values, row) if read is None else {**values, **read}


def _normalize_field_value(model: type[Model], name: str, value: Any, redactor: Redactor) -> Any:
    """Return a foreign key's value as the object that it points at is told; another field's as the field reads it."""
    field: Any = model._meta.get_field(name)
    value = field.to_python(value)
    target = field.related_model if field.is_relation else None
    if value is None or target is None or not field.target_field.primary_key:
        return value
    return build_object_key(target._meta.label, _format_primary_key(target, value, redactor))


def get_model_label(signal: str, sender: str, args: Any) -> str:
    """Return the label of the model of the object that an event with these recorded arguments is about."""
    if not isinstance(args, Mapping):
        return sender
    if signal == "m2m_changed":
        return str(args.get("object", sender))
    told = args.get("instance", args.get("user"))
    return str(told["model"]) if isinstance(told, Mapping) and "model" in told else sender


def build_object_key(label: str, key: str) -> str:
    """Return how an object is told as a key: its model, the same for all proxies, and its primary key as text.

    Empty without a primary key.
    """
    if not key:
        return ""
    model = find_model(label)
    concrete = None if model is None else model._meta.concrete_model
    return _truncate_key(f"{label if concrete is None else concrete._meta.label} {key}")


def find_model(label: str) -> type[Model] | None:
    """Return the model of this label; ``None`` where this version of the code has none, or it names another class."""
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        return None


def _format_primary_key(model: type[Model], value: Any, redactor: Redactor) -> str:
    return object_keys.key_to_text(value, secret=encoder.has_secret_pk(model, redactor))


def build_instance_key(instance: Any, redactor: Redactor) -> str:
    """Return how ``instance`` is told as a key; empty if it is no object of a model, or has no primary key."""
    if not isinstance(instance, Model):
        return ""
    return build_object_key(instance._meta.label, _format_primary_key(instance.__class__, instance.pk, redactor))


def format_key(value: Any, redactor: Redactor) -> str:
    """Return the text of a key: the same for what is equal, never empty, as nothing is no key.

    Raises ``TypeError`` for an object of which only its class could be told.
    """
    plain = _to_jsonable(value, redactor)
    return _truncate_key(sanitize_text(plain) if isinstance(plain, str) and plain else encoder.dumps(plain))


def _truncate_key(key: str) -> str:
    return key if len(key) <= 200 else key[:180] + digest(key, b"")


def _to_jsonable(value: Any, redactor: Redactor) -> Any:
    """Return ``value`` in JSON's types, as it also is when it comes back from a table or another process."""
    match value:
        case Enum():
            return _to_jsonable(value.value, redactor)
        case None | bool() | int() | float():
            return value
        case str() | Promise() | UUID():
            return str(value)
        case Decimal():
            found = f"{value:f}"
            return found.rstrip("0").rstrip(".") if "." in found else found
        case dt.datetime():
            return (value if value.tzinfo is None else value.astimezone(dt.UTC)).isoformat()
        case dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return duration_iso_string(value)
        case bytes() | bytearray() | memoryview():
            return value.hex()
        case Model():
            if found := build_instance_key(value, redactor):
                return found
            raise TypeError(f"an unsaved {value._meta.label} makes no key")
        case type():
            return value._meta.label if issubclass(value, Model) else f"{value.__module__}.{value.__qualname__}"
        case list() | tuple():
            return [_to_jsonable(item, redactor) for item in value]
        case set() | frozenset():
            return sorted(format_key(item, redactor) for item in value)
        case dict():
            return {name: _to_jsonable(value[name], redactor) for name in sorted(value)}
    raise TypeError(f"a {type(value).__module__}.{type(value).__qualname__} makes no key")
