"""Transactions around writes in autocommit, so that a row and its event commit together.

``SIGNALBOX["AUTOCOMMIT"]`` decides: ``"atomic"`` runs the write in a ``transaction.atomic()`` block with its event,
``"after"`` opens no transaction and exports the event after the statement. A transaction that Django does not know of
(a raw ``BEGIN``, psycopg's ``transaction()``) is joined.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from django.db import DatabaseError, connections, transaction

from signalbox import conf
from signalbox.core import interrupts
from signalbox.pipeline import backends, processors, unit_of_work
from signalbox.pipeline.backends.base import without_query_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from django.db.backends.base.base import BaseDatabaseWrapper


def ensure_transaction(
    using: str, sender: str, signal: str, *, begun_by_django: bool = False
) -> AbstractContextManager[BaseDatabaseWrapper]:
    """Return a block in which an operation and its event commit together. The block returns the connection.

    ``sender`` is the label of the model and ``signal`` the name of the event: a model with a durable receiver is
    written in a transaction even under ``AUTOCOMMIT = "after"``. ``begun_by_django`` says that Django itself opens a
    transaction for the operation, whose statements the application's query log shows.
    """
    connection = connections[using]
    if backends.in_transaction(connection):
        return nullcontext(connection)
    is_exported_after = conf.get().AUTOCOMMIT == "after" and not processors.needs_delivery(signal, sender)
    if is_exported_after and backends.is_pipeline_open(connection):  # nothing of ours can be sent meanwhile
        return _without_own_transaction(connection, unit_of_work.UnitOfWork.export_committed)
    if backends.has_foreign_transaction(connection):
        return _without_own_transaction(connection, unit_of_work.UnitOfWork.write_into_foreign_transaction)
    if is_exported_after:
        return _without_own_transaction(connection, unit_of_work.UnitOfWork.export_committed)
    return _visible_transaction(connection) if begun_by_django else ImplicitTransaction(connection)


class ImplicitTransaction:
    """An ``atomic()`` block whose BEGIN, COMMIT and ROLLBACK are not statements of the application.

    They are kept out of the query log and from execute wrappers. Hooks of ``on_commit()`` are the application's: what
    they send is logged.
    """

    __slots__ = ("_atomic", "_connection", "_outside", "_rollback_cause", "_unit_of_work")

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection
        self._atomic = transaction.atomic(using=connection.alias)

    def __enter__(self) -> BaseDatabaseWrapper:
        connection = self._connection
        connection.ensure_connection()  # the statements that open a connection are the application's
        self._outside = sys.exception()
        # A failing write leaves its exception here only where a block is open, and Django quotes it later.
        self._rollback_cause = getattr(connection, "rollback_exc", None)
        self._unit_of_work = unit_of_work.get_or_attach(connection)
        self._unit_of_work.is_implicit = True
        try:
            with without_query_logging(connection), backends.begin_immediate(connection):
                self._atomic.__enter__()
        except BaseException as error:
            self._unit_of_work.is_implicit = False
            self._raise_interrupt(error)
            raise
        return connection

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        first = error
        if error is not None:
            backend = backends.get_backend(self._connection)
            backend.add_advice(error)
            # Code around the statement may send another one after a failure, which fails only because of this block.
            first = backend.get_first_error(error, outside=self._outside)
        try:
            self._atomic.__exit__(exc_type, error, traceback)
        except BaseException as raised:
            self._raise_interrupt(raised)
            raise
        finally:
            self._unit_of_work.is_implicit = False
            self._connection.rollback_exc = self._rollback_cause  # type: ignore[attr-defined]  # not in the stubs
        if first is not None and first is not error:
            raise first

    def _raise_interrupt(self, error: BaseException) -> None:
        """Raise the interrupt behind ``error``, if there is one, and leave no block of ours open.

        ``Atomic`` does not roll back after an interrupt, and a write in autocommit would not have needed it.
        """
        interrupt = interrupts.find_interrupt(error, outside=self._outside)
        if interrupt is not None:
            _leave_block(self._connection)
            raise interrupt


class leaving_after_interrupt:  # noqa: N801 - a class, as ``@contextmanager`` is three times slower here
    """A block around one with ``ensure_transaction()``, which leaves no transaction of ours open after an interrupt.

    An interrupt can strike at the start of ``ImplicitTransaction.__exit__``, before it handles exceptions.
    """

    __slots__ = ("_using",)

    def __init__(self, using: str) -> None:
        self._using = using

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or not interrupts.is_interrupt(error):
            return
        connection = connections[self._using]
        work = unit_of_work.get_or_attach(connection)
        if work.is_implicit:
            work.is_implicit = False
            _leave_block(connection)


def _leave_block(connection: BaseDatabaseWrapper) -> None:
    """Close ``connection``, which was in autocommit, if an interrupt left a transaction of ours open on it."""
    if not connection.in_atomic_block and connection.autocommit and not _is_transaction_open(connection):
        return
    connection.in_atomic_block = False
    connection.savepoint_ids.clear()
    connection.atomic_blocks.clear()
    connection.run_on_commit.clear()
    connection.needs_rollback = False
    connection.close()
    if connection.connection is not None:  # Django keeps a database in memory open
        connection.rollback()
        if not connection.get_autocommit():
            connection.set_autocommit(True)


def _is_transaction_open(connection: BaseDatabaseWrapper) -> bool:
    """Return True if the driver has a transaction open, or if it can't be asked."""
    try:
        return backends.has_foreign_transaction(connection)
    except DatabaseError:  # the interrupted statement may be in progress
        return True


@contextmanager
def _visible_transaction(connection: BaseDatabaseWrapper) -> Iterator[BaseDatabaseWrapper]:
    with transaction.atomic(using=connection.alias):
        yield connection


@contextmanager
def _without_own_transaction(
    connection: BaseDatabaseWrapper, finish: Callable[[unit_of_work.UnitOfWork], None]
) -> Iterator[BaseDatabaseWrapper]:
    """Call ``finish`` with the block's events when its statement has succeeded."""
    work = unit_of_work.get_or_attach(connection)
    try:
        yield connection
    except BaseException:
        work.after_rollback()
        raise
    finish(work)
