"""The history of an object for the page, by the sender and key of its events."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Model

from signalbox.models import Event, to_datetime
from signalbox.queries.object_history import ObjectHistory, ObjectState, history
from signalbox.retention import watermarks

PAGE_SIZE: Final = 100
"""Maximum number of an object's events on one page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedObject:
    """An object, which may be deleted or have a model that was removed."""

    sender: str
    key: str
    history: ObjectHistory | None
    """``None`` if the model was removed, or does not have such keys."""

    def get_events(self, before: int | None = None) -> tuple[list[Event], int | None]:
        """Return its events below the key ``before``, newest first, and ``before`` of the next page."""
        if self.history is None:
            query = Event.objects.filter(sender=self.sender, object_key=self.key)
            found = query.filter(id__lt=before) if before is not None else query
            rows = list(found.order_by("-id")[: PAGE_SIZE + 1])
        else:
            rows = list(self.history.events(before=before, limit=PAGE_SIZE + 1))
        return rows[:PAGE_SIZE], rows[PAGE_SIZE - 1].id if len(rows) > PAGE_SIZE else None

    def get_state(self, event: Event) -> ObjectState | None:
        """Return its fields after ``event``; ``None`` if its model was removed."""
        return None if self.history is None else self.history.as_of(event.timestamp)

    def get_purged_before(self) -> dt.datetime | None:
        """Return the time before which its events may have been purged; ``None`` if none were."""
        if self.history is not None:
            return self.history.purged_before
        horizon = watermarks.get_horizon(Event.objects.db, [self.sender])
        return to_datetime(horizon) if horizon else None


def find_object(sender: str, key: str) -> RecordedObject:
    """Return the object of the events with this sender and key."""
    try:
        model: type[Model] = apps.get_model(sender)
        pk: Any = tuple(json.loads(key)) if len(model._meta.pk_fields) > 1 else model._meta.pk.to_python(key)
        found = history(model, pk)
    except (LookupError, ValueError, TypeError, ValidationError):
        return RecordedObject(sender=sender, key=key, history=None)
    return RecordedObject(sender=sender, key=key, history=found)
