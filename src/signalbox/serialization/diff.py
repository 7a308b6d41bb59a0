"""Old and new row to changes: pure functions over the values of a model's concrete fields."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import compress, count
from operator import contains, is_not
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import UUID

from django.utils.duration import duration_iso_string

from signalbox.core import interrupts, query_guard
from signalbox.core.event import UNKNOWN, Unknown
from signalbox.serialization import expressions
from signalbox.serialization.encoder import NotRestorable
from signalbox.serialization.redaction import REDACTED, Redactor

if TYPE_CHECKING:
    from signalbox.serialization.field_values import ValueRecorder


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldSet:
    """Describes the fields of a model that are recorded. Built once per model."""

    names: tuple[str, ...]
    """Names of the concrete fields, in the model's order."""
    attnames: tuple[str, ...]
    """Names of their attributes on an instance. A foreign key's attribute contains the key."""
    secret: frozenset[str]
    """Names of fields whose values are never stored."""
    to_python: tuple[Callable[[Any], Any], ...]
    """Each field's ``to_python()``, so that ``"72"`` is equal to ``72``."""
    non_scalar: frozenset[str]
    """Names of fields whose values may be containers, floats or objects of the application."""
    redactor: Redactor
    """Redacts secrets within the values."""
    excluded: frozenset[str]
    """Names of fields that are not recorded."""
    choices: Mapping[str, Mapping[Any, str]]
    """The labels of the choices, by field and value."""
    recorders: tuple[ValueRecorder, ...]
    """For each field, the object that converts its values to their recorded form."""
    exact_types: tuple[Container[type], ...]
    """For each field, types whose values are stored as they are; for JSON also containers."""
    json_positions: tuple[int, ...]
    """Indexes of the fields whose containers are compared as JSON."""
    primary_key: frozenset[str]
    """Names of the fields of the primary key; an update does not change them."""


class RowChange(NamedTuple):
    """A row before and after one write. Values are in the order of ``fields``; ``UNKNOWN`` was never read."""

    fields: FieldSet
    old: Any
    """Values before: a sequence, ``None`` if the row did not exist, ``UNKNOWN`` if nothing was read."""
    new: Any
    """Values after: a sequence, or ``None`` if the row was deleted. ``UNKNOWN`` marks what was not written."""
    labels: dict[str, dict[str, str]] | None = None
    """Field to value to what it is called, for foreign keys whose object was already loaded."""


NON_EXPRESSION_TYPES: Final = frozenset(
    {NoneType, bool, int, float, str, Decimal, datetime, date, time, timedelta, UUID, dict, list, Unknown}
)
"""Types that are not expressions. A look-up is faster than the test of each value for a method."""


def is_expression(value: Any) -> bool:
    """Return whether ``value`` is an expression, whose value the database computes."""
    return type(value) not in NON_EXPRESSION_TYPES and hasattr(value, "resolve_expression")


def build_row(values: Any, fields: FieldSet) -> dict[str, Any]:
    """Return the known values of a whole row by field name."""
    found = dict(zip(fields.names, values, strict=True))
    if type(values) is not tuple:  # a tuple holds every value
        found = {name: value for name, value in found.items() if value is not UNKNOWN}
    for name in fields.secret:
        if found.get(name) is not None:
            found[name] = REDACTED
    for name in fields.excluded:
        found.pop(name, None)
    for position in fields.json_positions:
        value = values[position]
        if type(value) in (dict, list) and value:
            _record_in_row(found, position, value, fields)
    # Most values are of exact types, and take no call of a Python function.
    if not all(map(contains, fields.exact_types, map(type, values))):
        for position, value in enumerate(values):
            if type(value) not in fields.exact_types[position]:
                _record_in_row(found, position, value, fields)
    return found


def _record_in_row(found: dict[str, Any], position: int, value: Any, fields: FieldSet) -> None:
    """Set what is recorded of a value, unless its field is secret or excluded."""
    name = fields.names[position]
    if name in found and name not in fields.secret:
        recorder = fields.recorders[position]
        found[name] = expression_text(value, fields) if is_expression(value) else recorder.record(value)


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
            entry = _diff_value(position, before, after, fields)
            if entry is not None and name not in fields.primary_key:
                found[name] = entry
    for name in fields.excluded:
        found.pop(name, None)
    for name in fields.secret:
        if name in found:
            found[name] = [None if value is None else REDACTED for value in found[name]]
    return found


