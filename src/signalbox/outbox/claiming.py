"""Lease deliveries to this process. Another process can acquire them when their leases have expired."""

from __future__ import annotations

import time
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from signalbox.core.clock import now_us
from signalbox.outbox.deliveries import LeasedDelivery
from signalbox.outbox.partitions import TABLE
from signalbox.outbox.settling import DeliverySettling
from signalbox.outbox.table import (
    DISABLE_JIT_SQL,
    DUE_SQL,
    QUALIFIED_LEASED_COLUMNS,
    build_placeholders,
    insert_lost_attempts_sql,
)
from signalbox.outbox.worker_name import get_worker_name
from signalbox.pipeline.backends import postgresql

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

LOCKED_ROW_RETRY_SECONDS: Final = (0.02, 0.1, 0.5, 2.0)
"""Seconds to wait before each new attempt to lock a row. Such locks usually last microseconds."""


MAX_RUN_LENGTH: Final = 20
"""Maximum number of deliveries of one partition that one thread runs before others may be acquired."""


class DeliveryClaiming(DeliverySettling):
    """Leases deliveries one by one, or in runs of a partition."""

    _last_batch_full = False
    """Whether the last acquisition returned as many deliveries as its limit."""

    def acquire(self, limit: int, start_count: int = 0, held_ids: Sequence[int] = ()) -> list[LeasedDelivery]:
        """Lease up to ``limit`` due deliveries, oldest first, and count an attempt for ``start_count`` of them.

        Deliveries in ``held_ids`` are skipped even if their lease has expired, because they run in this process.
        Raises ``django.db.Error`` if the database is unavailable or locked.
        """
        now = self.due_time
        condition = f"{DUE_SQL}{self.get_queue_condition()}" + (
            f" AND d.id NOT IN ({build_placeholders(held_ids)})" if held_ids else ""
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
            "WITH picked AS MATERIALIZED (SELECT d.id, d.fencing_token, d.attempts, d.attempt_started, "
            f"d.lease_expires_at, d.worker FROM {TABLE} d WHERE {condition} AND {self._runnable} "
            "ORDER BY d.next_check_at LIMIT %s FOR UPDATE OF d SKIP LOCKED), "
            "ranked AS (SELECT id, row_number() OVER (ORDER BY id) <= %s AS started FROM picked), "
            f"lost AS ({insert_lost_attempts_sql('picked s WHERE s.attempt_started IS NOT NULL')}) "
            f"UPDATE {TABLE} d SET lease_expires_at = %s, next_check_at = %s, fencing_token = d.fencing_token + 1, "
            "attempts = d.attempts + ranked.started::int, worker = %s, "
            "attempt_started = CASE WHEN ranked.started THEN %s::bigint END FROM ranked WHERE d.id = ranked.id "
            f"RETURNING {QUALIFIED_LEASED_COLUMNS}, ranked.started"
        )
        self.connection.ensure_connection()  # connecting may take long, so the time is read after it
        now, lease_expires_at = self.get_now_and_lease_expiry()
        started = now_us()
        rows = self.fetch_in_one_round_trip(
            f"{DISABLE_JIT_SQL}; {sql}",
            [
                *(self.due_time, now, *params, now, limit, start_count, lease_expires_at, lease_expires_at),
                *(get_worker_name(), started),
            ],
        )
        deliveries = [self._build_leased_delivery(row, attempt_started=row[-1]) for row in sorted(rows)]
        for delivery in deliveries:
            delivery.started = started if delivery.attempt_started else None
        return self._drop_overtaken(deliveries)

    def _acquire_in_steps(
        self, condition: str, params: list[Any], limit: int, start_count: int
    ) -> list[LeasedDelivery]:
        select = f"SELECT d.id FROM {TABLE} d WHERE {condition} AND {self._runnable} ORDER BY d.next_check_at LIMIT %s"
        with self.connection.cursor() as cursor:
            # A read takes no lock: a worker that finds nothing must not slow down other writers.
            if not self._last_batch_full:
                cursor.execute(select, [self.due_time, self.lease_time, *params, self.lease_time, 1])
                if cursor.fetchone() is None:
                    return []
        with self._write_transaction(), self.connection.cursor() as cursor:
            now, lease_expires_at = self.get_now_and_lease_expiry()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                select + (" FOR UPDATE SKIP LOCKED" if locked else ""), [self.due_time, now, *params, now, limit]
            )
            ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                return []
            # Check again: a locking read sees rows that were committed while it ran, its subquery does not.
            first = f" AND {self._first_in_partition}" if locked else ""
            cursor.execute(
                f"SELECT {QUALIFIED_LEASED_COLUMNS} FROM {TABLE} d "
                f"WHERE d.id IN ({build_placeholders(ids)}){first} ORDER BY d.id",
                ids,
            )
            rows = cursor.fetchall()
            ids = [row[0] for row in rows]
            self._record_lost_attempts(cursor, rows)
            started = now_us()
            for part, counted in ((ids[:start_count], 1), (ids[start_count:], 0)):
                if part:
                    cursor.execute(
                        f"UPDATE {TABLE} SET lease_expires_at = %s, next_check_at = %s, "
                        f"fencing_token = fencing_token + 1, attempts = attempts + {counted}, worker = %s, "
                        f"attempt_started = %s WHERE id IN ({build_placeholders(part)})",
                        [lease_expires_at, lease_expires_at, get_worker_name(), started if counted else None, *part],
                    )
        deliveries = [self._build_leased_delivery(row, attempt_started=False) for row in rows]
        for index, delivery in enumerate(deliveries):
            delivery.fencing_token += 1
            delivery.attempt_started = index < start_count
            delivery.attempts += delivery.attempt_started
            delivery.started = started if delivery.attempt_started else None
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
                f"SELECT d.id FROM {TABLE} d WHERE d.id IN ({build_placeholders(ids)}) "
                f"AND NOT {self._first_in_partition}",
                ids,
            )
            overtaken = {row[0] for row in cursor.fetchall()}
        if overtaken:
            self.release([delivery for delivery in leased if delivery.id in overtaken], notify=False)
        return [delivery for delivery in leased if delivery.id not in overtaken]

    def lease_followers(
        self, heads: Sequence[LeasedDelivery], limit: int, held_ids: Collection[int] = ()
    ) -> dict[int, list[LeasedDelivery]]:
        """Lease the deliveries that follow ``heads`` in their partitions, in order and without gaps.

        ``heads`` are leased by this process. At most ``limit`` deliveries are leased, and at most ``MAX_RUN_LENGTH``
        are leased of a partition. Return them by the id of their head. Their attempts are not counted.
        """
        followed = self._find_followed(heads) if limit > 0 else []
        if not followed:
            return {}
        runs: dict[int, list[LeasedDelivery]] = {}
        with self._write_transaction(), self.connection.cursor() as cursor:
            if self.connection.vendor == "postgresql":  # a lease that a crash of the server loses is not missed
                cursor.execute(postgresql.DISABLE_SYNCHRONOUS_COMMIT_SQL)
            for head in followed:
                count = min(limit, MAX_RUN_LENGTH - 1)
                if count <= 0:
                    break
                ids = [found for found in self._find_followers(cursor, head, count) if found not in held_ids]
                runs[head.id] = self._lease_prefix(cursor, head, ids)
                limit -= len(runs[head.id])
        return runs

    def _find_followed(self, heads: Sequence[LeasedDelivery]) -> list[LeasedDelivery]:
        """Return those ``heads`` that have a later delivery in their partition."""
        ids = [head.id for head in heads if head.partition_id is not None]
        if not ids:
            return []
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT d.id FROM {TABLE} d WHERE d.id IN ({build_placeholders(ids)}) AND EXISTS ("
                f"SELECT 1 FROM {TABLE} p WHERE p.partition_id = d.partition_id AND p.lease_expires_at IS NULL "
                "AND p.id > d.id)",
                ids,
            )
            followed = {row[0] for row in cursor.fetchall()}
        return [head for head in heads if head.id in followed]

    def _find_followers(self, cursor: Any, head: LeasedDelivery, count: int) -> list[int]:
        """Return the ids of the next deliveries in the partition of ``head``, leased or not."""
        ids: list[int] = []
        for lease in ("IS NULL", "IS NOT NULL"):  # each is a range of the index
            order = "p.lease_expires_at, p.id" if self.connection.vendor == "postgresql" else "p.id"
            cursor.execute(
                f"SELECT p.id FROM {TABLE} p WHERE p.partition_id = %s AND p.lease_expires_at {lease} AND p.id > %s "
                f"ORDER BY {order} LIMIT %s",
                [head.partition_id, head.id, count],
            )
            ids += [row[0] for row in cursor.fetchall()]
        return sorted(ids)[:count]

    def _lease_prefix(self, cursor: Any, head: LeasedDelivery, ids: Sequence[int]) -> list[LeasedDelivery]:
        """Lease the deliveries ``ids`` up to the first that is not due, is leased, or is locked."""
        if not ids:
            return []
        lock = " FOR UPDATE SKIP LOCKED" if self.connection.features.has_select_for_update_skip_locked else ""
        now, lease_expires_at = self.get_now_and_lease_expiry()
        cursor.execute(
            f"SELECT {QUALIFIED_LEASED_COLUMNS} FROM {TABLE} d WHERE d.id IN ({build_placeholders(ids)}) "
            "AND d.partition_id = %s AND d.state = 'pending' AND d.run_at <= %s "
            f"AND (d.lease_expires_at IS NULL OR d.lease_expires_at <= %s){self.get_queue_condition()} "
            f"ORDER BY d.id{lock}",
            [*ids, head.partition_id, self.due_time, now, *self.queues],
        )
        pairs = takewhile(lambda pair: pair[0] == pair[1][0], zip(ids, cursor.fetchall(), strict=False))
        rows = [row for _, row in pairs]
        deliveries = [self._build_leased_delivery(row, attempt_started=False) for row in rows]
        if deliveries:
            self._record_lost_attempts(cursor, rows)
            cursor.execute(
                f"UPDATE {TABLE} SET lease_expires_at = %s, next_check_at = %s, fencing_token = fencing_token + 1, "
                f"worker = %s, attempt_started = NULL WHERE id IN ({build_placeholders(deliveries)})",
                [lease_expires_at, lease_expires_at, get_worker_name(), *(delivery.id for delivery in deliveries)],
            )
        for delivery in deliveries:
            delivery.fencing_token += 1
        return deliveries

    def acquire_by_id(self, delivery_id: int, *, takes_expired: bool = True) -> LeasedDelivery | None:
        """Lease one delivery and count its attempt.

        Return ``None`` if it is not due, leased by another process, or not the first of its partition. An expired lease
        counts as well unless ``takes_expired``.
        A row that another transaction has locked is tried again: the broker's message would be lost otherwise.
        """
        delivery = self._try_acquire_by_id(delivery_id, takes_expired)
        for seconds in LOCKED_ROW_RETRY_SECONDS:
            if delivery is not None or not self._is_runnable(delivery_id, takes_expired):
                break
            time.sleep(seconds)
            delivery = self._try_acquire_by_id(delivery_id, takes_expired)
        return delivery

    _RUNNABLE_BY_ID_SQL: Final = (
        "d.id = %s AND d.state = 'pending' AND d.run_at <= %s "
        "AND (d.lease_expires_at IS NULL OR d.lease_expires_at < %s)"
    )

    def _is_runnable(self, delivery_id: int, takes_expired: bool) -> bool:
        """Return whether the delivery could be acquired if no other transaction had locked its row."""
        if not self.connection.features.has_select_for_update_skip_locked:
            return False
        now = self.lease_time
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT 1 FROM {TABLE} d WHERE {self._RUNNABLE_BY_ID_SQL} AND {self._runnable}",
                [delivery_id, self.due_time, now if takes_expired else 0, now],
            )
            return cursor.fetchone() is not None

    def _try_acquire_by_id(self, delivery_id: int, takes_expired: bool) -> LeasedDelivery | None:
        with self._write_transaction(), self.connection.cursor() as cursor:
            now, lease_expires_at = self.get_now_and_lease_expiry()
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT {QUALIFIED_LEASED_COLUMNS} FROM {TABLE} d "
                f"WHERE {self._RUNNABLE_BY_ID_SQL} AND {self._runnable}"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                [delivery_id, self.due_time, now if takes_expired else 0, now],
            )
            row = cursor.fetchone()
            if row is None:
                return None
            self._record_lost_attempts(cursor, [row])
            started = now_us()
            cursor.execute(
                f"UPDATE {TABLE} SET lease_expires_at = %s, next_check_at = %s, fencing_token = fencing_token + 1, "
                "attempts = attempts + 1, worker = %s, attempt_started = %s WHERE id = %s",
                [lease_expires_at, lease_expires_at, get_worker_name(), started, delivery_id],
            )
        delivery = self._build_leased_delivery(row, attempt_started=True)
        delivery.fencing_token += 1
        delivery.attempts += 1
        delivery.started = started
        return next(iter(self._drop_overtaken([delivery])), None)
