"""One class per database behind one interface, chosen once per connection.

``get_backend(connection)`` returns the backend of a connection. The functions are short forms of its methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from signalbox.pipeline.backends.base import DatabaseBackend, Grant, Storage, TableSize
from signalbox.pipeline.backends.mysql import MySQLBackend
from signalbox.pipeline.backends.postgresql import PostgreSQLBackend
from signalbox.pipeline.backends.sqlite import SQLiteBackend
from signalbox.pipeline.backends.unsupported import UnsupportedBackend

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["DatabaseBackend", "Grant", "Storage", "TableSize", "get_backend"]

_BACKENDS: Final[dict[str, type[DatabaseBackend]]] = {
    "sqlite": SQLiteBackend,
    "postgresql": PostgreSQLBackend,
    "mysql": MySQLBackend,
}
BACKEND_ATTRIBUTE: Final = "_signalbox_backend"
"""Attribute of Django's connection: its backend."""


def get_backend(connection: BaseDatabaseWrapper) -> DatabaseBackend:
    """Return the backend of ``connection``."""
    found: DatabaseBackend | None = connection.__dict__.get(BACKEND_ATTRIBUTE)
    if found is None:
        backend_class = _BACKENDS.get(connection.vendor, UnsupportedBackend)
        found = connection.__dict__[BACKEND_ATTRIBUTE] = backend_class(connection)
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


def query_schemas(connection: BaseDatabaseWrapper) -> tuple[str | None, list[str]]:
    """See ``DatabaseBackend.query_schemas()``. Raises ``django.db.DatabaseError`` if a statement fails."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return get_backend(connection).query_schemas()


def query_storage(connection: BaseDatabaseWrapper, tables: Sequence[str]) -> Storage:
    """See ``DatabaseBackend.query_storage()``. Raises ``django.db.DatabaseError`` if a statement fails."""
    connection.ensure_connection()
    with connection.wrap_database_errors:
        return get_backend(connection).query_storage(tables)
