"""Events of a connection's open transaction, written just before its COMMIT.

An event exists if and only if its change was committed. So it is written in the transaction of its change, and follows
the savepoints of that transaction. The module is long because the states of one transaction belong together.
"""

from __future__ import annotations

import os
import weakref
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import DatabaseError, connections

from signalbox.core import interrupts
from signalbox.core.event import UNKNOWN_SCHEMA, Outcome, PendingEvent, Rollbackable
from signalbox.core.instance_layer import InstanceLayer
from signalbox.pipeline import (
    backends,
    batches,
    connection_methods,
    exporter,
    flushing,
    processors,
    routing,
    writer,
)
from signalbox.pipeline.transaction_ends import OpenTransaction

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Schema

FLUSH_THRESHOLD: int = batches.FLUSH_THRESHOLD
"""Events that a transaction keeps in memory. More are written before its COMMIT, within it."""

UNIT_OF_WORK_ATTRIBUTE: Final = "_signalbox_unit_of_work"


class Savepoint(NamedTuple):
    """An open savepoint, with the state of the unit of work when it was set."""

    sid: str
    event_count: int
    flushed_count: int
    rollbackable_count: int


class UnitOfWork:
    """Events of one connection's transaction. ``events[:flushed_count]`` are already written, within it."""

    __slots__ = (
        "__weakref__",
        "_connection",
        "_segment_start",
        "catalogue_answers",
        "commit_error",
        "events",
        "flushed_count",
        "has_unwritten",
        "has_waited_for_lock",
        "is_flushing",
        "is_implicit",
        "kept_after_prune",
        "last_schema",
        "layer",
        "outermost_savepoint",
        "rollbackables",
        "savepoints",
        "testcase_depth",
        "transaction",
    )

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = weakref.ref(connection)
        self.layer = InstanceLayer(connection, is_weak=True)
        """The replaced methods of the connection."""
        self.is_flushing = False
        self.clear()

    def clear(self) -> None:
        """Reset the state, because no transaction is open."""
        self.events: list[PendingEvent] = []
        self.flushed_count = 0
        self.has_unwritten = False
        """Whether some of ``events[:flushed_count]`` were not written, and are exported after the commit."""
        self.has_waited_for_lock = False
        """Whether this transaction has waited for a locked table. It does not wait again."""
        self.last_schema: Schema = None
        self._segment_start = 0
        self.rollbackables: list[Rollbackable] = []
        """State of instances to restore if this transaction is rolled back, oldest first."""
        self.catalogue_answers: dict[Hashable, tuple[str | None, str]] = {}
        """What the database's catalogue has answered in this transaction, with the savepoint in which it was asked."""
        self.transaction: OpenTransaction | None = None
        """The open transaction, from its first event on."""
        self.kept_after_prune = 0
        """Number of rollbackables after the last removal of those whose instances no longer exist."""
        self.savepoints: list[Savepoint] = []
        self.outermost_savepoint: str | None = None
        """The savepoint that opened the transaction on SQLite. Releasing it commits."""
        self.commit_error: BaseException | None = None
        """The error that a COMMIT of this transaction raises."""
        self.testcase_depth = 0
        """Number of open ``TestCase`` blocks at the last event. Events that these blocks roll back are discarded."""
        self.is_implicit = False
        """Whether recording opened this transaction. Its COMMIT is not a statement of the application then."""

    # ------------------------------------------------------------ called by instrumentation

    def add(self, event: PendingEvent) -> None:
        """Add ``event`` to the open transaction."""
        if event.rollbackable is not None:
            self.rollbackables.append(event.rollbackable)
        event.trace.has_writes = True
        if not processors.admits(event):
            return
        exporter.require_row(event.trace)
        if len(self.events) == self._segment_start:  # the first of the transaction, or since a savepoint
            self.testcase_depth = self._count_testcase_blocks()
        if self.transaction is None:
            self.transaction = OpenTransaction(event, event.using)
        event.transaction_id = self.transaction.id
        connection = self._connection()
        if connection is not None:
            event.schema = writer.resolve_schema(connection)
            if event.schema is not None:
                self._note_schema(connection, event)
        self.events.append(event)
        if len(self.events) - self.flushed_count >= FLUSH_THRESHOLD:
            self.flush()

    def _note_schema(self, connection: BaseDatabaseWrapper, event: PendingEvent) -> None:
        if event.schema == UNKNOWN_SCHEMA:  # the transaction is aborted: use its last known schema
            event.schema = UNKNOWN_SCHEMA if self.last_schema is None else self.last_schema
        self.last_schema = event.schema
        if connection.alias == routing.get_events_database():
            event.trace.row_schemas.setdefault(event.schema, 0)

    def add_rollbackable(self, rollbackable: Rollbackable) -> None:
        """Restore ``rollbackable`` if the open transaction is rolled back."""
        self.rollbackables.append(rollbackable)
        if len(self.rollbackables) > 2 * max(self.kept_after_prune, FLUSH_THRESHOLD):
            self._prune_rollbackables()

    # ------------------------------------------------------------ called by the patched methods

    def is_empty(self) -> bool:
        """Return True if nothing was recorded or asked since the transaction started."""
        return not (self.events or self.rollbackables or self.savepoints or self.catalogue_answers)

    def add_savepoint(self, sid: str) -> None:
        """Handle a new savepoint."""
        self._segment_start = len(self.events)
        self.savepoints.append(Savepoint(sid, len(self.events), self.flushed_count, len(self.rollbackables)))

    def _count_testcase_blocks(self) -> int:
        connection = self._connection()
        found = 0
        for block in () if connection is None else connection.atomic_blocks:
            found += getattr(block, "_from_testcase", False)
        return found

    def _find_savepoint(self, sid: str) -> int | None:
        for position in range(len(self.savepoints) - 1, -1, -1):
            if self.savepoints[position].sid == sid:
                return position
        return None

    def rollback_to(self, sid: str) -> None:
        """Handle the rollback to savepoint ``sid``, which stays open. Later events are rolled back."""
        self.catalogue_answers.clear()
        position = self._find_savepoint(sid)
        if position is None:
            return
        savepoint = self.savepoints[position]
        del self.savepoints[position + 1 :]
        events, rollbackables = self.events[savepoint.event_count :], self.rollbackables[savepoint.rollbackable_count :]
        del self.events[savepoint.event_count :], self.rollbackables[savepoint.rollbackable_count :]
        for event in self.events[savepoint.flushed_count : self.flushed_count]:
            event.written_to = ""  # its row was rolled back
        self.flushed_count = savepoint.flushed_count
        if sid == self.outermost_savepoint:  # the transaction is empty again
            self.commit_error = None
        self._handle_rollback(events, rollbackables, self.transaction, is_savepoint=True)

    def release(self, sid: str) -> None:
        """Handle the release of savepoint ``sid``. Its events now belong to the surrounding transaction."""
        position = self._find_savepoint(sid)
        if position is not None:
            del self.savepoints[position:]
            if self.flushed_count >= FLUSH_THRESHOLD:
                self._trim()
            elif len(self.rollbackables) > 2 * max(self.kept_after_prune, FLUSH_THRESHOLD):
                self._prune_rollbackables()

    def commit(self, do_commit: Callable[[], None]) -> None:
        """Write the events and commit the open transaction by calling ``do_commit``.

        Raises ``DatabaseError``, with the transaction rolled back, if the events can't be written and must be.
        """
        connection = self._connection()
        if connection is None:
            do_commit()
            return
        is_aborted = backends.is_transaction_aborted(connection)  # PostgreSQL answers this COMMIT with a ROLLBACK
        try:
            self.flush()
        except BaseException:
            self._rollback_connection(connection)
            raise
        if self.commit_error is not None:
            error = self.build_commit_error()
            self._rollback_connection(connection)
            raise error
        try:
            do_commit()
        except DatabaseError as error:
            if not backends.get_backend(connection).is_commit_outcome_known(error):
                # It is unknown whether it was committed. If it was, its events were too.
                self.clear()
            raise  # Django rolls back, and the events with it
        except BaseException:  # an interrupt, after which Django does not roll back
            self._rollback_connection(connection)
            raise
        if is_aborted:
            self.after_rollback()
        else:
            self.after_commit()

    def after_commit(self) -> None:
        """Handle the commit. Events that could not be written in this database are exported to the default one."""
        unwritten = self.events[self.flushed_count :]
        if self.has_unwritten:
            unwritten = [event for event in self.events if not event.written_to]
        if self.transaction is not None:
            self.transaction.record_end(Outcome.COMMITTED, len(self.events))
        self.clear()
        if unwritten:
            # Not with their trace, because a crash until then would lose them and their deliveries.
            exporter.enqueue_committed(self._prepare_export(unwritten))

    def export_committed(self) -> None:
        """Export the events of a statement that was committed in autocommit."""
        events = self.events
        self.clear()
        for event in events:
            event.transaction_id = None
        self._export(events)

    def write_into_foreign_transaction(self) -> None:
        """Write the events within a savepoint into a transaction that Django does not know of.

        Raises ``EnqueueError`` if events with deliveries can't be written.
        """
        connection = self._connection()
        events, rollbackables = self.events, self.rollbackables
        self.clear()
        for rollbackable in rollbackables:
            rollbackable.forget()
        for event in events:
            event.transaction_id = None  # its end is not seen
        if connection is not None and events:
            self._export(flushing.write_into_foreign_transaction(connection, events))

    def _export(self, events: list[PendingEvent]) -> None:
        """Queue ``events``, which are not in a transaction any more, to be written with their traces."""
        for event in self._prepare_export(events):
            exporter.enqueue(event)

    def _prepare_export(self, events: list[PendingEvent]) -> list[PendingEvent]:
        """Return ``events`` with an outcome, and without the schema of a database that will not contain them."""
        connection = self._connection()
        for event in events:
            event.outcome = event.outcome or Outcome.COMMITTED
            if event.schema is not None and (connection is None or connection.alias != routing.get_events_database()):
                event.schema = None
        return events

    def after_rollback(self) -> None:
        """Handle the rollback of the whole transaction."""
        events, rollbackables, testcase_depth = self.events, self.rollbackables, self.testcase_depth
        transaction = self.transaction
        self.clear()
        self.testcase_depth = testcase_depth
        self._handle_rollback(events, rollbackables, transaction)
        self.testcase_depth = 0

    def _handle_rollback(
        self,
        events: list[PendingEvent],
        rollbackables: list[Rollbackable],
        transaction: OpenTransaction | None,
        *,
        is_savepoint: bool = False,
    ) -> None:
        """Restore the state of instances, newest first, and export the events as rolled back."""
        for rollbackable in reversed(rollbackables):
            rollbackable.restore()
        for event in events:
            event.written_to = ""
        if self.testcase_depth and self._count_testcase_blocks() < self.testcase_depth:  # the end of a test
            exporter.discard_pending()
            return
        if transaction is not None and (events or not is_savepoint):
            transaction.record_end(Outcome.ROLLED_BACK, len(events), is_savepoint=is_savepoint)
        for event in events:
            event.outcome = Outcome.ROLLED_BACK
            event.trace.rolled_back += 1
        self._export(events)
        processors.on_rollback(events)

    # ------------------------------------------------------------ writing

    def flush(self) -> None:
        """Write the events that are not written yet, in the open transaction.

        An error of events that must not be dropped, and an error that ended the transaction, is kept as its commit
        error, and its COMMIT raises it. Raises only exceptions that interrupt the process.
        """
        connection = self._connection()
        if self.flushed_count >= len(self.events) or self.is_flushing or self.commit_error is not None:
            return
        if connection is None or backends.is_transaction_aborted(connection):
            return
        self.is_flushing = True
        try:
            self._write(connection)
        except BaseException as error:
            self.commit_error = error  # the COMMIT raises it
            if not isinstance(error, Exception) or interrupts.is_interrupt(error):
                raise
        finally:
            self.is_flushing = False

    def _write(self, connection: BaseDatabaseWrapper) -> None:
        end = len(self.events)  # an event processor may save
        unwritten = self.events[self.flushed_count : end]
        result = flushing.write_events(connection, unwritten, may_wait=not self.has_waited_for_lock)
        self.has_unwritten = self.has_unwritten or not result.is_complete
        self.has_waited_for_lock = self.has_waited_for_lock or result.has_waited_for_lock
        self.flushed_count = end
        if end >= FLUSH_THRESHOLD:
            self._trim()

    def _trim(self) -> None:
        """Drop written events that will not be written again, so that a long transaction stays small.

        An event is kept while a savepoint is open that was set after the event was recorded and before it was written.
        A rollback to that savepoint removes the row, and the event must be written again. If the whole transaction is
        rolled back later, the dropped events are not recorded as rolled back.
        """
        if self.has_unwritten:
            return
        if self.transaction is not None:
            self.transaction.is_trimmed = True
        start = self.savepoints[-1].event_count if self.savepoints else 0
        del self.events[start : self.flushed_count]
        self.flushed_count = start
        written_before = self.savepoints[0].flushed_count if self.savepoints else 0
        if written_before:
            del self.events[:written_before]
            self.flushed_count -= written_before
            self.savepoints = [
                savepoint._replace(
                    event_count=savepoint.event_count - written_before,
                    flushed_count=savepoint.flushed_count - written_before,
                )
                for savepoint in self.savepoints
            ]
            self._segment_start = max(0, self._segment_start - written_before)
        if len(self.rollbackables) > 2 * self.kept_after_prune:  # looking at each of them every time takes too long
            self._prune_rollbackables()

    def _prune_rollbackables(self) -> None:
        """Drop the rollbackables of instances that no longer exist."""
        alive = [rollbackable.is_alive() for rollbackable in self.rollbackables]
        self.savepoints = [
            savepoint._replace(rollbackable_count=sum(alive[: savepoint.rollbackable_count]))
            for savepoint in self.savepoints
        ]
        self.rollbackables = list(compress(self.rollbackables, alive))
        self.kept_after_prune = len(self.rollbackables)

    def build_commit_error(self) -> DatabaseError:
        """Return the error that the COMMIT of this transaction raises, which has a commit error."""
        if self.commit_error is None:
            raise ValueError("The transaction has no commit error.")
        return flushing.build_commit_error(self.commit_error, len(self.events))

    def _rollback_connection(self, connection: Any) -> None:
        try:
            connection._rollback()
        except Exception as error:  # noqa: BLE001 - the connection is beyond use: closing it rolls back too
            interrupts.raise_if_interrupt(error)
            connection.close()


