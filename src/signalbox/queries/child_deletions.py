"""The event of the child of an object that was deleted with it, in multi-table inheritance."""

from __future__ import annotations

from typing import Any

from django.db import models, router

from signalbox.models import Event
from signalbox.retention import watermarks


def find_child_deletion(model: type[models.Model], event: Event) -> Event | None:
    """Return the deletion of the child's row, if it was deleted together with the parent's row of ``event``.

    It is the object's last event before ``event``.
    """
    children = _get_child_labels(model)
    if not children:
        return None
    earlier_events = Event.objects.using(event._state.db).filter(
        sender__in={*children, event.sender},
        signal__in=("post_save", "post_delete"),
        object_key=event.object_key,
        database=event.database,
        trace_id=event.trace_id,
        outcome="committed",
        id__lt=event.pk,
    )
    last: Event | None = earlier_events.order_by("-id").first()
    return last if last is not None and last.signal == "post_delete" and last.sender in children else None


def find_purged_child(model: type[models.Model], event: Event) -> str | None:
    """Return the label of a child model whose events of the time of ``event`` may have been purged."""
    alias = event._state.db or router.db_for_read(Event)
    labels = sorted(_get_child_labels(model))
    return next((label for label in labels if event.time < watermarks.get_horizon(alias, [label])), None)


def _get_child_labels(model: type[models.Model]) -> set[str]:
    """Return the labels of the models that extend ``model`` and share its primary key."""
    relations: list[Any] = [one for one in model._meta.related_objects if getattr(one, "parent_link", False)]
    return {one.related_model._meta.label for one in relations if one.field.primary_key}
