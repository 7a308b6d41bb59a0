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

TABLE: Final = batches.DELIVERY_TABLE
SECOND_US: Final = 1_000_000

LOCKED_ROW_RETRY_SECONDS: Final = (0.02, 0.1, 0.5, 2.0)
"""Seconds to wait for a row that is locked: in truth microseconds, unless a machine is very busy."""
PARKED_RECHECK_US: Final = 300 * SECOND_US
"""How long a delivery behind others sleeps, if nobody wakes it: whoever leaves the lane does."""
PARKING_SCAN_LIMIT: Final = 1000
"""Deliveries that are due of which it is asked, once a second, whether they stand behind others."""
MIN_BLOCKED_TO_PARK: Final = 10
"""So many of one lane among them are put to sleep; fewer are soon run, and cost less where they are."""

_LEASED_COLUMNS: Final = (
    "id receiver queue order_key lane trace_id span signal sender object_key database attempts epoch created payload"
)
_QUALIFIED_LEASED_COLUMNS: Final = ", ".join(f"d.{name}" for name in _LEASED_COLUMNS.split())
_DISABLE_JIT_SQL: Final = "SET LOCAL jit TO off"
"""PostgreSQL: it takes the search for what is due for a long one, and compiling costs more than it takes."""


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


def first_in_partition_sql(vendor: str) -> str:
    """Return the SQL for: ``d`` is the first of its lane."""
    return _runnable_sql(vendor, "p.id < d.id")


def _runnable_sql(vendor: str, leased_condition: str) -> str:
    return f"(d.lane IS NULL OR (COALESCE({_first_unleased_sql(vendor)}, d.id) >= d.id AND {_leased_sql(vendor, leased_condition)} IS NULL))"


def _first_unleased_sql(vendor: str) -> str:
    """Return a query for the first delivery of the lane of ``d`` that nobody runs: one look into an index, however long
    the lane is."""
    # That nobody runs them makes all leases equal: PostgreSQL wants to be told, MariaDB would sort the lane then.
    order = "p.lease, p.id" if vendor == "postgresql" else "p.id"
    return f"(SELECT p.id FROM {TABLE} p WHERE p.lane = d.lane AND p.lease IS NULL ORDER BY {order} LIMIT 1)"


def _leased_sql(vendor: str, condition: str) -> str:
    """Return a query for a delivery of the lane of ``d`` that is being run: there are few, at one end of the index."""
    if vendor == "mysql":  # it would read what is not run as well; so the first of those, which come last, ends it
        return (
            f"(SELECT CASE WHEN p.lease IS NOT NULL THEN p.id END FROM {TABLE} p WHERE p.lane = d.lane "
            f"AND (p.lease IS NULL OR {condition}) ORDER BY p.lease DESC, p.id DESC LIMIT 1)"
        )
    # PostgreSQL would read the table where it knows of one long lane.
    order = "ORDER BY p.lease, p.id " if vendor == "postgresql" else ""
    return f"(SELECT p.id FROM {TABLE} p WHERE p.lane = d.lane AND p.lease IS NOT NULL AND {condition} {order}LIMIT 1)"


def _get_now_and_lease_expiry() -> tuple[int, int]:
    """Return now, and until when a lease lasts that begins now: to be asked for after a lock was waited for."""
    moment = now_us()
    return moment, moment + int(conf.get().LEASE * SECOND_US)


@dataclass(kw_only=True, slots=True)
class LeasedDelivery:
    """A delivery that this process may run."""

    id: int
    receiver: str
    queue: str
    ordering_key: str
    partition_id: int | None
    trace_id: str
    span: int
    signal: str
    sender: str
    object_key: str
    database: str
    attempts: int
    """Attempts so far, with the one that is about to begin if it is ``started``."""
    fencing_token: int
    created: int
    payload: dict[str, Any]
    alias: str
    """The database that holds the row."""
    attempt_started: bool = False
    """Whether the attempt is counted; it must be before the receiver is called."""
    acquired_at: float = field(default_factory=time.monotonic)


