"""Old and new row to changes: pure functions over the values of a model's concrete fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import compress, count
from operator import is_not
from types import NoneType
from typing import Any, Final, NamedTuple
from uuid import UUID

from django.utils.duration import duration_iso_string

from signalbox.core import interrupts
from signalbox.core.event import UNKNOWN, Unknown
from signalbox.serialization import expressions
from signalbox.serialization.redaction import REDACTED, Redactor


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldSet:
    """What a model's row is made of; built once per model."""

    names: tuple[str, ...]
    """Names of the concrete fields, in the model's order."""
    attnames: tuple[str, ...]
    """Their attributes on an instance: a foreign key's holds the key."""
    secret: frozenset[str]
    """Names of fields whose values are never stored."""
    to_python: tuple[Callable[[Any], Any], ...]
    """Each field's own reading of a raw value, so that ``"72"`` is no change of ``72``."""
    non_scalar: frozenset[str]
    """Names of fields whose values may be containers, floats or a project's own objects."""
    redactor: Redactor
    """Hides what is secret within the values."""
    excluded: frozenset[str]
    """Names of fields that are left out."""
    choices: Mapping[str, Mapping[Any, str]]
    """Field with choices to value to what it is called."""
    to_text: Mapping[str, Callable[[Any], Any]]
    """Field of a project's own making to what makes a text of its values, as its serializer does."""
    primary_key: frozenset[str]
    """Names of the fields of the primary key; an update does not change them."""


class RowChange(NamedTuple):
    """A row before and after one write. Values stand in the order of ``fields``; ``UNKNOWN`` was never read."""

    fields: FieldSet
    old: Any
    """Values before: a sequence, ``None`` if there was no row, ``UNKNOWN`` if nothing was read."""
    new: Any
    """Values after: a sequence, or ``None`` if the row was deleted. ``UNKNOWN`` marks what was not written."""
    labels: dict[str, dict[str, str]] | None = None
    """Field to value to what it is called, for foreign keys whose object was already loaded."""


NON_EXPRESSION_TYPES: Final = frozenset(
    {NoneType, bool, int, float, str, Decimal, datetime, date, time, UUID, dict, list, Unknown}
)
"""Classes of values that are surely no expressions: asking each value for its methods takes longer."""


def is_expression(value: Any) -> bool:
    """Tell whether ``value`` is an expression, whose value the database works out."""
    return type(value) not in NON_EXPRESSION_TYPES and hasattr(value, "resolve_expression")


def build_row(values: Any, fields: FieldSet) -> dict[str, Any]:
    """Return the known values of a whole row by field name."""
    found = dict(zip(fields.names, values, strict=True))
    if type(values) is not tuple:  # a tuple holds every value
        found = {name: value for name, value in found.items() if value is not UNKNOWN}
    if not NON_EXPRESSION_TYPES.issuperset(map(type, values)):
        for name, value in found.items():
            if is_expression(value):
                found[name] = expression_text(value, fields)
    for name in fields.secret:
        if found.get(name) is not None:
            found[name] = REDACTED
    for name in fields.excluded:
        found.pop(name, None)
    for name, to_text in fields.to_text.items():
        if name in found:
            found[name] = to_text(found[name])
    return found


def diff(change: RowChange) -> dict[str, list[Any]]:
    """Return ``{field: [old, new]}`` for what an update changed; ``[new]`` alone where the old value is unknown."""
    fields, old, new, _ = change
    if old is UNKNOWN:
        old = (UNKNOWN,) * len(fields.names)
    found = {}
    if old is not new:
        for position in compress(count(), map(is_not, old, new)):  # most values are the same object
            before, after = old[position], new[position]
            if after is UNKNOWN:
                continue
            name = fields.names[position]
            entry = _diff_value(name, before, after, fields.to_python[position], fields)
            if entry is not None and name not in fields.primary_key:
                found[name] = entry
    for name in fields.excluded:
        found.pop(name, None)
    for name in fields.secret:
        if name in found:
            found[name] = [None if value is None else REDACTED for value in found[name]]
    for name, to_text in fields.to_text.items():
        if name in found:
            found[name] = [to_text(value) for value in found[name]]
    return found


