"""The events of a connection's open transaction, and the seam that writes them just before its COMMIT.

An event exists if and only if its change was committed, so it is written in the transaction of its change and follows
the transaction's savepoints. The seam is the handful of methods through which a ``DatabaseWrapper`` reaches its driver:
the public ``commit()`` misses ``set_autocommit(True)``, ``Atomic.__exit__`` misses transactions that are run by hand,
and ``run_on_commit`` keeps what a savepoint of one's own rolled back.
"""

from __future__ import annotations

import logging
import os
import weakref
from typing import TYPE_CHECKING, Any, Final

from django.db import DatabaseError, InterfaceError, OperationalError, connections

from signalbox import conf, departures, store
from signalbox.event import Draft, Note, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("signalbox")

SPILL: int = 1000
"""Events a transaction keeps in memory; more are written early, still within it."""

_SEAM: Final = ("_commit", "_rollback", "_close", "_savepoint", "_savepoint_rollback", "_savepoint_commit", "_set_autocommit")

ATTRIBUTE: Final = "_signalbox_buffer"

_ABORTED: Final = 3
"""libpq's PQTRANS_INERROR: the transaction has failed, and its COMMIT will be a ROLLBACK."""


class Buffer:
    """Events of one connection's transaction. ``drafts[:flushed]`` are already written, within it."""

    __slots__ = ("__weakref__", "_connection", "busy", "drafts", "flushed", "marks", "opener")

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = weakref.ref(connection)
        self.drafts: list[Draft | Undo | None] = []
        self.flushed = 0
        self.marks: list[tuple[str, int, int]] = []
        """One ``(savepoint, len(drafts), flushed)`` for each open savepoint: what rolling back to it restores."""
        self.opener: str | None = None
        """The savepoint that opened SQLite's transaction: releasing it commits."""
        self.busy = False

    # ------------------------------------------------------------ what recording calls

    def add(self, draft: Draft) -> None:
        """Let ``draft`` be written with the transaction that is open now."""
        self.drafts.append(draft)
        if len(self.drafts) - self.flushed >= SPILL:
            self.flush()

    # ------------------------------------------------------------ what the seam calls

    def mark(self, savepoint: str) -> None:
        """Note a savepoint."""
        self.marks.append((savepoint, len(self.drafts), self.flushed))

    def _find(self, savepoint: str) -> int | None:
        for position in range(len(self.marks) - 1, -1, -1):
            if self.marks[position][0] == savepoint:
                return position
        return None

    def roll_back_to(self, savepoint: str) -> None:
        """Undo what came after ``savepoint``, which stays open. What was written after it is to be written again."""
        position = self._find(savepoint)
        if position is None:
            return
        _, length, flushed = self.marks[position]
        del self.marks[position + 1 :]
        undone = self.drafts[length:]
        del self.drafts[length:]
        self.flushed = flushed
        _undo(undone)

    def release(self, savepoint: str) -> None:
        """Forget ``savepoint``: what came after it belongs to the transaction around it."""
        position = self._find(savepoint)
        if position is not None:
            del self.marks[position:]

    def committed(self) -> None:
        """The transaction has been committed. What could not be written beside its change leaves on its own."""
        left = self.drafts[self.flushed :]
        self.clear()
        for draft in left:
            if isinstance(draft, Draft):
                draft.outcome = draft.outcome or Outcome.COMMITTED
                departures.depart(draft)

    def lose(self) -> None:
        """Nobody here can know whether the transaction was committed: its events speak for themselves, or are not there."""
        self.clear()

    def clear(self) -> None:
        """No transaction is open."""
        self.drafts = []
        self.flushed = 0
        self.marks = []
        self.opener = None

    def rolled_back(self) -> None:
        """The transaction has been rolled back, whole."""
        undone = self.drafts
        self.clear()
        _undo(undone)

    # ------------------------------------------------------------ writing

    def flush(self) -> None:
        """Write what has not been written, in the open transaction.

        Raises ``DatabaseError`` under ``ON_ERROR = "raise"`` if that fails, after the transaction was rolled back or
        marked for it: nothing else may leave here, as Django commits on SQLite and MariaDB after an exception that
        is not the database's.
        """
        if self.flushed >= len(self.drafts) or self.busy:
            return
        connection = self._connection()
        if connection is None or aborted(connection):
            return
        if not store.ready(connection):  # the events leave for the default database, after the commit
            return
        self.busy = True
        try:
            self._write(connection, [draft for draft in self.drafts[self.flushed :] if isinstance(draft, Draft)])
        finally:
            self.busy = False
        self.flushed = len(self.drafts)
        self._forget_written()

    def _write(self, connection: BaseDatabaseWrapper, drafts: list[Draft]) -> None:
        guarded = conf.get().ON_ERROR == "log"
        try:
            store.write(connection, store.Batch(events=store.event_rows(drafts, Outcome.COMMITTED)), guarded=guarded)
        except Exception as error:
            if guarded:
                store.tally.failures += 1
                store.tally.dropped += len(drafts)
                logger.exception("%d events of %r could not be written and are dropped.", len(drafts), connection.alias)
                return
            self._abandon(connection)
            if isinstance(error, DatabaseError):
                raise
            raise DatabaseError(f"Signalbox could not write {len(drafts)} events: {error!r}") from error
        except BaseException:
            self._abandon(connection)
            raise
        for draft in drafts:
            draft.written = True

    def _abandon(self, connection: BaseDatabaseWrapper) -> None:
        """Make sure that the open transaction is not committed without its events."""
        if connection.in_atomic_block:
            connection.needs_rollback = True
            return
        try:
            connection._rollback()
        except Exception:  # the connection is beyond use: closing it rolls back as well
            connection.close()

    def _forget_written(self) -> None:
        """Let go of what has been written, but for what rolling back to an open savepoint would have to write again."""
        kept = {position for _, length, flushed in self.marks for position in range(flushed, length)}
        for position in range(self.flushed):
            draft = self.drafts[position]
            if isinstance(draft, Undo):
                self.drafts[position] = draft if draft.note.alive() else None
            elif draft is not None and position not in kept:
                self.drafts[position] = None if draft.note is None else Undo(draft.note)


