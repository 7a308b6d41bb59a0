"""Finds the primary keys that the filter of a statement names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db.models import IntegerField, UUIDField
from django.db.models.expressions import Col
from django.db.models.sql.where import AND

if TYPE_CHECKING:
    from signalbox.instrumentation.returning_request import ReturningRequest


def is_key_only(requested: ReturningRequest) -> bool:
    """Return True if only the primary key is requested, and it has one column."""
    return len(requested.fields) == 1 and requested.fields[0] is requested.model._meta.pk


def get_named_keys(requested: ReturningRequest, query: Any) -> list[Any] | None:
    """Return the primary keys that the filter of ``query`` names, None if it names none.

    The statement changes no other rows. Only keys that are integers or UUIDs are returned, as different texts can be
    equal in a collation.
    """
    field: Any = requested.model._meta.pk
    if not is_key_only(requested):
        return None
    target = field
    while target.remote_field is not None:
        target = target.target_field
    if not isinstance(target, IntegerField | UUIDField) or not _is_djangos(target):
        return None
    return _find_named_keys(query.where, field)


def _find_named_keys(where: Any, field: Any) -> list[Any] | None:
    if where.connector != AND or where.negated:
        return None
    for condition in where.children:
        if hasattr(condition, "children"):
            keys = _find_named_keys(condition, field)
            if keys is not None:
                return keys
            continue
        left = getattr(condition, "lhs", None)
        if type(left) is not Col or left.target is not field or left.alias != field.model._meta.db_table:
            continue
        right = condition.rhs
        if condition.lookup_name == "exact":
            values: list[Any] = [right]
        elif condition.lookup_name == "in" and isinstance(right, list | tuple | set | frozenset):
            values = list(dict.fromkeys(value for value in right if value is not None))
        else:
            continue
        if all(type(value) is int or type(value) is UUID for value in values):
            return values
    return None


def _is_djangos(field: Any) -> bool:
    return type(field).__module__.startswith("django.")


def is_integer_field(field: Any) -> bool:
    """Return True if the values of the field are integers, which need no conversion."""
    while field.remote_field is not None:
        field = field.target_field
    return isinstance(field, IntegerField) and _is_djangos(field)
