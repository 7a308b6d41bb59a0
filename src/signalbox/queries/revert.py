"""Putting back what an event changed, through the model's own ``save()``: all of it or nothing, and recorded itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import DatabaseError, connections, models, transaction

from signalbox.core import object_keys
from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from signalbox.serialization import encoder
from signalbox.serialization.redaction import REDACTED

TRUNCATION_PATTERN: Final = re.compile(rf"{encoder.ELLIPSIS} \((too long|too deep|cycle|[\d,]+ more)\)\Z")
"""The end of a recorded text, or the last item of a list, of which something was left out."""

BIG_INTEGER_PATTERN: Final = re.compile(r"(-?[1-9][0-9]{18,})\Z|<integer of \d+ bits>\Z")
"""A text that stands for a number beyond 64 bits, or is one of so many digits."""

REPLACEMENT_CHARACTER: Final = "\ufffd"
"""What stands for a character that not every database takes; it may have been there itself."""


class RevertError(Exception):
    """An event cannot be reverted. The message gives the reason."""


def revert(event: Event) -> models.Model:
    """Undo the change of an event, and return the object as it is afterwards.

    The old values of an update are written by ``save(update_fields=...)``. A deleted object is created again with its
    primary key. Keys added to a many-to-many relation are removed, and removed ones are added. Later changes of the
    same fields are overwritten. The revert runs in a transaction and is recorded as an event of its own.

    Args:
        event: A committed event of an update, a deletion or a many-to-many change.

    Raises:
        RevertError: the event changed nothing or created its object, a value was not recorded completely (redacted,
            excluded or too long), the object or field does not exist, or the database refuses. Nothing is changed.
    """
    if event.outcome != "committed":
        raise RevertError(f"Event {event.pk} was not committed ({event.outcome}): there is nothing to put back.")
    using = event.database
    if using not in connections:
        raise RevertError(f"Event {event.pk} changed the database {using!r}, which the settings don't know any more.")
    try:
        with transaction.atomic(using=using):
            return _revert_event(event, using)
    except (DatabaseError, ValidationError) as error:
        raise RevertError(f"Event {event.pk} can't be reverted: {error}") from error


def _revert_event(event: Event, using: str) -> models.Model:
    data = event.data
    if event.signal == "m2m_changed":
        return _revert_m2m(event, data.get("args") or {}, using)
    if event.signal in ("post_delete", "bulk_delete") and data.get("row"):
        return _recreate_object(_get_model(event.sender), event, data["row"], using)
    if data.get("changes"):
        return _revert_update(_get_model(event.sender), event, data["changes"], using)
    raise RevertError(_explain_refusal(event))


def _explain_refusal(event: Event) -> str:
    if "row" in event.data:
        return f"Event {event.pk} created {event.sender} {event.object_key}: delete it instead."
    if "count" in (event.data.get("args") or {}):
        return (
            f"Event {event.pk} tells the rows of a bulk operation, not their values: "
            'with SIGNALBOX = {"BULK": "rows"} it would.'
        )
    return f"Event {event.pk} ({event.signal}) changed nothing."


def _get_model(label: str) -> type[models.Model]:
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        raise RevertError(f"The model {label} is gone: it can't be reverted.") from None


def _revert_update(model: type[models.Model], event: Event, changes: Mapping[str, Any], using: str) -> models.Model:
    values = {}
    for name, pair in changes.items():
        field = _get_field(model, name)
        if field.generated:  # the database computes it from what is put back
            continue
        if len(pair) != 2:
            raise RevertError(f"The value that {name!r} had before event {event.pk} is not known.")
        values[field] = _parse_value(field, pair[0], using, encoder.unwrap_literal)
    if not values:
        raise RevertError(f"Event {event.pk} changed nothing but what the database computes.")
    instance = _find_instance(model, event.object_key, using)
    if instance is None:
        raise RevertError(f"{event.sender} {event.object_key} is gone: revert the event that deleted it first.")
    for field, value in values.items():
        setattr(instance, field.attname, value)
    instance.save(using=using, update_fields=[field.name for field in values])
    _restore_auto_values(instance, {field.attname: value for field, value in values.items()}, using)
    return instance


def _recreate_object(model: type[models.Model], event: Event, row: Mapping[str, Any], using: str) -> models.Model:
    for name in row:
        _get_field(model, name)
    values = {}
    for field in model._meta.concrete_fields:
        if field.generated:
            continue
        if field.name not in row:
            raise RevertError(f"The value of {field.name!r} was not recorded.")
        values[field.attname] = _parse_value(field, row[field.name], using)
    instance = model(**values)
    if _all_rows(model, using).filter(pk=instance.pk).exists():
        raise RevertError(f"{model._meta.label} {object_keys.key_to_text(instance.pk)} is there already.")
    child_event = _find_child_deletion(model, event)
    if child_event is not None:
        raise RevertError(
            f"Event {event.pk} tells of half an object: revert event {child_event.pk}, "
            f"that of the {child_event.sender}, which brings back both."
        )
    instance.save(using=using, force_insert=True)
    _restore_auto_values(instance, values, using)
    return instance


def _restore_auto_values(instance: models.Model, values: Mapping[str, Any], using: str) -> None:
    """Put back what set itself when ``instance`` was saved, as a time of creation or change does: the row is to hold
    ``values``."""
    reset = {attname: value for attname, value in values.items() if getattr(instance, attname) != value}
    if reset:
        for attname, value in reset.items():
            setattr(instance, attname, value)
        _all_rows(type(instance), using).filter(pk=instance.pk).update(**reset)


def _find_child_deletion(model: type[models.Model], event: Event) -> Event | None:
    """Return the event of the child's row that was deleted together with the parent's row of which ``event`` tells:
    the last that is told of the object before it."""
    relations: list[Any] = [one for one in model._meta.related_objects if getattr(one, "parent_link", False)]
    children = {one.related_model._meta.label for one in relations if one.field.primary_key}
    if not children:
        return None
    earlier_events = Event.objects.using(event._state.db).filter(
        sender__in={*children, event.sender},
        signal__in=("post_save", "post_delete"),
        object_key=event.object_key,
        database=event.database,
        trace_id=event.trace_id,
        outcome="committed",
        id__lt=event.pk,
    )
    last: Event | None = earlier_events.order_by("-id").first()
    return last if last is not None and last.signal == "post_delete" and last.sender in children else None


def _revert_m2m(event: Event, args: Mapping[str, Any], using: str) -> models.Model:
    added, removed = args.get("added"), args.get("removed")
    recorded_keys = removed if added is None else added
    if recorded_keys == REDACTED:
        raise RevertError(f"The keys that event {event.pk} changed are hidden and were not recorded.")
    if not isinstance(recorded_keys, list) or not recorded_keys:
        raise RevertError(f"Event {event.pk} ({args.get('action')}) changed nothing.")
    if args.get("omitted_keys"):
        raise RevertError(f"Event {event.pk} tells {len(recorded_keys)} keys and leaves out {args['omitted_keys']}.")
    model = _get_model(str(args.get("object")))
    instance = _find_instance(model, event.object_key, using)
    if instance is None:
        raise RevertError(f"{model._meta.label} {event.object_key} is gone: revert the event that deleted it first.")
    manager = getattr(instance, _get_m2m_accessor(model, event.sender, bool(args.get("reverse"))))
    if model_metadata.get_metadata(manager.model).has_secret_pk:
        raise RevertError(f"The keys of {manager.model._meta.label} are secret and were not recorded.")
    # Objects and not keys: a relation's rows may point at another column.
    others = _all_rows(manager.model, using).in_bulk(_parse_keys(manager.model, recorded_keys))
    if added is not None:
        manager.remove(*others.values())
        return instance
    if not manager.through._meta.auto_created:
        raise RevertError(f"The rows of {event.sender} hold more than the keys that event {event.pk} tells.")
    missing_keys = set(recorded_keys) - set(map(_recorded_form, others))
    if missing_keys:
        raise RevertError(f"{manager.model._meta.label} {', '.join(sorted(map(str, missing_keys)))} is gone.")
    manager.add(*others.values())
    return instance


def _parse_keys(model: type[models.Model], recorded_keys: list[Any]) -> list[Any]:
    """Return primary keys as Python values."""
    return [model._meta.pk.to_python(key) for key in recorded_keys]


def _recorded_form(key: Any) -> Any:
    return key if type(key) is int else object_keys.key_to_text(key)


def _get_m2m_accessor(model: type[models.Model], through: str, reverse: bool) -> str:
    """Return the name of the manager on ``model`` that works on the table of the model labelled ``through``."""
    if reverse:
        relations: list[Any] = [relation for relation in model._meta.related_objects if relation.many_to_many]
        for relation in relations:
            if relation.through._meta.label == through:
                return str(relation.get_accessor_name())
    fields: list[Any] = list(model._meta.many_to_many)
    for field in fields:
        if field.remote_field.through._meta.label == through:
            return str(field.name)
    raise RevertError(f"{model._meta.label} has no relation by {through} any more.")


def _all_rows(model: type[models.Model], using: str) -> models.QuerySet[Any]:
    """Return all rows of the model's table: its managers, the base manager among them, may hide some."""
    return models.QuerySet(model, using=using)


