"""The preview of a revert, and the models, fields and objects that a revert looks up."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Protocol

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import connections, models

from signalbox.core import object_keys
from signalbox.core.display_names import get_value_label
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata
from signalbox.models import Event
from signalbox.queries.model_keys import normalize_pk
from signalbox.serialization import encoder
from signalbox.serialization.diff import build_row, get_choice_labels

MAX_LABELLED_KEYS: Final = 20
"""Keys of a relation whose labels are read for a preview."""


class RevertError(Exception):
    """An event cannot be reverted. The message gives the reason."""


class FieldStatus(StrEnum):
    """What a revert does with a field."""

    RESTORED = "restored"
    UNCHANGED = "left unchanged"
    OMITTED = "not restored"
    DEFAULT = "set to its default"
    REFUSED = "can't be restored"


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldRestoration:
    """A field, or a many-to-many relation, in the preview of a revert. Values are JSON values, as events have them."""

    name: str
    """Name of the field; of a relation that is changed from the other side, the name of its accessor."""
    status: FieldStatus
    """What the revert does with the field."""
    current: object = None
    """Value in the database now; ``None`` if the object does not exist, ``UNKNOWN`` if it is not recorded."""
    restored: object = None
    """Value after the revert; ``UNKNOWN`` if it is not restored from an event."""
    reason: str = ""
    """Why the field is not restored; empty otherwise."""
    is_newer: bool = False
    """Whether the restored value was recorded after the event's own value."""
    current_label: str = ""
    """Label of the current value, which is that of a choice or of the object that a foreign key points at."""
    restored_label: str = ""
    """Label of the restored value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RevertPreview:
    """What ``revert()`` with the same arguments would do."""

    event: Event
    creates: bool = False
    """Whether the object is created again."""
    fields: tuple[FieldRestoration, ...] = ()
    """The fields, in the order of the event."""
    error: str = ""
    """Why the event can't be reverted, for a reason that is not one of a field; empty otherwise."""
    purged_before: dt.datetime | None = None
    """The time before which events of a deleted object may have been purged. A newer value than the event's, if one was
    recorded there, is not known. ``None`` if none were purged."""

    @property
    def can_revert(self) -> bool:
        """Whether no reason against the revert is known. The database may still refuse it."""
        return not self.error and not self.refused_fields

    @property
    def refused_fields(self) -> tuple[FieldRestoration, ...]:
        """The fields that can't be restored."""
        return tuple(field for field in self.fields if field.status == FieldStatus.REFUSED)

    @property
    def newer_fields(self) -> tuple[str, ...]:
        """Names of the fields that are restored from a newer event."""
        return tuple(field.name for field in self.fields if field.is_newer)


