"""Decides whether a database has Signalbox's tables, and what is an error if it has not.

Events without tables wait (`exporter._can_write`). If too many wait, the oldest are dropped (`pending.drop_excess`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from django.db import connections

from signalbox.core import clock, tracing
from signalbox.pipeline import backends
from signalbox.pipeline.backends import postgresql
from signalbox.pipeline.delivery_errors import EnqueueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import PendingEvent
    from signalbox.core.tracing import Trace

TABLE_CHECK_SECONDS: Final = 5.0
"""Seconds until a database without the tables is checked again, as another process may have migrated it."""

_table_checks: dict[tuple[str, str], float] = {}
"""By alias and database: infinity if the tables were found, otherwise the time of the next check."""


_aliases_without_tables: set[str] = set()
"""Databases for which the last answer of ``has_tables()`` was False."""


def has_tables(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the database of ``connection`` has Signalbox's tables."""
    found = _has_tables(connection)
    if not found:
        _aliases_without_tables.add(connection.alias)
    elif _aliases_without_tables:
        _aliases_without_tables.discard(connection.alias)
    return found


def lacks_tables(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the last answer of ``has_tables()`` was False. Sends no query."""
    return connection.alias in _aliases_without_tables


def _has_tables(connection: BaseDatabaseWrapper) -> bool:
    backend = backends.get_backend(connection)
    in_schemas = backend.has_tables_in_a_schema()
    if in_schemas is not None:
        return in_schemas
    key = (connection.alias, str(connection.settings_dict["NAME"]))
    known = _table_checks.get(key)
    if known is not None and (known == _TABLES_FOUND or clock.monotonic() < known):
        return known == _TABLES_FOUND
    connection.ensure_connection()
    with connection.wrap_database_errors:
        found = backend.query_has_tables()
    _table_checks[key] = _TABLES_FOUND if found else clock.monotonic() + TABLE_CHECK_SECONDS
    return found


_TABLES_FOUND: Final = float("inf")


def clear_table_cache() -> None:
    """Check the tables again, because a migration or a flush has run."""
    _table_checks.clear()
    _aliases_without_tables.clear()
    postgresql.clear_table_cache()


def check_delivery_tables(
    connection: BaseDatabaseWrapper, events_database: str, events: Sequence[PendingEvent]
) -> None:
    """Raise ``EnqueueError`` if no database has the tables for the deliveries of ``events``.

    While ``migrate`` runs, the tables may be created later. The events are then written when it has finished.
    """
    names = sorted({f"{event.signal} of {event.sender}" for event in events})
    if not names or _is_migrating():
        return
    if events_database != connection.alias and has_tables(connections[events_database]):
        return
    raise EnqueueError(
        f"Database {events_database!r} has no tables for deliveries, but these events have durable receivers: "
        f"{', '.join(names)}. Run manage.py migrate."
    )


def _is_migrating() -> bool:
    trace: Trace | None = tracing.get_current_trace()
    while trace is not None:
        if trace.kind == "command" and trace.name == "migrate":
            return True
        trace = trace.previous
    return False