class Undo:
    """What is left of a written draft within its transaction: how to take back what was noted on the instance."""

    __slots__ = ("note",)

    def __init__(self, note: Note) -> None:
        self.note = note


def _undo(drafts: list[Draft | Undo | None]) -> None:
    """Take back the notes of rolled-back drafts, newest first, and let the drafts leave as rolled back."""
    for draft in reversed(drafts):
        note = None if draft is None else draft.note
        if note is not None:
            note.take_back()
    for draft in drafts:
        if isinstance(draft, Draft):
            draft.outcome = Outcome.ROLLED_BACK
            draft.written = False
            draft.trace.rolled_back += 1
            departures.depart(draft)


def aborted(connection: BaseDatabaseWrapper) -> bool:
    """Tell whether PostgreSQL has given up the open transaction: its COMMIT will be a ROLLBACK."""
    raw: Any = connection.connection
    if connection.vendor != "postgresql" or raw is None:
        return False
    info = getattr(raw, "info", None)
    return bool(info is not None and info.transaction_status == _ABORTED)


# ------------------------------------------------------------------ the seam

_buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()


def of(connection: BaseDatabaseWrapper) -> Buffer | None:
    """Return the buffer of ``connection``, if it has one."""
    found: Buffer | None = connection.__dict__.get(ATTRIBUTE)
    return found


def attach(connection: BaseDatabaseWrapper) -> None:
    """Give ``connection`` a buffer, or empty the one it has: it has just been opened."""
    buffer = of(connection)
    if buffer is not None:
        buffer.clear()
        return
    buffer = Buffer(connection)
    _buffers.add(buffer)
    connection.__dict__[ATTRIBUTE] = buffer
    connection.__dict__.update(_seam(connection, buffer))


def detach(connection: BaseDatabaseWrapper) -> None:
    """Take the buffer away: ``connection`` is as Django made it."""
    for attribute in (ATTRIBUTE, *_SEAM):
        connection.__dict__.pop(attribute, None)


def _seam(connection: BaseDatabaseWrapper, buffer: Buffer) -> dict[str, Callable[..., Any]]:
    wrapper: Any = connection
    original_commit = wrapper._commit
    original_rollback = wrapper._rollback
    original_close = wrapper._close
    original_savepoint = wrapper._savepoint
    original_savepoint_rollback = wrapper._savepoint_rollback
    original_savepoint_commit = wrapper._savepoint_commit
    original_set_autocommit = wrapper._set_autocommit
    sqlite = connection.vendor == "sqlite"

    def _commit() -> None:
        if not buffer.drafts:
            original_commit()
            if buffer.marks:
                buffer.clear()
            return
        doomed = aborted(connection)
        buffer.flush()
        try:
            original_commit()
        except DatabaseError as error:
            if isinstance(error, OperationalError | InterfaceError):
                buffer.lose()  # whether it was committed is known to the database alone
            raise  # Django rolls back, and the events with it
        if doomed:
            buffer.rolled_back()
        else:
            buffer.committed()

    def _rollback() -> None:
        try:
            original_rollback()
        finally:
            buffer.rolled_back()

    def _close() -> None:
        try:
            original_close()
        finally:
            buffer.rolled_back()

    def _savepoint(sid: str) -> None:
        # SQLite with autocommit off: a SAVEPOINT may itself open the transaction, and its RELEASE then commits it.
        if sqlite and not connection.connection.in_transaction:
            buffer.opener = sid
        original_savepoint(sid)
        buffer.mark(sid)

    def _savepoint_rollback(sid: str) -> None:
        original_savepoint_rollback(sid)
        buffer.roll_back_to(sid)

    def _savepoint_commit(sid: str) -> None:
        opener = sid == buffer.opener
        if opener:
            buffer.flush()
        original_savepoint_commit(sid)
        buffer.release(sid)
        if opener:
            buffer.committed()

    def _set_autocommit(autocommit: bool) -> None:
        if autocommit and buffer.drafts and not connection.autocommit:
            doomed = aborted(connection)
            buffer.flush()
            original_set_autocommit(autocommit)
            if doomed:
                buffer.rolled_back()
            else:
                buffer.committed()
        else:
            original_set_autocommit(autocommit)

    return {
        name: function
        for name, function in zip(
            _SEAM,
            (_commit, _rollback, _close, _savepoint, _savepoint_rollback, _savepoint_commit, _set_autocommit),
            strict=True,
        )
    }


def flush_all() -> None:
    """Write what this thread's open transactions have recorded so far, within them: somebody reads."""
    for connection in connections.all(initialized_only=True):
        buffer = of(connection)
        if buffer is not None and buffer.drafts and connection.connection is not None:
            buffer.flush()
    departures.drain()


def _after_fork() -> None:
    """What the parent has recorded is the parent's to write."""
    for buffer in list(_buffers):
        buffer.clear()


os.register_at_fork(after_in_child=_after_fork)
