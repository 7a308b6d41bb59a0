"""The only writer of deliveries once they are made: who may run which, and what became of it.

``wake`` is when to look at a row next: when it is due, when its lease runs out, when its message is taken for lost. So
one index finds what there is to do, whatever the rest of the table holds. ``lane`` is set as long as a row holds its
place in the order of its key: the lowest id of a lane is the one to run. What is finished has neither. What stands far
behind in a lane sleeps, with a late ``wake``: whoever leaves the lane wakes the next.

Every write names the epoch of its claim, so that a worker that was taken for dead cannot finish what another runs.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from django.db import Error, connections, transaction

from signalbox import conf
from signalbox.pipeline import backends, batches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("signalbox")

TABLE: Final = batches.DELIVERY
SECOND: Final = 1_000_000

PASSED_OVER: Final = (0.02, 0.1, 0.5, 2.0)
"""Seconds to wait for a row that is locked: in truth microseconds, unless a machine is very busy."""
LOOK_AT_BLOCKED: Final = 300 * SECOND
"""How long a delivery behind others sleeps, if nobody wakes it: whoever leaves the lane does."""
IN_FRONT: Final = 1000
"""Deliveries that are due of which it is asked, once a second, whether they stand behind others."""
CROWD: Final = 10
"""So many of one lane among them are put to sleep; fewer are soon run, and cost less where they are."""

_COLUMNS: Final = (
    "id receiver queue order_key lane trace_id span signal sender object_key database attempts epoch created payload"
)
_COLUMNS_OF_D: Final = ", ".join(f"d.{name}" for name in _COLUMNS.split())
_NO_JIT: Final = "SET LOCAL jit TO off"
"""PostgreSQL: it takes the search for what is due for a long one, and compiling costs more than it takes."""


def now() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


def head(vendor: str) -> str:
    """Return the SQL for: ``d`` is the first of its lane."""
    return _before_all(vendor, "p.id < d.id")


def _before_all(vendor: str, which: str) -> str:
    return f"(d.lane IS NULL OR (COALESCE({_waiting(vendor)}, d.id) >= d.id AND {_taken(vendor, which)} IS NULL))"


def _waiting(vendor: str) -> str:
    """Return a query for the first delivery of the lane of ``d`` that nobody runs: one look into an index, however long
    the lane is."""
    # That nobody runs them makes all leases equal: PostgreSQL wants to be told, MariaDB would sort the lane then.
    order = "p.lease, p.id" if vendor == "postgresql" else "p.id"
    return f"(SELECT p.id FROM {TABLE} p WHERE p.lane = d.lane AND p.lease IS NULL ORDER BY {order} LIMIT 1)"


def _taken(vendor: str, which: str) -> str:
    """Return a query for a delivery of the lane of ``d`` that is being run: there are few, at one end of the index."""
    if vendor == "mysql":  # it would read what is not run as well; so the first of those, which come last, ends it
        return (
            f"(SELECT CASE WHEN p.lease IS NOT NULL THEN p.id END FROM {TABLE} p WHERE p.lane = d.lane "
            f"AND (p.lease IS NULL OR {which}) ORDER BY p.lease DESC, p.id DESC LIMIT 1)"
        )
    # PostgreSQL would read the table where it knows of one long lane.
    order = "ORDER BY p.lease, p.id " if vendor == "postgresql" else ""
    return f"(SELECT p.id FROM {TABLE} p WHERE p.lane = d.lane AND p.lease IS NOT NULL AND {which} {order}LIMIT 1)"


def _moment_and_lease() -> tuple[int, int]:
    """Return now, and until when a lease lasts that begins now: to be asked for after a lock was waited for."""
    moment = now()
    return moment, moment + int(conf.get().LEASE * SECOND)


@dataclass(kw_only=True, slots=True)
class Claimed:
    """A delivery that this process may run."""

    id: int
    receiver: str
    queue: str
    key: str
    lane: int | None
    trace_id: str
    span: int
    signal: str
    sender: str
    object_key: str
    database: str
    attempts: int
    """Attempts so far, with the one that is about to begin if it is ``started``."""
    epoch: int
    created: int
    payload: dict[str, Any]
    alias: str
    """The database that holds the row."""
    started: bool = False
    """Whether the attempt is counted; it must be before the receiver is called."""
    claimed: float = field(default_factory=time.monotonic)


class Verdict(Enum):
    """What became of an attempt."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    DEFERRED = "deferred"
    """It could not even be tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of an attempt, and what to write."""

    verdict: Verdict
    error: str = ""
    traceback: str | None = None
    """Where it was raised."""
    pause: float = 0.0
    """Seconds to wait before the next attempt."""
    skip: bool = False
    """Whether the later deliveries of the key go on past a dead letter."""
    tried: bool = True
    """Whether the receiver was called; else the attempt does not count."""


