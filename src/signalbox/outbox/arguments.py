"""Build the arguments of a receiver from the payload of its delivery."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db.models import QuerySet
from django.utils.functional import SimpleLazyObject

from signalbox.core import catalog, naming
from signalbox.outbox import queue, serializer
from signalbox.serialization import field_values

if TYPE_CHECKING:
    from django.db.models import Model

    from signalbox.outbox.deliveries import LeasedDelivery
    from signalbox.outbox.durable_receiver import DurableReceiver


class NotRunnableHere(Exception):
    """This process can't run the delivery. A process with another version of the code may."""


def build_arguments(delivery: LeasedDelivery, durable: DurableReceiver) -> dict[str, Any]:
    """Return the keyword arguments of a delivery's receiver.

    An instance that the receiver takes only through ``**kwargs`` is loaded lazily. Raises ``NotRunnableHere`` if this
    version of the code does not have the model or the signal.
    """
    try:
        signal = naming.find_signal(delivery.signal)
        arguments = {"signal": signal, "sender": _load_sender(delivery), **_build_signal_arguments(delivery)}
    except (LookupError, ImportError) as error:
        raise NotRunnableHere(f"{delivery.receiver} waits: {error}") from error
    load = arguments.get("instance")
    if type(load) is partial:
        arguments["instance"] = load() if "instance" in durable.parameter_names else SimpleLazyObject(load)
    return arguments


def _load_sender(delivery: LeasedDelivery) -> Any:
    entry = catalog.BUILTIN_SIGNALS.get(delivery.signal)
    if entry is not None and entry.group in ("model", "bulk"):
        return apps.get_model(delivery.sender)
    if not delivery.sender:
        return None
    try:
        return serializer.import_class(delivery.sender)
    except (LookupError, ImportError):
        return delivery.sender  # the name of a module or an app, or any other text


def _build_signal_arguments(delivery: LeasedDelivery) -> dict[str, Any]:
    payload = delivery.payload
    serialized = payload.get("serialized")
    if serialized is not None:
        return {name: serializer.deserialize(value) for name, value in serialized.items()}
    args = dict(payload.get("args") or {})
    using = delivery.database
    match delivery.signal:
        case "post_save":
            fields = args.get("update_fields")
            return {
                "instance": partial(load_current_instance, delivery, delivery.sender, payload.get("row")),
                "created": bool(args.get("created")),
                "raw": bool(args.get("raw")),
                "update_fields": None if fields is None else frozenset(fields),
                "using": using,
            }
        case "post_delete":
            instance = rebuild_deleted(delivery, payload.get("row") or {})
            return {"instance": instance, "using": using, "origin": args.get("origin", instance)}
        case "m2m_changed":
            model = apps.get_model(args["model"])
            keys = args.get("pk_set") or args.get("added") or args.get("removed")
            has_keys = isinstance(keys, list)
            return {
                "instance": load_current_instance(delivery, args["object"], None)
                if delivery.object_key
                else apps.get_model(args["object"]),
                "action": args["action"],
                "reverse": bool(args.get("reverse")),
                "model": model,
                "pk_set": {model._meta.pk.to_python(key) for key in keys or ()}
                if has_keys and args["action"] != "post_clear"
                else None,
                "using": using,
            }
        case "bulk_create" | "bulk_update" | "update" | "bulk_delete":
            if not delivery.object_key:
                return {**args, "using": using}
            # With BULK = "rows" each row has its own event.
            return {
                **args,
                "using": using,
                "instance": partial(load_current_instance, delivery, delivery.sender, payload.get("row")),
            }
    return {name: _load_recorded_value(value) for name, value in args.items()}


def _load_recorded_value(value: Any) -> Any:
    """Return an argument of a replayed event as it was recorded, with the object loaded if it is one."""
    if isinstance(value, dict) and value.keys() == {"model", "pk"} and isinstance(value["model"], str):
        return serializer.load_instance(value["model"], value["pk"], queue.get_deliveries_database())
    return value


def load_current_instance(delivery: LeasedDelivery, label: str, row: dict[str, Any] | None) -> Model:
    """Return the object from the database. If it was deleted, return an unsaved one with the recorded values."""
    model: type[Model] = apps.get_model(label)
    key = _parse_primary_key(delivery, model, row)
    try:
        return QuerySet(model, using=delivery.database).get(pk=key)
    except ObjectDoesNotExist:
        return _rebuild_instance(delivery, model, row or {})


def rebuild_deleted(delivery: LeasedDelivery, row: dict[str, Any]) -> Model:
    """Return an unsaved object with the recorded values of a deleted one."""
    return _rebuild_instance(delivery, apps.get_model(delivery.sender), row)


def _parse_primary_key(delivery: LeasedDelivery, model: type[Model], row: dict[str, Any] | None) -> Any:
    fields = model._meta.pk_fields
    if row is not None and all(field.name in row for field in fields):
        values = [row[field.name] for field in fields]  # exact, while the event's key may be truncated
    elif len(fields) > 1:
        values = json.loads(delivery.object_key)
    else:
        values = [delivery.object_key]
    values = [field.to_python(value) for field, value in zip(fields, values, strict=True)]
    return tuple(values) if len(fields) > 1 else values[0]


def _rebuild_instance(delivery: LeasedDelivery, model: type[Model], row: dict[str, Any]) -> Model:
    values = {}
    for model_field in model._meta.concrete_fields:
        if model_field.name in row:
            try:
                values[model_field.attname] = field_values.read_value(model_field, row[model_field.name])
            except (ValidationError, ValueError, TypeError):  # the field has changed since
                continue
    if delivery.object_key and not any(field.attname in values for field in model._meta.pk_fields):
        key = _parse_primary_key(delivery, model, None)
        keys = key if isinstance(key, tuple) else (key,)
        values |= {field.attname: value for field, value in zip(model._meta.pk_fields, keys, strict=True)}
    return serializer.build_unsaved_instance(model, values, delivery.database)