class Disposition(Enum):
    """What became of an attempt."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    DEFERRED = "deferred"
    """It could not even be tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptResult:
    """What became of an attempt, and what to write."""

    disposition: Disposition
    error: str = ""
    traceback: str | None = None
    """Where it was raised."""
    retry_delay: float = 0.0
    """Seconds to wait before the next attempt."""
    releases_partition: bool = False
    """Whether the later deliveries of the key go on past a dead letter."""
    receiver_called: bool = True
    """Whether the receiver was called; else the attempt does not count."""


SUCCEEDED: Final = AttemptResult(disposition=Disposition.DONE)


class DeliveryQueue:
    """The deliveries in one database."""

    def __init__(self, alias: str, queues: Sequence[str] = ()) -> None:
        self.alias = alias
        self.queues = tuple(queues)
        self._last_batch_full = False
        """Whether the last claim found as much as it asked for."""
        self._next_parking_check = 0

    @property
    def connection(self) -> BaseDatabaseWrapper:
        """This thread's connection."""
        return connections[self.alias]

    @property
    def _first_in_partition(self) -> str:
        return first_in_partition_sql(self.connection.vendor)

    @property
    def _runnable(self) -> str:
        """SQL for: ``d`` is the first of its lane, and none behind it runs at the moment that is its parameter.

        One may that began before this one came, or came back, to its place.
        """
        return _runnable_sql(self.connection.vendor, "p.id <> d.id AND (p.id < d.id OR p.lease > %s)")

    # ------------------------------------------------------------ claiming

    def acquire(self, limit: int, start_count: int = 0, held_ids: Sequence[int] = ()) -> list[LeasedDelivery]:
        """Take up to ``limit`` deliveries that are due, longest waiting first; count an attempt of ``begin`` of them.

        What this process still ``held`` is left alone, though its lease may be over: it runs here.
        Raises ``django.db.Error`` if the database is away or locked.
        """
        moment = now_us()
        wanted = f"d.wake <= %s{self._get_queue_condition()}" + (
            f" AND d.id NOT IN ({_build_placeholders(held_ids)})" if held_ids else ""
        )
        free = [*self.queues, *held_ids]
        if self.connection.vendor == "postgresql":
            rows = self._acquire_in_one_statement(wanted, free, limit, start_count)
        else:
            rows = self._acquire_in_steps(wanted, free, limit, start_count)
        self._last_batch_full = len(rows) >= limit
        self._park_blocked(moment)
        return rows

    def _acquire_in_one_statement(
        self, condition: str, params: list[Any], limit: int, start_count: int
    ) -> list[LeasedDelivery]:
        sql = (
            f"WITH picked AS MATERIALIZED (SELECT d.id FROM {TABLE} d WHERE {condition} AND {self._runnable} "
            "ORDER BY d.wake LIMIT %s FOR UPDATE OF d SKIP LOCKED), "
            "ranked AS (SELECT id, row_number() OVER (ORDER BY id) <= %s AS begun FROM picked) "
            f"UPDATE {TABLE} d SET lease = %s, wake = %s, epoch = d.epoch + 1, "
            "attempts = d.attempts + ranked.begun::int FROM ranked WHERE d.id = ranked.id "
            f"RETURNING {_QUALIFIED_LEASED_COLUMNS}, ranked.begun"
        )
        self.connection.ensure_connection()  # that may take its time
        moment, lease = _get_now_and_lease_expiry()
        rows = self._fetch_in_one_round_trip(
            f"{_DISABLE_JIT_SQL}; {sql}", [moment, *params, moment, limit, start_count, lease, lease]
        )
        claimed = [self._build_leased_delivery(row, attempt_started=row[-1]) for row in sorted(rows)]
        return self._drop_overtaken(claimed)

    def _acquire_in_steps(
        self, condition: str, params: list[Any], limit: int, start_count: int
    ) -> list[LeasedDelivery]:
        pick = f"SELECT d.id FROM {TABLE} d WHERE {condition} AND {self._runnable} ORDER BY d.wake LIMIT %s"
        with self.connection.cursor() as cursor:
            if (
                not self._last_batch_full
            ):  # reading takes no lock: a worker that finds nothing must not disturb the site
                cursor.execute(pick, [now_us(), *params, now_us(), 1])
                if cursor.fetchone() is None:
                    return []
        with self._write_transaction(), self.connection.cursor() as cursor:
            moment, lease = _get_now_and_lease_expiry()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(pick + (" FOR UPDATE SKIP LOCKED" if locked else ""), [moment, *params, moment, limit])
            ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                return []
            # Once more: a locking read sees what was committed while it ran, its subquery does not.
            first = f" AND {self._first_in_partition}" if locked else ""
            cursor.execute(
                f"SELECT {_QUALIFIED_LEASED_COLUMNS} FROM {TABLE} d WHERE d.id IN ({_build_placeholders(ids)}){first} ORDER BY d.id",
                ids,
            )
            rows = cursor.fetchall()
            ids = [row[0] for row in rows]
            for part, counted in ((ids[:start_count], 1), (ids[start_count:], 0)):
                if part:
                    cursor.execute(
                        f"UPDATE {TABLE} SET lease = %s, wake = %s, epoch = epoch + 1, attempts = attempts + {counted} "
                        f"WHERE id IN ({_build_placeholders(part)})",
                        [lease, lease, *part],
                    )
        claimed = [self._build_leased_delivery(row, attempt_started=False) for row in rows]
        for place, one in enumerate(claimed):
            one.fencing_token += 1
            one.attempt_started = place < start_count
            one.attempts += one.attempt_started
        return self._drop_overtaken(claimed)

    def _drop_overtaken(self, leased: list[LeasedDelivery]) -> list[LeasedDelivery]:
        """Give back what is not the first of its lane any more, or never was: who looks sees what was committed before.

        Another worker may take an earlier one that came to its place during the claim. It either saw this claim, and
        left that one alone, or this look sees it.
        """
        ids = [one.id for one in leased if one.partition_id is not None]
        if not ids or self.connection.vendor == "sqlite":  # who has its write lock claims alone
            return leased
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT d.id FROM {TABLE} d WHERE d.id IN ({_build_placeholders(ids)}) AND NOT {self._first_in_partition}",
                ids,
            )
            late = {row[0] for row in cursor.fetchall()}
        if late:
            self.release([one for one in leased if one.id in late], notify=False)
        return [one for one in leased if one.id not in late]

    def acquire_by_id(self, delivery_id: int) -> LeasedDelivery | None:
        """Take the delivery of this id, if it is due, nobody's and the first of its lane, and count the attempt.

        A row that another transaction only passes over is tried again: who gives up a message must not do so for that.
        """
        claimed = self._try_acquire_by_id(delivery_id)
        for pause in LOCKED_ROW_RETRY_SECONDS:
            if claimed is not None or not self._is_runnable(delivery_id):
                break
            time.sleep(pause)
            claimed = self._try_acquire_by_id(delivery_id)
        return claimed

    _RUNNABLE_BY_ID_SQL: Final = (
        "d.id = %s AND d.state = 'pending' AND d.due <= %s AND (d.lease IS NULL OR d.lease < %s)"
    )

    def _is_runnable(self, delivery_id: int) -> bool:
        """Tell whether the delivery could be claimed, but for somebody who has it locked."""
        if not self.connection.features.has_select_for_update_skip_locked:
            return False
        moment = now_us()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT 1 FROM {TABLE} d WHERE {self._RUNNABLE_BY_ID_SQL} AND {self._runnable}",
                [delivery_id, moment, moment, moment],
            )
            return cursor.fetchone() is not None

    def _try_acquire_by_id(self, delivery_id: int) -> LeasedDelivery | None:
        with self._write_transaction(), self.connection.cursor() as cursor:
            moment, lease = _get_now_and_lease_expiry()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT {_QUALIFIED_LEASED_COLUMNS} FROM {TABLE} d WHERE {self._RUNNABLE_BY_ID_SQL} AND {self._runnable}"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                [delivery_id, moment, moment, moment],
            )
            row = cursor.fetchone()
            if row is None:
                return None
            cursor.execute(
                f"UPDATE {TABLE} SET lease = %s, wake = %s, epoch = epoch + 1, attempts = attempts + 1 WHERE id = %s",
                [lease, lease, delivery_id],
            )
        claimed = self._build_leased_delivery(row, attempt_started=True)
        claimed.fencing_token += 1
        claimed.attempts += 1
        return next(iter(self._drop_overtaken([claimed])), None)

    def dispatch(self, limit: int, redispatch_at: int, full_queues: Sequence[str] = ()) -> list[tuple[int, str]]:
        """Mark up to ``limit`` deliveries that are due as sent out until ``until``; return their ids and queues.

        Those of queues that are ``full`` wait. The mark is committed when this returns: publish then, and what is not
        published, or lost, is marked anew.
        """
        moment = now_us()
        wanted = f"d.wake <= %s{self._get_queue_condition()}" + (
            f" AND d.queue NOT IN ({_build_placeholders(full_queues)})" if full_queues else ""
        )
        pick = f"SELECT d.id, d.queue FROM {TABLE} d WHERE {wanted} AND {self._runnable} ORDER BY d.wake LIMIT %s"
        values: list[Any] = [moment, *self.queues, *full_queues, moment]
        self._park_blocked(moment)
        with self.connection.cursor() as cursor:
            if self.connection.vendor != "postgresql":
                cursor.execute(pick, [*values, 1])
                if cursor.fetchone() is None:
                    return []
        with self._write_transaction(), self.connection.cursor() as cursor:
            locked = self.connection.features.has_select_for_update_skip_locked
            lock = " FOR UPDATE SKIP LOCKED" if locked else ""
            if lock and self.connection.features.has_select_for_update_of:
                lock = " FOR UPDATE OF d SKIP LOCKED"
            if self.connection.vendor == "postgresql":
                cursor.execute(_DISABLE_JIT_SQL)
            cursor.execute(pick + lock, [*values, limit])
            rows = sorted(cursor.fetchall())
            if rows:
                ids = [row[0] for row in rows]
                cursor.execute(
                    f"UPDATE {TABLE} SET wake = %s WHERE id IN ({_build_placeholders(ids)})", [redispatch_at, *ids]
                )
        return rows

    def recall(self, ids: Sequence[int], redispatch_at: int) -> None:
        """Take back the mark of ``dispatch``: no message was sent."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET wake = %s WHERE id IN ({_build_placeholders(ids)}) AND wake = %s AND lease IS NULL",
                [now_us(), *ids, redispatch_at],
            )

    def unblock_next(self, partition_id: int, delivery_id: int) -> None:
        """Look at once at what stands behind the delivery ``number``, which has left the lane."""
        with self.connection.cursor() as cursor:
            cursor.execute(*self._unblock_next_sql(partition_id, delivery_id))

    def count_in_flight(self, redispatch_at: int) -> dict[str, int]:
        """Return how many deliveries are sent out and not begun, by queue. What waits for its time or turn is none."""
        moment = now_us()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT d.queue, count(*) FROM {TABLE} d WHERE d.wake > %s AND d.wake <= %s{self._get_queue_condition()} "
                f"AND d.due <= %s AND d.lease IS NULL AND {self._first_in_partition} GROUP BY d.queue",
                [moment, redispatch_at, *self.queues, moment],
            )
            return dict(cursor.fetchall())

    def get_next_check_at(self) -> int | None:
        """Return when the next delivery is to be looked at that need not be now; ``None`` if there is none."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT min(d.wake) FROM {TABLE} d WHERE d.wake > %s{self._get_queue_condition()}",
                [now_us(), *self.queues],
            )
            found: int | None = cursor.fetchone()[0]
            return found

    def _get_queue_condition(self) -> str:
        return f" AND d.queue IN ({_build_placeholders(self.queues)})" if self.queues else ""

    def _build_leased_delivery(self, row: Sequence[Any], *, attempt_started: bool) -> LeasedDelivery:
        payload = row[14]
        return LeasedDelivery(
            id=row[0],
            receiver=row[1],
            queue=row[2],
            ordering_key=row[3],
            partition_id=row[4],
            trace_id=row[5],
            span=row[6],
            signal=row[7],
            sender=row[8],
            object_key=row[9],
            database=row[10],
            attempts=row[11],
            fencing_token=row[12],
            created=row[13],
            payload=json.loads(payload) if isinstance(payload, str | bytes) else payload,
            alias=self.alias,
            attempt_started=attempt_started,
        )

    def _park_blocked(self, moment: int) -> None:
        """Put to sleep what stands in the way: behind a waiting retry, behind a dead letter, or far behind in its lane.

        It would else be walked through at every look. A failure is for the next time: what was claimed is claimed.
        """
        if moment < self._next_parking_check:
            return
        self._next_parking_check = moment + SECOND_US
        enough = time.monotonic() + 0.2
        try:
            while (blocked := self._find_blocked(moment)) and self._park(blocked, moment) > MIN_BLOCKED_TO_PARK:
                if time.monotonic() > enough:
                    self._next_parking_check = 0
                    return
        except Error as error:  # two workers at once
            logger.debug("Blocked deliveries are looked at again: %s", error)

    def _find_blocked(self, moment: int) -> dict[int, list[int]]:
        """Return, by a delivery, those behind it that are due and need not be looked at until it has left."""
        waiting, taken = _first_unleased_sql(self.connection.vendor), _leased_sql(self.connection.vendor, "p.id < d.id")
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT d.id, h.id, h.lease IS NULL AND (h.wake IS NULL OR h.due > %s) FROM "
                f"(SELECT d.id, d.lane FROM {TABLE} d WHERE d.wake <= %s{self._get_queue_condition()} ORDER BY d.wake LIMIT %s) d "
                f"JOIN {TABLE} h ON h.id = CASE WHEN {waiting} < d.id THEN {waiting} ELSE {taken} END "
                "WHERE d.lane IS NOT NULL",
                [moment, moment, *self.queues, PARKING_SCAN_LIMIT],
            )
            rows = cursor.fetchall()
        behind: dict[int, list[int]] = {}
        still = set()
        for number, head, stands_still in rows:
            behind.setdefault(head, []).append(number)
            if stands_still:
                still.add(head)
        return {head: ids for head, ids in behind.items() if head in still or len(ids) >= MIN_BLOCKED_TO_PARK}

    def _park(self, blocked: dict[int, list[int]], moment: int) -> int:
        """Let deliveries sleep that stand behind others; return how many.

        Those others are locked meanwhile: one that has left the lane already can wake nobody, one that leaves it later
        sees who sleeps.
        """
        with self._write_transaction(), self.connection.cursor() as cursor:
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE id IN ({_build_placeholders(blocked)}) AND lane IS NOT NULL"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                list(blocked),
            )
            ids = sorted(number for row in cursor.fetchall() for number in blocked[row[0]])
            if not ids:
                return 0
            cursor.execute(
                f"UPDATE {TABLE} SET wake = %s WHERE id IN ({_build_placeholders(ids)}) AND wake <= %s AND lease IS NULL",
                [moment + PARKED_RECHECK_US, *ids, moment],
            )
            found: int = cursor.rowcount
            return found

    # ------------------------------------------------------------ while it runs

    def renew_leases(self, deliveries: Sequence[LeasedDelivery]) -> set[int]:
        """Extend the leases of ``held``; return the ids of those that are no longer this process's."""
        lost = set()
        with self._write_transaction(), self.connection.cursor() as cursor:
            _, lease = _get_now_and_lease_expiry()
            for one in deliveries:
                cursor.execute(
                    f"UPDATE {TABLE} SET lease = %s, wake = %s WHERE id = %s AND epoch = %s AND lease IS NOT NULL",
                    [lease, lease, one.id, one.fencing_token],
                )
                if not cursor.rowcount:
                    lost.add(one.id)
        return lost

    def start_attempt(self, delivery: LeasedDelivery) -> bool:
        """Count the attempt and begin its lease anew; return whether the delivery is still this process's."""
        return self._execute(lambda: [self._start_attempt_sql(delivery)])[0] == 1

    def complete(
        self, delivery: LeasedDelivery, result: AttemptResult, next_delivery: LeasedDelivery | None = None
    ) -> tuple[bool, bool]:
        """Write what became of ``one`` and count the attempt of ``following``, at once.

        Return whether each was still this process's. Only what comes to be waited for is waited for: a claim that was
        lost in the meantime is left to who has it now.
        """
        counts = self._execute(lambda: self._build_completion_statements(delivery, result, next_delivery))
        return counts[0] == 1, next_delivery is not None and counts[1] == 1

    def _build_completion_statements(
        self, delivery: LeasedDelivery, result: AttemptResult, next_delivery: LeasedDelivery | None
    ) -> list[tuple[str, list[Any]]]:
        statements = [self._complete_sql(delivery, result)]
        if next_delivery is not None:
            statements.append(self._start_attempt_sql(next_delivery))
        if delivery.partition_id is not None and (result.disposition is Disposition.DONE or result.releases_partition):
            statements.append(self._unblock_next_sql(delivery.partition_id, delivery.id))
        return statements

    def release(self, deliveries: Sequence[LeasedDelivery], *, notify: bool = True) -> None:
        """Give back what was claimed and not begun; ``tell`` other workers, where the database can."""
        moment = now_us()
        back = f"UPDATE {TABLE} SET lease = NULL, wake = %s, attempts = attempts - %s"
        statements = [
            (
                f"{back} WHERE id = %s AND epoch = %s AND lease IS NOT NULL",
                [moment, int(one.attempt_started), one.id, one.fencing_token],
            )
            for one in deliveries
        ]
        if statements:
            with self._write_transaction(), self.connection.cursor() as cursor:
                for sql, params in statements:
                    cursor.execute(sql, params)
                if notify and self.connection.vendor == "postgresql":
                    cursor.execute(f"NOTIFY {batches.NOTIFY_CHANNEL}")

    @staticmethod
    def _start_attempt_sql(delivery: LeasedDelivery) -> tuple[str, list[Any]]:
        moment, lease = _get_now_and_lease_expiry()
        sql = "SET attempts = attempts + 1, lease = %s, wake = %s WHERE id = %s AND epoch = %s AND lease > %s"
        return f"UPDATE {TABLE} {sql}", [lease, lease, delivery.id, delivery.fencing_token, moment]

    @staticmethod
    def _complete_sql(delivery: LeasedDelivery, result: AttemptResult) -> tuple[str, list[Any]]:
        moment = now_us()
        mine = " WHERE id = %s AND epoch = %s AND lease IS NOT NULL"
        its = [delivery.id, delivery.fencing_token]
        due = moment + int(result.retry_delay * SECOND_US)
        attempts = f"attempts = attempts - {int(delivery.attempt_started and not result.receiver_called)}"
        match result.disposition:
            case Disposition.DONE if not conf.get().KEEP_DELIVERIES:
                return f"DELETE FROM {TABLE}{mine}", its
            case Disposition.DONE:
                sql = "SET state = 'done', finished = %s, wake = NULL, lane = NULL, lease = NULL"
                return f"UPDATE {TABLE} {sql}, error = '', traceback = NULL{mine}", [moment, *its]
            case Disposition.DEAD:
                lane = ", lane = NULL" if result.releases_partition else ""
                sql = "SET state = 'dead', finished = %s, wake = NULL, lease = NULL, error = %s, traceback = %s"
                return f"UPDATE {TABLE} {sql}, {attempts}{lane}{mine}", [moment, result.error, result.traceback, *its]
            case Disposition.RETRY:
                sql = "SET due = %s, wake = %s, lease = NULL, error = %s, traceback = %s"
                return f"UPDATE {TABLE} {sql}{mine}", [due, due, result.error, result.traceback, *its]
            case Disposition.DEFERRED:
                sql = "SET due = %s, wake = %s, lease = NULL, error = %s"
                return f"UPDATE {TABLE} {sql}, {attempts}{mine}", [due, due, result.error, *its]

    def _unblock_next_sql(self, partition_id: int, delivery_id: int) -> tuple[str, list[Any]]:
        # Without asking whether it sleeps: PostgreSQL would answer from before the lock that it has waited for.
        behind = "lane = %s AND lease IS NULL AND id > %s"
        first = "ORDER BY lease, id LIMIT 1"  # the index's order
        if self.connection.vendor == "mysql":  # an id that a subquery tells it would look for in the whole table
            table = f"{TABLE} FORCE INDEX (signalbox_delivery_lane)"
            return f"UPDATE {table} SET wake = due WHERE {behind} AND wake IS NOT NULL {first}", [
                partition_id,
                delivery_id,
            ]
        following = f"SELECT id FROM {TABLE} WHERE {behind} {first}"
        return f"UPDATE {TABLE} SET wake = due WHERE id = ({following}) AND wake IS NOT NULL", [
            partition_id,
            delivery_id,
        ]

    def _execute(self, build_statements: Callable[[], Sequence[tuple[str, list[Any]]]]) -> list[int]:
        """Run ``statements`` in one transaction, in one message if the database takes it; return row counts.

        They are asked for when SQLite's lock is there: they tell the time.
        """
        connection = self.connection
        if connection.vendor == "postgresql":
            return self._execute_in_one_statement(build_statements())
        counts = []
        with backends.relaxed_durability(self.connection), self._write_transaction(), connection.cursor() as cursor:
            for sql, params in build_statements():
                cursor.execute(sql, params)
                counts.append(cursor.rowcount)
        return counts

    def _execute_in_one_statement(self, statements: Sequence[tuple[str, list[Any]]]) -> list[int]:
        # The first comes first: what it waits for has to be over when the others look.
        after = " AND (SELECT count(*) FROM w0) >= 0"
        parts = [f"w{n} AS ({sql}{after if n else ''} RETURNING 1)" for n, (sql, _) in enumerate(statements)]
        answers = [f"(SELECT count(*) FROM w{n})" for n in range(len(statements))]
        sql = f"{backends.DISABLE_SYNCHRONOUS_COMMIT_SQL}; WITH {', '.join(parts)} SELECT {', '.join(answers)}"
        return list(self._fetch_in_one_round_trip(sql, [value for _, params in statements for value in params])[0])

    def _fetch_in_one_round_trip(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """Send several statements in one message to PostgreSQL; return the rows of the last one."""
        connection = self.connection
        connection.ensure_connection()
        with connection.wrap_database_errors, backends.create_postgresql_cursor(connection) as cursor:
            cursor.execute(sql, params)
            while hasattr(cursor, "nextset") and cursor.description is None and cursor.nextset():
                pass
            return list(cursor.fetchall())

    @contextmanager
    def _write_transaction(self) -> Iterator[None]:
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
        before = now_us() - int(conf.get().KEEP_DELIVERIES * 86_400 * SECOND_US)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE state IN ('done', 'discarded') AND finished < %s LIMIT %s",
                [before, limit],
            )
            ids = [row[0] for row in cursor.fetchall()]
            if ids:
                cursor.execute(f"DELETE FROM {TABLE} WHERE id IN ({_build_placeholders(ids)})", ids)
        return len(ids)


def _build_placeholders(values: Collection[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def get_delivery_databases() -> list[str]:
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
