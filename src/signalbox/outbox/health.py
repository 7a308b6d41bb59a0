"""Whether deliveries get on: what waits, since when, what runs, what is dead, how fast it goes."""

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
"""Seconds that a delivery may be due while none is done; then nobody works."""

MAX_COUNTED: Final = 10_000
"""Rows that are counted at most: a count over a long backlog would cost more than it tells."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """Deliveries of one database. Counts stop at ``COUNTED``."""

    database: str
    pending: int
    """Neither done nor dead: due, running, or waiting for a retry or for their turn."""
    due: int
    """Waiting for a worker; an engine's messages that led to nothing yet are counted too."""
    running: int
    retrying: int
    """Waiting for the next attempt after a failed one."""
    blocked: int
    """Waiting behind a dead letter of their key."""
    dead: int
    oldest_due_seconds: float
    """Seconds for which the longest waiting has been due; what waits for an earlier one of its key is not meant."""
    done_per_second: float
    """Done per second, over the last minute."""
    seconds_since_done: float | None
    """Seconds since the last one was done; none if none is kept."""

    @property
    def is_healthy(self) -> bool:
        """Whether somebody works: nothing is due for long, or something was done lately. A process that lives and
        gets nothing done is not well."""
        return self.oldest_due_seconds <= STALLED_AFTER_SECONDS or (
            self.seconds_since_done is not None and self.seconds_since_done <= STALLED_AFTER_SECONDS
        )


def get_health(alias: str) -> Health:
    """Return how the deliveries in the database ``alias`` get on."""
    moment = now_us()
    minute = moment - 60 * SECOND_US
    first_of_lane = first_in_partition_sql(connections[alias].vendor)
    pending = _count_rows(alias, "state = 'pending'")
    running = _count_rows(alias, "state = 'pending' AND lease > %s", moment)
    finished = _fetch_value(alias, f"SELECT max(finished) FROM {TABLE} WHERE state = 'done'")
    first = f"SELECT d.wake FROM {TABLE} d WHERE d.wake <= %s AND {first_of_lane} ORDER BY d.wake LIMIT 1"
    oldest = _fetch_value(alias, f"SELECT min(wake) FROM ({first}) first", moment)
    due = _count_rows(alias, "wake <= %s AND lease IS NULL", moment)
    if conf.get().ENGINE in ("celery", "tasks"):  # what is sent out waits for a worker as well, who may not be there
        sent = f"FROM {TABLE} d WHERE d.wake > %s AND d.due <= %s AND d.lease IS NULL AND {first_of_lane} LIMIT {MAX_COUNTED}"
        number, since = _fetch_row(alias, f"SELECT count(*), min(due) FROM (SELECT d.due {sent}) sent", moment, moment)
        due += number
        oldest = min((time for time in (oldest, since) if time is not None), default=None)
    return Health(
        database=alias,
        pending=pending,
        due=due,
        running=running,
        retrying=_count_rows(alias, "state = 'pending' AND attempts > 0 AND lease IS NULL"),
        blocked=_count_rows(
            alias,
            f"state = 'pending' AND EXISTS (SELECT 1 FROM {TABLE} h "
            f"WHERE h.lane = {TABLE}.lane AND h.id < {TABLE}.id AND h.state = 'dead')",
        ),
        dead=_count_rows(alias, "state = 'dead'"),
        oldest_due_seconds=0.0 if oldest is None else (moment - oldest) / SECOND_US,
        done_per_second=round(_count_rows(alias, "state = 'done' AND finished > %s", minute) / 60, 2),
        seconds_since_done=None if finished is None else (moment - finished) / SECOND_US,
    )


def _count_rows(alias: str, where: str, *params: Any) -> int:
    found: int = _fetch_value(
        alias, f"SELECT count(*) FROM (SELECT 1 FROM {TABLE} WHERE {where} LIMIT {MAX_COUNTED}) counted", *params
    )
    return found


def _fetch_value(alias: str, sql: str, *params: Any) -> Any:
    return _fetch_row(alias, sql, *params)[0]


def _fetch_row(alias: str, sql: str, *params: Any) -> Any:
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()


def build_report(aliases: Sequence[str]) -> dict[str, Any]:
    """Return what the health view and ``signalbox deliveries --json`` tell of these databases."""
    found = [get_health(alias) for alias in aliases]
    return {
        "well": all(one.is_healthy for one in found),
        "databases": [{**asdict(one), "well": one.is_healthy} for one in found],
    }


@never_cache
def view(request: HttpRequest) -> HttpResponse:
    """Answer 200 while deliveries get on and 503 while they don't, with figures. It names no receiver and no object."""
    from signalbox.outbox.queue import get_delivery_databases

    found = build_report(get_delivery_databases())
    return JsonResponse(found, status=200 if found["well"] else 503)
