"""Reads any number of events with constant memory, by many short queries instead of one long transaction."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from signalbox.models import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.models import QuerySet

CHUNK_ROWS: Final = 200
"""Rows that one query reads. The data of an event can be large."""

MIN_WINDOW_IDS: Final = 1_000
MAX_WINDOW_IDS: Final = 100_000
"""Ids that one query covers."""

SLOW_SECONDS: Final = 0.5
"""A query that took more time is followed by one with half as many ids."""


def iter_oldest_first(queryset: QuerySet[Event], last_id: int) -> Iterator[tuple[list[Event], int]]:
    """Yield the events of ``queryset`` up to ``last_id`` in the order of their ids, in lists.

    Each list has the id that the search has reached. A list is empty if a range of ids has no matching
    event, so that no statement reads the whole table. An event that is committed during the reading is included if its
    id is not yet passed.
    """
    # Not QuerySet.iterator(): it reads everything at once on MariaDB, and behind a pooler in transaction mode.
    ordered = queryset.order_by("id")
    passed_id, size = max(get_oldest_id(queryset.db) - 1, 0), MAX_WINDOW_IDS
    while passed_id < last_id:
        highest = min(passed_id + size, last_id)
        started = time.monotonic()
        events = list(ordered.filter(id__gt=passed_id, id__lte=highest)[:CHUNK_ROWS])
        if len(events) == CHUNK_ROWS:
            passed_id = events[-1].id
        else:
            passed_id = highest
            is_slow = time.monotonic() - started > SLOW_SECONDS
            size = max(size // 2, MIN_WINDOW_IDS) if is_slow else min(size * 2, MAX_WINDOW_IDS)
        yield events, passed_id


def get_newest_id(using: str | None = None) -> int:
    """Return the id of the newest event; 0 if there is none. ``using`` is the database's alias."""
    newest: int | None = Event.objects.using(using).order_by("-id").values_list("id", flat=True).first()
    return newest or 0


def get_oldest_id(using: str | None = None) -> int:
    """Return the id of the oldest event; 0 if there is none. ``using`` is the database's alias."""
    oldest: int | None = Event.objects.using(using).order_by("id").values_list("id", flat=True).first()
    return oldest or 0
