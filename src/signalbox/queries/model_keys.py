"""Primary keys of an object's model, and the models whose rows have the same key."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db.models import Model


def get_sender_labels(model: type[Model]) -> list[str]:
    """Return the senders of an object's events: labels of its model, of proxies, and of related tables with its key."""
    return [
        other._meta.label
        for other in apps.get_models(include_auto_created=True)
        if shares_pk(other, model) or shares_pk(model, other)
    ]


def normalize_pk(model: type[Model], pk: Any) -> Any:
    """Return a primary key as Python values of its fields, such as a ``UUID`` for its text.

    A key that the fields can't read, such as the digest of a secret one, is returned unchanged.
    """
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
    """Return the target field of a foreign key, and other fields unchanged."""
    while field.is_relation:
        field = field.target_field
    return field


def shares_pk(child: type[Model], parent: type[Model]) -> bool:
    """Return whether ``child`` extends ``parent`` and shares its primary key."""
    child, parent = child._meta.concrete_model or child, parent._meta.concrete_model or parent
    if not issubclass(child, parent):
        return False
    return all(path.join_field.primary_key for path in child._meta.get_path_to_parent(parent))
