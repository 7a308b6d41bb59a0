"""Registers the models with each package, with the options that make it record most."""

from __future__ import annotations

from typing import Any

from django.db import models


def register(peer: str, *recorded: type[models.Model], relation: Any) -> None:
    """Register the models ``recorded`` and the many-to-many ``relation``.

    Signalbox and django-easy-audit record all models.
    """
    field = relation.field
    if peer == "auditlog":
        from auditlog.registry import auditlog

        for model in recorded:
            auditlog.register(model, m2m_fields={field.name} if model is field.model else None)
    elif peer == "simple-history":
        from simple_history import register as record_history

        for model in recorded:
            record_history(model, m2m_fields=[field] if model is field.model else [])
    elif peer == "pghistory":
        import pghistory

        for model in recorded:
            pghistory.track(pghistory.InsertEvent(), pghistory.UpdateEvent(), pghistory.DeleteEvent())(model)
        pghistory.track(pghistory.InsertEvent(), pghistory.DeleteEvent(), obj_field=None)(relation.through)
