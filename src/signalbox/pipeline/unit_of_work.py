"""Events of a connection's open transaction, written just before its COMMIT.

An event exists if and only if its change was committed. So it is written in the transaction of its change, and follows
the savepoints of that transaction. For this, the methods with which a ``DatabaseWrapper`` calls its driver are replaced
on the instance. Other hooks see less: ``commit()`` is not called by ``set_autocommit(True)``, ``Atomic.__exit__`` does
not run in a transaction without ``atomic()``, and ``run_on_commit`` ignores savepoints that are not Django's.
"""

from __future__ import annotations

import logging
import os
import weakref
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import DatabaseError, DataError, IntegrityError, connections

from signalbox import conf
from signalbox.core import interrupts
from signalbox.core.event import UNKNOWN_SCHEMA, Outcome, PendingEvent, Rollbackable
from signalbox.core.instance_layer import InstanceLayer, get_referent
from signalbox.pipeline import backends, batches, exporter, serializer, writer
from signalbox.pipeline.backends import base
from signalbox.pipeline.deliveries import EnqueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from signalbox.core.event import Schema

logger = logging.getLogger("signalbox")

FLUSH_THRESHOLD: int = exporter.FLUSH_THRESHOLD
"""Events that a transaction keeps in memory. More are written before its COMMIT, within it."""

_PATCHED_METHODS: Final = (
    "_commit",
    "_rollback",
    "_close",
    "_savepoint",
    "_savepoint_rollback",
    "_savepoint_commit",
    "_set_autocommit",
)

