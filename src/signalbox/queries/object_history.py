"""One object's life: its events, what it was at a time, what changed between two; still there after it was deleted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any, Final, cast, overload

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import connections, router
from django.db.models import Model, Q, QuerySet
from django.utils import timezone

from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata
from signalbox.models import Event, to_microseconds
from signalbox.pipeline import writer
from signalbox.serialization import encoder
from signalbox.serialization.diff import build_row

BULK_SIGNALS: Final = frozenset({"bulk_create", "bulk_update", "update", "bulk_delete"})

DELETE_SIGNALS: Final = frozenset({"post_delete", "bulk_delete"})

FETCH_SIZE: Final = 100
"""Events that are read at a time on the way to an object's state."""


class ObjectState(Mapping[str, Any]):
    """Values of an object's fields at one time: a mapping of field names to JSON values.

    A value that cannot be derived from the events is ``UNKNOWN``. The mapping is empty if the object did not exist.
    """

    def __init__(self, at: dt.datetime, values: Mapping[str, Any] | None) -> None:
        self.at = at
        """The time, an aware datetime."""
        self.exists = values is not None
        """Whether the object existed."""
        self._values = values or {}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<ObjectState at {self.at.isoformat()}: {dict(self._values) if self.exists else 'not there'}>"

    @property
    def unknown_fields(self) -> frozenset[str]:
        """Names of the fields with the value ``UNKNOWN``."""
        return frozenset(name for name, value in self._values.items() if value is UNKNOWN)


@overload
def history(instance_or_model: Model, pk: object = None, *, using: str | None = None) -> ObjectHistory: ...


@overload
def history(instance_or_model: type[Model], pk: object, *, using: str | None = None) -> ObjectHistory: ...


def history(instance_or_model: Model | type[Model], pk: object = None, *, using: str | None = None) -> ObjectHistory:
    """Return the history of one object, which may be deleted: ``history(order)`` or ``history(Order, 17)``.

    Args:
        instance_or_model: The object, or its model.
        pk: Primary key; required with a model. A composite key is a tuple.
        using: Alias of the database that the object is written to. By default the routers choose it.

    Raises:
        TypeError: the first argument is neither an object nor a model, the model is swapped out, or the key is missing.
    """
    if isinstance(instance_or_model, Model):
        key = instance_or_model.pk if pk is None else pk
        if key is None:
            raise TypeError(
                f"history() was given an unsaved {instance_or_model._meta.label}: it has no key yet. "
                f"Of a deleted object, write history({type(instance_or_model).__name__}, key)."
            )
        alias = using or router.db_for_write(type(instance_or_model), instance=instance_or_model)
        return ObjectHistory(type(instance_or_model), key, alias)
    if not (isinstance(instance_or_model, type) and issubclass(instance_or_model, Model)):  # type: ignore[redundant-expr]
        raise TypeError(
            f"history() was given {type(instance_or_model).__name__}; an object, or a model and a key, was expected."
        )
    if instance_or_model._meta.swapped:
        raise TypeError(
            f"{instance_or_model._meta.label} is not in use: {instance_or_model._meta.swapped} replaces it."
        )
    if pk is None:
        name = instance_or_model.__name__
        raise TypeError(f"history({name}) lacks the primary key: write history({name}, 17).")
    return ObjectHistory(instance_or_model, pk, using or router.db_for_write(instance_or_model))


