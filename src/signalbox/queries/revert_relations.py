"""Reverting changes of many-to-many relations, and restoring the relations of a deleted object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from signalbox.core import object_keys
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from signalbox.queries import revert_preview
from signalbox.queries.revert_preview import FieldRestoration, FieldStatus, RevertError
from signalbox.serialization import encoder
from signalbox.serialization.redaction import REDACTED


class RelationPlan:
    """Remove the keys that an event added to a relation, or add those that it removed."""

    creates = False
    purged_before = None

    def __init__(self, event: Event, args: Mapping[str, Any], using: str) -> None:
        self.fields: list[FieldRestoration] = []
        self._event, self._args, self._using = event, args, using
        self._is_addition = args.get("added") is not None
        self._keys = _get_recorded_keys(event, args)

    def find(self) -> None:
        """Find the object, its manager and the related objects."""
        event, using = self._event, self._using
        model = revert_preview.get_model(str(self._args.get("object")))
        self._instance = revert_preview.find_instance(model, event.object_key, using)
        name = _get_m2m_accessor(model, event.sender, bool(self._args.get("reverse")))
        self._manager: Any = getattr(self._instance, name)
        related = self._manager.model
        if model_metadata.get_metadata(related).has_secret_pk:
            raise RevertError(f"The keys of {related._meta.label} are secret and were not recorded.")
        self._others = read_objects(related, self._keys, using)
        if not self._is_addition:
            if not self._manager.through._meta.auto_created:
                raise RevertError(
                    f"The rows of {event.sender} have more columns than the keys that event {event.pk} contains: "
                    "create them yourself."
                )
            if missing := find_missing_keys(self._keys, self._others):
                raise RevertError(f"{related._meta.label} {missing} does not exist any more: create it again first.")
        manager = self._manager
        rows = revert_preview.all_rows(manager.through, using).filter(**{manager.source_field_name: self._instance})
        pks = rows.order_by("pk").values_list(f"{manager.target_field_name}__pk", flat=True)
        self._current = list(map(_recorded_form, pks))
        self.fields = [FieldRestoration(name=name, status=FieldStatus.RESTORED, restored=self._get_restored_keys())]

    def _get_restored_keys(self) -> list[Any]:
        changed = list(map(_recorded_form, self._others))
        if self._is_addition:
            return [key for key in self._current if key not in changed]
        return sorted({*self._current, *changed}, key=lambda key: (type(key) is str, key))

    def read_current(self) -> Mapping[str, Any]:
        """Return the related keys by the name of the relation."""
        return {self.fields[0].name: self._current}

    def apply(self) -> models.Model:
        """Change the relation."""
        # Objects and not keys: a relation's rows may point at another column.
        if self._is_addition:
            self._manager.remove(*self._others.values())
        else:
            self._manager.add(*self._others.values())
        return self._instance

    def get_labels(self, values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """Return the labels of the related objects."""
        related = self._manager.model
        return {
            name: revert_preview.get_object_labels(related, "pk", keys, self._using) for name, keys in values.items()
        }


def plan_relation(field: Any, keys: Any, using: str) -> tuple[FieldRestoration, list[models.Model]]:
    """Return what a revert does with a relation of a deleted object, and the objects to add.

    Args:
        field: The many-to-many field.
        keys: The keys before the deletion, as ``ObjectHistory.get_relation_keys()`` returns them.
        using: Alias of the object's database.
    """
    related = field.remote_field.model
    reason, objects = "", {}
    if keys is UNKNOWN or keys == REDACTED or model_metadata.get_metadata(related).has_secret_pk:
        reason = f"The keys of {field.name!r} were not recorded."
    else:
        try:
            objects = read_objects(related, keys, using)
        except RevertError as error:
            return FieldRestoration(name=field.name, status=FieldStatus.REFUSED, restored=keys, reason=str(error)), []
        if missing := find_missing_keys(keys, objects):
            reason = f"{related._meta.label} {missing} of {field.name!r} does not exist any more."
    status = FieldStatus.REFUSED if reason else FieldStatus.RESTORED
    return FieldRestoration(name=field.name, status=status, restored=keys, reason=reason), list(objects.values())


def _get_recorded_keys(event: Event, args: Mapping[str, Any]) -> list[Any]:
    recorded_keys = args.get("removed") if args.get("added") is None else args["added"]
    if encoder.contains_erased(recorded_keys):
        raise RevertError(f"Event {event.pk} can't be reverted: keys that it changed were erased.")
    if recorded_keys == REDACTED:
        raise RevertError(f"The keys that event {event.pk} changed are redacted, so they were not recorded.")
    if not isinstance(recorded_keys, list) or not recorded_keys:
        raise RevertError(f"Event {event.pk} ({args.get('action')}) changed nothing.")
    if args.get("omitted_keys"):
        raise RevertError(
            f"Event {event.pk} contains only {len(recorded_keys)} of the changed keys: {args['omitted_keys']} were "
            "omitted."
        )
    return recorded_keys


def read_objects(model: type[models.Model], recorded_keys: list[Any], using: str) -> dict[Any, models.Model]:
    """Return the existing objects by primary key."""
    keys = [_read_key(model, key) for key in recorded_keys]
    found: dict[Any, models.Model] = revert_preview.all_rows(model, using).in_bulk(keys)
    return found


def _read_key(model: type[models.Model], recorded_key: Any) -> Any:
    try:
        return model._meta.pk.to_python(recorded_key)
    except (TypeError, ValueError, ValidationError):
        raise RevertError(f"{recorded_key!r} is not a primary key of {model._meta.label}.") from None


def find_missing_keys(recorded_keys: list[Any], objects: Mapping[Any, models.Model]) -> str:
    """Return the keys without an object, separated by commas."""
    return ", ".join(sorted(map(str, set(recorded_keys) - set(map(_recorded_form, objects)))))


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