def _find_instance(model: type[models.Model], key: str, using: str) -> models.Model | None:
    """Return the object whose key's text is ``key``."""
    if model_metadata.get_metadata(model).has_secret_pk:
        raise RevertError(f"The key of {model._meta.label} is secret and was not recorded.")
    if len(key) >= object_keys.MAX_LENGTH - 3:  # it may end in a digest
        raise RevertError(f"The key of {model._meta.label} is too long to have been recorded whole.")
    pk: Any = tuple(json.loads(key)) if len(model._meta.pk_fields) > 1 else key
    try:
        found: models.Model | None = _all_rows(model, using).filter(pk=pk).first()
    except (TypeError, ValueError, ValidationError):
        raise RevertError(f"{key!r} is no primary key of {model._meta.label}.") from None
    return found


def _get_field(model: type[models.Model], name: str) -> Any:
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        field = None
    if field is None or not field.concrete:
        raise RevertError(f"{model._meta.label} has no field {name!r} any more.")
    return field


def _parse_value(field: Any, stored: Any, using: str, decode: Callable[[Any], Any] = encoder.unwrap_row_literal) -> Any:
    """Return the Python value of what was recorded of ``field``."""
    recorded = decode(stored)
    if encoder.is_recorded_expression(stored):
        raise RevertError(
            f"The database computed {field.name!r} ({recorded['expression']}): its value was not recorded."
        )
    if _is_incomplete(recorded):
        raise RevertError(f"The value of {field.name!r} was not recorded whole, as it is secret or too long.")
    if REPLACEMENT_CHARACTER in json.dumps(recorded, ensure_ascii=False):
        raise RevertError(
            f"The value of {field.name!r} holds U+FFFD, which may stand for a NUL or a lone surrogate: "
            "those are not recorded."
        )
    if recorded is None:
        return None
    try:
        value = _to_python(field.target_field if field.is_relation else field, recorded)
    except (ValidationError, ValueError, TypeError) as error:
        raise RevertError(f"{recorded!r} can't be read as a value of {field.name!r}: {error}") from error
    if field.is_relation and not field.remote_field.parent_link:  # a child is saved with its parent
        targets = _all_rows(field.related_model, using).filter(**{field.target_field.name: value})
        if not targets.exists():
            raise RevertError(
                f"{field.related_model._meta.label} {recorded}, to which {field.name!r} pointed, is gone."
            )
    return value


