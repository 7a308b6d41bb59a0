"""Events and traces, newest first: a page at a time, each page from the key where the last one ended."""

from __future__ import annotations

from signalbox.models import Event, Trace
from signalbox.queries.filters import EventFilter

PAGE_SIZE = 50
"""Rows of a page, unless another number is asked for."""


def get_events(
    event_filter: EventFilter | None = None,
    *,
    before: int | None = None,
    limit: int = PAGE_SIZE,
    using: str | None = None,
) -> list[Event]:
    """Return the newest ``limit`` events that are wanted, of those with an id below ``before``.

    ``using`` is the alias of the database whose tables are read; without one, the router's choice.
    """
    found = Event.objects.using(using)
    if before is not None:
        found = found.filter(id__lt=before)
    return list((event_filter or EventFilter()).apply(found).order_by("-id")[:limit])


def get_event(event_id: int, *, using: str | None = None) -> Event | None:
    """Return the event with this id, if there is one."""
    return Event.objects.using(using).filter(id=event_id).first()


def get_traces(
    event_filter: EventFilter | None = None,
    *,
    before: int | None = None,
    limit: int = PAGE_SIZE,
    using: str | None = None,
) -> list[Trace]:
    """Return the newest ``limit`` traces that are wanted, or in which a wanted event happened, by ids below ``before``.

    A trace that has not ended is not among them; its events are among the events.
    """
    found = Trace.objects.using(using)
    if before is not None:
        found = found.filter(id__lt=before)
    return list((event_filter or EventFilter()).apply_to_traces(found).order_by("-id")[:limit])
