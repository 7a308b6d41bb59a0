"""The keys of an object's many-to-many relations at a time in the past.

The current rows of the relation's table are read, and the recorded changes since that time are undone on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet

from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from signalbox.queries.events import is_key_erased
from signalbox.queries.row_effects import BULK_SIGNALS, DELETE_SIGNALS
from signalbox.retention import watermarks
from signalbox.serialization import encoder
from signalbox.serialization.redaction import REDACTED


class _KeyChange(NamedTuple):
    """The keys that one event added to an object's relation, and those that it removed, as text."""

    added: frozenset[str] = frozenset()
    removed: frozenset[str] = frozenset()


NO_CHANGE = _KeyChange()


def get_relation_fields(model: type[Model]) -> list[Any]:
    """Return the many-to-many fields whose tables Django created.

    The rows of another table are objects of their own model, with their own histories.
    """
    fields: list[Any] = list(model._meta.many_to_many)
    return [
        field
        for field in fields
        if field.remote_field.through._meta.auto_created and _has_same_key(model, field.remote_field.through, field)
    ]


def _has_same_key(model: type[Model], through: type[Model], field: Any) -> bool:
    """Return whether the table of ``field`` points at the primary key of ``model``, also through its parents."""
    source: Any = through._meta.get_field(field.m2m_field_name())
    owner: type[Model] = source.related_model
    meta = model._meta
    if meta.concrete_model is owner._meta.concrete_model:
        return True
    return issubclass(model, owner) and all(path.join_field.primary_key for path in meta.get_path_to_parent(owner))


def get_relation_keys(
    field: Any, pk: object, key: str, using: str, events: QuerySet[Event], time: int, erased_until: int | None = None
) -> Any:
    """Return the keys of the related objects at a time: a sorted list of JSON values.

    Args:
        field: A field of ``get_relation_fields()``.
        pk: The object's primary key.
        key: The same as events contain it.
        using: Alias of the database of the relation's table.
        events: All events of the database in which the object's events are.
        time: Microseconds since the epoch.
        erased_until: Time of the last erasure of the object's key, in microseconds since the epoch.

    Returns:
        A list, ``UNKNOWN`` if a later event does not contain the keys that it changed, may have been purged or erased,
        or the relation is not recorded, or the text that replaces redacted values.
    """
    through = field.remote_field.through
    policy = model_metadata.get_m2m_policy(through)
    if policy == "redact":
        return REDACTED
    if policy or not model_metadata.get_metadata(through).is_recorded:
        return UNKNOWN

    def may_be_purged() -> bool:
        return time < watermarks.get_horizon(events.db, [through._meta.label])

    if time < (erased_until or 0) or may_be_purged():
        return UNKNOWN
    keys = _read_current_keys(field, pk, using)
    later_events = events.filter(
        Q(signal__in=("m2m_changed", "post_save")) | Q(signal__in=BULK_SIGNALS | DELETE_SIGNALS),
        sender=through._meta.label,
        database=using,
        outcome="committed",
        time__gt=time,
    )
    for event in later_events.order_by("-id").iterator(chunk_size=500):
        change = _get_key_change(event, field, key)
        if change is None:
            return UNKNOWN
        keys = (keys - change.added) | change.removed
    if may_be_purged():  # a purge has begun, and may have deleted some of the events
        return UNKNOWN
    return _to_json_keys(field.remote_field.model, keys)


def _read_current_keys(field: Any, pk: object, using: str) -> frozenset[str]:
    through = field.remote_field.through
    source = through._meta.get_field(field.m2m_field_name())
    target = through._meta.get_field(field.m2m_reverse_field_name())
    rows: QuerySet[Any] = QuerySet(through, using=using)
    format_key = model_metadata.get_metadata(field.remote_field.model).format_key
    try:
        return frozenset(map(format_key, rows.filter(**{source.attname: pk}).values_list(target.attname, flat=True)))
    except (TypeError, ValueError, ValidationError):  # the table can't contain such a key
        return frozenset()


def _to_json_keys(model: type[Model], keys: Iterable[str]) -> list[Any]:
    """Return keys as events contain them: whole numbers as numbers, everything else as text."""
    found: list[Any] = []
    for key in keys:
        try:
            value = model._meta.pk.to_python(key)
        except (TypeError, ValueError, ValidationError):  # the digest of a secret key
            value = None
        found.append(value if type(value) is int else key)
    return sorted(found, key=lambda value: (type(value) is str, value))


def _get_key_change(event: Event, field: Any, key: str) -> _KeyChange | None:
    """Return the change of the object's relation by an event; ``None`` if the event does not contain it."""
    args = event.data.get("args") or {}
    if event.signal == "m2m_changed":
        return _get_manager_change(event, args, field, key)
    if event.signal in DELETE_SIGNALS:
        removed = _get_deleted_keys(event, args, field, key)
        return None if removed is None else _KeyChange(removed=removed)
    row = event.data.get("row")
    if encoder.contains_erased(row):
        return None
    if row is not None:
        return _KeyChange(added=frozenset(_match_pairs([row], field, key)))
    if event.signal in BULK_SIGNALS or event.data.get("changes"):
        return None
    return NO_CHANGE


def _get_manager_change(event: Event, args: Mapping[str, Any], field: Any, key: str) -> _KeyChange | None:
    is_addition = "added" in args
    changed = args.get("added" if is_addition else "removed")
    is_forward, is_complete = not args.get("reverse"), not args.get("omitted_keys")
    if is_forward and event.object_key != key and not field.remote_field.symmetrical:
        return NO_CHANGE
    if encoder.contains_erased(changed):
        return None
    if is_key_erased(event):
        is_other_side = bool(args.get("reverse")) or field.remote_field.symmetrical
        return None if is_other_side and isinstance(changed, list) and key in map(str, changed) else NO_CHANGE
    if not isinstance(changed, list):
        return NO_CHANGE if changed is None and not args.get("keys_unknown") else None
    if is_forward and event.object_key == key:
        keys = frozenset(map(str, changed)) if is_complete else None
    elif key in map(str, changed):
        keys = frozenset({event.object_key})
    else:
        keys = frozenset() if is_complete else None
    if keys is None:
        return None
    return _KeyChange(added=keys) if is_addition else _KeyChange(removed=keys)


def _get_deleted_keys(event: Event, args: Mapping[str, Any], field: Any, key: str) -> frozenset[str] | None:
    row, related_keys = event.data.get("row"), args.get("related_keys")
    if encoder.contains_erased(row or related_keys):
        return None
    if row:
        return frozenset(_match_pairs([row], field, key))
    if not related_keys or args.get("omitted_keys"):
        return None
    columns = {name: keys if isinstance(keys, list) else [keys] for name, keys in related_keys.items()}
    pairs = [dict(zip(columns, values, strict=False)) for values in zip(*columns.values(), strict=False)]
    return frozenset(_match_pairs(pairs, field, key))


def _match_pairs(rows: Iterable[Mapping[str, Any]], field: Any, key: str) -> Iterator[str]:
    """Yield the related keys of the rows that belong to the object."""
    source, target = field.m2m_field_name(), field.m2m_reverse_field_name()
    for row in rows:
        if source in row and target in row and str(row[source]) == key:
            yield str(row[target])


__all__ = ["get_relation_fields", "get_relation_keys"]
