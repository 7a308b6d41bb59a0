"""One object's life, found by the names that its events give it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Model

from signalbox.models import Event
from signalbox.queries.object_history import ObjectHistory, ObjectState, history

PAGE_SIZE: Final = 100
"""Events of an object on one page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedObject:
    """An object, or what is left of it."""

    sender: str
    key: str
    history: ObjectHistory | None
    """``None`` where the model is gone, or the key is none of its keys."""

    def get_events(self, before: int | None = None) -> tuple[list[Event], int | None]:
        """Return its events below the key ``before``, newest first, and where the next ones begin."""
        if self.history is None:
            query = Event.objects.filter(sender=self.sender, object_key=self.key)
            found = query.filter(id__lt=before) if before is not None else query
            rows = list(found.order_by("-id")[: PAGE_SIZE + 1])
        else:
            rows = list(self.history.events(before=before, limit=PAGE_SIZE + 1))
        return rows[:PAGE_SIZE], rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None

    def get_state(self, event: Event) -> ObjectState | None:
        """Return its fields after ``event``; ``None`` where its model is gone."""
        return None if self.history is None else self.history.as_of(event.timestamp)


def find_object(sender: str, key: str) -> RecordedObject:
    """Return the object that events call ``sender`` and ``key``."""
    try:
        model: type[Model] = apps.get_model(sender)
        pk: Any = tuple(json.loads(key)) if len(model._meta.pk_fields) > 1 else model._meta.pk.to_python(key)
        found = history(model, pk)
    except (LookupError, ValueError, TypeError, ValidationError):
        return RecordedObject(sender=sender, key=key, history=None)
    return RecordedObject(sender=sender, key=key, history=found)
