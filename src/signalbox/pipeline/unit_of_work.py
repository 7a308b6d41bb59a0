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
from collections import deque
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import DatabaseError, connections

from signalbox import conf
from signalbox.core.event import Draft, Note, Outcome
from signalbox.pipeline import backends, batches, exporter, writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("signalbox")

SPILL: int = exporter.SPILL
"""Events a transaction keeps in memory; more are written early, still within it."""

_SEAM: Final = (
    "_commit",
    "_rollback",
    "_close",
    "_savepoint",
    "_savepoint_rollback",
    "_savepoint_commit",
    "_set_autocommit",
)

ATTRIBUTE: Final = "_signalbox_buffer"


class Mark(NamedTuple):
    """An open savepoint, and what rolling back to it restores."""

    savepoint: str
    drafts: int
    flushed: int
    notes: int


class Buffer:
    """Events of one connection's transaction. ``drafts[:flushed]`` are already written, within it."""

    __slots__ = (
        "__weakref__",
        "_begin",
        "_connection",
        "busy",
        "doom",
        "drafts",
        "flushed",
        "marks",
        "noted",
        "notes",
        "opener",
        "tests",
        "unseen",
    )

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = weakref.ref(connection)
        self.busy = False
        self.clear()

    def clear(self) -> None:
        """No transaction is open."""
        self.drafts: list[Draft] = []
        self.flushed = 0
        self._begin = 0
        self.notes: list[Note] = []
        """What captures noted on instances in this transaction, oldest first."""
        self.noted = 0
        """How many notes were left when those of instances that are gone were last thrown away."""
        self.marks: list[Mark] = []
        self.opener: str | None = None
        """The savepoint that opened SQLite's transaction: releasing it commits."""
        self.doom: BaseException | None = None
        """Why this transaction can't be committed any more."""
        self.tests = 0
        """How many blocks of a ``TestCase`` were open when something was last recorded: what they undo is no news."""
        self.unseen = False
        """Whether recording has opened this transaction: its end is no statement of the application."""

    # ------------------------------------------------------------ what recording calls

    def add(self, draft: Draft) -> None:
        """Let ``draft`` be written with the transaction that is open now."""
        if draft.note is not None:
            self.notes.append(draft.note)
        if len(self.drafts) == self._begin:  # the first of the transaction, or since a savepoint
            self.tests = self._tests()
        self.drafts.append(draft)
        if len(self.drafts) - self.flushed >= SPILL:
            self.flush()

    def note(self, note: Note) -> None:
        """Let ``note`` be taken back if the transaction that is open now is rolled back."""
        self.notes.append(note)
        if len(self.notes) > 2 * max(self.noted, SPILL):
            self._forget_gone()

    # ------------------------------------------------------------ what the seam calls

    def idle(self) -> bool:
        """Tell whether nothing was recorded since the transaction began."""
        return not (self.drafts or self.notes or self.marks)

    def mark(self, savepoint: str) -> None:
        """Note a savepoint."""
        self._begin = len(self.drafts)
        self.marks.append(Mark(savepoint, len(self.drafts), self.flushed, len(self.notes)))

    def _tests(self) -> int:
        connection = self._connection()
        found = 0
        for block in () if connection is None else connection.atomic_blocks:
            found += getattr(block, "_from_testcase", False)
        return found

    def _find(self, savepoint: str) -> int | None:
        for position in range(len(self.marks) - 1, -1, -1):
            if self.marks[position].savepoint == savepoint:
                return position
        return None

    def roll_back_to(self, savepoint: str) -> None:
        """Undo what came after ``savepoint``, which stays open. What was written after it is to be written again."""
        position = self._find(savepoint)
        if position is None:
            return
        mark = self.marks[position]
        del self.marks[position + 1 :]
        undone, notes = self.drafts[mark.drafts :], self.notes[mark.notes :]
        del self.drafts[mark.drafts :], self.notes[mark.notes :]
        self.flushed = mark.flushed
        if savepoint == self.opener:  # nothing is left of the transaction
            self.doom = None
        self._undo(undone, notes)

    def release(self, savepoint: str) -> None:
        """Forget ``savepoint``: what came after it belongs to the transaction around it."""
        position = self._find(savepoint)
        if position is not None:
            del self.marks[position:]

    def end(self, finish: Callable[[], None], *, commits: bool = False) -> None:
        """Let ``finish`` commit the open transaction, with its events. ``commits`` says that a COMMIT is all it sends:
        it may go along with the events, and finds nothing left to commit.

        Raises ``DatabaseError``, with the transaction rolled back, if they can't be written and must be.
        """
        connection = self._connection()
        if connection is None:
            finish()
            return
        void = backends.aborted(connection)  # PostgreSQL answers this COMMIT with a ROLLBACK
        together = commits and self.doom is None and backends.takes_commit(connection)
        try:
            self.flush(commit=together)
        except BaseException:
            if together and backends.ended(connection):
                self.clear()  # whether the COMMIT that went along came through, nobody here can know
            else:
                self._roll_back(connection)
            raise
        if self.doom is not None:
            error: BaseException = self.refusal()
            if together and backends.ended(connection):  # it is the COMMIT that was refused, or not answered
                error = self.doom
                if not backends.answered(connection, error):
                    self.clear()
            self._roll_back(connection)
            raise error
        try:
            finish()
        except DatabaseError as error:
            if not backends.answered(connection, error):
                # Only the database knows whether it was committed: the events speak for themselves, or are not there.
                self.clear()
            raise  # Django rolls back, and the events with it
        if void:
            self.rolled_back()
        else:
            self.committed()

    def committed(self) -> None:
        """The transaction has been committed. What could not be written beside its change leaves on its own."""
        left = self.drafts[self.flushed :]
        self.clear()
        for draft in left:
            draft.outcome = draft.outcome or Outcome.COMMITTED
        if left:
            exporter.depart_committed(left)

    def rolled_back(self) -> None:
        """The transaction has been rolled back, whole."""
        undone, notes, tests = self.drafts, self.notes, self.tests
        self.clear()
        self.tests = tests
        self._undo(undone, notes)
        self.tests = 0

    def _undo(self, drafts: list[Draft], notes: list[Note]) -> None:
        """Take back what was noted, newest first, and let the drafts leave as rolled back."""
        for note in reversed(notes):
            note.take_back()
        for draft in drafts:
            draft.written = ""
        if self.tests and self._tests() < self.tests:  # a test has ended: nothing of it is left
            exporter.forget()
            return
        for draft in drafts:
            draft.outcome = Outcome.ROLLED_BACK
            draft.trace.rolled_back += 1
            exporter.depart(draft)

    # ------------------------------------------------------------ writing

    def flush(self, *, commit: bool = False) -> None:
        """Write what has not been written, in the open transaction; ``commit`` lets its COMMIT go along.

        What can't be written under ``ON_ERROR = "raise"``, or cost the transaction itself, dooms it: its COMMIT will
        raise. Nothing is raised here, in the middle of the application's work, but what ends the process.
        """
        connection = self._connection()
        if self.flushed >= len(self.drafts) or self.busy or self.doom is not None:
            return
        if connection is None or backends.aborted(connection):
            return
        self.busy = True
        try:
            self._write(connection, commit=commit)
        except Exception as error:  # noqa: BLE001 - whatever it is, the COMMIT raises from it
            self.doom = error
        except BaseException as error:
            self.doom = error
            raise
        finally:
            self.busy = False

    def _write(self, connection: BaseDatabaseWrapper, *, commit: bool) -> None:
        if not writer.ready(connection):  # the events leave for the default database, after the commit
            return
        end = len(self.drafts)  # values that are encoded may run the application's code, which may save
        drafts = self.drafts[self.flushed : end]
        droppable = False
        try:
            batch = writer.batch_of(drafts)
            # A change must not be committed without its deliveries, whatever may become of its event.
            droppable = conf.get().ON_ERROR == "log" and not batch.deliveries
            writer.write(connection, batch, commit=commit)
        except Exception as error:
            if commit and backends.ended(connection) and not isinstance(error, DatabaseError):
                logger.exception("Something failed after a transaction and its events were committed.")
            elif not backends.survived(connection, error) or not droppable:
                raise
            else:
                writer.tally.failures += 1
                if backends.refused(connection, error):
                    _write_apart(connection, batch)
                else:
                    _drop(connection, len(drafts), error)
        for draft in drafts:
            draft.written = connection.alias
        self.flushed = end
        if end >= SPILL:
            self._let_go()

    def _let_go(self) -> None:
        """Forget what is written and will not be written again, so that a long transaction stays small.

        If it is rolled back after all, these events are gone: they are not told as rolled back.
        """
        drafts = self.marks[-1].drafts if self.marks else 0
        del self.drafts[drafts : self.flushed]
        self.flushed = drafts
        if len(self.notes) > 2 * self.noted:  # looking at each of them every time would take ever longer
            self._forget_gone()

    def _forget_gone(self) -> None:
        """Throw away the notes of instances that are gone."""
        start = self.marks[-1].notes if self.marks else 0
        self.notes[start:] = [note for note in self.notes[start:] if note.alive()]
        self.noted = len(self.notes)

    def refusal(self) -> DatabaseError:
        """Return what says that this transaction can't be committed: Django commits on SQLite and MariaDB after an
        exception that is not the database's."""
        error = DatabaseError(
            f"Signalbox could not write {len(self.drafts)} events, so their transaction is rolled back: {self.doom!r} "
            'With SIGNALBOX = {"ON_ERROR": "log"} it would be committed without them.'
        )
        error.__cause__ = self.doom
        return error

    def _roll_back(self, connection: Any) -> None:
        try:
            connection._rollback()
        except Exception:  # noqa: BLE001 - the connection is beyond use: closing it rolls back as well
            connection.close()


