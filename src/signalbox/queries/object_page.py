"""One object's life, found by the names that its events give it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ValidationError
from django.db.models import Model

from signalbox.models import Event
from signalbox.queries.object_history import ObjectHistory, State, history

PAGE: Final = 100
"""Events of an object on one page."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """An object, or what is left of it."""

    sender: str
    key: str
    history: ObjectHistory | None
    """``None`` where the model is gone, or the key is none of its keys."""

    def events(self, before: int | None = None) -> tuple[list[Event], int | None]:
        """Return its events below the key ``before``, newest first, and where the next ones begin."""
        if self.history is None:
            query = Event.objects.filter(sender=self.sender, object_key=self.key)
            found = query.filter(id__lt=before) if before is not None else query
            rows = list(found.order_by("-id")[: PAGE + 1])
        else:
            rows = list(self.history.events(before=before, limit=PAGE + 1))
        return rows[:PAGE], rows[PAGE - 1].id if len(rows) > PAGE else None

    def state(self, event: Event) -> State | None:
        """Return its fields after ``event``; ``None`` where its model is gone."""
        return None if self.history is None else self.history.as_of(event.at)


def find(sender: str, key: str) -> Subject:
    """Return the object that events call ``sender`` and ``key``."""
    try:
        model: type[Model] = apps.get_model(sender)
        pk: Any = tuple(json.loads(key)) if len(model._meta.pk_fields) > 1 else model._meta.pk.to_python(key)
        found = history(model, pk)
    except (LookupError, ValueError, TypeError, ValidationError):
        return Subject(sender=sender, key=key, history=None)
    return Subject(sender=sender, key=key, history=found)
