"""Health figures of the deliveries in each database: counts by state, the oldest due one, and the throughput."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache

from signalbox import conf
from signalbox.outbox.queue import SECOND_US, TABLE, first_in_partition_sql, now_us

if TYPE_CHECKING:
    from collections.abc import Sequence

STALLED_AFTER_SECONDS: Final = 60.0
"""Seconds that a delivery may be due while none is done. After that, workers count as stalled."""

MAX_COUNTED: Final = 10_000
"""Maximum number of rows that are counted, because counting a long backlog is slow."""


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
    oldest_due_seconds: float
    """Seconds since the oldest delivery became due, without those that wait for an earlier one of their key."""
    done_per_second: float
    """Deliveries done per second, over the last minute."""
    seconds_since_done: float | None
    """Seconds since the last delivery was done; ``None`` if no finished one is stored."""

    @property
    def is_healthy(self) -> bool:
        """Whether deliveries are processed: none has been due for long, or one was done recently.

        A worker process that runs without finishing any delivery does not count.
        """
        return self.oldest_due_seconds <= STALLED_AFTER_SECONDS or (
            self.seconds_since_done is not None and self.seconds_since_done <= STALLED_AFTER_SECONDS
        )


def get_health(alias: str) -> Health:
    """Return the figures of the database ``alias``."""
    now = now_us()
    minute_ago = now - 60 * SECOND_US
    is_first = first_in_partition_sql(connections[alias].vendor)
    pending = _count_rows(alias, "state = 'pending'")
    running = _count_rows(alias, "state = 'pending' AND lease_expires_at > %s", now)
    finished = _fetch_value(alias, f"SELECT max(finished) FROM {TABLE} WHERE state = 'done'")
    oldest_row = (
        f"SELECT d.next_check_at FROM {TABLE} d WHERE d.next_check_at <= %s AND {is_first} "
        "ORDER BY d.next_check_at LIMIT 1"
    )
    oldest = _fetch_value(alias, f"SELECT min(next_check_at) FROM ({oldest_row}) oldest", now)
    due = _count_rows(alias, "next_check_at <= %s AND lease_expires_at IS NULL", now)
    # Dispatched deliveries also wait for a worker, which may not run.
    if conf.get().DURABLE.DISPATCHER in ("celery", "tasks"):
        dispatched = (
            f"SELECT d.run_at FROM {TABLE} d WHERE d.next_check_at > %s AND d.run_at <= %s "
            f"AND d.lease_expires_at IS NULL AND {is_first} LIMIT {MAX_COUNTED}"
        )
        count, run_at = _fetch_row(alias, f"SELECT count(*), min(run_at) FROM ({dispatched}) dispatched", now, now)
        due += count
        oldest = min((time for time in (oldest, run_at) if time is not None), default=None)
    return Health(
        database=alias,
        pending=pending,
        due=due,
        running=running,
        retrying=_count_rows(alias, "state = 'pending' AND attempts > 0 AND lease_expires_at IS NULL"),
        blocked=_count_rows(
            alias,
            f"state = 'pending' AND EXISTS (SELECT 1 FROM {TABLE} h "
            f"WHERE h.partition_id = {TABLE}.partition_id AND h.id < {TABLE}.id AND h.state = 'dead')",
        ),
        dead=_count_rows(alias, "state = 'dead'"),
        oldest_due_seconds=0.0 if oldest is None else (now - oldest) / SECOND_US,
        done_per_second=round(_count_rows(alias, "state = 'done' AND finished > %s", minute_ago) / 60, 2),
        seconds_since_done=None if finished is None else (now - finished) / SECOND_US,
    )


def _count_rows(alias: str, where: str, *params: Any) -> int:
    count: int = _fetch_value(
        alias, f"SELECT count(*) FROM (SELECT 1 FROM {TABLE} WHERE {where} LIMIT {MAX_COUNTED}) counted", *params
    )
    return count


def _fetch_value(alias: str, sql: str, *params: Any) -> Any:
    return _fetch_row(alias, sql, *params)[0]


def _fetch_row(alias: str, sql: str, *params: Any) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()


def build_report(aliases: Sequence[str]) -> dict[str, Any]:
    """Return the JSON of the health view and of ``signalbox deliveries --json`` for these databases."""
    databases = [get_health(alias) for alias in aliases]
    return {
        "healthy": all(health.is_healthy for health in databases),
        "databases": [{**asdict(health), "healthy": health.is_healthy} for health in databases],
    }


@never_cache
def view(request: HttpRequest) -> HttpResponse:
    """Respond with the figures, and status 503 if unhealthy, else 200. No receiver and no object is named."""
    from signalbox.outbox.queue import get_delivery_databases

    report = build_report(get_delivery_databases())
    return JsonResponse(report, status=200 if report["healthy"] else 503)


__all__ = ["view"]
