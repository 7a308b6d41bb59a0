"""Health figures of the deliveries in each database: counts by state, the oldest due one, and the throughput."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache

from signalbox import conf
from signalbox.outbox.queue import SECOND_US, TABLE, DeliveryQueue, first_in_partition_sql
from signalbox.outbox.table import DUE_SQL
from signalbox.outbox.unknown_receivers import MAX_COUNTED, find_unknown_receivers

if TYPE_CHECKING:
    from collections.abc import Sequence

STALLED_AFTER_SECONDS: Final = 60.0
"""Seconds that a delivery may be due while none is done. After that, workers count as stalled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lag:
    """How late the deliveries in one database are."""

    oldest_due_seconds: float
    """Seconds since the oldest delivery became due, without those that wait for an earlier one of their key."""
    seconds_since_done: float | None
    """Seconds since the last delivery was done; ``None`` if no finished one is stored."""
    dispatched_due: int
    """Due deliveries whose broker message has not been processed yet. Counting stops at ``MAX_COUNTED``."""

    @property
    def is_processing(self) -> bool:
        """Whether none of the deliveries that can run has been due for long, or one was done recently."""
        return _is_processing(self)


def _is_processing(figures: Lag | Health) -> bool:
    return figures.oldest_due_seconds <= STALLED_AFTER_SECONDS or (
        figures.seconds_since_done is not None and figures.seconds_since_done <= STALLED_AFTER_SECONDS
    )