without_query_logging = base.without_query_logging

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
        if len(self.events) == self._segment_start:  # the first of the transaction, or since a savepoint
            self.testcase_depth = self._count_testcase_blocks()
        connection = self._connection()
        if connection is not None:
            event.schema = writer.resolve_schema(connection)
            if event.schema is not None:
                self._note_schema(connection, event)
        self.events.append(event)
        if len(self.events) - self.flushed_count >= FLUSH_THRESHOLD:
            self.flush()

    def _note_schema(self, connection: BaseDatabaseWrapper, event: PendingEvent) -> None:
        if event.schema == UNKNOWN_SCHEMA:  # the transaction is aborted: its last known schema is the best answer
            event.schema = UNKNOWN_SCHEMA if self.last_schema is None else self.last_schema
        self.last_schema = event.schema
        if connection.alias == exporter.get_events_database():
            event.trace.row_schemas.setdefault(event.schema, 0)

    def add_rollbackable(self, rollbackable: Rollbackable) -> None:
        """Restore ``rollbackable`` if the open transaction is rolled back."""
        self.rollbackables.append(rollbackable)
        if len(self.rollbackables) > 2 * max(self.kept_after_prune, FLUSH_THRESHOLD):
            self._prune_rollbackables()

    # ------------------------------------------------------------ called by the patched methods

    def is_empty(self) -> bool:
        """Return True if nothing was recorded since the transaction started."""
        return not (self.events or self.rollbackables or self.savepoints)

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
        self._handle_rollback(events, rollbackables)

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
        self.clear()
        for event in unwritten:
            event.outcome = event.outcome or Outcome.COMMITTED
            self._move_to_events_database(event)
        if unwritten:
            exporter.enqueue_committed(unwritten)

    def export_committed(self) -> None:
        """Export the events of a statement that has committed by itself."""
        events = self.events
        self.clear()
        for event in events:
            event.outcome = event.outcome or Outcome.COMMITTED
            self._move_to_events_database(event)
            exporter.enqueue(event)

    def _move_to_events_database(self, event: PendingEvent) -> None:
        """Forget the schema of an event that another database is going to hold."""
        connection = self._connection()
        if event.schema is not None and (connection is None or connection.alias != exporter.get_events_database()):
            event.schema = None

    def write_into_foreign_transaction(self) -> None:
        """Write the events behind a savepoint into a transaction that Django does not know of.

        Raises ``EnqueueError`` if events with deliveries can't be written.
        """
        connection = self._connection()
        events, rollbackables = self.events, self.rollbackables
        self.clear()
        for rollbackable in rollbackables:
            rollbackable.forget()
        if connection is None or not events:
            return
        if not writer.has_tables(connection):
            exporter.check_delivery_tables(connection, events)
            for event in events:
                event.outcome = event.outcome or Outcome.COMMITTED
                self._move_to_events_database(event)
                exporter.enqueue(event)
            return
        groups, waiting = writer.group_by_schema(connection, events, _get_schema)
        for event in waiting:
            event.outcome = event.outcome or Outcome.COMMITTED
            exporter.enqueue(event)
        for schema, group in groups.items():
            batch = serializer.build_batch(group)
            try:
                writer.write(connection, batch, nested=True, schema=schema, lock_timeout=conf.get().LOCK_TIMEOUT)
            except Exception as error:
                interrupts.raise_if_interrupt(error)
                if batch.deliveries:
                    raise EnqueueError(
                        f"The deliveries of {len(batch.deliveries)} durable receivers could not be written."
                    ) from error
                writer.write_stats.failures += 1
                _count_dropped(connection, len(group), error)
            else:
                for event in group:
                    event.written_to = connection.alias

    def after_rollback(self) -> None:
        """Handle the rollback of the whole transaction."""
        events, rollbackables, testcase_depth = self.events, self.rollbackables, self.testcase_depth
        self.clear()
        self.testcase_depth = testcase_depth
        self._handle_rollback(events, rollbackables)
        self.testcase_depth = 0

    def _handle_rollback(self, events: list[PendingEvent], rollbackables: list[Rollbackable]) -> None:
        """Restore the state of instances, newest first, and export the events as rolled back."""
        for rollbackable in reversed(rollbackables):
            rollbackable.restore()
        for event in events:
            event.written_to = ""
        if self.testcase_depth and self._count_testcase_blocks() < self.testcase_depth:  # the end of a test
            exporter.discard_pending()
            return
        for event in events:
            event.outcome = Outcome.ROLLED_BACK
            self._move_to_events_database(event)
            event.trace.rolled_back += 1
            exporter.enqueue(event)

    # ------------------------------------------------------------ writing

    def flush(self) -> None:
        """Write the events that are not written yet, in the open transaction.

        Events that can't be written under ``ON_ERROR = "raise"``, and an error that ended the transaction itself, are
        kept as its commit error: its COMMIT raises. Only what interrupts the process is raised here, in the middle of
        the application's work.
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
        if not writer.has_tables(connection):  # the events are exported to the default database after the commit
            exporter.check_delivery_tables(connection, self.events[self.flushed_count :])
            return
        end = len(self.events)  # encoding may run the application's code, which may save
        exporter.prepare_exit()
        groups, waiting = writer.group_by_schema(connection, self.events[self.flushed_count : end], _get_schema)
        if waiting:
            self.has_unwritten = True
        for schema, events in groups.items():
            self._write_group(connection, schema, events)
        self.flushed_count = end
        if end >= FLUSH_THRESHOLD:
            self._trim()

    def _write_group(self, connection: BaseDatabaseWrapper, schema: str | None, events: list[PendingEvent]) -> None:
        backend = backends.get_backend(connection)
        lock_timeout = 0.0 if self.has_waited_for_lock else conf.get().LOCK_TIMEOUT
        droppable = False
        try:
            batch = serializer.build_batch(events)
            # A change must not be committed without its deliveries, even if its event is dropped.
            droppable = conf.get().ON_ERROR == "log" and not batch.deliveries
            writer.write(connection, batch, schema=schema, lock_timeout=lock_timeout)
        except Exception as error:
            if (
                interrupts.is_interrupt(error)
                or not backend.is_transaction_alive(error)
                or not droppable
                or backend.is_conflict(error)  # the application may run the transaction again
            ):
                raise
            writer.write_stats.failures += 1
            if backend.is_lock_timeout(error):
                self._postpone(events)
                return
            if backend.is_row_error(error):
                _write_bisecting(connection, batch, schema)
            elif backend.is_permission_error(error):
                writer.count_denied(connection, len(events), error)
            else:
                _count_dropped(connection, len(events), error)
        for event in events:
            event.written_to = connection.alias

    def _postpone(self, events: list[PendingEvent]) -> None:
        """Export ``events`` after the commit, because the table is locked."""
        self.has_unwritten = self.has_waited_for_lock = True
        for event in events:
            event.is_late = True

    def _trim(self) -> None:
        """Drop written events that will not be written again, so that a long transaction stays small.

        An event has to stay while a savepoint is open that was set after the event was recorded and before it was
        written: rolling back to that savepoint takes the row away, and the event must be written again. If the
        transaction is rolled back after all, the dropped events are not recorded as rolled back.
        """
        if self.has_unwritten:
            return
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
        """Return the error that this transaction's COMMIT raises: the database's own, or one caused by it.

        It is always a ``DatabaseError``: Django commits on SQLite and MariaDB after any other exception.
        """
        cause = self.commit_error
        note = f"Signalbox could not write {len(self.events)} events, so their transaction is rolled back."
        if isinstance(cause, DatabaseError) and not isinstance(cause, DataError | IntegrityError):
            cause.add_note(note)  # the application may retry by its class and SQLSTATE
            return cause
        error = DatabaseError(
            f'{note} The cause is {cause!r}. Set SIGNALBOX = {{"ON_ERROR": "log"}} to commit without them.'
        )
        error.__cause__ = cause
        return error

    def _rollback_connection(self, connection: Any) -> None:
        try:
            connection._rollback()
        except Exception as error:  # noqa: BLE001 - the connection is beyond use: closing it rolls back as well
            interrupts.raise_if_interrupt(error)
            connection.close()


def _get_schema(event: PendingEvent) -> Schema:
    return event.schema


def _write_bisecting(connection: BaseDatabaseWrapper, batch: batches.Batch, schema: str | None) -> None:
    """Write the rows of a rejected ``batch`` that the database accepts, and drop the others."""
    left = len(batch.events)
    try:
        for part, error in writer.write_bisecting(connection, batch, schema=schema):
            left -= len(part.events)
            if error is not None:
                writer.count_dropped(part, error)
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        if not backends.get_backend(connection).is_transaction_alive(error):
            raise
        _count_dropped(connection, left, error)


def _count_dropped(connection: BaseDatabaseWrapper, count: int, error: Exception) -> None:
    """Count and log events that are lost."""
    writer.write_stats.dropped += count
    logger.error("%d events of %r could not be written and are dropped.", count, connection.alias, exc_info=error)


# ------------------------------------------------------------------ patched methods

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
    for name, replacement in _build_patched_methods(connection, unit_of_work).items():
        unit_of_work.layer.replace(name, replacement)


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


def _finish_implicit(connection: BaseDatabaseWrapper, unit_of_work: UnitOfWork, finish: Callable[[], None]) -> None:
    with without_query_logging(connection):
        finish()
    unit_of_work.is_implicit = False


def _build_patched_methods(connection: BaseDatabaseWrapper, unit_of_work: UnitOfWork) -> dict[str, Callable[..., Any]]:
    # The functions belong to the connection: strong references would make reference cycles.
    work_reference = weakref.ref(unit_of_work)
    connection_reference = weakref.ref(connection)
    get_original = unit_of_work.layer.get_weak_original
    original_commit = get_original("_commit")
    original_rollback = get_original("_rollback")
    original_close = get_original("_close")
    original_savepoint = get_original("_savepoint")
    original_savepoint_rollback = get_original("_savepoint_rollback")
    original_savepoint_commit = get_original("_savepoint_commit")
    original_set_autocommit = get_original("_set_autocommit")

    def _commit() -> None:
        unit_of_work = get_referent(work_reference)
        connection = get_referent(connection_reference)
        # Only the COMMIT itself: hooks of on_commit() run before the block around it has ended.
        do_commit: Callable[[], None] = original_commit
        if unit_of_work.is_implicit:
            do_commit = partial(_finish_implicit, connection, unit_of_work, original_commit)
        if unit_of_work.is_empty():
            do_commit()
        else:
            unit_of_work.commit(do_commit)

    def _rollback() -> None:
        unit_of_work = get_referent(work_reference)
        try:
            if unit_of_work.is_implicit:
                _finish_implicit(get_referent(connection_reference), unit_of_work, original_rollback)
            else:
                original_rollback()
        finally:
            unit_of_work.after_rollback()

    def _close() -> None:
        unit_of_work = get_referent(work_reference)
        try:
            original_close()
        finally:
            with exporter.suspended():
                unit_of_work.after_rollback()

    def _savepoint(sid: str) -> None:
        unit_of_work = get_referent(work_reference)
        # SQLite with autocommit off: a SAVEPOINT may itself open the transaction, and its RELEASE then commits it.
        backend = backends.get_backend(get_referent(connection_reference))
        opens = backend.opens_transaction_with_savepoint()
        original_savepoint(sid)
        if opens:
            unit_of_work.outermost_savepoint = sid
        unit_of_work.add_savepoint(sid)

    def _savepoint_rollback(sid: str) -> None:
        unit_of_work = get_referent(work_reference)
        original_savepoint_rollback(sid)
        unit_of_work.rollback_to(sid)

    def _savepoint_commit(sid: str) -> None:
        unit_of_work = get_referent(work_reference)
        is_outermost = sid == unit_of_work.outermost_savepoint
        if is_outermost:
            unit_of_work.flush()
            if unit_of_work.commit_error is not None:
                raise unit_of_work.build_commit_error()  # Django rolls back to the savepoint
        original_savepoint_commit(sid)
        unit_of_work.release(sid)
        if is_outermost:
            unit_of_work.after_commit()

    def _set_autocommit(autocommit: bool) -> None:
        unit_of_work = get_referent(work_reference)
        connection = get_referent(connection_reference)
        if autocommit and not connection.autocommit and not unit_of_work.is_empty():
            unit_of_work.commit(partial(original_set_autocommit, autocommit))
        else:
            original_set_autocommit(autocommit)
        if autocommit and exporter.has_pending():
            connection.autocommit = True  # already true, and Django sets it after this method
            exporter.flush()

    replacements = (
        _commit,
        _rollback,
        _close,
        _savepoint,
        _savepoint_rollback,
        _savepoint_commit,
        _set_autocommit,
    )
    return dict(zip(_PATCHED_METHODS, replacements, strict=True))


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