class ObjectHistory:
    """Events of one object, newest first. Each iteration reads them from the database."""

    def __init__(self, model: type[Model], pk: object, using: str) -> None:
        self.model = model
        self.pk: object = _normalize_pk(model, pk)
        self.using = using
        """Alias of the database that the object and its events are written to."""
        self.key = model_metadata.get_metadata(model).format_key(self.pk)

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def __repr__(self) -> str:
        return f"<history of {self.model._meta.label} {self.key}>"

    def events(self, *, before: int | None = None, limit: int | None = None) -> Iterator[Event]:
        """Return the object's events, newest first.

        Bulk operations on the object and many-to-many changes from both sides are included. They are found by model
        and then checked one by one, which is slow for a model with millions of them. An event with omitted keys that
        may concern the object has ``event.uncertain = True``.

        Args:
            before: Return only events with an id below this one.
            limit: Maximum number of events; ``None`` for all.
        """
        found = self._get_candidates()
        if before is not None:
            found = found.filter(id__lt=before)
        return islice(self._filter_relevant(found.order_by("-id").iterator(chunk_size=500)), limit)

    def as_of(self, when: dt.datetime) -> ObjectState:
        """Return the values of the object's fields at a time.

        A field has the value of the last event before the time. Without one, it has the old value of the next event.
        Without both, it has the current value in the database, because no recorded event has changed it since.

        Args:
            when: An aware datetime. With ``USE_TZ = False`` also a naive one, in the current time zone.

        Raises:
            TypeError: ``when`` is not such a datetime.
        """
        return self._build_state(
            when, self._build_row_effects(self._get_events_for_state(when)), self._get_current_values()
        )

    def diff(self, start: dt.datetime, end: dt.datetime) -> dict[str, list[Any]]:
        """Return the fields whose values differ between two times, as ``{field: [value at start, value at end]}``.

        ``None`` is the value of a field while the object did not exist. For times and errors see ``as_of()``.
        """
        steps, present = self._build_row_effects(self), self._get_current_values()
        old, new = self._build_state(start, steps, present), self._build_state(end, steps, present)
        names = list(dict.fromkeys([*old, *new]))
        return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)}

    # ------------------------------------------------------------ which events

    def _get_candidates(self) -> QuerySet[Any]:
        alias = self.using if writer.has_tables(connections[self.using]) else router.db_for_read(Event)
        own_events = Q(sender__in=self._sender_labels) & (
            Q(object_key=self.key) | Q(object_key="", signal__in=BULK_SIGNALS)
        )
        related_events = Q(sender__in=self._through_models, signal="m2m_changed") | Q(
            sender__in=self._through_foreign_keys, signal__in=DELETE_SIGNALS
        )
        return Event.objects.using(alias).filter(own_events | related_events, database=self.using)

    @cached_property
    def _sender_labels(self) -> list[str]:
        """Labels under which events tell of the object: its model's, its proxies', and those of the models that it
        extends or that extend it, where they share its key."""
        return [
            model._meta.label
            for model in apps.get_models(include_auto_created=True)
            if _shares_pk(model, self.model) or _shares_pk(self.model, model)
        ]

    @cached_property
    def _model_and_child_labels(self) -> frozenset[str]:
        """Those of them under which events tell that the object is there: its model's, and those that extend it."""
        return frozenset(model._meta.label for model in apps.get_models() if _shares_pk(model, self.model))

    @cached_property
    def _model_and_parent_labels(self) -> frozenset[str]:
        """Those whose deletion takes the object along: its model's, and those that it extends."""
        return frozenset(model._meta.label for model in apps.get_models() if _shares_pk(self.model, model))

    @cached_property
    def _through_models(self) -> dict[str, type[Model]]:
        """The through models of the model's many-to-many relations, from either side, by label."""
        meta = self.model._meta
        near: list[Any] = [field.remote_field.through for field in meta.many_to_many]
        far = [cast("Any", relation).through for relation in meta.related_objects if relation.many_to_many]
        return {through._meta.label: through for through in (*near, *far)}

    @cached_property
    def _through_foreign_keys(self) -> dict[str, list[str]]:
        """Labels of those that Django made, whose rows hold nothing else, to the names of the foreign keys in them that
        point at the object."""
        return {
            label: self._find_foreign_keys(through)
            for label, through in self._through_models.items()
            if through._meta.auto_created
        }

    def _find_foreign_keys(self, through: type[Model]) -> list[str]:
        fields: list[Any] = list(through._meta.concrete_fields)
        return [
            field.name
            for field in fields
            if field.is_relation and field.related_model._meta.label in self._sender_labels
        ]

    def _filter_relevant(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            verdict = self._is_relevant(event)
            if verdict is not False:
                event.uncertain = verdict is None
                yield event

    def _is_relevant(self, event: Event) -> bool | None:
        """Tell whether ``event`` is about the object; ``None`` if it leaves that open."""
        args = event.data.get("args") or {}
        if event.signal == "m2m_changed":
            if event.object_key == self.key and args.get("object") in self._sender_labels:
                return True
            key_lists = [args.get("added"), args.get("removed")]
            others = [str(key) for keys in key_lists if isinstance(keys, list) for key in keys]
            if args.get("model") not in self._sender_labels:
                return False
            return True if self.key in others else None if args.get("keys_unknown") else False
        if event.sender in self._through_foreign_keys and event.sender not in self._sender_labels:
            row, related_keys = event.data.get("row"), args.get("related_keys") or {}
            foreign_keys: Mapping[str, Any] = related_keys if row is None else row
            if any(
                self.key in _to_strings(foreign_keys.get(name)) for name in self._through_foreign_keys[event.sender]
            ):
                return True
            return None if related_keys and args.get("omitted_keys") else False
        if event.object_key:
            return event.object_key == self.key
        if event.signal not in BULK_SIGNALS:
            return False
        named, renamed = args.get("keys"), args.get("new_keys", [])
        if self.key in map(str, (*(named or ()), *(renamed or ()))):
            return True
        return None if named is None or renamed is None or args.get("omitted_keys") else False

    # ------------------------------------------------------------ what it was

    def _get_events_for_state(self, when: dt.datetime) -> list[Event]:
        """Return those of its events, newest first, without which its state at ``when`` can't be told: from then
        backwards until each field is told, and forwards for what is not. The others would change nothing."""
        timestamp_us = _to_microseconds(when)
        before, is_complete = self._collect_events(Q(time__lte=timestamp_us), "-id")
        after = [] if is_complete else self._collect_events(Q(time__gt=timestamp_us), "id")[0]
        return [*reversed(after), *before]

    def _collect_events(self, condition: Q, order: str) -> tuple[list[Event], bool]:
        """Return the events that meet ``condition``, up to the one that created or deleted the row.

        The second value is True if no other events are needed.

        Once something is known to have touched the row, those alone are read that make it, take it away, may do so, or
        change a field that was not met before.
        """
        query = (
            self._get_candidates().filter(condition, outcome="committed").exclude(signal="m2m_changed").order_by(order)
        )
        beyond = "id__lt" if order == "-id" else "id__gt"
        fields = self.model._meta.concrete_fields
        open_names = {field.name for field in fields}
        found: list[Event] = []
        row_is_touched, values_are_final = False, not any(field.generated for field in fields)
        page: list[Event] = []
        while True:
            rows = query.filter(**{beyond: page[-1].id}) if page else query
            if row_is_touched:
                changing = Q(data__changes__has_any_keys=sorted(open_names)) if open_names else Q()
                rows = rows.filter(Q(signal__in=BULK_SIGNALS | DELETE_SIGNALS) | Q(data__has_key="row") | changing)
            page = list(rows[:FETCH_SIZE])
            for event in self._filter_relevant(page):
                found.append(event)
                if (
                    event.signal in DELETE_SIGNALS
                    and event.sender in self._model_and_parent_labels
                    and not event.uncertain
                ):
                    return found, len(found) == 1
                if event.signal in BULK_SIGNALS:
                    values_are_final = False  # it tells no more than that a value was written
                    continue
                is_full_row, is_own_row = (
                    event.signal not in DELETE_SIGNALS and "row" in event.data,
                    event.sender in self._model_and_child_labels,
                )
                row_is_touched = row_is_touched or (is_own_row and (is_full_row or "changes" in event.data))
                values = event.data["row"] if is_full_row else event.data.get("changes") or {}
                for name in open_names & values.keys():
                    value = values[name] if is_full_row else values[name][-1]
                    if isinstance(value, dict):  # it may be an expression, which the database computed
                        values_are_final = False
                open_names -= values.keys()
                if is_full_row and is_own_row:
                    return found, values_are_final and not open_names
            if len(page) < FETCH_SIZE:
                return found, False

    def _build_row_effects(self, events: Iterable[Event]) -> list[_RowEffect]:
        """Return what was done to the row and committed, oldest first."""
        steps = [self._build_row_effect(event) for event in events if event.outcome == "committed"]
        return [step for step in reversed(steps) if step is not None]

    def _build_row_effect(self, event: Event) -> _RowEffect | None:
        step = _effect_of_event(event, event.sender in self._model_and_parent_labels, self.key)
        if step is None or step.deleted or event.sender in self._model_and_child_labels:
            return step
        return replace(step, created=False, is_certain=False)  # a parent's row may be there without the object

    def _build_state(
        self, when: dt.datetime, effects: list[_RowEffect], current: Mapping[str, Any] | None
    ) -> ObjectState:
        timestamp_us = _to_microseconds(when)
        before = [step for step in effects if step.time <= timestamp_us]
        after = [step for step in effects if step.time > timestamp_us]
        if not _existed(before, after, current is not None):
            return ObjectState(when, None)
        fields = self.model._meta.concrete_fields
        return ObjectState(
            when, {field.name: _get_field_value(field, before, after, current or {}) for field in fields}
        )

    def _get_current_values(self) -> Mapping[str, Any] | None:
        """Return what the database holds now, as an event would tell it; ``None`` if the object is not there."""
        try:
            rows: QuerySet[Any] = QuerySet(self.model, using=self.using)  # the managers may hide some
            found: Model | None = rows.filter(pk=self.pk).first()
        except (TypeError, ValueError, ValidationError):  # no such key can be there
            return None
        if found is None:
            return None
        plan = model_metadata.get_metadata(self.model)
        return _decode_values(
            encoder.encode_fields(build_row(plan.get_values(found), plan.fields), redactor=plan.fields.redactor)
        )


def _normalize_pk(model: type[Model], pk: Any) -> Any:
    """Return a primary key as its fields read it: a UUID's text in any form is that UUID. What they can't read, as the
    digest of a secret one, stays as it is."""
    fields: list[Any] = list(model._meta.pk_fields)
    parts = (pk,) if len(fields) == 1 else pk
    if not isinstance(parts, tuple | list) or len(parts) != len(fields):
        return pk
    try:
        read = tuple(_resolve_target_field(field).to_python(part) for field, part in zip(fields, parts, strict=True))
    except Exception:  # noqa: BLE001 - a field's own code on a value that it may not know
        return pk
    return read[0] if len(fields) == 1 else read


def _resolve_target_field(field: Any) -> Any:
    """Return the field whose values ``field`` holds: of a foreign key the one that it points at."""
    while field.is_relation:
        field = field.target_field
    return field


def _to_strings(keys: Any) -> list[str]:
    """Return a key, or several, as texts."""
    return [str(key) for key in keys] if isinstance(keys, list) else [str(keys)]


def _to_microseconds(when: dt.datetime) -> int:
    if isinstance(when, dt.datetime) and timezone.is_naive(when) and not settings.USE_TZ:  # type: ignore[redundant-expr]
        when = timezone.make_aware(when)
    if not isinstance(when, dt.datetime) or timezone.is_naive(when):  # type: ignore[redundant-expr]
        raise TypeError(f"as_of() was given {when!r}; an aware datetime was expected, as timezone.now() returns.")
    return to_microseconds(when)


def _shares_pk(child: type[Model], parent: type[Model]) -> bool:
    """Tell whether an object of ``child`` is one of ``parent`` with the same primary key."""
    child, parent = child._meta.concrete_model or child, parent._meta.concrete_model or parent
    if not issubclass(child, parent):
        return False
    return all(path.join_field.primary_key for path in child._meta.get_path_to_parent(parent))


def _existed(before: list[_RowEffect], after: list[_RowEffect], exists_now: bool) -> bool:
    may_have_changed = False
    for step in reversed(before):
        if step.is_certain:
            return not step.deleted
        if step.may_change_existence:
            may_have_changed = True
            break
    for step in after:
        if step.is_certain:
            return not step.created
    return exists_now or (not may_have_changed and any(step.may_change_existence for step in after))


def _get_field_value(field: Any, before: list[_RowEffect], after: list[_RowEffect], current: Mapping[str, Any]) -> Any:
    name = field.name
    for step in reversed(before):
        if name in step.new:
            if step.new[name] is not UNKNOWN:
                return step.new[name]
            break
        if step.created or step.deleted or field.generated:  # the database may have computed it anew, and told nobody
            break
    for step in after:
        if name in step.old:
            return step.old[name]
        if step.created or step.deleted or field.generated:
            return UNKNOWN
    return current.get(name, UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowEffect:
    """What one event did to the row."""

    time: int
    old: Mapping[str, Any]
    """Field to value before, for the fields that it touched; ``UNKNOWN`` where it does not tell."""
    new: Mapping[str, Any]
    """The same after."""
    created: bool = False
    deleted: bool = False
    is_certain: bool = True
    """Whether it tells that the row is there: before and after it, but for what it made or took away."""
    may_change_existence: bool = False
    """Whether it may have made the row, or taken it away."""


def _effect_of_event(event: Event, is_owner: bool, key: str) -> _RowEffect | None:
    """Return what ``event`` did to the row; ``None`` if it did not change it.

    ``is_owner`` is True if deleting a row of the event's sender deletes the object.
    """
    data, time = event.data, event.time
    args = data.get("args") or {}
    if event.uncertain:
        return _possible_effect_of_event(event, is_owner, args)
    if event.signal in DELETE_SIGNALS:
        return (
            _RowEffect(time=time, old=_decode_values(data.get("row") or {}), new={}, deleted=True) if is_owner else None
        )
    if "row" in data:
        return _RowEffect(time=time, old={}, new=_decode_values(data["row"]), created=True)
    if "changes" in data:
        changes = data["changes"]
        old = {name: pair[0] if len(pair) == 2 else UNKNOWN for name, pair in changes.items()}
        new = {name: pair[-1] for name, pair in changes.items()}
        return _RowEffect(
            time=time, old=_decode_values(old, encoder.unwrap_literal), new=_decode_values(new, encoder.unwrap_literal)
        )
    match event.signal:
        case "update":
            values = _decode_values(args.get("values", {}))
            if "new_keys" in args:
                was, is_now = (key in map(str, args[name] or ()) for name in ("keys", "new_keys"))
                if was is not is_now:
                    return _RowEffect(time=time, old={}, new={} if was else values, deleted=was, created=is_now)
            return _RowEffect(time=time, old=dict.fromkeys(values, UNKNOWN), new=values)
        case "bulk_update":
            nothing = dict.fromkeys(args.get("fields", ()), UNKNOWN)
            return _RowEffect(time=time, old=nothing, new=nothing)
        case "bulk_create" if args.get("update_conflicts"):  # it may have been there
            all_fields = _AllFieldsUnknown()
            return _RowEffect(time=time, old=all_fields, new=all_fields)
        case "bulk_create":
            return _RowEffect(time=time, old={}, new={}, created=True)
    return None


def _possible_effect_of_event(event: Event, is_owner: bool, args: Mapping[str, Any]) -> _RowEffect | None:
    """Return what ``event`` may have done: the fields that it wrote are not known any more."""
    written: Mapping[str, Any] = dict.fromkeys([*args.get("values", ()), *args.get("fields", ())], UNKNOWN)
    if args.get("update_conflicts"):
        written = _AllFieldsUnknown()
    moved = event.signal == "bulk_create" or "new_keys" in args
    if event.signal in DELETE_SIGNALS and not is_owner:
        return None
    return _RowEffect(
        time=event.time,
        old=written,
        new=written,
        is_certain=False,
        may_change_existence=moved or event.signal in DELETE_SIGNALS,
    )


class _AllFieldsUnknown(dict[str, Any]):
    """Any field, with a value that nobody knows."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return UNKNOWN


def _decode_values(
    values: Mapping[str, Any], decode: Callable[[Any], Any] = encoder.unwrap_row_literal
) -> dict[str, Any]:
    """Return values as an event tells them; what the database computed is not known."""
    return {name: UNKNOWN if encoder.is_recorded_expression(value) else decode(value) for name, value in values.items()}


__all__ = ["UNKNOWN", "ObjectHistory", "ObjectState", "history"]
