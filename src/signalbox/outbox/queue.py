"""Lease deliveries to workers and write the results of their attempts. Only this module updates a delivery's state.

``next_check_at`` is the time at which a row must be looked at again: when it becomes due, when its lease expires, or
when its broker message counts as lost. One index on that column finds all work, however large the table is.
``partition_id`` is set while a row takes part in the order of its key: the row with the lowest id in a partition runs
first. Finished rows have neither. A delivery with many others before it is parked: its ``next_check_at`` is set far in
the future, and the delivery that leaves the partition makes the next one due.

Each acquisition increments ``fencing_token`` and each write compares it. So a worker whose lease has expired cannot
finish a delivery that another worker runs.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from django.db import Error, connections, router, transaction

from signalbox import conf
from signalbox.pipeline import backends, batches
from signalbox.pipeline.backends import postgresql

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

logger = logging.getLogger("signalbox")

TABLE: Final = batches.DELIVERY_TABLE
SECOND_US: Final = 1_000_000

LOCKED_ROW_RETRY_SECONDS: Final = (0.02, 0.1, 0.5, 2.0)
"""Seconds to wait before each new attempt to lock a row. Such locks usually last microseconds."""
PARKED_RECHECK_US: Final = 300 * SECOND_US
"""How long a parked delivery waits if the delivery before it does not make it due."""
PARKING_SCAN_LIMIT: Final = 1000
"""Due deliveries that are checked once per second for an earlier delivery that blocks them."""
MIN_BLOCKED_TO_PARK: Final = 10
"""At least this many blocked deliveries of a partition are parked. Parking fewer costs more than reading them."""

_LEASED_COLUMNS: Final = (
    "id receiver queue ordering_key partition_id trace_id span signal sender object_key database attempts "
    "fencing_token created payload"
)
_QUALIFIED_LEASED_COLUMNS: Final = ", ".join(f"d.{name}" for name in _LEASED_COLUMNS.split())
_DISABLE_JIT_SQL: Final = "SET LOCAL jit TO off"
"""PostgreSQL overestimates the cost of the search for due deliveries, and compiling it takes longer than running it."""


def now_us() -> int:
    """Return the time in microseconds since the epoch."""
    return time.time_ns() // 1000


def first_in_partition_sql(vendor: str) -> str:
    """Return the SQL condition that ``d`` is the first delivery of its partition."""
    return _runnable_sql(vendor, "p.id < d.id")


def _runnable_sql(vendor: str, leased_condition: str) -> str:
    return (
        f"(d.partition_id IS NULL OR (COALESCE({_first_unleased_sql(vendor)}, d.id) >= d.id "
        f"AND {_leased_sql(vendor, leased_condition)} IS NULL))"
    )


def _first_unleased_sql(vendor: str) -> str:
    """Return a query for the first delivery without a lease in the partition of ``d``.

    It reads one entry of an index, however long the partition is.
    """
    # All rows that match have the same lease, NULL. PostgreSQL uses the index only if the order names it, and MariaDB
    # would sort the whole partition in that case.
    order = "p.lease_expires_at, p.id" if vendor == "postgresql" else "p.id"
    return (
        f"(SELECT p.id FROM {TABLE} p WHERE p.partition_id = d.partition_id AND p.lease_expires_at IS NULL "
        f"ORDER BY {order} LIMIT 1)"
    )


def _leased_sql(vendor: str, condition: str) -> str:
    """Return a query for a leased delivery in the partition of ``d`` that meets ``condition``.

    Few are leased, and they are at one end of the index.
    """
    if vendor == "mysql":  # MySQL would also read rows without a lease; the first of these, which sort last, ends it
        return (
            f"(SELECT CASE WHEN p.lease_expires_at IS NOT NULL THEN p.id END FROM {TABLE} p "
            f"WHERE p.partition_id = d.partition_id AND (p.lease_expires_at IS NULL OR {condition}) "
            "ORDER BY p.lease_expires_at DESC, p.id DESC LIMIT 1)"
        )
    # Without the order PostgreSQL would scan the table where its statistics show one long partition.
    order = "ORDER BY p.lease_expires_at, p.id " if vendor == "postgresql" else ""
    return (
        f"(SELECT p.id FROM {TABLE} p WHERE p.partition_id = d.partition_id AND p.lease_expires_at IS NOT NULL "
        f"AND {condition} {order}LIMIT 1)"
    )


def _get_now_and_lease_expiry() -> tuple[int, int]:
    """Return the time and the expiry of a lease that starts now. Call it after waiting for locks, not before."""
    now = now_us()
    return now, now + int(conf.get().DURABLE.LEASE * SECOND_US)


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
    """Attempts so far, including the next one if ``attempt_started`` is true."""
    fencing_token: int
    created: int
    payload: dict[str, Any]
    alias: str
    """The database that holds the row."""
    attempt_started: bool = False
    """Whether the attempt is counted, which must happen before the receiver is called."""
    acquired_at: float = field(default_factory=time.monotonic)


class Disposition(Enum):
    """The kind of an attempt's result."""

    DONE = "done"
    RETRY = "retry"
    DEAD = "dead"
    DEFERRED = "deferred"
    """The receiver could not be loaded in this process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptResult:
    """The result of an attempt, to be written to its delivery."""

    disposition: Disposition
    error: str = ""
    traceback: str | None = None
    """The traceback of ``error``."""
    retry_delay: float = 0.0
    """Seconds to wait before the next attempt."""
    releases_partition: bool = False
    """Whether later deliveries of the key may run although this one is a dead letter."""
    receiver_called: bool = True
    """Whether the receiver was called. If not, the attempt does not count."""


SUCCEEDED: Final = AttemptResult(disposition=Disposition.DONE)


class DeliveryQueue:
    """The deliveries in one database."""

    def __init__(self, alias: str, queues: Sequence[str] = ()) -> None:
        self.alias = alias
        self.queues = tuple(queues)
        self._last_batch_full = False
        """Whether the last acquisition returned as many deliveries as its limit."""
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
        """The SQL condition that ``d`` is the first of its partition and that no later one is leased at its parameter.

        A later one may be: it started before ``d`` was inserted or retried.
        """
        return _runnable_sql(self.connection.vendor, "p.id <> d.id AND (p.id < d.id OR p.lease_expires_at > %s)")

    # ------------------------------------------------------------ acquiring

    def acquire(self, limit: int, start_count: int = 0, held_ids: Sequence[int] = ()) -> list[LeasedDelivery]:
        """Lease up to ``limit`` due deliveries, oldest first, and count an attempt for ``start_count`` of them.

        Deliveries in ``held_ids`` are skipped even if their lease has expired, because they run in this process.
        Raises ``django.db.Error`` if the database is unavailable or locked.
        """
        now = now_us()
        condition = f"d.next_check_at <= %s{self._get_queue_condition()}" + (
            f" AND d.id NOT IN ({_build_placeholders(held_ids)})" if held_ids else ""
        )
        params = [*self.queues, *held_ids]
        if self.connection.vendor == "postgresql":
            deliveries = self._acquire_in_one_statement(condition, params, limit, start_count)
        else:
            deliveries = self._acquire_in_steps(condition, params, limit, start_count)
        self._last_batch_full = len(deliveries) >= limit
        self._park_blocked(now)
        return deliveries

    def _acquire_in_one_statement(
        self, condition: str, params: list[Any], limit: int, start_count: int
    ) -> list[LeasedDelivery]:
        sql = (
            f"WITH picked AS MATERIALIZED (SELECT d.id FROM {TABLE} d WHERE {condition} AND {self._runnable} "
            "ORDER BY d.next_check_at LIMIT %s FOR UPDATE OF d SKIP LOCKED), "
            "ranked AS (SELECT id, row_number() OVER (ORDER BY id) <= %s AS started FROM picked) "
            f"UPDATE {TABLE} d SET lease_expires_at = %s, next_check_at = %s, fencing_token = d.fencing_token + 1, "
            "attempts = d.attempts + ranked.started::int FROM ranked WHERE d.id = ranked.id "
            f"RETURNING {_QUALIFIED_LEASED_COLUMNS}, ranked.started"
        )
        self.connection.ensure_connection()  # connecting may take long, so the time is read after it
        now, lease_expires_at = _get_now_and_lease_expiry()
        rows = self._fetch_in_one_round_trip(
            f"{_DISABLE_JIT_SQL}; {sql}",
            [now, *params, now, limit, start_count, lease_expires_at, lease_expires_at],
        )
        deliveries = [self._build_leased_delivery(row, attempt_started=row[-1]) for row in sorted(rows)]
        return self._drop_overtaken(deliveries)

    def _acquire_in_steps(
        self, condition: str, params: list[Any], limit: int, start_count: int
    ) -> list[LeasedDelivery]:
        select = f"SELECT d.id FROM {TABLE} d WHERE {condition} AND {self._runnable} ORDER BY d.next_check_at LIMIT %s"
        with self.connection.cursor() as cursor:
            # A read takes no lock: a worker that finds nothing must not slow down other writers.
            if not self._last_batch_full:
                cursor.execute(select, [now_us(), *params, now_us(), 1])
                if cursor.fetchone() is None:
                    return []
        with self._write_transaction(), self.connection.cursor() as cursor:
            now, lease_expires_at = _get_now_and_lease_expiry()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(select + (" FOR UPDATE SKIP LOCKED" if locked else ""), [now, *params, now, limit])
            ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                return []
            # Check again: a locking read sees rows that were committed while it ran, its subquery does not.
            first = f" AND {self._first_in_partition}" if locked else ""
            cursor.execute(
                f"SELECT {_QUALIFIED_LEASED_COLUMNS} FROM {TABLE} d "
                f"WHERE d.id IN ({_build_placeholders(ids)}){first} ORDER BY d.id",
                ids,
            )
            rows = cursor.fetchall()
            ids = [row[0] for row in rows]
            for part, counted in ((ids[:start_count], 1), (ids[start_count:], 0)):
                if part:
                    cursor.execute(
                        f"UPDATE {TABLE} SET lease_expires_at = %s, next_check_at = %s, "
                        f"fencing_token = fencing_token + 1, attempts = attempts + {counted} "
                        f"WHERE id IN ({_build_placeholders(part)})",
                        [lease_expires_at, lease_expires_at, *part],
                    )
        deliveries = [self._build_leased_delivery(row, attempt_started=False) for row in rows]
        for index, delivery in enumerate(deliveries):
            delivery.fencing_token += 1
            delivery.attempt_started = index < start_count
            delivery.attempts += delivery.attempt_started
        return self._drop_overtaken(deliveries)

    def _drop_overtaken(self, leased: list[LeasedDelivery]) -> list[LeasedDelivery]:
        """Release deliveries that are not the first of their partition; return the others.

        An earlier delivery may be inserted or retried while this worker acquires. Another worker that acquires that one
        either sees these leases and skips it, or this query sees its lease.
        """
        ids = [delivery.id for delivery in leased if delivery.partition_id is not None]
        if not ids or self.connection.vendor == "sqlite":  # only one connection holds SQLite's write lock
            return leased
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT d.id FROM {TABLE} d WHERE d.id IN ({_build_placeholders(ids)}) "
                f"AND NOT {self._first_in_partition}",
                ids,
            )
            overtaken = {row[0] for row in cursor.fetchall()}
        if overtaken:
            self.release([delivery for delivery in leased if delivery.id in overtaken], notify=False)
        return [delivery for delivery in leased if delivery.id not in overtaken]

    def acquire_by_id(self, delivery_id: int) -> LeasedDelivery | None:
        """Lease one delivery and count its attempt.

        Return ``None`` if it is not due, leased by another process, or not the first of its partition.
        A row that another transaction has locked is tried again: the broker's message would be lost otherwise.
        """
        delivery = self._try_acquire_by_id(delivery_id)
        for seconds in LOCKED_ROW_RETRY_SECONDS:
            if delivery is not None or not self._is_runnable(delivery_id):
                break
            time.sleep(seconds)
            delivery = self._try_acquire_by_id(delivery_id)
        return delivery

    _RUNNABLE_BY_ID_SQL: Final = (
        "d.id = %s AND d.state = 'pending' AND d.run_at <= %s "
        "AND (d.lease_expires_at IS NULL OR d.lease_expires_at < %s)"
    )

    def _is_runnable(self, delivery_id: int) -> bool:
        """Return whether the delivery could be acquired if no other transaction had locked its row."""
        if not self.connection.features.has_select_for_update_skip_locked:
            return False
        now = now_us()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT 1 FROM {TABLE} d WHERE {self._RUNNABLE_BY_ID_SQL} AND {self._runnable}",
                [delivery_id, now, now, now],
            )
            return cursor.fetchone() is not None

    def _try_acquire_by_id(self, delivery_id: int) -> LeasedDelivery | None:
        with self._write_transaction(), self.connection.cursor() as cursor:
            now, lease_expires_at = _get_now_and_lease_expiry()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT {_QUALIFIED_LEASED_COLUMNS} FROM {TABLE} d "
                f"WHERE {self._RUNNABLE_BY_ID_SQL} AND {self._runnable}"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                [delivery_id, now, now, now],
            )
            row = cursor.fetchone()
            if row is None:
                return None
            cursor.execute(
                f"UPDATE {TABLE} SET lease_expires_at = %s, next_check_at = %s, "
                "fencing_token = fencing_token + 1, attempts = attempts + 1 WHERE id = %s",
                [lease_expires_at, lease_expires_at, delivery_id],
            )
        delivery = self._build_leased_delivery(row, attempt_started=True)
        delivery.fencing_token += 1
        delivery.attempts += 1
        return next(iter(self._drop_overtaken([delivery])), None)

    def dispatch(self, limit: int, redispatch_at: int, full_queues: Sequence[str] = ()) -> list[tuple[int, str]]:
        """Mark up to ``limit`` due deliveries as dispatched until ``redispatch_at``; return their ids and queues.

        Deliveries of ``full_queues`` are skipped. The mark is committed when this returns, so publish after it. A
        delivery whose message was not published, or was lost, is dispatched again at ``redispatch_at``.
        """
        now = now_us()
        condition = f"d.next_check_at <= %s{self._get_queue_condition()}" + (
            f" AND d.queue NOT IN ({_build_placeholders(full_queues)})" if full_queues else ""
        )
        select = (
            f"SELECT d.id, d.queue FROM {TABLE} d WHERE {condition} AND {self._runnable} "
            "ORDER BY d.next_check_at LIMIT %s"
        )
        params: list[Any] = [now, *self.queues, *full_queues, now]
        self._park_blocked(now)
        with self.connection.cursor() as cursor:
            if self.connection.vendor != "postgresql":
                cursor.execute(select, [*params, 1])
                if cursor.fetchone() is None:
                    return []
        with self._write_transaction(), self.connection.cursor() as cursor:
            locked = self.connection.features.has_select_for_update_skip_locked
            lock = " FOR UPDATE SKIP LOCKED" if locked else ""
            if lock and self.connection.features.has_select_for_update_of:
                lock = " FOR UPDATE OF d SKIP LOCKED"
            if self.connection.vendor == "postgresql":
                cursor.execute(_DISABLE_JIT_SQL)
            cursor.execute(select + lock, [*params, limit])
            rows = sorted(cursor.fetchall())
            if rows:
                ids = [row[0] for row in rows]
                cursor.execute(
                    f"UPDATE {TABLE} SET next_check_at = %s WHERE id IN ({_build_placeholders(ids)})",
                    [redispatch_at, *ids],
                )
        return rows

    def recall(self, ids: Sequence[int], redispatch_at: int) -> None:
        """Undo ``dispatch`` for deliveries whose messages could not be published."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET next_check_at = %s WHERE id IN ({_build_placeholders(ids)}) "
                "AND next_check_at = %s AND lease_expires_at IS NULL",
                [now_us(), *ids, redispatch_at],
            )

    def unblock_next(self, partition_id: int, delivery_id: int) -> None:
        """Make the next delivery in the partition due. ``delivery_id`` is the one that has left it."""
        with self.connection.cursor() as cursor:
            cursor.execute(*self._unblock_next_sql(partition_id, delivery_id))

    def count_in_flight(self, redispatch_at: int) -> dict[str, int]:
        """Return the number of deliveries by queue that are dispatched and not started.

        Deliveries that are not due, or not the first of their partition, are not counted.
        """
        now = now_us()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT d.queue, count(*) FROM {TABLE} d "
                f"WHERE d.next_check_at > %s AND d.next_check_at <= %s{self._get_queue_condition()} "
                f"AND d.run_at <= %s AND d.lease_expires_at IS NULL AND {self._first_in_partition} GROUP BY d.queue",
                [now, redispatch_at, *self.queues, now],
            )
            return dict(cursor.fetchall())

    def get_next_check_at(self) -> int | None:
        """Return the earliest ``next_check_at`` in the future; ``None`` if there is none."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT min(d.next_check_at) FROM {TABLE} d WHERE d.next_check_at > %s{self._get_queue_condition()}",
                [now_us(), *self.queues],
            )
            next_check_at: int | None = cursor.fetchone()[0]
            return next_check_at

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

    def _park_blocked(self, now: int) -> None:
        """Park due deliveries that are blocked by a retry, by a dead letter, or by many others of their partition.

        Otherwise each poll would read them all. An error does not lose the acquired deliveries: parking is tried again
        one second later.
        """
        if now < self._next_parking_check:
            return
        self._next_parking_check = now + SECOND_US
        deadline = time.monotonic() + 0.2
        try:
            while (blocked := self._find_blocked(now)) and self._park(blocked, now) > MIN_BLOCKED_TO_PARK:
                if time.monotonic() > deadline:
                    self._next_parking_check = 0
                    return
        except Error as error:  # another worker parks the same rows
            logger.debug("Blocked deliveries could not be parked and will be checked again: %s", error)

    def _find_blocked(self, now: int) -> dict[int, list[int]]:
        """Return the ids of due deliveries to park, by the id of the delivery that blocks them."""
        unleased = _first_unleased_sql(self.connection.vendor)
        leased = _leased_sql(self.connection.vendor, "p.id < d.id")
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT d.id, h.id, h.lease_expires_at IS NULL AND (h.next_check_at IS NULL OR h.run_at > %s) FROM "
                f"(SELECT d.id, d.partition_id FROM {TABLE} d "
                f"WHERE d.next_check_at <= %s{self._get_queue_condition()} ORDER BY d.next_check_at LIMIT %s) d "
                f"JOIN {TABLE} h ON h.id = CASE WHEN {unleased} < d.id THEN {unleased} ELSE {leased} END "
                "WHERE d.partition_id IS NOT NULL",
                [now, now, *self.queues, PARKING_SCAN_LIMIT],
            )
            rows = cursor.fetchall()
        blocked: dict[int, list[int]] = {}
        idle_heads = set()
        for delivery_id, head_id, is_idle in rows:
            blocked.setdefault(head_id, []).append(delivery_id)
            if is_idle:
                idle_heads.add(head_id)
        return {
            head_id: ids for head_id, ids in blocked.items() if head_id in idle_heads or len(ids) >= MIN_BLOCKED_TO_PARK
        }

    def _park(self, blocked: dict[int, list[int]], now: int) -> int:
        """Postpone the next check of blocked deliveries; return how many.

        ``blocked`` holds their ids by the id of the delivery that blocks them.

        The blocking rows are locked during the update. One that has left its partition before parks nothing, and one
        that leaves it later sees the parked rows.
        """
        with self._write_transaction(), self.connection.cursor() as cursor:
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE id IN ({_build_placeholders(blocked)}) AND partition_id IS NOT NULL"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                list(blocked),
            )
            ids = sorted(delivery_id for row in cursor.fetchall() for delivery_id in blocked[row[0]])
            if not ids:
                return 0
            cursor.execute(
                f"UPDATE {TABLE} SET next_check_at = %s WHERE id IN ({_build_placeholders(ids)}) "
                "AND next_check_at <= %s AND lease_expires_at IS NULL",
                [now + PARKED_RECHECK_US, *ids, now],
            )
            count: int = cursor.rowcount
            return count

    # ------------------------------------------------------------ leased deliveries

    def renew_leases(self, deliveries: Sequence[LeasedDelivery]) -> set[int]:
        """Extend the leases of ``deliveries``; return the ids of those that this process has lost."""
        lost = set()
        with self._write_transaction(), self.connection.cursor() as cursor:
            _, lease_expires_at = _get_now_and_lease_expiry()
            for delivery in deliveries:
                cursor.execute(
                    f"UPDATE {TABLE} SET lease_expires_at = %s, next_check_at = %s "
                    "WHERE id = %s AND fencing_token = %s AND lease_expires_at IS NOT NULL",
                    [lease_expires_at, lease_expires_at, delivery.id, delivery.fencing_token],
                )
                if not cursor.rowcount:
                    lost.add(delivery.id)
        return lost

    def start_attempt(self, delivery: LeasedDelivery) -> bool:
        """Count the attempt and restart its lease; return whether this process still has the delivery."""
        return self._execute(lambda: [self._start_attempt_sql(delivery)])[0] == 1

    def complete(
        self, delivery: LeasedDelivery, result: AttemptResult, next_delivery: LeasedDelivery | None = None
    ) -> tuple[bool, bool]:
        """Write ``result`` and count the attempt of ``next_delivery`` in one transaction.

        Return for each delivery whether this process still had it. A delivery whose lease was lost is not changed.
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
        """End the leases of ``deliveries`` without a result; ``notify`` other workers if the database can."""
        now = now_us()
        update = f"UPDATE {TABLE} SET lease_expires_at = NULL, next_check_at = %s, attempts = attempts - %s"
        statements = [
            (
                f"{update} WHERE id = %s AND fencing_token = %s AND lease_expires_at IS NOT NULL",
                [now, int(delivery.attempt_started), delivery.id, delivery.fencing_token],
            )
            for delivery in deliveries
        ]
        if statements:
            with self._write_transaction(), self.connection.cursor() as cursor:
                for sql, params in statements:
                    cursor.execute(sql, params)
                if notify and self.connection.vendor == "postgresql":
                    cursor.execute(f"NOTIFY {batches.NOTIFY_CHANNEL}")

    @staticmethod
    def _start_attempt_sql(delivery: LeasedDelivery) -> tuple[str, list[Any]]:
        now, lease_expires_at = _get_now_and_lease_expiry()
        sql = (
            "SET attempts = attempts + 1, lease_expires_at = %s, next_check_at = %s "
            "WHERE id = %s AND fencing_token = %s AND lease_expires_at > %s"
        )
        params = [lease_expires_at, lease_expires_at, delivery.id, delivery.fencing_token, now]
        return f"UPDATE {TABLE} {sql}", params

    @staticmethod
    def _complete_sql(delivery: LeasedDelivery, result: AttemptResult) -> tuple[str, list[Any]]:
        now = now_us()
        run_at = now + int(result.retry_delay * SECOND_US)
        where = "WHERE id = %s AND fencing_token = %s AND lease_expires_at IS NOT NULL"
        key = [delivery.id, delivery.fencing_token]
        finish = f"UPDATE {TABLE} SET finished = %s, next_check_at = NULL, lease_expires_at = NULL"
        reschedule = f"UPDATE {TABLE} SET run_at = %s, next_check_at = %s, lease_expires_at = NULL"
        attempts = f"attempts = attempts - {int(delivery.attempt_started and not result.receiver_called)}"
        match result.disposition:
            case Disposition.DONE if not conf.get().DURABLE.RETENTION_DAYS:
                return f"DELETE FROM {TABLE} {where}", key
            case Disposition.DONE:
                columns = "state = 'done', partition_id = NULL, error = '', traceback = NULL"
                return f"{finish}, {columns} {where}", [now, *key]
            case Disposition.DEAD:
                partition = ", partition_id = NULL" if result.releases_partition else ""
                columns = f"state = 'dead', error = %s, traceback = %s, {attempts}{partition}"
                return f"{finish}, {columns} {where}", [now, result.error, result.traceback, *key]
            case Disposition.RETRY:
                columns = "error = %s, traceback = %s"
                return f"{reschedule}, {columns} {where}", [run_at, run_at, result.error, result.traceback, *key]
            case Disposition.DEFERRED:
                columns = f"error = %s, {attempts}"
                return f"{reschedule}, {columns} {where}", [run_at, run_at, result.error, *key]

    def _unblock_next_sql(self, partition_id: int, delivery_id: int) -> tuple[str, list[Any]]:
        # No condition on whether it is parked: PostgreSQL would evaluate it on the row version before the awaited lock.
        condition = "partition_id = %s AND lease_expires_at IS NULL AND id > %s"
        order = "ORDER BY lease_expires_at, id LIMIT 1"  # the order of the index
        params = [partition_id, delivery_id]
        if self.connection.vendor == "mysql":  # MySQL would scan the whole table for an id that a subquery returns
            table = f"{TABLE} FORCE INDEX (signalbox_delivery_partition)"
            where = f"{condition} AND next_check_at IS NOT NULL {order}"
            return f"UPDATE {table} SET next_check_at = run_at WHERE {where}", params
        where = f"id = (SELECT id FROM {TABLE} WHERE {condition} {order}) AND next_check_at IS NOT NULL"
        return f"UPDATE {TABLE} SET next_check_at = run_at WHERE {where}", params

    def _execute(self, build_statements: Callable[[], Sequence[tuple[str, list[Any]]]]) -> list[int]:
        """Run the statements in one transaction, in one message on PostgreSQL; return the counts of changed rows.

        ``build_statements`` is called once the write lock is held, because the statements contain the time.
        """
        connection = self.connection
        if connection.vendor == "postgresql":
            return self._execute_in_one_statement(build_statements())
        counts = []
        backend = backends.get_backend(connection)
        with backend.relaxed_durability(), self._write_transaction(), connection.cursor() as cursor:
            for sql, params in build_statements():
                cursor.execute(sql, params)
                counts.append(cursor.rowcount)
        return counts

    def _execute_in_one_statement(self, statements: Sequence[tuple[str, list[Any]]]) -> list[int]:
        # The first statement must finish, with the locks that it waits for, before the others read.
        after = " AND (SELECT count(*) FROM w0) >= 0"
        parts = [f"w{n} AS ({sql}{after if n else ''} RETURNING 1)" for n, (sql, _) in enumerate(statements)]
        row_counts = [f"(SELECT count(*) FROM w{n})" for n in range(len(statements))]
        sql = f"{postgresql.DISABLE_SYNCHRONOUS_COMMIT_SQL}; WITH {', '.join(parts)} SELECT {', '.join(row_counts)}"
        return list(self._fetch_in_one_round_trip(sql, [value for _, params in statements for value in params])[0])

    def _fetch_in_one_round_trip(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """Send several statements in one message to PostgreSQL; return the rows of the last one."""
        connection = self.connection
        connection.ensure_connection()
        with connection.wrap_database_errors, postgresql.PostgreSQLBackend(connection).create_cursor() as cursor:
            cursor.execute(sql, params)
            while hasattr(cursor, "nextset") and cursor.description is None and cursor.nextset():
                pass
            return list(cursor.fetchall())

    @contextmanager
    def _write_transaction(self) -> Iterator[None]:
        """Open a transaction that takes SQLite's write lock at its start. One that reads first may fail immediately."""
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
        """Delete up to ``limit`` done or discarded deliveries that are older than the setting; return how many."""
        finished_before = now_us() - int(conf.get().DURABLE.RETENTION_DAYS * 86_400 * SECOND_US)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE state IN ('done', 'discarded') AND finished < %s LIMIT %s",
                [finished_before, limit],
            )
            ids = [row[0] for row in cursor.fetchall()]
            if ids:
                cursor.execute(f"DELETE FROM {TABLE} WHERE id IN ({_build_placeholders(ids)})", ids)
        return len(ids)


def _build_placeholders(values: Collection[Any]) -> str:
    return ", ".join(["%s"] * len(values))


def get_delivery_databases() -> list[str]:
    """Return the aliases of the databases with the deliveries' table. Unavailable databases are included."""
    return [alias for alias in connections if _may_have_table(connections[alias])]


def _may_have_table(connection: BaseDatabaseWrapper) -> bool:
    try:
        with connection.cursor() as cursor:
            return TABLE in connection.introspection.table_names(cursor)
    except Error as error:
        logger.warning("Database %r is unavailable, it may hold deliveries: %s", connection.alias, error)
        connection.close()
        return True


def get_deliveries_database() -> str:
    """Return the alias of the database that holds the deliveries of events which no change ties to another."""
    from signalbox.models import Delivery  # not apps.get_model(): a test can limit the current apps

    alias: str = router.db_for_write(Delivery)
    return alias
