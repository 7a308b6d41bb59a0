"""Renew leases, count attempts, write the results of attempts, and release deliveries without a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from signalbox import conf
from signalbox.core.clock import now_us
from signalbox.outbox.database_clock import SECOND_US
from signalbox.outbox.deliveries import AttemptResult, Disposition, LeasedDelivery
from signalbox.outbox.parking import DeliveryParking
from signalbox.outbox.partitions import TABLE
from signalbox.outbox.table import ATTEMPT_TABLE, Statement, build_placeholders
from signalbox.outbox.worker_name import get_worker_name
from signalbox.pipeline import batches
from signalbox.pipeline.serializer import build_error_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from signalbox.core.raised_error import RaisedError


class DeliverySettling(DeliveryParking):
    """Writes what happens to leased deliveries."""

    def renew_leases(self, deliveries: Sequence[LeasedDelivery]) -> set[int]:
        """Extend the leases of ``deliveries``; return the ids of those that this process has not leased any more.

        These may have ended, or their leases have expired and another worker has acquired them: see ``find_taken()``.
        """
        lost = set()
        with self._write_transaction(), self.connection.cursor() as cursor:
            _, lease_expires_at = self.get_now_and_lease_expiry()
            for delivery in deliveries:
                cursor.execute(
                    f"UPDATE {TABLE} SET lease_expires_at = %s, next_check_at = %s "
                    "WHERE id = %s AND fencing_token = %s AND lease_expires_at IS NOT NULL",
                    [lease_expires_at, lease_expires_at, delivery.id, delivery.fencing_token],
                )
                if not cursor.rowcount:
                    lost.add(delivery.id)
        return lost

    def find_taken(self, deliveries: Sequence[LeasedDelivery]) -> list[int]:
        """Return the ids of those ``deliveries`` that another worker has acquired since."""
        if not deliveries:
            return []
        tokens = {delivery.id: delivery.fencing_token for delivery in deliveries}
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"SELECT id, fencing_token FROM {TABLE} WHERE id IN ({build_placeholders(tokens)}) ORDER BY id",
                list(tokens),
            )
            return [delivery_id for delivery_id, token in cursor.fetchall() if token > tokens[delivery_id]]

    def start_attempt(self, delivery: LeasedDelivery) -> bool:
        """Count the attempt and restart its lease; return whether this process still has the delivery."""
        return self._execute(lambda: [self._start_attempt_sql(delivery)])[0] == 1

    def complete(
        self, delivery: LeasedDelivery, result: AttemptResult, next_delivery: LeasedDelivery | None = None
    ) -> tuple[bool, bool]:
        """Write ``result`` and count the attempt of ``next_delivery`` in one transaction.

        Return for each delivery whether this process still had it. A delivery whose lease was lost is not changed.
        A next delivery of the same partition is not started either in that case.

        A result that ends the partition also makes dead letters of the later deliveries. It skips leased ones, so
        release those that this process has leased before the call.
        """
        counts = self._execute(lambda: self._build_completion_statements(delivery, result, next_delivery))
        return counts[0] == 1, next_delivery is not None and counts[1] == 1

    def _build_completion_statements(
        self, delivery: LeasedDelivery, result: AttemptResult, next_delivery: LeasedDelivery | None
    ) -> list[Statement]:
        now = self.due_time
        statements = [self._complete_sql(delivery, result, now)]
        partition_id = delivery.partition_id
        continues_partition = False
        if next_delivery is not None:
            continues_partition = partition_id is not None and next_delivery.partition_id == partition_id
            statements.append(self._start_attempt_sql(next_delivery, requires_first=continues_partition))
        if partition_id is not None and result.leaves_partition and not continues_partition:
            statements.append(self._unblock_next_sql(partition_id, delivery.id))
        if partition_id is not None and result.ends_partition:
            statements.append(self._end_partition_sql(partition_id, delivery.id, result))
        if delivery.attempt_started and result.receiver_called:
            statements.append(self._record_attempt_sql(delivery, result, now))
        if result.raised_error is not None:
            statements.append(self._record_error_sql(delivery, result.raised_error))
        return statements

    def release(self, deliveries: Sequence[LeasedDelivery], *, notify: bool = True) -> None:
        """End the leases of ``deliveries`` without a result; ``notify`` other workers if the database can."""
        update = (
            f"UPDATE {TABLE} SET lease_expires_at = NULL, attempt_started = NULL, next_check_at = %s, "
            "attempts = attempts - %s"
        )
        if deliveries:
            with self._write_transaction(), self.connection.cursor() as cursor:
                now = self.lease_time
                for delivery in deliveries:
                    cursor.execute(
                        f"{update} WHERE id = %s AND fencing_token = %s AND lease_expires_at IS NOT NULL",
                        [now, int(delivery.attempt_started), delivery.id, delivery.fencing_token],
                    )
                if notify and self.connection.vendor == "postgresql":
                    cursor.execute(f"NOTIFY {batches.NOTIFY_CHANNEL}")

    def _start_attempt_sql(self, delivery: LeasedDelivery, *, requires_first: bool = False) -> Statement:
        now, lease_expires_at = self.get_now_and_lease_expiry()
        sql = (
            "SET attempts = attempts + 1, lease_expires_at = %s, next_check_at = %s, attempt_started = %s "
            "WHERE id = %s AND fencing_token = %s AND lease_expires_at > %s"
        )
        delivery.started = now_us()
        params = [
            *(lease_expires_at, lease_expires_at, delivery.started, delivery.id, delivery.fencing_token, now),
        ]
        return Statement(f"UPDATE {TABLE} {sql}", params, requires_first)

    def _complete_sql(self, delivery: LeasedDelivery, result: AttemptResult, now: int) -> Statement:
        run_at = now + int(result.retry_delay * SECOND_US)
        where = "WHERE id = %s AND fencing_token = %s AND lease_expires_at IS NOT NULL"
        key = [delivery.id, delivery.fencing_token]
        unlease = "lease_expires_at = NULL, attempt_started = NULL"
        finish = f"UPDATE {TABLE} SET finished = %s, next_check_at = NULL, {unlease}"
        reschedule = f"UPDATE {TABLE} SET run_at = %s, next_check_at = %s, {unlease}"
        attempts = f"attempts = attempts - {int(delivery.attempt_started and not result.receiver_called)}"
        match result.disposition:
            case Disposition.DONE if conf.get().RETENTION.get("deliveries") == 0:
                return Statement(f"DELETE FROM {TABLE} {where}", key)
            case Disposition.DONE:
                columns = "state = 'done', partition_id = NULL, error = '', traceback = NULL, deferred_since = NULL"
                return Statement(f"{finish}, {columns} {where}", [now, *key])
            case Disposition.DEAD:
                partition = ", partition_id = NULL" if result.releases_partition else ""
                # A receiver that was called is known: only a delivery that could not be run stays deferred.
                deferred = ", deferred_since = NULL" if result.receiver_called else ""
                columns = f"state = 'dead', error = %s, traceback = %s, {attempts}{deferred}{partition}"
                return Statement(f"{finish}, {columns} {where}", [now, result.error, result.traceback, *key])
            case Disposition.RETRY:
                columns = "error = %s, traceback = %s, deferred_since = NULL"
                return Statement(
                    f"{reschedule}, {columns} {where}", [run_at, run_at, result.error, result.traceback, *key]
                )
            case Disposition.DEFERRED:
                columns = f"error = %s, deferred_since = COALESCE(deferred_since, %s), {attempts}"
                return Statement(f"{reschedule}, {columns} {where}", [run_at, run_at, result.error, now, *key])

    def _record_attempt_sql(self, delivery: LeasedDelivery, result: AttemptResult, now: int) -> Statement:
        if result.disposition is Disposition.DONE and conf.get().RETENTION.get("deliveries") == 0:  # it is deleted
            return Statement(f"DELETE FROM {ATTEMPT_TABLE} WHERE delivery_id = %s", [delivery.id], requires_first=True)
        ended = now_us() if result.ended is None else result.ended
        retries = result.disposition is Disposition.RETRY
        params = [
            *(delivery.id, delivery.fencing_token, delivery.attempts),
            *(ended if delivery.started is None else delivery.started, ended, result.outcome.value),
            *(now + int(result.retry_delay * SECOND_US) if retries else None, result.error, get_worker_name()),
        ]
        columns = "delivery_id, fencing_token, number, started, ended, outcome, retry_at, error, worker"
        # PostgreSQL takes an untyped NULL of a query for text, and appends a condition on the first statement.
        values = (
            "SELECT %s::bigint, %s::bigint, %s::int, %s::bigint, %s::bigint, %s, %s::bigint, %s, %s WHERE TRUE"
            if self.connection.vendor == "postgresql"
            else f"VALUES ({build_placeholders(params)})"
        )
        return Statement(f"INSERT INTO {ATTEMPT_TABLE} ({columns}) {values}", params, requires_first=True)

    def _record_error_sql(self, delivery: LeasedDelivery, error: RaisedError) -> Statement:
        params = [delivery.trace_id, delivery.span, 0, *build_error_columns(error), delivery.id, delivery.attempts]
        columns = (*batches.ERROR_COLUMNS, ("delivery_id", "bigint"), ("attempt", "int"))
        # PostgreSQL needs the types, and appends a condition on the first statement.
        values = (
            f"SELECT {', '.join(f'%s::{kind}' for _, kind in columns)} WHERE TRUE"
            if self.connection.vendor == "postgresql"
            else f"VALUES ({build_placeholders(params)})"
        )
        names = ", ".join(self.connection.ops.quote_name(name) for name, _ in columns)
        return Statement(f"INSERT INTO {batches.ERROR_TABLE} ({names}) {values}", params, requires_first=True)

    def _unblock_next_sql(self, partition_id: int, delivery_id: int) -> Statement:
        # No condition on whether it is parked: PostgreSQL would evaluate it on the row version before the awaited lock.
        condition = "partition_id = %s AND lease_expires_at IS NULL AND id > %s"
        order = "ORDER BY lease_expires_at, id LIMIT 1"  # the order of the index
        params = [partition_id, delivery_id]
        if self.connection.vendor == "mysql":  # MySQL would scan the whole table for an id that a subquery returns
            table = f"{TABLE} FORCE INDEX (signalbox_delivery_partition)"
            where = f"{condition} AND next_check_at IS NOT NULL {order}"
            return Statement(f"UPDATE {table} SET next_check_at = run_at WHERE {where}", params)
        where = f"id = (SELECT id FROM {TABLE} WHERE {condition} {order}) AND next_check_at IS NOT NULL"
        return Statement(f"UPDATE {TABLE} SET next_check_at = run_at WHERE {where}", params)

    def _end_partition_sql(self, partition_id: int, delivery_id: int, result: AttemptResult) -> Statement:
        now = self.due_time
        sql = (
            f"UPDATE {TABLE} SET state = 'dead', finished = %s, deferred_since = %s, next_check_at = NULL, error = %s "
            "WHERE partition_id = %s AND id > %s AND state = 'pending' AND lease_expires_at IS NULL"
        )
        return Statement(sql, [now, now, result.error, partition_id, delivery_id], requires_first=True)
