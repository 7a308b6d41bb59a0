"""Revert the change of an event with the model's ``save()``, completely or not at all. The revert is recorded."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import DatabaseError, connections, models, transaction

from signalbox.core import loggers, object_keys
from signalbox.core.event import UNKNOWN
from signalbox.instrumentation import model_metadata, row_state
from signalbox.models import Event, to_datetime
from signalbox.queries.child_deletions import find_child_deletion, find_purged_child
from signalbox.queries.events import is_key_erased
from signalbox.queries.object_history import ObjectHistory, history
from signalbox.queries.past_relation_keys import get_relation_fields
from signalbox.queries.revert_preview import (
    FieldRestoration,
    FieldStatus,
    Plan,
    RevertError,
    RevertPreview,
    all_rows,
    build_preview,
    find_instance,
    get_field,
    get_field_labels,
    get_model,
    read_row,
)
from signalbox.queries.revert_relations import RelationPlan, plan_relation
from signalbox.serialization import encoder, field_values
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.diff import is_equal
from signalbox.serialization.redaction import REDACTED

logger = loggers.get_logger("queries")

TRUNCATION_PATTERN: Final = re.compile(rf"{encoder.ELLIPSIS} \((too long|too deep|cycle|[\d,]+ more)\)\Z")
"""The end of a truncated text, or the last item of a truncated list."""

BIG_INTEGER_PATTERN: Final = re.compile(r"(-?[1-9][0-9]{18,})\Z|<integer of \d+ bits>\Z")
"""The text form of an integer that may have more than 64 bits."""

REPLACEMENT_CHARACTER: Final = "\ufffd"
"""Replaces characters that not every database accepts. It may also be part of the value."""


def revert(event: Event, *, use_newer_state: bool = True, restore_relations: bool = False) -> models.Model:
    """Undo the change of an event, and return the object as it is afterwards.

    The old values of an update are written by ``save(update_fields=...)``; redacted fields are left unchanged. A
    deleted object is created again with its primary key; redacted fields are set to their defaults. Keys added to a
    many-to-many relation are removed, and removed ones are added. Later changes of the same fields are overwritten.
    The revert runs in a transaction and is recorded as an event of its own.

    Args:
        event: A committed event of an update, a deletion or a many-to-many change.
        use_newer_state: The instance that was deleted may have had older values than its row. If other events recorded
            newer values before the deletion, these are restored, and a warning names the fields. ``False`` restores
            the values of the event.
        restore_relations: Also restore the many-to-many relations that the object had before its deletion.

    Raises:
        RevertError: the event changed nothing or created its object, a value was not recorded completely (excluded,
            too long, or redacted without a default), the object or field does not exist, or the database refuses.
            Nothing is changed.
    """
    using = _get_database(event)
    try:
        with transaction.atomic(using=using):
            plan = _build_plan(event, using, use_newer_state, restore_relations)
            reasons = [field.reason for field in plan.fields if field.status == FieldStatus.REFUSED]
            if reasons:
                raise RevertError(" ".join(reasons))
            plan.find()
            found = plan.apply()
    except (DatabaseError, ValidationError) as error:
        raise RevertError(f"Event {event.pk} can't be reverted: {error}") from error
    if newer := [field.name for field in plan.fields if field.is_newer]:
        logger.warning(
            "Event %s has older values of %s %s than other events: the newer values of %s were restored.",
            event.pk,
            event.sender,
            event.object_key,
            ", ".join(newer),
        )
    return found


def preview_revert(event: Event, *, use_newer_state: bool = True, restore_relations: bool = False) -> RevertPreview:
    """Return what ``revert()`` with the same arguments would do, without doing it.

    Args:
        event: The event to revert.
        use_newer_state: As for ``revert()``.
        restore_relations: As for ``revert()``.

    Returns:
        The fields with their current and restored values. A reason against the revert is not raised. It is the
        ``error`` of the preview, or the ``reason`` of a field.
    """
    try:
        using = _get_database(event)
        return build_preview(event, _build_plan(event, using, use_newer_state, restore_relations))
    except RevertError as error:
        return RevertPreview(event=event, error=str(error))
    except (DatabaseError, ValidationError) as error:
        return RevertPreview(event=event, error=f"Event {event.pk} can't be reverted: {error}")


def _get_database(event: Event) -> str:
    if event.outcome != "committed":
        raise RevertError(f"Event {event.pk} was not committed ({event.outcome}): there is nothing to revert.")
    if event.database not in connections:
        raise RevertError(
            f"Event {event.pk} changed the database {event.database!r}, which is not in DATABASES any more."
        )
    return event.database


def _build_plan(event: Event, using: str, use_newer_state: bool, restore_relations: bool) -> Plan:
    data = event.data
    if is_key_erased(event):
        raise RevertError(f"The key of the object of event {event.pk} was erased: the event can't be reverted.")
    if event.signal == "m2m_changed":
        return RelationPlan(event, data.get("args") or {}, using)
    if event.signal in ("post_delete", "bulk_delete") and data.get("row"):
        plan = _RecreationPlan(event, data["row"], using)
        if use_newer_state and event.signal == "post_delete":  # the row of a bulk operation is read while it is deleted
            plan.use_newer_state()
        plan.add_relations(restore=restore_relations)
        return plan
    if data.get("changes"):
        return _UpdatePlan(event, data["changes"], using)
    raise RevertError(_explain_refusal(event))


def _explain_refusal(event: Event) -> str:
    if "row" in event.data:
        return f"Event {event.pk} created {event.sender} {event.object_key}: delete it instead."
    if "count" in (event.data.get("args") or {}):
        return (
            f"Event {event.pk} contains the keys of a bulk operation, not the rows' values. "
            'Set SIGNALBOX = {"BULK": "rows"} to record them.'
        )
    return f"Event {event.pk} ({event.signal}) changed nothing."


class _UpdatePlan:
    """Write the old values of an update."""

    creates = False
    purged_before = None

    def __init__(self, event: Event, changes: Mapping[str, Any], using: str) -> None:
        self.fields: list[FieldRestoration] = []
        self._event, self._using = event, using
        self._model = get_model(event.sender)
        self._values: dict[Any, Any] = {}
        secret = model_metadata.get_metadata(self._model).fields.secret
        for name, pair in changes.items():
            field = get_field(self._model, name)
            if field.generated:  # the database computes it from the other values
                continue
            if name in secret or all(value == REDACTED for value in pair):
                reason = f"{name!r} is redacted: its value was not recorded."
                self._add(name, FieldStatus.UNCHANGED, UNKNOWN, reason)
            elif len(pair) != 2:
                reason = f"The value that {name!r} had before event {event.pk} is not known."
                self._add(name, FieldStatus.REFUSED, UNKNOWN, reason)
            else:
                self._add_value(field, pair[0])
        if not self.fields:
            raise RevertError(f"Event {event.pk} changed only columns that the database computes.")
        if all(field.status == FieldStatus.UNCHANGED for field in self.fields):
            raise RevertError(" ".join(field.reason for field in self.fields))

    def _add(self, name: str, status: FieldStatus, restored: Any, reason: str = "") -> None:
        self.fields.append(FieldRestoration(name=name, status=status, restored=restored, reason=reason))

    def _add_value(self, field: Any, stored: Any) -> None:
        try:
            self._values[field] = _parse_value(field, stored, self._using, encoder.unwrap_literal)
        except RevertError as error:
            self._add(field.name, FieldStatus.REFUSED, encoder.unwrap_literal(stored), str(error))
        else:
            self._add(field.name, FieldStatus.RESTORED, encoder.unwrap_literal(stored))

    def find(self) -> None:
        self._instance = find_instance(self._model, self._event.object_key, self._using)

    def read_current(self) -> Mapping[str, Any]:
        return read_row(self._instance)

    def get_labels(self, values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        return get_field_labels(self._model, values, self._using)

    def apply(self) -> models.Model:
        for field, value in self._values.items():
            setattr(self._instance, field.attname, row_state.copy_value(value))
        self._instance.save(using=self._using, update_fields=[field.name for field in self._values])
        values = {field.attname: value for field, value in self._values.items()}
        _restore_auto_values(self._instance, values, self._using)
        return self._instance


class _RecreationPlan:
    """Create a deleted object again."""

    creates = True

    def __init__(self, event: Event, row: Mapping[str, Any], using: str) -> None:
        self._event, self._row, self._using = event, row, using
        self._model = get_model(event.sender)
        for name in row:
            get_field(self._model, name)
        self._fields: list[Any] = [field for field in self._model._meta.concrete_fields if not field.generated]
        self._secret = model_metadata.get_metadata(self._model).fields.secret
        self._values: dict[str, Any] = {}
        self._relations: dict[str, list[models.Model]] = {}
        self.purged_before: dt.datetime | None = None
        self.fields = [self._plan_field(field) for field in self._fields]

    def _plan_field(self, field: Any) -> FieldRestoration:
        name = field.name
        if name not in self._row:
            return _refuse(name, UNKNOWN, f"The value of {name!r} was not recorded.")
        recorded = encoder.unwrap_row_literal(self._row[name])
        if recorded == REDACTED and name in self._secret:
            return _plan_redacted_field(field)
        try:
            self._values[field.attname] = _parse_value(field, self._row[name], self._using)
        except RevertError as error:
            return _refuse(name, recorded, str(error))
        return FieldRestoration(name=name, status=FieldStatus.RESTORED, restored=recorded)

    def _get_history(self) -> ObjectHistory | None:
        """Return the object's history, if its primary key can be restored."""
        names = [field.attname for field in self._model._meta.pk_fields]
        if not all(name in self._values for name in names):
            return None
        pk = tuple(self._values[name] for name in names)
        return history(self._model, pk if len(pk) > 1 else pk[0], using=self._using)

    def use_newer_state(self) -> None:
        """Replace values by those that other events recorded before the deletion, where these differ."""
        found = self._get_history()
        if found is not None and not found.was_created_after_purge():
            self.purged_before = found.purged_before
        state: Mapping[str, Any] = {} if found is None else found.as_of(to_datetime(self._event.time - 1))
        for position, (field, planned) in enumerate(zip(self._fields, self.fields, strict=True)):
            newer = state.get(field.name, UNKNOWN)
            is_redacted = planned.restored is UNKNOWN and field.name in self._row
            if newer in (UNKNOWN, REDACTED, planned.restored) or is_redacted:
                continue
            try:
                value = _parse_value(field, {encoder.LITERAL_KEY: newer}, self._using, encoder.unwrap_literal)
            except RevertError as error:
                self._values.pop(field.attname, None)
                reason = f"A newer value than the event's was recorded. {error}"
                self.fields[position] = _refuse(field.name, newer, reason)
                continue
            if field.attname in self._values and _is_stored_equally(field, value, self._values[field.attname]):
                continue
            self._values[field.attname] = value
            self.fields[position] = FieldRestoration(
                name=field.name, status=FieldStatus.RESTORED, restored=newer, is_newer=True
            )

    def add_relations(self, *, restore: bool) -> None:
        """Plan the object's relations as they were before the deletion began."""
        found = self._get_history() if get_relation_fields(self._model) else None
        if found is None:
            return
        began = self._event.data.get("pre_signal_time") or self._event.time
        keys_by_name = found.get_relation_keys(to_datetime(began - 1))
        for name, keys in keys_by_name.items():
            if restore:
                planned, self._relations[name] = plan_relation(self._model._meta.get_field(name), keys, self._using)
                self.fields.append(planned)
            elif keys:
                reason = f"The relation {name!r} is restored only on request."
                self.fields.append(
                    FieldRestoration(name=name, status=FieldStatus.OMITTED, restored=UNKNOWN, reason=reason)
                )

    def find(self) -> None:
        if (found := self._get_history()) is not None and all_rows(self._model, self._using).filter(
            pk=found.pk
        ).exists():
            raise RevertError(f"{self._model._meta.label} {object_keys.key_to_text(found.pk)} already exists.")
        child_event = find_child_deletion(self._model, self._event)
        if child_event is not None:
            raise RevertError(
                f"Event {self._event.pk} has only the parent's part of the object. Revert event {child_event.pk} "
                f"of the {child_event.sender} instead, which restores both parts."
            )
        if (child := find_purged_child(self._model, self._event)) is not None:
            raise RevertError(
                f"Event {self._event.pk} may have only the parent's part of the object. "
                f"The event of a {child} that was deleted with it may have been purged."
            )

    def read_current(self) -> Mapping[str, Any]:
        return {}

    def get_labels(self, values: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        return get_field_labels(self._model, values, self._using)

    def apply(self) -> models.Model:
        # The model's own code, such as __init__, may change values in place.
        instance = self._model(**{attname: row_state.copy_value(value) for attname, value in self._values.items()})
        instance.save(using=self._using, force_insert=True)
        _restore_auto_values(instance, self._values, self._using)
        for name, objects in self._relations.items():
            getattr(instance, name).add(*objects)
        return instance


def _refuse(name: str, restored: Any, reason: str) -> FieldRestoration:
    return FieldRestoration(name=name, status=FieldStatus.REFUSED, restored=restored, reason=reason)


def _plan_redacted_field(field: Any) -> FieldRestoration:
    reason = f"The value of {field.name!r} was not recorded, as it is redacted."
    if field.primary_key:
        return _refuse(field.name, UNKNOWN, reason)
    if field.has_default() or field.has_db_default() or field.null:
        return FieldRestoration(name=field.name, status=FieldStatus.DEFAULT, restored=UNKNOWN, reason=reason)
    return _refuse(field.name, UNKNOWN, f"{reason} The field has no default and does not allow NULL.")


def _is_stored_equally(field: Any, first: Any, second: Any) -> bool:
    """Return whether the database stores both values in the same way: it rounds numbers to the column's places."""
    if isinstance(field, models.DecimalField) and None not in (first, second):
        first, second = (round(value, field.decimal_places or 0) for value in (first, second))
    return is_equal(first, second) or field_values.build_recorder(field, get_redactor()).stores_equally(first, second)


def _restore_auto_values(instance: models.Model, values: Mapping[str, Any], using: str) -> None:
    """Write the ``values`` that ``save()`` has replaced, as it does with a time of creation or change."""
    reset = {attname: value for attname, value in values.items() if not is_equal(getattr(instance, attname), value)}
    if reset:
        for attname, value in reset.items():
            setattr(instance, attname, value)
        all_rows(type(instance), using).filter(pk=instance.pk).update(**reset)


def _parse_value(field: Any, stored: Any, using: str, decode: Callable[[Any], Any] = encoder.unwrap_row_literal) -> Any:
    """Return the Python value of a recorded value of ``field``."""
    recorded = decode(stored)
    if encoder.is_erased(stored):
        raise RevertError(f"The value of {field.name!r} was erased: it can't be restored.")
    if encoder.is_recorded_expression(stored):
        raise RevertError(
            f"The database computed {field.name!r} ({recorded['expression']}): its value was not recorded."
        )
    if encoder.is_not_restorable(stored):
        raise RevertError(
            f"The value of {field.name!r} ({recorded[encoder.NOT_RESTORABLE_KEY]}) can't be restored: "
            "its field can't read the recorded form."
        )
    if _is_incomplete(recorded):
        raise RevertError(f"The value of {field.name!r} was not recorded completely, because it is secret or too long.")
    if REPLACEMENT_CHARACTER in json.dumps(recorded, ensure_ascii=False):
        raise RevertError(
            f"The value of {field.name!r} contains U+FFFD, which may be a replacement for another character: "
            "NUL and lone surrogates are recorded as U+FFFD."
        )
    if recorded is None:
        return None
    try:
        value = _to_python(field, recorded)
    except (ValidationError, ValueError, TypeError) as error:
        raise RevertError(f"{recorded!r} can't be read as a value of {field.name!r}: {error}") from error
    if field.is_relation and not field.remote_field.parent_link:  # a child is saved with its parent
        targets = all_rows(field.related_model, using).filter(**{field.target_field.name: value})
        if not targets.exists():
            raise RevertError(
                f"{field.related_model._meta.label} {recorded}, the target of {field.name!r}, does not exist."
            )
    return value


def _to_python(field: Any, recorded: Any) -> Any:
    value_field = field_values.get_value_field(field)
    if isinstance(value_field, models.JSONField) and (
        text := next(filter(_may_be_big_integer, _iter_strings(recorded)), None)
    ):
        raise RevertError(
            f"The value of {field.name!r} contains {text!r}, which may have been a number: "
            "numbers of more than 64 bits are recorded as text."
        )
    return field_values.read_value(value_field, recorded)


def _is_incomplete(value: Any) -> bool:
    """Return whether a part of ``value`` was redacted or truncated when it was recorded."""
    if isinstance(value, str):
        return REDACTED in value or TRUNCATION_PATTERN.search(value) is not None
    if isinstance(value, dict):
        return encoder.ELLIPSIS in value or any(map(_is_incomplete, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return any(map(_is_incomplete, value))
    return False


def _iter_strings(value: Any) -> Iterator[str]:
    """Yield each text in a JSON value, except keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _iter_strings(item)


def _may_be_big_integer(text: str) -> bool:
    """Return whether ``text`` may be the text form of an integer of more than 64 bits."""
    found = BIG_INTEGER_PATTERN.match(text)
    return found is not None and (found[1] is None or not -(2**63) <= int(found[1]) < 2**63)


__all__ = ["RevertError", "RevertPreview", "preview_revert", "revert"]
