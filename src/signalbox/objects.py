"""One object's life: its events, what it was at a time, what changed between two; still there after it was deleted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.db import connections, router
from django.db.models import Model, Q

from signalbox import conf, encoding, keys, store
from signalbox.event import UNKNOWN
from signalbox.models import Event, microseconds
from signalbox.redaction import Redactor

if TYPE_CHECKING:
    from django.db.models import QuerySet

BULK: Final = frozenset({"bulk_create", "bulk_update", "update", "bulk_delete"})

DELETES: Final = frozenset({"post_delete", "bulk_delete"})


class State(Mapping[str, Any]):
    """What an object's fields held at a time, as they are recorded: a mapping of field to JSON value.

    ``UNKNOWN`` stands for a value that no event tells. An object that was not there has no fields.
    """

    def __init__(self, at: dt.datetime, values: Mapping[str, Any] | None) -> None:
        self.at = at
        """The time."""
        self.exists = values is not None
        """Whether the object was there."""
        self._values = values or {}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<State at {self.at.isoformat()}: {dict(self._values) if self.exists else 'not there'}>"

    @property
    def unknown(self) -> frozenset[str]:
        """Names of the fields whose value no event tells."""
        return frozenset(name for name, value in self._values.items() if value is UNKNOWN)


def history(subject: Model | type[Model], pk: Any = None, *, using: str | None = None) -> ObjectHistory:
    """Return the history of an object, given itself or its model and primary key: ``history(order)``,
    ``history(Order, 17)``. The object may have been deleted.

    Raises ``TypeError`` if ``subject`` is neither, or a model comes without a key.
    """
    if isinstance(subject, Model):
        key = subject.pk if pk is None else pk
        return ObjectHistory(type(subject), key, using or subject._state.db)
    if not (isinstance(subject, type) and issubclass(subject, Model)):
        raise TypeError(f"history() was given {type(subject).__name__}; an object, or a model and a key, was expected.")
    if pk is None:
        raise TypeError(f"history({subject.__name__}) lacks the primary key: write history({subject.__name__}, 17).")
    return ObjectHistory(subject, pk, using)


class ObjectHistory:
    """The events of one object, newest first: an iterable, read from the database each time."""

    def __init__(self, model: type[Model], pk: Any, using: str | None = None) -> None:
        self.model = model
        self.pk = pk
        self.using = using or router.db_for_read(model)
        self.redactor = Redactor(conf.get().REDACT)
        self.key = keys.text(pk, secret=encoding.has_secret_key(model, self.redactor))

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def __repr__(self) -> str:
        return f"<history of {self.model._meta.label} {self.key}>"

    def events(self, *, before: int | None = None, limit: int | None = None) -> Iterator[Event]:
        """Return its events, newest first: at most ``limit``, with ids below ``before``.

        Bulk operations that touched it are among them, and many-to-many changes from either side. Those are found by
        their model and then looked into one by one: a model with millions of them takes its time.
        """
        found = self._candidates()
        if before is not None:
            found = found.filter(id__lt=before)
        number = 0
        for event in found.order_by("-id").iterator(chunk_size=500):
            if self._concerns(event):
                yield event
                number += 1
                if number == limit:
                    return

    def as_of(self, when: dt.datetime) -> State:
        """Return the object's fields as they were at ``when``.

        A field's value is what the last event up to then says; without one, what the first event after it says was
        there before; without that either, what the database holds now, as nothing has changed it since.
        Raises ``TypeError`` for anything but an aware datetime.
        """
        if not isinstance(when, dt.datetime) or when.tzinfo is None:
            raise TypeError(f"as_of() was given {when!r}; an aware datetime was expected, as timezone.now() returns.")
        return self._state(when, self._steps())

    def diff(self, start: dt.datetime, end: dt.datetime) -> dict[str, list[Any]]:
        """Return ``{field: [value at start, value at end]}`` for the fields that differ; ``None`` where it was not there."""
        old, new = self.as_of(start), self.as_of(end)
        names = list(dict.fromkeys([*old, *new]))
        return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)}

    # ------------------------------------------------------------ which events

    def _candidates(self) -> QuerySet[Any]:
        home = self.using if store.ready(connections[self.using]) else router.db_for_read(Event)
        own = Q(sender__in=self._labels, object_key__in=[self.key, ""])
        others = Q(sender__in=self._throughs, signal="m2m_changed")
        return Event.objects.using(home).filter(own | others, database=self.using)

    @cached_property
    def _labels(self) -> list[str]:
        """Labels under which events tell of the object: its model's, its proxies' and those of models that extend it."""
        concrete = self.model._meta.concrete_model or self.model
        return [
            model._meta.label
            for model in apps.get_models(include_auto_created=True)
            if issubclass(model._meta.concrete_model or model, concrete)
        ]

    @cached_property
    def _throughs(self) -> list[str]:
        """Labels of the through tables of the model's many-to-many relations, from either side."""
        meta = self.model._meta
        near = [field.remote_field.through for field in meta.many_to_many]
        far = [relation.through for relation in meta.related_objects if relation.many_to_many]
        return [through._meta.label for through in (*near, *far)]

    def _concerns(self, event: Event) -> bool:
        args = event.data.get("args") or {}
        if event.signal == "m2m_changed":
            if event.object_key == self.key and args.get("object") in self._labels:
                return True
            told = [args.get("added"), args.get("removed")]
            others = [_key_text(key) for keys_told in told if isinstance(keys_told, list) for key in keys_told]
            return args.get("model") in self._labels and self.key in others
        if event.object_key:
            return event.object_key == self.key
        return event.signal in BULK and self.key in map(_key_text, args.get("keys") or ())

    # ------------------------------------------------------------ what it was

    def _steps(self) -> list[_Step]:
        """Return what was done to the row and committed, oldest first."""
        steps = [_step(event) for event in self.events() if event.outcome == "committed"]
        return [step for step in reversed(steps) if step is not None]

    def _state(self, when: dt.datetime, steps: list[_Step]) -> State:
        moment = microseconds(when)
        before = [step for step in steps if step.time <= moment]
        after = steps[len(before) :]
        if not self._was_there(before, after):
            return State(when, None)
        return State(when, {name: self._value(name, before, after) for name in self._names()})

    def _was_there(self, before: list[_Step], after: list[_Step]) -> bool:
        for step in reversed(before):
            if step.gone or step.made:
                return step.made
        for step in after:
            if step.gone or step.made:
                return step.gone
        return bool(before or after) or self._current is not None

    def _value(self, name: str, before: list[_Step], after: list[_Step]) -> Any:
        for step in reversed(before):
            if name in step.new:
                if step.new[name] is not UNKNOWN:
                    return step.new[name]
                break
            if step.made:
                break
        for step in after:
            if name in step.old:
                return step.old[name]
            if step.made or step.gone:
                return UNKNOWN
        return self._present(name)

    def _names(self) -> list[str]:
        return [field.name for field in self.model._meta.concrete_fields]

    @cached_property
    def _current(self) -> Model | None:
        found: Model | None = self.model._base_manager.using(self.using).filter(pk=self.pk).first()
        return found

    def _present(self, name: str) -> Any:
        """Return what the database holds in the field now, as an event would tell it."""
        if self._current is None:
            return UNKNOWN
        value = getattr(self._current, self.model._meta.get_field(name).attname)
        return encoding.encode_fields({name: value}, redactor=self.redactor)[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What one event did to the row."""

    time: int
    old: Mapping[str, Any]
    """Field to value before, for the fields that it touched; ``UNKNOWN`` where it does not tell."""
    new: Mapping[str, Any]
    """The same after."""
    made: bool = False
    gone: bool = False


def _step(event: Event) -> _Step | None:
    """Return what ``event`` did to the row; ``None`` if it did not touch it."""
    data, time = event.data, event.time
    args = data.get("args") or {}
    if event.signal in DELETES:
        return _Step(time=time, old=data.get("row") or {}, new={}, gone=True)
    if "row" in data:
        return _Step(time=time, old={}, new=data["row"], made=True)
    if "changes" in data:
        changes = data["changes"]
        old = {name: pair[0] if len(pair) == 2 else UNKNOWN for name, pair in changes.items()}
        return _Step(time=time, old=old, new={name: _known(pair[-1]) for name, pair in changes.items()})
    match event.signal:
        case "update":
            values = {name: _known(value) for name, value in args.get("values", {}).items()}
            return _Step(time=time, old=dict.fromkeys(values, UNKNOWN), new=values)
        case "bulk_update":
            nothing = dict.fromkeys(args.get("fields", ()), UNKNOWN)
            return _Step(time=time, old=nothing, new=nothing)
        case "bulk_create":
            return _Step(time=time, old={}, new={}, made=True)
    return None


def _known(value: Any) -> Any:
    """Return a value as an event tells it; what the database computed is not known."""
    return UNKNOWN if isinstance(value, dict) and value.keys() == {"expression"} else value


def _key_text(key: Any) -> str:
    return keys.text(key)


__all__ = ["UNKNOWN", "ObjectHistory", "State", "history"]
