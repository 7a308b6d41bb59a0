"""Park due deliveries that are blocked by an earlier one of their partition, so that polls do not read them."""

from __future__ import annotations

from typing import Final

from django.db import Error

from signalbox.core import clock, loggers
from signalbox.outbox.database_clock import SECOND_US
from signalbox.outbox.partitions import TABLE, first_unleased_sql, leased_sql
from signalbox.outbox.table import DeliveryTable, build_placeholders

logger = loggers.get_logger("outbox")

PARKED_RECHECK_US: Final = 300 * SECOND_US
"""How long a parked delivery waits if the delivery before it does not make it due."""
PARKING_SCAN_LIMIT: Final = 1000
"""Due deliveries that are checked once per second for an earlier delivery that blocks them."""
MIN_BLOCKED_TO_PARK: Final = 10
"""At least this many blocked deliveries of a partition are parked. Parking fewer costs more than reading them."""


class DeliveryParking(DeliveryTable):
    """Parks blocked deliveries."""

    next_parking_check = 0
    """When blocked deliveries are looked for again, in microseconds since the epoch."""

    def _park_blocked(self, now: int) -> None:
        """Park due deliveries that are blocked by a retry, by a dead letter, or by many others of their partition.

        Otherwise each poll would read them all. An error does not lose the acquired deliveries: parking is tried again
        one second later.
        """
        if now < self.next_parking_check:
            return
        self.next_parking_check = now + SECOND_US
        deadline = clock.monotonic() + 0.2
        try:
            while self.park(self.find_blocked(now), now) > MIN_BLOCKED_TO_PARK:
                if clock.monotonic() > deadline:
                    self.next_parking_check = 0
                    return
        except Error as error:  # another worker parks the same rows
            logger.debug("Blocked deliveries could not be parked and will be checked again: %s", error)

    def find_blocked(self, now: int) -> dict[int, list[int]]:
        """Return the ids of due deliveries to park, by the id of the delivery that blocks them."""
        unleased = first_unleased_sql(self.connection.vendor)
        leased = leased_sql(self.connection.vendor, "p.id < d.id")
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT d.id, h.id, h.lease_expires_at IS NULL AND (h.next_check_at IS NULL OR h.run_at > %s) FROM "
                f"(SELECT d.id, d.partition_id FROM {TABLE} d "
                f"WHERE d.next_check_at <= %s{self.get_queue_condition()} ORDER BY d.next_check_at LIMIT %s) d "
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

    def park(self, blocked: dict[int, list[int]], now: int) -> int:
        """Postpone the next check of blocked deliveries; return how many.

        ``blocked`` holds their ids by the id of the delivery that blocks them.

        The blocking rows are locked during the update. One that has left its partition before parks nothing, and one
        that leaves it later sees the parked rows.
        """
        if not blocked:
            return 0
        with self._write_transaction(), self.connection.cursor() as cursor:
            locked = self.connection.features.has_select_for_update_skip_locked
            cursor.execute(
                f"SELECT id FROM {TABLE} WHERE id IN ({build_placeholders(blocked)}) AND partition_id IS NOT NULL"
                + (" FOR UPDATE SKIP LOCKED" if locked else ""),
                list(blocked),
            )
            ids = sorted(delivery_id for row in cursor.fetchall() for delivery_id in blocked[row[0]])
            if not ids:
                return 0
            cursor.execute(
                f"UPDATE {TABLE} SET next_check_at = %s WHERE id IN ({build_placeholders(ids)}) "
                "AND next_check_at <= %s AND lease_expires_at IS NULL",
                [now + PARKED_RECHECK_US, *ids, now],
            )
            count: int = cursor.rowcount
            return count
