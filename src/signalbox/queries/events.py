"""Pages of events and traces, newest first. The key of a page's last row is the start of the next page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from django.db.models import QuerySet

from signalbox.core.event import ERASED_COLUMNS_KEY
from signalbox.models import Event, Trace
from signalbox.queries.filters import EventFilter

PAGE_SIZE = 50
"""Default number of rows of a page."""


def get_events(
    event_filter: EventFilter | None = None,
    *,
    before: int | None = None,
    limit: int = PAGE_SIZE,
    using: str | None = None,
) -> list[Event]:
    """Return the newest ``limit`` events that match, with an id below ``before``.

    ``using`` is the alias of the database whose tables are read; without one, the router's choice.
    """
    return list(_select(event_filter, before, using).order_by("-id")[:limit])


def _select(event_filter: EventFilter | None, before: int | None, using: str | None) -> QuerySet[Event]:
    found = Event.objects.using(using)
    if before is not None:
        found = found.filter(id__lt=before)
    return (event_filter or EventFilter()).apply(found)


LOGIN_SIGNALS: Final = frozenset({"user_logged_in", "user_logged_out", "user_login_failed"})

MAX_ADDRESS_TRACES: Final = 500
"""Maximum number of rows of traces that are read for the addresses of a page's logins."""


def load_client_addresses(events: Iterable[Event], *, using: str | None = None) -> None:
    """Set the ``client_address`` of logins, with one query; without logins none is sent.

    The address is in the row of the trace. A trace that still runs has none. If requests from several addresses share a
    trace, the address of a login is not known.
    """
    logins: dict[str, list[Event]] = {}
    for event in events:
        if event.signal in LOGIN_SIGNALS:
            logins.setdefault(event.trace_id, []).append(event)
    if not logins:
        return
    rows = Trace.objects.using(using).filter(trace_id__in=logins).order_by().values_list("trace_id", "data")
    addresses: dict[str, set[str]] = {}
    for trace_id, data in rows[:MAX_ADDRESS_TRACES]:
        addresses.setdefault(trace_id, set()).add(str(data.get("client_address") or ""))
    for trace_id, found in addresses.items():
        if len(found) == 1:
            [address] = found
            for event in logins[trace_id]:
                event.client_address = address


def is_key_erased(event: Event) -> bool:
    """Return whether the key of the event's object was erased. A text that replaces it is then not a key."""
    return "object_key" in event.data.get(ERASED_COLUMNS_KEY, ())


def get_event(event_id: int, *, using: str | None = None) -> Event | None:
    """Return the event with this id, or ``None``."""
    return Event.objects.using(using).filter(id=event_id).first()


def get_traces(
    event_filter: EventFilter | None = None,
    *,
    before: int | None = None,
    limit: int = PAGE_SIZE,
    using: str | None = None,
) -> list[Trace]:
    """Return the newest ``limit`` traces that match or contain a matching event, with an id below ``before``.

    A trace that has not ended is not among them; its events are among the events.
    """
    found = Trace.objects.using(using)
    if before is not None:
        found = found.filter(id__lt=before)
    return list((event_filter or EventFilter()).apply_to_traces(found).order_by("-id")[:limit])