def _write_apart(connection: BaseDatabaseWrapper, batch: batches.Batch) -> None:
    """Write what the database takes of ``batch``, which it has refused as a whole, and drop the rest."""
    left = len(batch.events)
    try:
        for part, error in writer.write_apart(connection, batch):
            left -= len(part.events)
            if error is not None:
                writer.drop(part, error)
    except Exception as error:
        if not backends.survived(connection, error):
            raise
        _drop(connection, left, error)


def _drop(connection: BaseDatabaseWrapper, number: int, error: Exception) -> None:
    """Count and log events that are lost."""
    writer.tally.dropped += number
    logger.error("%d events of %r could not be written and are dropped.", number, connection.alias, exc_info=error)


# ------------------------------------------------------------------ the seam

_buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()


def of(connection: BaseDatabaseWrapper) -> Buffer | None:
    """Return the buffer of ``connection``, if it has one."""
    found: Buffer | None = connection.__dict__.get(ATTRIBUTE)
    return found


def open_for(connection: BaseDatabaseWrapper) -> Buffer:
    """Return the buffer of ``connection``; one that was open before recording was switched on is given it now.

    What its open transaction did before is unknown, but for the savepoints to which it may still go back.
    """
    found: Buffer | None = connection.__dict__.get(ATTRIBUTE)
    if found is not None:
        return found
    attach(connection)
    made: Buffer = connection.__dict__[ATTRIBUTE]
    for savepoint in connection.savepoint_ids:
        if savepoint is not None:
            made.mark(savepoint)
    return made


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