# ------------------------------------------------------------------ units of work by connection

_units_of_work: weakref.WeakSet[UnitOfWork] = weakref.WeakSet()


def get_unit_of_work(connection: BaseDatabaseWrapper) -> UnitOfWork | None:
    """Return the unit of work of ``connection``, or ``None`` if it has none."""
    found: UnitOfWork | None = connection.__dict__.get(UNIT_OF_WORK_ATTRIBUTE)
    return found


def get_or_attach(connection: BaseDatabaseWrapper) -> UnitOfWork:
    """Return the unit of work of ``connection``, and create it if the connection was opened before recording started.

    The savepoints of its open transaction are known, but not its earlier changes.
    """
    found: UnitOfWork | None = connection.__dict__.get(UNIT_OF_WORK_ATTRIBUTE)
    if found is not None:
        return found
    attach(connection)
    created: UnitOfWork = connection.__dict__[UNIT_OF_WORK_ATTRIBUTE]
    for savepoint in connection.savepoint_ids:
        if savepoint is not None:
            created.add_savepoint(savepoint)
    return created


def attach(connection: BaseDatabaseWrapper) -> None:
    """Create a unit of work for ``connection``, which was just opened, or reset the existing one."""
    unit_of_work = get_unit_of_work(connection)
    if unit_of_work is not None:
        unit_of_work.clear()
        return
    unit_of_work = UnitOfWork(connection)
    _units_of_work.add(unit_of_work)
    connection.__dict__[UNIT_OF_WORK_ATTRIBUTE] = unit_of_work
    connection_methods.replace(connection, unit_of_work)


