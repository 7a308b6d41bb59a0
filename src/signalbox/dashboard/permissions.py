"""Permissions to change data from the dashboard."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.contrib.auth import get_permission_codename
from django.core.exceptions import FieldDoesNotExist
from django.db.models import Model

from signalbox.models import Event


def can_revert(user: Any, event: Event) -> bool:
    """Return True if ``event`` can be reverted and ``user`` may change, or for a deletion add, such an object."""
    permission = get_revert_permission(event)
    return permission is not None and bool(user.has_perm(permission))


def get_revert_permission(event: Event) -> str | None:
    """Return the permission that a revert of ``event`` needs; ``None`` if it can't be reverted."""
    data = event.data
    args = data.get("args") or {}
    if event.outcome != "committed" or not event.object_key:
        return None
    is_deletion = event.signal in ("post_delete", "bulk_delete") and bool(data.get("row"))
    is_m2m_change = event.signal == "m2m_changed" and bool(args.get("added") or args.get("removed"))
    if not (is_deletion or is_m2m_change or data.get("changes")):
        return None
    try:
        model: type[Model] = apps.get_model(args["object"] if is_m2m_change else event.sender)
        if not is_m2m_change:
            _check_fields(model, data["row"] if is_deletion else data["changes"])
    except (LookupError, ValueError, FieldDoesNotExist):
        return None
    codename = get_permission_codename("add" if is_deletion else "change", model._meta)
    return f"{model._meta.app_label}.{codename}"


def _check_fields(model: type[Model], names: Iterable[str]) -> None:
    """Raise ``FieldDoesNotExist`` if the model no longer has a recorded field, as the event can't be reverted then."""
    for name in names:
        if not model._meta.get_field(name).concrete:
            raise FieldDoesNotExist(name)
