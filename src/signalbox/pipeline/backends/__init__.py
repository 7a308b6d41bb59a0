"""One class per database behind one interface, chosen once per connection.

``get_backend(connection)`` returns the backend of a connection. The functions are short forms of its methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from signalbox.pipeline.backends.base import DatabaseBackend
from signalbox.pipeline.backends.mysql import MySQLBackend
from signalbox.pipeline.backends.postgresql import PostgreSQLBackend
from signalbox.pipeline.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["DatabaseBackend", "get_backend"]

_BACKENDS: Final[dict[str, type[DatabaseBackend]]] = {
    "sqlite": SQLiteBackend,
    "postgresql": PostgreSQLBackend,
    "mysql": MySQLBackend,
}
BACKEND_ATTRIBUTE: Final = "_signalbox_backend"
"""On Django's connection: its backend."""


def get_backend(connection: BaseDatabaseWrapper) -> DatabaseBackend:
    """Return the backend of ``connection``. Raises ``KeyError`` for a database that is not supported."""
    found: DatabaseBackend | None = connection.__dict__.get(BACKEND_ATTRIBUTE)
    if found is None:
        found = connection.__dict__[BACKEND_ATTRIBUTE] = _BACKENDS[connection.vendor](connection)
    return found


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """See ``DatabaseBackend.in_transaction()``."""
    return get_backend(connection).in_transaction()


def has_foreign_transaction(connection: BaseDatabaseWrapper) -> bool:
    """See ``DatabaseBackend.has_foreign_transaction()``."""
    return get_backend(connection).has_foreign_transaction()


def is_pipeline_open(connection: BaseDatabaseWrapper) -> bool:
    """See ``DatabaseBackend.is_pipeline_open()``."""
    return get_backend(connection).is_pipeline_open()


def begin_immediate(connection: BaseDatabaseWrapper) -> AbstractContextManager[None]:
    """See ``DatabaseBackend.begin_immediate()``."""
    return get_backend(connection).begin_immediate()


def is_transaction_aborted(connection: BaseDatabaseWrapper) -> bool:
    """See ``DatabaseBackend.is_transaction_aborted()``."""
    return get_backend(connection).is_transaction_aborted()