def detach_all() -> None:
    """Remove all units of work and patched methods from the connections.

    Events of open transactions in other threads are lost, because only those threads may use their connections.
    """
    for unit_of_work in list(_units_of_work):
        connection = unit_of_work._connection()
        if connection is not None:
            unit_of_work.layer.remove()
            connection.__dict__.pop(UNIT_OF_WORK_ATTRIBUTE, None)
            connection.__dict__.pop(backends.BACKEND_ATTRIBUTE, None)
    _units_of_work.clear()


class FlushBeforeRead(processors.EventProcessor):
    """Writes the events of this thread's open transactions before a read, so that a transaction reads its own."""

    def before_read(self) -> None:
        """Write the events of this thread's open transactions."""
        flush_all()


FLUSH_BEFORE_READ: Final = FlushBeforeRead()
"""The processor that the app installs, once per process."""


def flush_all() -> None:
    """Write the events of this thread's open transactions, within them, before a read."""
    for connection in connections.all(initialized_only=True):
        unit_of_work = get_unit_of_work(connection)
        if unit_of_work is not None and unit_of_work.events and connection.connection is not None:
            unit_of_work.flush()
    exporter.flush_for_read()


def _after_fork() -> None:
    """Discard the parent's events in a forked child. The parent writes them."""
    for unit_of_work in list(_units_of_work):
        unit_of_work.clear()


os.register_at_fork(after_in_child=_after_fork)
