"""The effects of events on one row, and the state that follows from them: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from signalbox.core.event import UNKNOWN
from signalbox.models import Event
from signalbox.serialization import encoder

BULK_SIGNALS: Final = frozenset({"bulk_create", "bulk_update", "update", "bulk_delete"})

DELETE_SIGNALS: Final = frozenset({"post_delete", "bulk_delete"})


def existed(before: list[RowEffect], after: list[RowEffect], exists_now: bool) -> bool:
    """Return whether the row existed between the effects ``before`` and those ``after``."""
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


def get_field_value(field: Any, before: list[RowEffect], after: list[RowEffect], current: Mapping[str, Any]) -> Any:
    """Return a field's value between the effects ``before`` and those ``after``, or ``UNKNOWN``."""
    name = field.name
    for step in reversed(before):
        if name in step.new:
            if step.new[name] is not UNKNOWN:
                return step.new[name]
            break
        if step.created or step.deleted or field.generated:  # the database may have computed it again
            break
    for step in after:
        if name in step.old:
            return step.old[name]
        if step.created or step.deleted or field.generated:
            return UNKNOWN
    return current.get(name, UNKNOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEffect:
    """The effect of one event on the row."""

    time: int
    old: Mapping[str, Any]
    """Values before the event, of the fields that it wrote; ``UNKNOWN`` if the event does not contain them."""
    new: Mapping[str, Any]
    """Values after the event, of the same fields."""
    created: bool = False
    deleted: bool = False
    is_certain: bool = True
    """Whether the row certainly existed before and after it, unless it created or deleted the row."""
    may_change_existence: bool = False
    """Whether it may have created or deleted the row."""


def build_row_effect(event: Event, is_owner: bool, key: str) -> RowEffect | None:
    """Return the effect of ``event`` on the row; ``None`` if it did not change it.

    ``is_owner`` is True if deleting a row of the event's sender deletes the object.
    """
    data, time = event.data, event.time
    args = data.get("args") or {}
    if event.uncertain:
        return _build_possible_effect(event, is_owner, args)
    if event.signal in DELETE_SIGNALS:
        return (
            RowEffect(time=time, old=decode_values(data.get("row") or {}), new={}, deleted=True) if is_owner else None
        )
    if "row" in data:
        return RowEffect(time=time, old={}, new=decode_values(data["row"]), created=True)
    if "changes" in data:
        changes = data["changes"]
        old = {name: pair[0] if len(pair) == 2 else UNKNOWN for name, pair in changes.items()}
        new = {name: pair[-1] for name, pair in changes.items()}
        return RowEffect(
            time=time, old=decode_values(old, encoder.unwrap_literal), new=decode_values(new, encoder.unwrap_literal)
        )
    match event.signal:
        case "update":
            values = decode_values(args.get("values", {}))
            if "new_keys" in args:
                was, is_now = (key in map(str, args[name] or ()) for name in ("keys", "new_keys"))
                if was is not is_now:
                    return RowEffect(time=time, old={}, new={} if was else values, deleted=was, created=is_now)
            return RowEffect(time=time, old=dict.fromkeys(values, UNKNOWN), new=values)
        case "bulk_update":
            nothing = dict.fromkeys(args.get("fields", ()), UNKNOWN)
            return RowEffect(time=time, old=nothing, new=nothing)
        case "bulk_create" if args.get("update_conflicts"):  # it may have existed
            all_fields = _AllFieldsUnknown()
            return RowEffect(time=time, old=all_fields, new=all_fields)
        case "bulk_create":
            return RowEffect(time=time, old={}, new={}, created=True)
    return None


def _build_possible_effect(event: Event, is_owner: bool, args: Mapping[str, Any]) -> RowEffect | None:
    """Return the possible effect of ``event``: the fields that it wrote become unknown."""
    written: Mapping[str, Any] = dict.fromkeys([*args.get("values", ()), *args.get("fields", ())], UNKNOWN)
    if args.get("update_conflicts"):
        written = _AllFieldsUnknown()
    moved = event.signal == "bulk_create" or "new_keys" in args
    if event.signal in DELETE_SIGNALS and not is_owner:
        return None
    return RowEffect(
        time=event.time,
        old=written,
        new=written,
        is_certain=False,
        may_change_existence=moved or event.signal in DELETE_SIGNALS,
    )


def build_erasure_effect(time: int) -> RowEffect:
    """Return the effect of an erasure of the row's key at a time: what was before it is not known."""
    everything = _AllFieldsUnknown()
    return RowEffect(time=time, old=everything, new=everything, is_certain=False, may_change_existence=True)


class _AllFieldsUnknown(dict[str, Any]):
    """All fields, with unknown values."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> Any:
        return UNKNOWN


def decode_values(
    values: Mapping[str, Any], decode: Callable[[Any], Any] = encoder.unwrap_row_literal
) -> dict[str, Any]:
    """Return recorded values; ``UNKNOWN`` for computed values and those that can't be restored."""
    return {
        name: UNKNOWN if encoder.is_recorded_expression(value) or encoder.is_not_restorable(value) else decode(value)
        for name, value in values.items()
    }


def collect_labels(events: Sequence[Event], time: int) -> dict[str, dict[str, str]]:
    """Return the recorded labels of values: ``{field: {value as text: label}}``.

    If events contain different labels of a value, the last one up to the time has precedence.

    Args:
        events: Events of one object, newest first.
        time: Microseconds since the epoch.
    """
    found: dict[str, dict[str, str]] = {}
    later = [event for event in events if event.time > time]
    earlier = [event for event in reversed(events) if event.time <= time]
    for event in (*later, *earlier):
        labels = event.data.get("labels") or (event.data.get("args") or {}).get("labels")
        for name, texts in labels.items() if isinstance(labels, dict) else ():
            found.setdefault(name, {}).update(texts)
    return found
