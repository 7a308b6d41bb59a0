"""The history of one object, which may be deleted: its events, its state at a time, and the difference of two times."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
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
from signalbox.models import Event, to_datetime, to_microseconds
from signalbox.pipeline import missing_tables
from signalbox.queries import row_effects
from signalbox.queries.erasure_records import ErasureRecord, contains_erased_key, get_erasure_records
from signalbox.queries.events import is_key_erased
from signalbox.queries.model_keys import get_sender_labels, normalize_pk, shares_pk
from signalbox.queries.object_state import ObjectState
from signalbox.queries.past_relation_keys import get_relation_fields, get_relation_keys
from signalbox.queries.row_effects import BULK_SIGNALS, DELETE_SIGNALS
from signalbox.retention import watermarks
from signalbox.serialization import encoder
from signalbox.serialization.diff import build_row, get_choice_labels

FETCH_SIZE: Final = 100
"""Events that are read at a time on the way to an object's state."""


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
                f"history() was given an unsaved {instance_or_model._meta.label}: it has no primary key. "
                f"For a deleted object, write history({type(instance_or_model).__name__}, key)."
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
        self.pk: object = normalize_pk(model, pk)
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

        Before the time up to which events of the object were purged, nothing is known: ``exists`` is ``None``, and each
        field is ``UNKNOWN``.

        Args:
            when: An aware datetime. With ``USE_TZ = False`` also a naive one, in the current time zone.

        Raises:
            TypeError: ``when`` is not such a datetime.
        """
        horizon, events = self._get_horizon(), None
        while events is None:
            if _to_microseconds(when) < horizon:
                return self._build_purged_state(when)
            events = self._get_events_for_state(when, horizon)
            before, horizon = horizon, self._get_horizon()
            if horizon != before:  # a purge has begun, and may have deleted some of them
                events = None
        return self._build_state(when, self._build_row_effects(events), self._get_current_values(), horizon, events)

    @property
    def purged_before(self) -> dt.datetime | None:
        """The time before which events of the object may have been purged; ``None`` if none were."""
        horizon = self._get_horizon()
        return to_datetime(horizon) if horizon else None

    def get_relation_keys(self, when: dt.datetime) -> dict[str, Any]:
        """Return the keys of the object's many-to-many relations at a time, by field.

        Only relations whose tables Django created are included. Changes from both sides are considered. A value is
        ``UNKNOWN`` if a later event does not contain the changed keys or may have been purged. A relation with the
        option ``redact`` has the text that replaces redacted values.

        Args:
            when: An aware datetime. With ``USE_TZ = False`` also a naive one, in the current time zone.

        Raises:
            TypeError: ``when`` is not such a datetime.
        """
        time, events = _to_microseconds(when), Event.objects.using(self._get_events_alias())
        erased_until = max((one.time for one in self._erasures if one.with_keys), default=None)
        return {
            field.name: get_relation_keys(field, self.pk, self.key, self.using, events, time, erased_until)
            for field in get_relation_fields(self.model)
        }

    def diff(self, start: dt.datetime, end: dt.datetime) -> dict[str, list[Any]]:
        """Return the fields whose values differ between two times, as ``{field: [value at start, value at end]}``.

        ``None`` is the value of a field while the object did not exist. A field that is ``UNKNOWN`` at both times is
        left out, because no event proves a difference. For times and errors see ``as_of()``.
        """
        events = self._get_candidates().order_by("-id").iterator(chunk_size=500)
        steps = self._build_row_effects(self._filter_relevant(events, with_erased=True))
        present, horizon = self._get_current_values(), self._get_horizon()
        old, new = (self._build_state(when, steps, present, horizon) for when in (start, end))
        names = list(dict.fromkeys([*old, *new]))
        return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)}

    # ------------------------------------------------------------ events

    def _get_events_alias(self) -> str:
        return self.using if missing_tables.has_tables(connections[self.using]) else router.db_for_read(Event)

    def was_created_after_purge(self) -> bool:
        """Return whether a stored event proves that the object was created after the last purged event of its model."""
        creations = self._get_candidates().filter(
            object_key=self.key, signal="post_save", outcome="committed", data__has_key="row"
        )
        return creations.filter(time__gte=self._get_horizon(), sender__in=self._model_and_child_labels).exists()

    def _get_horizon(self) -> int:
        """Return the time (µs) before which events that change the row may have been purged; 0 if none were."""
        return watermarks.get_horizon(self._get_events_alias(), self._sender_labels)

    def _get_candidates(self) -> QuerySet[Any]:
        own_events = Q(sender__in=self._sender_labels) & (
            Q(object_key=self.key) | Q(object_key="", signal__in=BULK_SIGNALS)
        )
        related_events = Q(sender__in=self._through_models, signal="m2m_changed") | Q(
            sender__in=self._through_foreign_keys, signal__in=DELETE_SIGNALS
        )
        return Event.objects.using(self._get_events_alias()).filter(own_events | related_events, database=self.using)

    @cached_property
    def _sender_labels(self) -> list[str]:
        """Senders of the object's events: its model, the proxies, and the parents and children with the same key."""
        return get_sender_labels(self.model)

    @cached_property
    def _model_and_child_labels(self) -> frozenset[str]:
        """Senders whose events prove that the object exists: labels of its model and child models."""
        return frozenset(model._meta.label for model in apps.get_models() if shares_pk(model, self.model))

    @cached_property
    def _model_and_parent_labels(self) -> frozenset[str]:
        """Senders whose deletion deletes the object: labels of its model and parent models."""
        return frozenset(model._meta.label for model in apps.get_models() if shares_pk(self.model, model))

    @cached_property
    def _through_models(self) -> dict[str, type[Model]]:
        """The through models of the model's many-to-many relations, from either side, by label."""
        meta = self.model._meta
        near: list[Any] = [field.remote_field.through for field in meta.many_to_many]
        far = [cast("Any", relation).through for relation in meta.related_objects if relation.many_to_many]
        return {through._meta.label: through for through in (*near, *far)}

    @cached_property
    def _through_foreign_keys(self) -> dict[str, list[str]]:
        """Labels of the through models that Django created, and the names of their foreign keys to the object."""
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

    @cached_property
    def _erasures(self) -> list[ErasureRecord]:
        """The erasures of the object, oldest first."""
        return get_erasure_records(self._sender_labels, self.key, self._get_events_alias())

    def _filter_relevant(self, events: Iterable[Event], *, with_erased: bool = False) -> Iterator[Event]:
        """Yield the events that concern the object. ``with_erased`` adds those that may do so, as a key was erased."""
        for event in events:
            verdict = self._is_relevant(event)
            if with_erased and verdict is False and event.sender in self._sender_labels:
                verdict = None if contains_erased_key(event) and self._erasures else False
            if verdict is not False:
                event.uncertain = verdict is None
                yield event

    def _is_relevant(self, event: Event) -> bool | None:
        """Return whether ``event`` concerns the object; ``None`` if it is not known."""
        if is_key_erased(event):  # the object's own key may be that text
            return False
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

    # ------------------------------------------------------------ state

    def _get_events_for_state(self, when: dt.datetime, horizon: int) -> list[Event]:
        """Return the events that determine the state at ``when``, newest first.

        Events before ``horizon`` (µs) are left out, because a later one may have been purged. The others are read
        backwards from ``when`` until each field is known, and forwards for the other fields.
        """
        timestamp_us = _to_microseconds(when)
        before, is_complete = self._collect_events(Q(time__lte=timestamp_us, time__gte=horizon), "-id")
        after = [] if is_complete else self._collect_events(Q(time__gt=timestamp_us), "id")[0]
        return [*reversed(after), *before]

    def _collect_events(self, condition: Q, order: str) -> tuple[list[Event], bool]:
        """Return the events that meet ``condition``, up to the one that created or deleted the row.

        The second value is True if no other events are needed.

        Once an event changed the row, only events are read that create it, delete it, may do so, or change another
        field.
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
            for event in self._filter_relevant(page, with_erased=True):
                found.append(event)
                if (
                    event.signal in DELETE_SIGNALS
                    and event.sender in self._model_and_parent_labels
                    and not event.uncertain
                ):
                    return found, len(found) == 1
                if event.signal in BULK_SIGNALS:
                    values_are_final = False  # it contains no values
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

    def _build_row_effects(self, events: Iterable[Event]) -> list[row_effects.RowEffect]:
        """Return the committed changes of the row, oldest first."""
        steps = [self._build_row_effect(event) for event in events if event.outcome == "committed"]
        steps += [row_effects.build_erasure_effect(one.time) for one in self._erasures if one.with_keys]
        return [step for step in reversed(steps) if step is not None]

    def _build_row_effect(self, event: Event) -> row_effects.RowEffect | None:
        step = row_effects.build_row_effect(event, event.sender in self._model_and_parent_labels, self.key)
        if step is None or step.deleted or event.sender in self._model_and_child_labels:
            return step
        return replace(step, created=False, is_certain=False)  # a parent's row may exist without the object

    def _build_state(
        self,
        when: dt.datetime,
        effects: list[row_effects.RowEffect],
        current: Mapping[str, Any] | None,
        horizon: int = 0,
        events: Sequence[Event] = (),
    ) -> ObjectState:
        """Return the state at a time, with the labels that ``events``, newest first, contain.

        Events before ``horizon`` (µs) may have been purged.
        """
        timestamp_us = _to_microseconds(when)
        if timestamp_us < horizon:
            return self._build_purged_state(when)
        before = [step for step in effects if horizon <= step.time <= timestamp_us]
        after = [step for step in effects if step.time > timestamp_us]
        if not row_effects.existed(before, after, current is not None):
            return ObjectState(when, None)
        fields = self.model._meta.concrete_fields
        values = {field.name: row_effects.get_field_value(field, before, after, current or {}) for field in fields}
        labels = row_effects.collect_labels(events, timestamp_us)
        for name, found in get_choice_labels(values, model_metadata.get_metadata(self.model).fields).items():
            labels[name] = {**found, **labels.get(name, {})}
        return ObjectState(when, {**values, **self.get_relation_keys(when)}, labels)

    def _build_purged_state(self, when: dt.datetime) -> ObjectState:
        names = [field.name for field in (*self.model._meta.concrete_fields, *get_relation_fields(self.model))]
        return ObjectState(when, dict.fromkeys(names, UNKNOWN), is_purged=True)

    def _get_current_values(self) -> Mapping[str, Any] | None:
        """Return the values in the database as an event has them; ``None`` if the object does not exist."""
        try:
            rows: QuerySet[Any] = QuerySet(self.model, using=self.using)  # the managers may hide some
            found: Model | None = rows.filter(pk=self.pk).first()
        except (TypeError, ValueError, ValidationError):  # not a key of this model
            return None
        if found is None:
            return None
        plan = model_metadata.get_metadata(self.model)
        return row_effects.decode_values(
            encoder.encode_fields(build_row(plan.get_values(found), plan.fields), redactor=plan.fields.redactor)
        )


def _to_strings(keys: Any) -> list[str]:
    """Return a key, or several, as texts."""
    return [str(key) for key in keys] if isinstance(keys, list) else [str(keys)]


def _to_microseconds(when: dt.datetime) -> int:
    if isinstance(when, dt.datetime) and timezone.is_naive(when) and not settings.USE_TZ:  # type: ignore[redundant-expr]
        when = timezone.make_aware(when)
    if not isinstance(when, dt.datetime) or timezone.is_naive(when):  # type: ignore[redundant-expr]
        raise TypeError(f"as_of() was given {when!r}; an aware datetime was expected, as timezone.now() returns.")
    return to_microseconds(when)


__all__ = ["UNKNOWN", "ObjectHistory", "ObjectState", "history"]