DONE: Final = Result(verdict=Verdict.DONE)


class Claims:
    """The deliveries in one database."""

    def __init__(self, alias: str, queues: Sequence[str] = ()) -> None:
        self.alias = alias
        self.queues = tuple(queues)
        self._full = False
        """Whether the last claim found as much as it asked for."""
        self._look_at_blocked = 0

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection."""
        return connections[self.alias]

    @property
    def _head(self) -> str:
        return head(self.connection.vendor)

    @property
    def _free(self) -> str:
        """SQL for: ``d`` is the first of its lane, and none behind it runs at the moment that is its parameter.

        One may that began before this one came, or came back, to its place.
        """
        return _before_all(self.connection.vendor, "p.id <> d.id AND (p.id < d.id OR p.lease > %s)")

    # ------------------------------------------------------------ claiming

    def claim(self, limit: int, begin: int = 0, held: Sequence[int] = ()) -> list[Claimed]:
        """Take up to ``limit`` deliveries that are due, longest waiting first; count an attempt of ``begin`` of them.

        What this process still ``held`` is left alone, though its lease may be over: it runs here.
        Raises ``django.db.Error`` if the database is away or locked.
        """
        moment = now()
        wanted = f"d.wake <= %s{self._of_queue()}" + (f" AND d.id NOT IN ({_marks(held)})" if held else "")
        free = [*self.queues, *held]
        if self.connection.vendor == "postgresql":
            rows = self._claim_at_once(wanted, free, limit, begin)
        else:
            rows = self._claim_in_steps(wanted, free, limit, begin)
        self._full = len(rows) >= limit
        self._leave_blocked_alone(moment)
        return rows

    def _claim_at_once(self, wanted: str, values: list[Any], limit: int, begin: int) -> list[Claimed]:
        sql = (
            f"WITH picked AS MATERIALIZED (SELECT d.id FROM {TABLE} d WHERE {wanted} AND {self._free} "
            "ORDER BY d.wake LIMIT %s FOR UPDATE OF d SKIP LOCKED), "
            "ranked AS (SELECT id, row_number() OVER (ORDER BY id) <= %s AS begun FROM picked) "
            f"UPDATE {TABLE} d SET lease = %s, wake = %s, epoch = d.epoch + 1, "
            "attempts = d.attempts + ranked.begun::int FROM ranked WHERE d.id = ranked.id "
            f"RETURNING {_COLUMNS_OF_D}, ranked.begun"
        )
        self.connection.ensure_connection()  # that may take its time
        moment, lease = _moment_and_lease()
        rows = self._at_once(f"{_NO_JIT}; {sql}", [moment, *values, moment, limit, begin, lease, lease])
        claimed = [self._claimed(row, begun=row[-1]) for row in sorted(rows)]
        return self._without_late(claimed)

    def _claim_in_steps(self, wanted: str, values: list[Any], limit: int, begin: int) -> list[Claimed]:
        pick = f"SELECT d.id FROM {TABLE} d WHERE {wanted} AND {self._free} ORDER BY d.wake LIMIT %s"
        with self.connection.cursor() as cursor:
            if not self._full:  # reading takes no lock: a worker that finds nothing must not disturb the site
                cursor.execute(pick, [now(), *values, now(), 1])
                if cursor.fetchone() is None:
                    return []
        with self._writing(), self.connection.cursor() as cursor:
            moment, lease = _moment_and_lease()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(pick + (" FOR UPDATE SKIP LOCKED" if locked else ""), [moment, *values, moment, limit])
            ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                return []
            # Once more: a locking read sees what was committed while it ran, its subquery does not.
            first = f" AND {self._head}" if locked else ""
            cursor.execute(
                f"SELECT {_COLUMNS_OF_D} FROM {TABLE} d WHERE d.id IN ({_marks(ids)}){first} ORDER BY d.id", ids
            )
            rows = cursor.fetchall()
            ids = [row[0] for row in rows]
            for part, counted in ((ids[:begin], 1), (ids[begin:], 0)):
                if part:
                    cursor.execute(
                        f"UPDATE {TABLE} SET lease = %s, wake = %s, epoch = epoch + 1, attempts = attempts + {counted} "
                        f"WHERE id IN ({_marks(part)})",
                        [lease, lease, *part],
                    )
        claimed = [self._claimed(row, begun=False) for row in rows]
        for place, one in enumerate(claimed):
            one.epoch += 1
            one.started = place < begin
            one.attempts += one.started
        return self._without_late(claimed)

    def _without_late(self, claimed: list[Claimed]) -> list[Claimed]:
        """Give back what is not the first of its lane any more, or never was: who looks sees what was committed before.

        Another worker may take an earlier one that came to its place during the claim. It either saw this claim, and
        left that one alone, or this look sees it.
        """
        ids = [one.id for one in claimed if one.lane is not None]
        if not ids or self.connection.vendor == "sqlite":  # who has its write lock claims alone
            return claimed
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT d.id FROM {TABLE} d WHERE d.id IN ({_marks(ids)}) AND NOT {self._head}", ids)
            late = {row[0] for row in cursor.fetchall()}
        if late:
            self.release([one for one in claimed if one.id in late], tell=False)
        return [one for one in claimed if one.id not in late]

    def claim_one(self, number: int) -> Claimed | None:
        """Take the delivery of this id, if it is due, nobody's and the first of its lane, and count the attempt.

        A row that another transaction only passes over is tried again: who gives up a message must not do so for that.
        """
        claimed = self._claim_one(number)
        for pause in PASSED_OVER:
            if claimed is not None or not self._its_turn(number):
                break
            time.sleep(pause)
            claimed = self._claim_one(number)
        return claimed

    _TURN: Final = "d.id = %s AND d.state = 'pending' AND d.due <= %s AND (d.lease IS NULL OR d.lease < %s)"

    def _its_turn(self, number: int) -> bool:
        """Tell whether the delivery could be claimed, but for somebody who has it locked."""
        if not self.connection.features.has_select_for_update_skip_locked:
            return False
        moment = now()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT 1 FROM {TABLE} d WHERE {self._TURN} AND {self._free}", [number, moment, moment, moment]
            )
            return cursor.fetchone() is not None

    def _claim_one(self, number: int) -> Claimed | None:
        with self._writing(), self.connection.cursor() as cursor:
            moment, lease = _moment_and_lease()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT {_COLUMNS_OF_D} FROM {TABLE} d WHERE {self._TURN} AND {self._free}"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                [number, moment, moment, moment],
            )
            row = cursor.fetchone()
            if row is None:
                return None
            cursor.execute(
                f"UPDATE {TABLE} SET lease = %s, wake = %s, epoch = epoch + 1, attempts = attempts + 1 WHERE id = %s",
                [lease, lease, number],
            )
        claimed = self._claimed(row, begun=True)
        claimed.epoch += 1
        claimed.attempts += 1
        return next(iter(self._without_late([claimed])), None)

    def dispatch(self, limit: int, until: int, full: Sequence[str] = ()) -> list[tuple[int, str]]:
        """Mark up to ``limit`` deliveries that are due as sent out until ``until``; return their ids and queues.

        Those of queues that are ``full`` wait. The mark is committed when this returns: publish then, and what is not
        published, or lost, is marked anew.
        """
        moment = now()
        wanted = f"d.wake <= %s{self._of_queue()}" + (f" AND d.queue NOT IN ({_marks(full)})" if full else "")
        pick = f"SELECT d.id, d.queue FROM {TABLE} d WHERE {wanted} AND {self._free} ORDER BY d.wake LIMIT %s"
        values: list[Any] = [moment, *self.queues, *full, moment]
        self._leave_blocked_alone(moment)
        with self.connection.cursor() as cursor:
            if self.connection.vendor != "postgresql":
                cursor.execute(pick, [*values, 1])
                if cursor.fetchone() is None:
                    return []
        with self._writing(), self.connection.cursor() as cursor:
            locked = self.connection.features.has_select_for_update_skip_locked
            lock = " FOR UPDATE SKIP LOCKED" if locked else ""
            if lock and self.connection.features.has_select_for_update_of:
                lock = " FOR UPDATE OF d SKIP LOCKED"
            if self.connection.vendor == "postgresql":
                cursor.execute(_NO_JIT)
            cursor.execute(pick + lock, [*values, limit])
            rows = sorted(cursor.fetchall())
            if rows:
                ids = [row[0] for row in rows]
                cursor.execute(f"UPDATE {TABLE} SET wake = %s WHERE id IN ({_marks(ids)})", [until, *ids])
        return rows

    def recall(self, ids: Sequence[int], until: int) -> None:
        """Take back the mark of ``dispatch``: no message was sent."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET wake = %s WHERE id IN ({_marks(ids)}) AND wake = %s AND lease IS NULL",
                [now(), *ids, until],
            )

    def wake_next(self, lane: int, number: int) -> None:
        """Look at once at what stands behind the delivery ``number``, which has left the lane."""
        with self.connection.cursor() as cursor:
            cursor.execute(*self._wake_next_sql(lane, number))

    def under_way(self, until: int) -> dict[str, int]:
        """Return how many deliveries are sent out and not begun, by queue. What waits for its time or turn is none."""
        moment = now()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT d.queue, count(*) FROM {TABLE} d WHERE d.wake > %s AND d.wake <= %s{self._of_queue()} "
                f"AND d.due <= %s AND d.lease IS NULL AND {self._head} GROUP BY d.queue",
                [moment, until, *self.queues, moment],
            )
            return dict(cursor.fetchall())

    def next_wake(self) -> int | None:
        """Return when the next delivery is to be looked at that need not be now; ``None`` if there is none."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT min(d.wake) FROM {TABLE} d WHERE d.wake > %s{self._of_queue()}", [now(), *self.queues]
            )
            found: int | None = cursor.fetchone()[0]
            return found

    def _of_queue(self) -> str:
        return f" AND d.queue IN ({_marks(self.queues)})" if self.queues else ""

    def _claimed(self, row: Sequence[Any], *, begun: bool) -> Claimed:
        payload = row[14]
        return Claimed(
            id=row[0],
            receiver=row[1],
            queue=row[2],
            key=row[3],
            lane=row[4],
            trace_id=row[5],
            span=row[6],
            signal=row[7],
            sender=row[8],
            object_key=row[9],
            database=row[10],
            attempts=row[11],
            epoch=row[12],
            created=row[13],
            payload=json.loads(payload) if isinstance(payload, str | bytes) else payload,
            alias=self.alias,
            started=begun,
        )

    def _leave_blocked_alone(self, moment: int) -> None:
        """Put to sleep what stands in the way: behind a waiting retry, behind a dead letter, or far behind in its lane.

        It would else be walked through at every look. A failure is for the next time: what was claimed is claimed.
        """
        if moment < self._look_at_blocked:
            return
        self._look_at_blocked = moment + SECOND
        enough = time.monotonic() + 0.2
        try:
            while (blocked := self._blocked(moment)) and self._put_to_sleep(blocked, moment) > CROWD:
                if time.monotonic() > enough:
                    self._look_at_blocked = 0
                    return
        except Error as error:  # two workers at once
            logger.debug("Blocked deliveries are looked at again: %s", error)

    def _blocked(self, moment: int) -> dict[int, list[int]]:
        """Return, by a delivery, those behind it that are due and need not be looked at until it has left."""
        waiting, taken = _waiting(self.connection.vendor), _taken(self.connection.vendor, "p.id < d.id")
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT d.id, h.id, h.lease IS NULL AND (h.wake IS NULL OR h.due > %s) FROM "
                f"(SELECT d.id, d.lane FROM {TABLE} d WHERE d.wake <= %s{self._of_queue()} ORDER BY d.wake LIMIT %s) d "
                f"JOIN {TABLE} h ON h.id = CASE WHEN {waiting} < d.id THEN {waiting} ELSE {taken} END "
                "WHERE d.lane IS NOT NULL",
                [moment, moment, *self.queues, IN_FRONT],
            )
            rows = cursor.fetchall()
        behind: dict[int, list[int]] = {}
        still = set()
        for number, head, stands_still in rows:
            behind.setdefault(head, []).append(number)
            if stands_still:
                still.add(head)
        return {head: ids for head, ids in behind.items() if head in still or len(ids) >= CROWD}

    def _put_to_sleep(self, blocked: dict[int, list[int]], moment: int) -> int:
        """Let deliveries sleep that stand behind others; return how many.

        Those others are locked meanwhile: one that has left the lane already can wake nobody, one that leaves it later
        sees who sleeps.
        """
        with self._writing(), self.connection.cursor() as cursor:
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE id IN ({_marks(blocked)}) AND lane IS NOT NULL"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                list(blocked),
            )
            ids = sorted(number for row in cursor.fetchall() for number in blocked[row[0]])
            if not ids:
                return 0
            cursor.execute(
                f"UPDATE {TABLE} SET wake = %s WHERE id IN ({_marks(ids)}) AND wake <= %s AND lease IS NULL",
                [moment + LOOK_AT_BLOCKED, *ids, moment],
            )
            found: int = cursor.rowcount
            return found

    # ------------------------------------------------------------ while it runs

    def renew(self, held: Sequence[Claimed]) -> set[int]:
        """Extend the leases of ``held``; return the ids of those that are no longer this process's."""
        lost = set()
        with self._writing(), self.connection.cursor() as cursor:
            _, lease = _moment_and_lease()
            for one in held:
                cursor.execute(
                    f"UPDATE {TABLE} SET lease = %s, wake = %s WHERE id = %s AND epoch = %s AND lease IS NOT NULL",
                    [lease, lease, one.id, one.epoch],
                )
                if not cursor.rowcount:
                    lost.add(one.id)
        return lost

    def start(self, one: Claimed) -> bool:
        """Count the attempt and begin its lease anew; return whether the delivery is still this process's."""
        return self._run(lambda: [self._start_sql(one)])[0] == 1

    def settle(self, one: Claimed, result: Result, following: Claimed | None = None) -> tuple[bool, bool]:
        """Write what became of ``one`` and count the attempt of ``following``, at once.

        Return whether each was still this process's. Only what comes to be waited for is waited for: a claim that was
        lost in the meantime is left to who has it now.
        """
        counts = self._run(lambda: self._settling(one, result, following))
        return counts[0] == 1, following is not None and counts[1] == 1

    def _settling(self, one: Claimed, result: Result, following: Claimed | None) -> list[tuple[str, list[Any]]]:
        statements = [self._settle_sql(one, result)]
        if following is not None:
            statements.append(self._start_sql(following))
        if one.lane is not None and (result.verdict is Verdict.DONE or result.skip):
            statements.append(self._wake_next_sql(one.lane, one.id))
        return statements

    def release(self, held: Sequence[Claimed], *, tell: bool = True) -> None:
        """Give back what was claimed and not begun; ``tell`` other workers, where the database can."""
        moment = now()
        back = f"UPDATE {TABLE} SET lease = NULL, wake = %s, attempts = attempts - %s"
        statements = [
            (
                f"{back} WHERE id = %s AND epoch = %s AND lease IS NOT NULL",
                [moment, int(one.started), one.id, one.epoch],
            )
            for one in held
        ]
        if statements:
            with self._writing(), self.connection.cursor() as cursor:
                for sql, params in statements:
                    cursor.execute(sql, params)
                if tell and self.connection.vendor == "postgresql":
                    cursor.execute(f"NOTIFY {batches.CHANNEL}")

    @staticmethod
    def _start_sql(one: Claimed) -> tuple[str, list[Any]]:
        moment, lease = _moment_and_lease()
        sql = "SET attempts = attempts + 1, lease = %s, wake = %s WHERE id = %s AND epoch = %s AND lease > %s"
        return f"UPDATE {TABLE} {sql}", [lease, lease, one.id, one.epoch, moment]

    @staticmethod
    def _settle_sql(one: Claimed, result: Result) -> tuple[str, list[Any]]:
        moment = now()
        mine = " WHERE id = %s AND epoch = %s AND lease IS NOT NULL"
        its = [one.id, one.epoch]
        due = moment + int(result.pause * SECOND)
        attempts = f"attempts = attempts - {int(one.started and not result.tried)}"
        match result.verdict:
            case Verdict.DONE if not conf.get().KEEP_DELIVERIES:
                return f"DELETE FROM {TABLE}{mine}", its
            case Verdict.DONE:
                sql = "SET state = 'done', finished = %s, wake = NULL, lane = NULL, lease = NULL"
                return f"UPDATE {TABLE} {sql}, error = '', traceback = NULL{mine}", [moment, *its]
            case Verdict.DEAD:
                lane = ", lane = NULL" if result.skip else ""
                sql = "SET state = 'dead', finished = %s, wake = NULL, lease = NULL, error = %s, traceback = %s"
                return f"UPDATE {TABLE} {sql}, {attempts}{lane}{mine}", [moment, result.error, result.traceback, *its]
            case Verdict.RETRY:
                sql = "SET due = %s, wake = %s, lease = NULL, error = %s, traceback = %s"
                return f"UPDATE {TABLE} {sql}{mine}", [due, due, result.error, result.traceback, *its]
            case Verdict.DEFERRED:
                sql = "SET due = %s, wake = %s, lease = NULL, error = %s"
                return f"UPDATE {TABLE} {sql}, {attempts}{mine}", [due, due, result.error, *its]

    def _wake_next_sql(self, lane: int, number: int) -> tuple[str, list[Any]]:
        # Without asking whether it sleeps: PostgreSQL would answer from before the lock that it has waited for.
        behind = "lane = %s AND lease IS NULL AND id > %s"
        first = "ORDER BY lease, id LIMIT 1"  # the index's order
        if self.connection.vendor == "mysql":  # an id that a subquery tells it would look for in the whole table
            table = f"{TABLE} FORCE INDEX (signalbox_delivery_lane)"
            return f"UPDATE {table} SET wake = due WHERE {behind} AND wake IS NOT NULL {first}", [lane, number]
        following = f"SELECT id FROM {TABLE} WHERE {behind} {first}"
        return f"UPDATE {TABLE} SET wake = due WHERE id = ({following}) AND wake IS NOT NULL", [lane, number]

    def _run(self, statements: Callable[[], Sequence[tuple[str, list[Any]]]]) -> list[int]:
        """Run ``statements`` in one transaction, in one message if the database takes it; return row counts.

        They are asked for when SQLite's lock is there: they tell the time.
        """
        connection = self.connection
        if connection.vendor == "postgresql":
            return self._run_at_once(statements())
        counts = []
        with backends.not_waiting_for_disk(self.connection), self._writing(), connection.cursor() as cursor:
            for sql, params in statements():
                cursor.execute(sql, params)
                counts.append(cursor.rowcount)
        return counts

    def _run_at_once(self, statements: Sequence[tuple[str, list[Any]]]) -> list[int]:
        # The first comes first: what it waits for has to be over when the others look.
        after = " AND (SELECT count(*) FROM w0) >= 0"
        parts = [f"w{n} AS ({sql}{after if n else ''} RETURNING 1)" for n, (sql, _) in enumerate(statements)]
        answers = [f"(SELECT count(*) FROM w{n})" for n in range(len(statements))]
        sql = f"{backends.NO_WAIT_FOR_DISK}; WITH {', '.join(parts)} SELECT {', '.join(answers)}"
        return list(self._at_once(sql, [value for _, params in statements for value in params])[0])

    def _at_once(self, sql: str, values: Sequence[Any]) -> list[Any]:
        """Send several statements in one message to PostgreSQL; return the rows of the last one."""
        connection = self.connection
        connection.ensure_connection()
        with connection.wrap_database_errors, backends.postgresql_cursor(connection) as cursor:
            cursor.execute(sql, values)
            while hasattr(cursor, "nextset") and cursor.description is None and cursor.nextset():
                pass
            return list(cursor.fetchall())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that takes SQLite's write lock at its beginning: one that reads first may fail at once."""
        connection = self.connection
        if connection.vendor != "sqlite" or connection.in_atomic_block:
            with transaction.atomic(using=self.alias, savepoint=False):
                yield
            return
        with connection.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield
                cursor.execute("COMMIT")
            except BaseException:
                if connection.connection is not None and connection.connection.in_transaction:
                    cursor.execute("ROLLBACK")
                raise

    # ------------------------------------------------------------ housekeeping

    def prune(self, limit: int = 1000) -> int:
        """Delete up to ``limit`` deliveries that are done or discarded and were kept long enough; return how many."""
        before = now() - int(conf.get().KEEP_DELIVERIES * 86_400 * SECOND)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE state IN ('done', 'discarded') AND finished < %s LIMIT %s",
                [before, limit],
            )
            ids = [row[0] for row in cursor.fetchall()]
            if ids:
                cursor.execute(f"DELETE FROM {TABLE} WHERE id IN ({_marks(ids)})", ids)
        return len(ids)


def _marks(values: Collection[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def aliases() -> list[str]:
    """Return the databases that hold deliveries, or may: one that is away can't be asked."""
    return [alias for alias in connections if _may_have_table(connections[alias])]


def _may_have_table(connection: BaseDatabaseWrapper) -> bool:
    try:
        with connection.cursor() as cursor:
            return TABLE in connection.introspection.table_names(cursor)
    except Error as error:
        logger.warning("Database %r can't be asked for deliveries: %s", connection.alias, error)
        connection.close()
        return True