def detach_all() -> None:
    """Take every buffer away: connections are as Django made them.

    Other threads' open transactions lose what they have recorded; nothing else may be written on their connections.
    """
    for buffer in list(_buffers):
        connection = buffer._connection()
        if connection is not None:
            for attribute in (ATTRIBUTE, *_SEAM):
                connection.__dict__.pop(attribute, None)
    _buffers.clear()


def unlogged(connection: Any) -> AbstractContextManager[None]:
    """Keep what is sent in the block out of the application's query log, and from its execute wrappers."""
    return _unlogged(connection) if connection.queries_logged or connection.execute_wrappers else nullcontext()


@contextmanager
def _unlogged(connection: Any) -> Iterator[None]:
    kept = connection.queries_log, connection.execute_wrappers, connection.force_debug_cursor
    connection.queries_log, connection.execute_wrappers, connection.force_debug_cursor = deque(maxlen=0), [], False
    try:
        yield
    finally:
        connection.queries_log, connection.execute_wrappers, connection.force_debug_cursor = kept


def _unseen(connection: BaseDatabaseWrapper, buffer: Buffer, finish: Callable[[], None]) -> None:
    with unlogged(connection):
        finish()
    buffer.unseen = False


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
        # Only this: what on_commit() has been given runs before the block around it has ended.
        finish = partial(_unseen, connection, buffer, original_commit) if buffer.unseen else original_commit
        if buffer.idle():
            finish()
        else:
            buffer.end(finish, commits=True)

    def _rollback() -> None:
        try:
            if buffer.unseen:
                _unseen(connection, buffer, original_rollback)
            else:
                original_rollback()
        finally:
            buffer.rolled_back()

    def _close() -> None:
        try:
            original_close()
        finally:
            with exporter.held():
                buffer.rolled_back()

    def _savepoint(sid: str) -> None:
        # SQLite with autocommit off: a SAVEPOINT may itself open the transaction, and its RELEASE then commits it.
        opens = sqlite and not backends.begun(connection)
        original_savepoint(sid)
        if opens:
            buffer.opener = sid
        buffer.mark(sid)

    def _savepoint_rollback(sid: str) -> None:
        original_savepoint_rollback(sid)
        buffer.roll_back_to(sid)

    def _savepoint_commit(sid: str) -> None:
        opener = sid == buffer.opener
        if opener:
            buffer.flush()
            if buffer.doom is not None:
                raise buffer.refusal()  # Django rolls back to the savepoint
        original_savepoint_commit(sid)
        buffer.release(sid)
        if opener:
            buffer.committed()

    def _set_autocommit(autocommit: bool) -> None:
        if autocommit and not connection.autocommit and not buffer.idle():
            buffer.end(partial(original_set_autocommit, autocommit))
        else:
            original_set_autocommit(autocommit)
        if autocommit and exporter.waiting():
            connection.autocommit = True  # it is, and Django is about to note it
            exporter.drain()

    replacements = (
        _commit,
        _rollback,
        _close,
        _savepoint,
        _savepoint_rollback,
        _savepoint_commit,
        _set_autocommit,
    )
    return dict(zip(_SEAM, replacements, strict=True))


def flush_all() -> None:
    """Write what this thread's open transactions have recorded so far, within them: somebody reads."""
    for connection in connections.all(initialized_only=True):
        buffer = of(connection)
        if buffer is not None and buffer.drafts and connection.connection is not None:
            buffer.flush()
    exporter.show()


def _after_fork() -> None:
    """What the parent has recorded is the parent's to write."""
    for buffer in list(_buffers):
        buffer.clear()


os.register_at_fork(after_in_child=_after_fork)