def get_lag(alias: str) -> Lag:
    """Return how late the deliveries in the database ``alias`` are. The queries use indexes, and count no backlog."""
    delivery_queue = DeliveryQueue(alias)
    now, lease_time = delivery_queue.due_time, delivery_queue.lease_time
    is_first = first_in_partition_sql(connections[alias].vendor)
    finished = _fetch_value(alias, f"SELECT max(finished) FROM {TABLE} WHERE state = 'done'")
    oldest_row = (
        f"SELECT d.next_check_at FROM {TABLE} d WHERE {DUE_SQL} AND {is_first} ORDER BY d.next_check_at LIMIT 1"
    )
    oldest = _fetch_value(alias, f"SELECT min(next_check_at) FROM ({oldest_row}) oldest", now, lease_time)
    dispatched_due = 0
    # Dispatched deliveries also wait for a worker, which may not run.
    if conf.get().DURABLE.DISPATCHER in ("celery", "tasks"):
        dispatched = (
            f"SELECT d.run_at FROM {TABLE} d WHERE d.next_check_at > %s AND d.run_at <= %s "
            f"AND d.lease_expires_at IS NULL AND {is_first} LIMIT {MAX_COUNTED}"
        )
        dispatched_due, run_at = _fetch_row(
            alias, f"SELECT count(*), min(run_at) FROM ({dispatched}) dispatched", now, now
        )
        oldest = min((time for time in (oldest, run_at) if time is not None), default=None)
    return Lag(
        oldest_due_seconds=0.0 if oldest is None else max(0.0, (now - oldest) / SECOND_US),
        seconds_since_done=None if finished is None else max(0.0, (now - finished) / SECOND_US),
        dispatched_due=dispatched_due,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Figures of the deliveries in one database. Counts stop at ``MAX_COUNTED``."""

    database: str
    pending: int
    """Neither finished nor dead: due, running, or waiting for a retry or for an earlier delivery."""
    due: int
    """Waiting for a worker, including those whose broker message has not been processed yet."""
    running: int
    retrying: int
    """Waiting for another attempt after a failed one."""
    blocked: int
    """Waiting for a dead letter with the same key to be retried or discarded."""
    dead: int
    unknown: int
    """Waiting for a receiver that this version of the code does not have."""
    unknown_seconds: float
    """Seconds since the first of ``unknown`` was deferred."""
    oldest_due_seconds: float
    """Seconds since the oldest delivery became due, without those that wait for an earlier one of their key."""
    done_per_second: float
    """Deliveries done per second, over the last minute."""
    seconds_since_done: float | None
    """Seconds since the last delivery was done; ``None`` if no finished one is stored."""

    @property
    def is_healthy(self) -> bool:
        """Whether deliveries are processed: none has been due for long, or one was done recently.

        A worker process that runs without finishing any delivery does not count. A delivery that waits for long for a
        receiver that the code does not have is unhealthy in any case.
        """
        return self.unknown_seconds <= STALLED_AFTER_SECONDS and self.is_processing

    @property
    def is_processing(self) -> bool:
        """Whether none of the deliveries that can run has been due for long, or one was done recently."""
        return _is_processing(self)


def get_health(alias: str) -> Health:
    """Return the figures of the database ``alias``."""
    delivery_queue = DeliveryQueue(alias)
    now, lease_time = delivery_queue.due_time, delivery_queue.lease_time
    minute_ago = now - 60 * SECOND_US
    lag = get_lag(alias)
    unknown = find_unknown_receivers(alias)
    due = _count_rows(alias, "next_check_at <= %s AND lease_expires_at IS NULL", now)
    return Health(
        database=alias,
        pending=_count_rows(alias, "state = 'pending'"),
        due=due + lag.dispatched_due,
        running=_count_rows(alias, "state = 'pending' AND lease_expires_at > %s", lease_time),
        retrying=_count_rows(alias, "state = 'pending' AND attempts > 0 AND lease_expires_at IS NULL"),
        blocked=_count_blocked(alias),
        dead=_count_rows(alias, "state = 'dead'"),
        unknown=sum(receiver.pending for receiver in unknown),
        unknown_seconds=max((receiver.deferred_seconds for receiver in unknown), default=0.0),
        oldest_due_seconds=lag.oldest_due_seconds,
        done_per_second=round(_count_rows(alias, "state = 'done' AND finished > %s", minute_ago) / 60, 2),
        seconds_since_done=lag.seconds_since_done,
    )


def count_by_receiver(alias: str) -> dict[tuple[str, str], int]:
    """Return the numbers of unfinished and of dead deliveries in the database ``alias``, by state and receiver.

    The states are ``pending``, ``running`` and ``dead``. At most ``MAX_COUNTED`` pending and as many dead deliveries
    are counted.
    """
    lease_time = DeliveryQueue(alias).lease_time
    is_running = "CASE WHEN state = 'pending' AND lease_expires_at > %s THEN 'running' ELSE state END"
    parts = [
        f"SELECT * FROM (SELECT receiver, {is_running} AS condition_now FROM {TABLE} WHERE state = '{state}' "
        f"LIMIT {MAX_COUNTED}) {state}_rows"
        for state in ("pending", "dead")
    ]
    sql = f"SELECT condition_now, receiver, count(*) FROM ({' UNION ALL '.join(parts)}) found"
    with connections[alias].cursor() as cursor:
        cursor.execute(f"{sql} GROUP BY condition_now, receiver", [lease_time, lease_time])
        return {(state, receiver): number for state, receiver, number in cursor.fetchall()}


def _count_rows(alias: str, where: str, *params: Any) -> int:
    count: int = _fetch_value(
        alias, f"SELECT count(*) FROM (SELECT 1 FROM {TABLE} WHERE {where} LIMIT {MAX_COUNTED}) counted", *params
    )
    return count


def _count_blocked(alias: str) -> int:
    """Return the number of deliveries behind the first ``MAX_COUNTED`` dead letters.

    The search begins with the dead letters. For each pending delivery, SQLite would read all of them.
    """
    dead = f"SELECT partition_id, id FROM {TABLE} WHERE state = 'dead' AND partition_id IS NOT NULL LIMIT {MAX_COUNTED}"
    first = f"SELECT partition_id, min(id) AS first_id FROM ({dead}) dead_letters GROUP BY partition_id"
    behind = (
        f"SELECT 1 FROM ({first}) h JOIN {TABLE} d ON d.partition_id = h.partition_id "
        f"WHERE d.id > h.first_id AND d.state = 'pending' LIMIT {MAX_COUNTED}"
    )
    count: int = _fetch_value(alias, f"SELECT count(*) FROM ({behind}) blocked")
    return count


def _fetch_value(alias: str, sql: str, *params: Any) -> Any:
    return _fetch_row(alias, sql, *params)[0]


def _fetch_row(alias: str, sql: str, *params: Any) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()


def build_report(databases: Sequence[Health]) -> dict[str, Any]:
    """Return the JSON of the health view and of ``signalbox deliveries --json`` for these databases."""
    return {
        "healthy": all(health.is_healthy for health in databases),
        "databases": [{**asdict(health), "healthy": health.is_healthy} for health in databases],
    }


@never_cache
def view(request: HttpRequest) -> HttpResponse:
    """Respond with the figures, and status 503 if unhealthy, else 200. No receiver and no object is named."""
    from signalbox.outbox.queue import get_delivery_databases

    report = build_report([get_health(alias) for alias in get_delivery_databases()])
    return JsonResponse(report, status=200 if report["healthy"] else 503)


__all__ = ["view"]