class Plan(Protocol):
    """The steps that revert one event."""

    creates: bool
    fields: list[FieldRestoration]

    @property
    def purged_before(self) -> dt.datetime | None:
        """See ``RevertPreview.purged_before``."""

    def find(self) -> None:
        """Find the object. Raise ``RevertError`` if it does not allow the revert."""

    def read_current(self) -> Mapping[str, Any]:
        """Return the current values, after ``find()``."""

    def apply(self) -> models.Model:
        """Write the values, after ``find()``, and return the object."""

    def get_labels(self, values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """Return the labels of values."""


def build_preview(event: Event, plan: Plan) -> RevertPreview:
    """Return the preview of a plan; the database is read, not written."""
    error, current = "", {}
    try:
        plan.find()
        current = dict(plan.read_current())
    except RevertError as refusal:
        error = str(refusal)
    fields = []
    for field in plan.fields:
        shown = replace(field, current=current.get(field.name, None if plan.creates or error else UNKNOWN))
        labels = [plan.get_labels({field.name: value}) for value in (shown.current, shown.restored)]
        fields.append(
            replace(
                shown,
                current_label=get_value_label(labels[0], field.name, shown.current),
                restored_label=get_value_label(labels[1], field.name, shown.restored),
            )
        )
    return RevertPreview(
        event=event, creates=plan.creates, fields=tuple(fields), error=error, purged_before=plan.purged_before
    )


def read_row(instance: models.Model) -> dict[str, Any]:
    """Return the values of an instance as an event would contain them."""
    metadata = model_metadata.get_metadata(type(instance))
    row: dict[str, Any] = encoder.encode_fields(
        build_row(metadata.get_values(instance), metadata.fields), redactor=metadata.fields.redactor
    )
    return {name: encoder.unwrap_row_literal(value) for name, value in row.items()}


def get_field_labels(model: type[models.Model], values: Mapping[str, Any], using: str) -> dict[str, dict[str, str]]:
    """Return the labels of choices, and those of the objects that foreign keys and relations point at, as
    ``{field: {value as text: label}}``."""
    labels = get_choice_labels(values, model_metadata.get_metadata(model).fields)
    for name, value in values.items():
        try:
            field: Any = model._meta.get_field(name)
        except FieldDoesNotExist:
            continue
        if field.is_relation and value not in (None, UNKNOWN):
            column = "pk" if field.many_to_many else field.target_field.name
            labels[name] = get_object_labels(field.related_model, column, value, using)
    return labels


def get_object_labels(model: type[models.Model], column: str, value: Any, using: str) -> dict[str, str]:
    """Return the labels of the objects with a value, or one of several, in a column."""
    values = value[:MAX_LABELLED_KEYS] if isinstance(value, list) else [value]
    get_label, connection = model_metadata.get_metadata(model).get_label, connections[using]
    found = {}
    for one in values:
        try:
            target = all_rows(model, using).filter(**{column: one}).first()
        except (TypeError, ValueError, ValidationError):
            continue
        if target is not None and (label := get_label(target, connection)):
            found[str(one)] = label
    return found


def get_model(label: str) -> type[models.Model]:
    """Return a model by its label."""
    try:
        return apps.get_model(label)
    except (LookupError, ValueError):
        raise RevertError(f"The model {label} does not exist any more, so its events can't be reverted.") from None


def get_field(model: type[models.Model], name: str) -> Any:
    """Return a concrete field of a model."""
    try:
        field = model._meta.get_field(name)
    except FieldDoesNotExist:
        field = None
    if field is None or not field.concrete:
        raise RevertError(f"{model._meta.label} has no field {name!r} any more.")
    return field


def all_rows(model: type[models.Model], using: str) -> models.QuerySet[Any]:
    """Return all rows of the model's table. Its managers, also the base manager, may hide some."""
    return models.QuerySet(model, using=using)


def find_instance(model: type[models.Model], key: str, using: str) -> models.Model:
    """Return the object with a key, as events contain it."""
    if model_metadata.get_metadata(model).has_secret_pk:
        raise RevertError(f"The key of {model._meta.label} is secret and was not recorded.")
    if len(key) >= object_keys.MAX_LENGTH - 3:  # it may end in a digest
        raise RevertError(f"The key of {model._meta.label} is too long to have been recorded completely.")
    if object_keys.DIGEST_PATTERN.fullmatch(key):
        raise RevertError(f"The key of {model._meta.label} contains a secret and was not recorded.")
    pk: Any = tuple(json.loads(key)) if len(model._meta.pk_fields) > 1 else key
    try:
        # Not every field prepares the text of a key for a lookup.
        found: models.Model | None = all_rows(model, using).filter(pk=normalize_pk(model, pk)).first()
    except (TypeError, ValueError, ValidationError):
        raise RevertError(f"{key!r} is not a primary key of {model._meta.label}.") from None
    if found is None:
        raise RevertError(f"{model._meta.label} {key} does not exist any more: first revert the event that deleted it.")
    return found


__all__ = ["FieldRestoration", "FieldStatus", "RevertError", "RevertPreview"]