def _diff_value(
    name: str, before: Any, after: Any, to_python: Callable[[Any], Any], fields: FieldSet
) -> list[Any] | None:
    """Return ``[old, new]`` where the two differ, ``[new]`` where the old is unknown, ``None`` where they do not."""
    if is_expression(after):
        after = expression_text(after, fields)
    if before is UNKNOWN or is_expression(before):
        return [after]
    are_equal = is_json_equal if name in fields.non_scalar else is_equal
    if are_equal(before, after):
        return None
    if type(before) is not type(after):
        try:
            if are_equal(to_python(before), to_python(after)):
                return None
        except Exception as error:  # noqa: BLE001 - a field's own code on a value that it may not know; the raw values speak
            interrupts.raise_if_interrupt(error)
            return [before, after]
    return [before, after]


class ExpressionText(dict[str, str]):
    """What is told of a value that the database computed. By its class it is no value of a JSON field."""


def expression_text(
    expression: Any, fields: FieldSet, annotations: Mapping[str, Any] = expressions.NO_ANNOTATIONS
) -> ExpressionText:
    """Return what is told of a value that the database computed, and did not say; by its query's ``annotations``."""
    hidden = fields.secret | fields.excluded
    if not hidden.isdisjoint(fields.primary_key):
        hidden |= {"pk"}
    return ExpressionText(expression=expressions.format_expression(expression, fields.redactor, hidden, annotations))


def is_equal(before: Any, after: Any) -> bool:
    """Tell whether two values are equal; values that can't be compared are not."""
    try:
        return bool(before == after)
    except Exception as error:  # noqa: BLE001 - a value's own __eq__ may raise anything
        interrupts.raise_if_interrupt(error)
        return False


def is_json_equal(before: Any, after: Any) -> bool:
    """Tell the same of what may be JSON, which parts ``1`` from ``true`` where Python takes them for equal."""
    return is_equal(before, after) and _has_equal_bools(before, after)


def _has_equal_bools(before: Any, after: Any) -> bool:
    """Tell whether two equal values have their truth values in the same places."""
    if type(before) is dict and type(after) is dict:
        return all(_has_equal_bools(value, after[key]) for key, value in before.items())
    if type(before) in (list, tuple) and type(after) in (list, tuple):
        return all(map(_has_equal_bools, before, after))
    return (type(before) is bool) is (type(after) is bool)


def describe(change: RowChange) -> tuple[str, dict[str, Any]]:
    """Return what an event stores of ``change``, with its name: ``row`` on create and delete, else ``changes``."""
    if change.old is None:
        return "row", build_row(change.new, change.fields)
    if change.new is None:
        return "row", {} if change.old is UNKNOWN else build_row(change.old, change.fields)
    return "changes", diff(change)


def _is_choice(value: Any, choices: Mapping[Any, str]) -> bool:
    """Tell whether a field's value is one of its choices; one that can't be hashed is none."""
    try:
        return value in choices
    except Exception as error:  # noqa: BLE001 - a value's own __hash__ and __eq__ may raise anything
        interrupts.raise_if_interrupt(error)
        return False


def _format_choice(value: Any) -> str:
    """Return a choice as the text that stands for it in an event."""
    if isinstance(value, timedelta):
        return duration_iso_string(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def get_choice_labels(values: Mapping[str, Any], fields: FieldSet) -> dict[str, dict[str, str]]:
    """Return what the values of fields with choices are called: ``{field: {value: label}}``."""
    labels: dict[str, dict[str, str]] = {}
    for name in fields.choices.keys() & values.keys():
        if name in fields.secret:
            continue
        value = values[name]
        choices = fields.choices[name]
        found = {
            one if type(one) is str else _format_choice(one): str(choices[one])
            for one in (value if type(value) is list else (value,))
            if (one in choices if type(one) is str else one is not None and _is_choice(one, choices))
        }
        if found:
            labels[name] = found
    return labels
