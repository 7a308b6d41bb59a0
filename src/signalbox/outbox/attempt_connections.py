"""Discard the connections that a receiver has left broken or in a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import Error, connections

from signalbox.pipeline import backends

if TYPE_CHECKING:
    from collections.abc import Collection

    from django.db.backends.base.base import BaseDatabaseWrapper


def is_in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether ``connection`` is open and in a transaction, also in one that Django did not begin."""
    if connection.connection is None:
        return False
    try:
        with connection.wrap_database_errors:
            return backends.in_transaction(connection) or backends.has_foreign_transaction(connection)
    except Error:  # it is closed
        return False


def reset_connections(excluded: Collection[BaseDatabaseWrapper]) -> None:
    """Discard connections that the receiver has left broken or in a transaction.

    ``excluded`` were in a transaction of the caller before the receiver was called.
    """
    for connection in connections.all(initialized_only=True):
        if connection.connection is None or connection in excluded:
            continue
        if is_in_transaction(connection) or connection.errors_occurred:
            discard_connection(connection)


def discard_connection(connection: BaseDatabaseWrapper) -> None:
    """Close a connection and remove its wrapper, so that the next use creates another."""
    try:
        connection.close()
    except Error:  # MySQL's driver raises if the receiver has closed it already
        connection.connection = None
    finally:
        del connections[connection.alias]