def _to_python(field: Any, recorded: Any) -> Any:
    if isinstance(field, models.BinaryField):
        raise RevertError(f"The value of {field.name!r} was not recorded: it is binary.")
    if isinstance(field, models.JSONField):
        if text := next(filter(_may_be_big_integer, _iter_strings(recorded)), None):
            raise RevertError(
                f"The value of {field.name!r} holds {text!r}, which may have been a number: "
                "those beyond 64 bits are recorded as text."
            )
        return recorded
    element = getattr(field, "base_field", None)
    if element is not None and isinstance(recorded, list):  # PostgreSQL's arrays
        return [None if item is None else _to_python(element, item) for item in recorded]
    return field.to_python(recorded)


def _is_incomplete(value: Any) -> bool:
    """Tell whether something of ``value`` was hidden or left out when it was recorded."""
    if isinstance(value, str):
        return REDACTED in value or TRUNCATION_PATTERN.search(value) is not None
    if isinstance(value, dict):
        return encoder.ELLIPSIS in value or any(map(_is_incomplete, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return any(map(_is_incomplete, value))
    return False


def _iter_strings(value: Any) -> Iterator[str]:
    """Return each text that ``value`` holds, but no keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _iter_strings(item)


def _may_be_big_integer(text: str) -> bool:
    """Tell whether ``text`` may stand for a number beyond 64 bits."""
    found = BIG_INTEGER_PATTERN.match(text)
    return found is not None and (found[1] is None or not -(2**63) <= int(found[1]) < 2**63)


__all__ = ["RevertError", "revert"]
