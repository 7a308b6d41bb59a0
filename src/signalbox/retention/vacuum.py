"""Release the space of deleted rows after a purge."""

from __future__ import annotations

from django.db import connections

from signalbox.models import PurgeState
from signalbox.pipeline import backends, batches


def get_vacuum_refusal(alias: str) -> str:
    """Return why ``vacuum()`` is not supported by a database; an empty text if it is."""
    return backends.get_backend(connections[alias]).vacuum_refusal


def vacuum(alias: str) -> None:
    """Release the space of deleted rows.

    PostgreSQL: ``VACUUM (ANALYZE)`` of Signalbox's tables, which blocks neither reads nor writes. SQLite: ``VACUUM`` of
    the file, which blocks every writer until it ends. Raises ``NotSupportedError`` on other databases.
    """
    backends.get_backend(connections[alias]).vacuum((*batches.TABLE_COLUMNS, PurgeState._meta.db_table))
