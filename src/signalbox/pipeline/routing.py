"""Decides where events are written: in which database and schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.db import connections, router

from signalbox.core.event import Outcome
from signalbox.pipeline import missing_tables, processors, writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import PendingEvent, Schema


def get_events_database() -> str:
    """Return the alias of the database for traces, and for events without a change in another database."""
    from signalbox.models import Trace  # not apps.get_model(): a test can limit the current apps

    alias: str = router.db_for_write(Trace)
    return alias


def resolve_schema(event: PendingEvent) -> None:
    """Set the schema of ``event`` in the database for traces, unless it is known."""
    if event.schema is None and apps.ready:
        event.schema = writer.resolve_schema(connections[get_events_database()])
    if event.schema is not None:
        event.trace.row_schemas.setdefault(event.schema, 0)


def group_events(
    connection: BaseDatabaseWrapper, events: Sequence[PendingEvent]
) -> tuple[dict[str | None, list[PendingEvent]], list[PendingEvent]]:
    """Return the events that can be written on ``connection``, by schema, and those that have no tables there.

    Events without tables are exported to the database for traces after the commit. Raises ``EnqueueError`` if they
    have durable receivers and that database has no tables either.
    """
    if not missing_tables.has_tables(connection):
        missing_tables.check_delivery_tables(connection, get_events_database(), list(filter(has_subscriber, events)))
        return {}, list(events)
    return writer.group_by_schema(connection, events, get_event_schema)


def get_event_schema(event: PendingEvent) -> Schema:
    """Return the schema of ``event``."""
    return event.schema


def has_subscriber(event: PendingEvent) -> bool:
    """Return True if ``event`` has durable receivers."""
    return event.outcome is not Outcome.ROLLED_BACK and processors.needs_delivery(event.signal, event.sender)
