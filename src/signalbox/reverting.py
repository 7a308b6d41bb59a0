"""Putting back what an event changed, through the model's own ``save()``: all of it or nothing, and recorded itself."""

from __future__ import annotations

import json
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models, transaction

from signalbox import encoding, keys
from signalbox.models import Event
from signalbox.redaction import REDACTED

MARKS: Final = (encoding.TOO_LONG, encoding.TOO_DEEP, encoding.CYCLE, encoding.MORE)
"""What stands in a recorded value in place of what was left out of it."""


class RevertError(Exception):
    """The event can't be reverted."""


def revert(event: Event) -> models.Model:
    """Put back what ``event`` changed and return the object as it is then.

    An update's old values are written by ``save(update_fields=…)``, a deleted object is saved anew with its key, keys
    that were added to a many-to-many relation are removed and the other way round. What other events have changed since
    in the same fields is overwritten. Raises ``RevertError``, with nothing done, if the event changed nothing, created
    its object, or did not record what is needed: a field that is gone, hidden or too long to have been kept whole.
    """
    if event.outcome != "committed":
        raise RevertError(f"Event {event.pk} was not committed ({event.outcome}): there is nothing to put back.")
    using = event.database or None
    data = event.data
    with transaction.atomic(using=using):
        if event.signal == "m2m_changed":
            return _relation(event, data.get("args") or {}, using)
        model = _model(event.sender)
        if event.signal in ("post_delete", "bulk_delete") and data.get("row"):
            return _again(model, data["row"], using)
        if data.get("changes"):
            return _back(model, event, data["changes"], using)
    raise RevertError(_why(event))


def _why(event: Event) -> str:
    if "row" in event.data:
        return f"Event {event.pk} created {event.sender} {event.object_key}: delete it instead."
    if (event.data.get("args") or {}).get("keys"):
        return f'Event {event.pk} tells the rows of a bulk operation, not their values: SIGNALBOX["BULK"] = "rows" does.'
    return f"Event {event.pk} ({event.signal}) changed nothing."


def _model(label: str) -> type[models.Model]:
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        raise RevertError(f"The model {label} is gone: it can't be reverted.") from None


def _back(model: type[models.Model], event: Event, changes: dict[str, Any], using: str | None) -> models.Model:
    values = {}
    for name, pair in changes.items():
        if len(pair) != 2:
            raise RevertError(f"The value that {name} had before event {event.pk} is not known.")
        field = _field(model, name)
        values[field.attname] = _value(field, pair[0])
    instance = _find(model, event.object_key, using)
    if instance is None:
        raise RevertError(f"{event.sender} {event.object_key} is gone: revert the event that deleted it first.")
    for attname, value in values.items():
        setattr(instance, attname, value)
    instance.save(using=using, update_fields=list(changes))
    return instance


def _again(model: type[models.Model], row: dict[str, Any], using: str | None) -> models.Model:
    values = {}
    for name, value in row.items():
        field = _field(model, name)
        if not field.generated:
            values[field.attname] = _value(field, value)
    instance = model(**values)
    if model._base_manager.using(using).filter(pk=instance.pk).exists():
        raise RevertError(f"{model._meta.label} {keys.text(instance.pk)} is there already.")
    instance.save(using=using, force_insert=True)
    # A field may set itself on saving, as the time of creation does: the row is to be what it was.
    reset = {attname: value for attname, value in values.items() if getattr(instance, attname) != value}
    if reset:
        model._base_manager.using(using).filter(pk=instance.pk).update(**reset)
        for attname, value in reset.items():
            setattr(instance, attname, value)
    return instance


def _relation(event: Event, args: dict[str, Any], using: str | None) -> models.Model:
    added, removed = args.get("added"), args.get("removed")
    told = removed if added is None else added
    if not isinstance(told, list) or not told:
        raise RevertError(f"Event {event.pk} does not tell which keys it added or removed.")
    model = _model(args["object"])
    instance = _find(model, event.object_key, using)
    if instance is None:
        raise RevertError(f"{args['object']} {event.object_key} is gone: it can't be reverted.")
    manager = getattr(instance, _accessor(model, event.sender, bool(args.get("reverse"))))
    if added is None:
        manager.add(*told)
    else:
        manager.remove(*told)
    return instance


def _accessor(model: type[models.Model], through: str, reverse: bool) -> str:
    """Return the name of the manager on ``model`` that works on the table of the model labelled ``through``."""
    if reverse:
        for relation in model._meta.related_objects:
            if relation.many_to_many and relation.through._meta.label == through:
                return str(relation.get_accessor_name())
    for field in model._meta.many_to_many:
        if field.remote_field.through._meta.label == through:
            return field.name
    raise RevertError(f"{model._meta.label} has no relation by {through} any more.")


def _find(model: type[models.Model], key: str, using: str | None) -> models.Model | None:
    """Return the object whose key's text is ``key``."""
    pk: Any = key
    if len(model._meta.pk_fields) > 1:
        pk = tuple(json.loads(key))
    try:
        found: models.Model | None = model._base_manager.using(using).filter(pk=pk).first()
    except (ValueError, ValidationError):
        raise RevertError(f"{key!r} is no primary key of {model._meta.label}.") from None
    return found


def _field(model: type[models.Model], name: str) -> Any:
    try:
        return model._meta.get_field(name)
    except FieldDoesNotExist:
        raise RevertError(f"{model._meta.label} has no field {name!r} any more.") from None


def _value(field: Any, recorded: Any) -> Any:
    """Return the Python value of what was recorded of ``field``."""
    if _incomplete(recorded):
        raise RevertError(f"The value of {field.name!r} was not recorded whole, as it is secret or too long.")
    target = field.target_field if field.is_relation else field
    if isinstance(target, models.BinaryField):
        raise RevertError(f"The value of {field.name!r} was not recorded: it is binary.")
    if recorded is None or isinstance(target, models.JSONField):
        return recorded
    try:
        return target.to_python(recorded)
    except (ValidationError, ValueError, TypeError) as error:
        raise RevertError(f"{recorded!r} can't be read as a value of {field.name!r}: {error}") from error


def _incomplete(value: Any) -> bool:
    """Tell whether something of ``value`` was hidden or left out when it was recorded."""
    if isinstance(value, str):
        return REDACTED in value or any(mark in value for mark in MARKS if mark != encoding.MORE)
    if isinstance(value, dict):
        return value.keys() == {"expression"} or any(map(_incomplete, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return any(map(_incomplete, value))
    return False
