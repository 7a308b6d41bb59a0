"""Lease deliveries to workers and write the results of their attempts.

``claiming`` leases deliveries, ``settling`` writes results, and ``parking`` postpones blocked ones. Only these modules
and this one update a delivery's state.

``next_check_at`` is the time at which a row must be looked at again: when it becomes due, when its lease expires, or
when its broker message counts as lost. One index on that column finds all work, however large the table is.
``partition_id`` is set while a row takes part in the order of its key: the row with the lowest id in a partition runs
first. Finished rows have neither. A delivery with many others before it is parked: its ``next_check_at`` is set far in
the future, and the delivery that leaves the partition makes the next one due.

Each acquisition increments ``fencing_token`` and each write compares it. So a worker whose lease has expired cannot
finish a delivery that another worker runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import Error, connections, router

from signalbox.core import loggers
from signalbox.core.clock import now_us
from signalbox.outbox.claiming import DeliveryClaiming
from signalbox.outbox.database_clock import SECOND_US
from signalbox.outbox.deletion import FIRST_POSITION, FinishedPosition, delete_rows
from signalbox.outbox.deliveries import SUCCEEDED, AttemptResult, Disposition, LeasedDelivery
from signalbox.outbox.partitions import TABLE, first_in_partition_sql
from signalbox.outbox.table import DISABLE_JIT_SQL, DUE_SQL, build_placeholders, insert_lost_attempts_sql

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = [
    "FIRST_POSITION",
    "SECOND_US",
    "SUCCEEDED",
    "TABLE",
    "AttemptResult",
    "DeliveryQueue",
    "Disposition",
    "FinishedPosition",
    "LeasedDelivery",
    "first_in_partition_sql",
    "get_deliveries_database",
    "get_delivery_databases",
    "now_us",
]

logger = loggers.get_logger("outbox")


class DeliveryQueue(DeliveryClaiming):
    """The deliveries in one database."""

    # ------------------------------------------------------------ messages of a broker

    def dispatch(self, limit: int, redispatch_at: int, full_queues: Sequence[str] = ()) -> list[tuple[int, str]]:
        """Mark up to ``limit`` due deliveries as dispatched until ``redispatch_at``; return their ids and queues.

        Deliveries of ``full_queues`` are skipped. The mark is committed when this returns, so publish after it. A
        delivery whose message was not published, or was lost, is dispatched again at ``redispatch_at``.
        """
        now, lease_time = self.due_time, self.lease_time
        condition = f"{DUE_SQL}{self.get_queue_condition()}" + (
            f" AND d.queue NOT IN ({build_placeholders(full_queues)})" if full_queues else ""
        )
        select = (
            f"SELECT d.id, d.queue FROM {TABLE} d WHERE {condition} AND {self._runnable} "
            "ORDER BY d.next_check_at LIMIT %s"
        )
        params: list[Any] = [now, lease_time, *self.queues, *full_queues, lease_time]
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
                cursor.execute(DISABLE_JIT_SQL)
            cursor.execute(select + lock, [*params, limit])
            rows = sorted(cursor.fetchall())
            if rows:
                ids = [row[0] for row in rows]
                cursor.execute(
                    f"UPDATE {TABLE} SET next_check_at = %s WHERE id IN ({build_placeholders(ids)})",
                    [redispatch_at, *ids],
                )
        return rows

    def recall(self, ids: Sequence[int], redispatch_at: int) -> None:
        """Undo ``dispatch`` for deliveries whose messages could not be published."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {TABLE} SET next_check_at = %s WHERE id IN ({build_placeholders(ids)}) "
                "AND next_check_at = %s AND lease_expires_at IS NULL",
                [self.lease_time, *ids, redispatch_at],
            )

    def unblock_next(self, partition_id: int, delivery_id: int) -> None:
        """Make the next delivery in the partition due. ``delivery_id`` is the one that has left it."""
        with self.connection.cursor() as cursor:
            statement = self._unblock_next_sql(partition_id, delivery_id)
            cursor.execute(statement.sql, statement.params)

    def count_in_flight(self, redispatch_at: int) -> dict[str, int]:
        """Return the number of deliveries by queue that are dispatched and not started.

        Deliveries that are not due, or not the first of their partition, are not counted.
        """
        now = self.due_time
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT d.queue, count(*) FROM {TABLE} d "
                f"WHERE d.next_check_at > %s AND d.next_check_at <= %s{self.get_queue_condition()} "
                f"AND d.run_at <= %s AND d.lease_expires_at IS NULL AND {self._first_in_partition} GROUP BY d.queue",
                [now, redispatch_at, *self.queues, now],
            )
            return dict(cursor.fetchall())

    # ------------------------------------------------------------ the time until there is work

    def get_seconds_until_next_check(self) -> float | None:
        """Return the seconds until the next delivery becomes due or a lease expires; ``None`` if there is none."""
        now = self.due_time
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT min(d.next_check_at) FROM {TABLE} d WHERE d.next_check_at > %s{self.get_queue_condition()}",
                [now, *self.queues],
            )
            next_check_at: int | None = cursor.fetchone()[0]
        return None if next_check_at is None else (next_check_at - now) / SECOND_US

    def has_work(self) -> bool:
        """Return whether a delivery is due, or will be due when one that is leased now leaves its partition."""
        now, lease_time = self.due_time, self.lease_time
        queue_condition = self.get_queue_condition()
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT 1 FROM {TABLE} d WHERE {DUE_SQL}{queue_condition} AND {self._runnable} LIMIT 1",
                [now, lease_time, *self.queues, lease_time],
            )
            if cursor.fetchone() is not None:
                return True
            order = "p.lease_expires_at, p.id" if self.connection.vendor == "postgresql" else "p.id"
            cursor.execute(
                f"SELECT 1 FROM {TABLE} h JOIN {TABLE} d ON d.id = (SELECT p.id FROM {TABLE} p WHERE "
                "p.partition_id = h.partition_id AND p.lease_expires_at IS NULL AND p.id > h.id "
                f"ORDER BY {order} LIMIT 1) WHERE h.next_check_at > %s AND h.next_check_at <= %s "
                "AND h.lease_expires_at > %s AND h.partition_id IS NOT NULL "
                f"AND d.state = 'pending' AND d.run_at <= %s{queue_condition} LIMIT 1",
                [lease_time, self.get_now_and_lease_expiry()[1], lease_time, now, *self.queues],
            )
            return cursor.fetchone() is not None

    # ------------------------------------------------------------ housekeeping

    def delete_finished(
        self, state: str, finished_before: int, after: FinishedPosition, limit: int
    ) -> tuple[int, FinishedPosition | None]:
        """Delete up to ``limit`` deliveries that are done, discarded or dead since before a time, oldest first.

        Later deliveries of the key of a dead letter then run.

        Args:
            state: One of these states.
            finished_before: The time, in microseconds since 1970.
            after: Continue after this position. Rows that were deleted before it are not read again, even if an open
                transaction of PostgreSQL still needs them.
            limit: Maximum number of deliveries.

        Returns:
            The number of deleted deliveries, and the position to continue at; ``None`` at the end.
        """
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT finished, id, partition_id FROM {TABLE} WHERE state = %s AND finished >= %s AND finished < %s "
                "AND (finished > %s OR id > %s) ORDER BY finished, id LIMIT %s",
                [state, after.finished, finished_before, after.finished, after.id, limit],
            )
            rows = cursor.fetchall()
        if not rows:
            return 0, None
        if state == "dead":
            count = sum(self._delete_dead(row[1], row[2], finished_before) for row in rows)
        else:
            with self._write_transaction():
                count = delete_rows(self.connection, sorted(row[1] for row in rows), state, finished_before)
        return count, FinishedPosition(*rows[-1][:2])

    def _delete_dead(self, delivery_id: int, partition_id: int | None, finished_before: int) -> int:
        with self._write_transaction():
            deleted = delete_rows(self.connection, [delivery_id], "dead", finished_before)
            if deleted and partition_id is not None:
                self.unblock_next(partition_id, delivery_id)
        return deleted

    def count_finished(self, state: str, finished_before: int) -> int:
        """Return the number of deliveries in a state since before a time (µs)."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {TABLE} WHERE state = %s AND finished < %s", [state, finished_before])
            return int(cursor.fetchone()[0])

    # ------------------------------------------------------------ attempts without a result

    def record_lost_attempt(self, delivery_id: int) -> None:
        """Record the attempt of a delivery whose lease has expired, before the lease is removed.

        Call it in a transaction that has locked the row.
        """
        with self.connection.cursor() as cursor:
            source = f"{TABLE} s WHERE s.id = %s AND s.attempt_started IS NOT NULL"
            cursor.execute(insert_lost_attempts_sql(source), [delivery_id])


def get_delivery_databases() -> list[str]:
    """Return the aliases of the databases with the deliveries' table. Unavailable databases are included."""
    return [alias for alias in connections if _may_have_table(connections[alias])]


def _may_have_table(connection: BaseDatabaseWrapper) -> bool:
    try:
        with connection.cursor() as cursor:
            return TABLE in connection.introspection.table_names(cursor)
    except Error as error:
        logger.warning("Database %r is unavailable, and may have deliveries: %s", connection.alias, error)
        connection.close()
        return True


def get_deliveries_database() -> str:
    """Return the alias of the database that holds the deliveries of events which no change ties to another."""
    from signalbox.models import Delivery  # not apps.get_model(): a test can limit the current apps

    alias: str = router.db_for_write(Delivery)
    return alias