def _diff_value(position: int, before: Any, after: Any, fields: FieldSet) -> list[Any] | None:
    """Return what is recorded of ``[old, new]`` where the two differ, of ``[new]`` where the old is unknown.

    ``None`` where they do not differ.
    """
    recorder = fields.recorders[position]
    after_is_expression = is_expression(after)
    if before is UNKNOWN or is_expression(before):
        return [expression_text(after, fields) if after_is_expression else recorder.record(after)]
    if after_is_expression:
        return [recorder.record(before), expression_text(after, fields)]
    non_scalar = fields.names[position] in fields.non_scalar
    are_equal = is_json_equal if non_scalar else is_equal
    # Encoders write values that are equal in Python differently, as a number and a Decimal.
    is_encoded = recorder.encodes(before) or recorder.encodes(after)
    are_same = are_equal(before, after)
    if are_same and not is_encoded:
        return None
    has_other_type = type(before) is not type(after) and not is_encoded
    if has_other_type and _are_read_as_equal(fields.to_python[position], before, after, are_equal):
        return None
    recorded = [recorder.record(before), recorder.record(after)]
    # Both are read back, so what is recorded of them is equal only if the values are.
    if are_same if isinstance(recorded[0], NotRestorable) else are_equal(*recorded):
        return None
    # A field of the application may write different values in the same way, as an empty list and an empty text.
    return None if non_scalar and recorder.stores_equally(before, after) else recorded


def _are_read_as_equal(
    to_python: Callable[[Any], Any], before: Any, after: Any, are_equal: Callable[[Any, Any], bool]
) -> bool:
    try:
        return are_equal(to_python(before), to_python(after))
    except Exception as error:  # noqa: BLE001 - a field's own code on a value that it may not know
        interrupts.raise_if_interrupt(error)
        return False


class ExpressionText(dict[str, str]):
    """Text form of an expression. Its class distinguishes it from the value of a JSON field."""


def expression_text(
    expression: Any, fields: FieldSet, annotations: Mapping[str, Any] = expressions.NO_ANNOTATIONS
) -> ExpressionText:
    """Return the text form of an expression. ``annotations`` are those of its query."""
    hidden = fields.secret | fields.excluded
    if not hidden.isdisjoint(fields.primary_key):
        hidden |= {"pk"}
    return ExpressionText(expression=expressions.format_expression(expression, fields.redactor, hidden, annotations))


def is_equal(before: Any, after: Any) -> bool:
    """Return whether two values are equal. Values that can't be compared are not."""
    try:
        return bool(before == after)
    except Exception as error:  # noqa: BLE001 - a value's own __eq__ may raise anything
        interrupts.raise_if_interrupt(error)
        return False


def is_json_equal(before: Any, after: Any) -> bool:
    """Return whether two JSON values are equal. Unlike in Python, ``1`` and ``True`` are not."""
    return is_equal(before, after) and _has_equal_bools(before, after)


def _has_equal_bools(before: Any, after: Any) -> bool:
    """Return whether two equal values have booleans in the same places."""
    if type(before) is dict and type(after) is dict:
        return all(_has_equal_bools(value, after[key]) for key, value in before.items())
    if type(before) in (list, tuple) and type(after) in (list, tuple):
        return all(map(_has_equal_bools, before, after))
    return (type(before) is bool) is (type(after) is bool)


def describe(change: RowChange) -> tuple[str, dict[str, Any]]:
    """Return the name and the value under which an event stores ``change``: a ``row``, or ``changes`` of an update."""
    if change.old is None:
        return "row", build_row(change.new, change.fields)
    if change.new is None:
        return "row", {} if change.old is UNKNOWN else build_row(change.old, change.fields)
    return "changes", diff(change)


def _is_choice(value: Any, choices: Mapping[Any, str]) -> bool:
    """Return whether a field's value is one of its choices. A value that can't be hashed is not."""
    try:
        return value in choices
    except Exception as error:  # noqa: BLE001 - a value's own __hash__ and __eq__ may raise anything
        interrupts.raise_if_interrupt(error)
        return False


def _format_choice(value: Any) -> str:
    """Return a choice as the text that an event stores for it."""
    if isinstance(value, timedelta):
        return duration_iso_string(value)
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _format_label(label: Any) -> str:
    """Return the label of a choice as text, without queries; empty if it fails."""
    if type(label) is str:
        return label
    try:
        return query_guard.call_without_queries(str, label, connection=None)
    except Exception as error:  # noqa: BLE001 - a lazy label may call any code of the application
        interrupts.raise_if_interrupt(error)
        return ""


def get_choice_labels(values: Mapping[str, Any], fields: FieldSet) -> dict[str, dict[str, str]]:
    """Return what the values of fields with choices are called: ``{field: {value: label}}``."""
    labels: dict[str, dict[str, str]] = {}
    for name in fields.choices.keys() & values.keys():
        if name in fields.secret:
            continue
        value = values[name]
        choices = fields.choices[name]
        found = {
            one if type(one) is str else _format_choice(one): label
            for one in (value if type(value) is list else (value,))
            if (one in choices if type(one) is str else one is not None and _is_choice(one, choices))
            and (label := _format_label(choices[one]))
        }
        if found:
            labels[name] = found
    return labels
