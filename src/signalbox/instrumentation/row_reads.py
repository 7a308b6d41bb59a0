"""Reads rows for recording without an effect on the application's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, transaction

from signalbox.core import interrupts
from signalbox.instrumentation.statement_dialects import get_dialect
from signalbox.pipeline import backends
from signalbox.pipeline.backends.base import without_query_logging

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper


def is_lock_kept(connection: BaseDatabaseWrapper) -> bool:
    """Return True if locks on rows that are read now are held until the next statement."""
    return connection.in_atomic_block or not connection.get_autocommit()


def read(connection: BaseDatabaseWrapper, select: Callable[[], Any]) -> Any:
    """Return the result of ``select()``, None if it fails.

    Its statements are kept out of the application's query log. Errors that end the transaction are raised, as the
    application's own statement would raise them.
    """
    if connection.needs_rollback:
        return None
    dialect = get_dialect(connection)
    try:
        with without_query_logging(connection):
            if dialect.aborts_on_error and backends.in_transaction(connection):
                with transaction.atomic(using=connection.alias):
                    return select()
            if dialect.aborts_on_error and backends.has_foreign_transaction(connection):
                return None
            return select()
    except Exception as error:
        if interrupts.is_interrupt(error) or (isinstance(error, DatabaseError) and dialect.is_lock_error(error)):
            raise
        return None
