"""Follow new events as they become visible: each event exactly once.

A row gets its id when it is inserted, and becomes visible when its transaction commits. If two transactions overlap,
the greater id may become visible first. A query for ids above the last one seen would miss the smaller id. Missing ids
are therefore remembered and queried again, until no open transaction can fill them:

- SQLite has one writer at a time and reuses the ids of a rolled-back transaction: no gap is filled later.
- PostgreSQL reports its oldest open transaction. A transaction that can fill a gap took its id before the gap was seen.
  When all transactions of that time have ended, the missing ids were rolled back. This is exact.
- MariaDB and MySQL report it only to administrators: a gap is dropped after ``id_gaps.GAP_TIMEOUT``, an hour.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Final

from django.db import InterfaceError, OperationalError, connections, router
from django.db.models import Q

from signalbox.core import loggers
from signalbox.models import Event
from signalbox.pipeline.backends import DatabaseBackend, get_backend
from signalbox.queries.filters import EventFilter, FilterError
from signalbox.queries.id_gaps import GAP_LOOKBACK_IDS, IdGap, IdGapTracker
from signalbox.queries.window_search import DEFAULT_BUDGET, EventSearch

logger = loggers.get_logger("queries")

BATCH_SIZE: Final = 500
"""Maximum number of events of one poll; if there are more, the next poll follows immediately."""

MIN_POLL_INTERVAL: Final = 0.05
"""Seconds between two polls while events arrive."""

MAX_POLL_INTERVAL: Final = 1.0
"""Maximum seconds between two polls without events; the pause doubles up to this."""

MAX_FAILED_POLLS: Final = 30
"""Consecutive polls that may fail because the database is unavailable."""


def follow(
    event_filter: EventFilter | None = None,
    *,
    after: int | None = None,
    lines: int = 0,
    using: str | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Event]:
    """Return an endless iterator over events that become visible after this call.

    They are in the order of their ids, except those that became visible later than a greater id. Each event is yielded
    once. With ``after``, it begins with the events above that id; with ``lines``, with the newest existing events.
    ``using`` is the alias of the database whose tables are read.

    Setting ``stop`` ends it, after a last poll. Between two polls it waits for up to ``MAX_POLL_INTERVAL`` seconds.
    Call it outside of a transaction: within one, some databases show only what was committed before it began.

    Raises ``FilterError`` for a filter by kind, status, path or fingerprint, which a running trace may not have yet.
    Raises the database's own error if ``MAX_FAILED_POLLS`` polls fail.
    """
    event_filter = event_filter or EventFilter()
    for one in (event_filter, event_filter.excluded or event_filter):
        for name in ("kind", "status", "path", "fingerprint"):
            if values := getattr(one, name):
                raise FilterError(name, ", ".join(values), f"none was expected: a running trace has no {name} yet.")
        for comparison in one.get_comparisons("status"):
            raise FilterError("status", str(comparison), "none was expected: a running trace has no status yet.")
    follower = EventFollower(event_filter, after=after, using=using)
    return _iter_events(follower, follower.get_newest(lines) if lines else [], stop or threading.Event())


def _iter_events(follower: EventFollower, first_events: list[Event], stop: threading.Event) -> Iterator[Event]:
    pause = MIN_POLL_INTERVAL
    is_last_poll = False
    while True:
        yield from first_events
        if first_events:
            pause = MIN_POLL_INTERVAL
        if not follower.has_more:
            if is_last_poll:
                return
            is_last_poll = stop.wait(pause)
            pause = min(pause * 2, MAX_POLL_INTERVAL)
        first_events = follower.poll_with_retry(stop)


class EventFollower:
    """The ids that were seen, and the gaps between them."""

    def __init__(self, event_filter: EventFilter, *, after: int | None = None, using: str | None = None) -> None:
        self.alias: str = using or router.db_for_read(Event)
        self.has_more = False
        """Whether the last poll left events to read."""
        self._filter_q = event_filter.to_q()
        self._event_filter = event_filter
        self.gaps = IdGapTracker()
        """Missing ids that an open transaction may still fill."""
        seen = self._fetch_ids(Q() if after is None else Q(id__lte=after), "-id", GAP_LOOKBACK_IDS)
        self._last_id = after if after is not None else seen[0] if seen else 0
        if self._backend.has_concurrent_writers:
            lowest = seen[-1] if len(seen) == GAP_LOOKBACK_IDS else 1
            self.gaps.add(lowest - 1, sorted({*seen, self._last_id + 1}), monotonic())

    @property
    def _backend(self) -> DatabaseBackend:
        return get_backend(connections[self.alias])

    def get_newest(self, limit: int) -> list[Event]:
        """Return the newest ``limit`` events up to the first polled id, oldest first.

        The search for them stops after ``DEFAULT_BUDGET``, so that following begins.
        """
        found: list[Event] = list(
            EventSearch(
                self._event_filter, before=self._last_id + 1, limit=limit, using=self.alias, budget=DEFAULT_BUDGET
            )
        )
        # Events that have become visible since are returned by the next poll.
        return [event for event in reversed(found) if event.id not in self.gaps]

    def poll(self) -> list[Event]:
        """Return the events that became visible since the last poll, by rising ids, at most ``2 * BATCH_SIZE``."""
        now = monotonic()
        gaps = self.gaps.get_due(now)
        # Read before the ids: the rows of a transaction that it calls ended are visible to the queries below.
        snapshot = self._backend.query_transaction_snapshot() if gaps else None
        filled_ids = self._fetch_filled_ids(gaps)
        new_ids = self._fetch_ids(Q(id__gt=self._last_id), "id", BATCH_SIZE)
        found = self._fetch_events(filled_ids) + self._fetch_events(new_ids)
        # Nothing above has changed the state, so that a failed poll can be repeated.
        if len(filled_ids) < BATCH_SIZE:
            self.gaps.update_checked(gaps, now, snapshot)
        self.gaps.remove_ids(filled_ids)
        if new_ids:
            if self._backend.has_concurrent_writers:
                self.gaps.add(self._last_id, new_ids, now)
            self._last_id = new_ids[-1]
        self.has_more = BATCH_SIZE in (len(filled_ids), len(new_ids))
        return found

    def poll_with_retry(self, stop: threading.Event) -> list[Event]:
        """Poll, and retry while the database is unavailable."""
        for _ in range(MAX_FAILED_POLLS - 1):
            try:
                return self.poll()
            except (OperationalError, InterfaceError) as error:
                connection = connections[self.alias]
                if connection.in_atomic_block:
                    raise
                logger.warning("Events can't be followed, retrying: %s", error)
                connection.close()
                if stop.wait(MAX_POLL_INTERVAL):
                    break
        return self.poll()

    def _fetch_ids(self, condition: Q, order: str, limit: int) -> list[int]:
        return list(
            Event.objects.using(self.alias).filter(condition).order_by(order).values_list("id", flat=True)[:limit]
        )

    def _fetch_filled_ids(self, gaps: Iterable[IdGap]) -> list[int]:
        """Return up to ``BATCH_SIZE`` ids that are in ``gaps``."""
        found: list[int] = []
        remaining = list(gaps)
        while remaining and len(found) < BATCH_SIZE:
            chunk, remaining = remaining[:100], remaining[100:]
            missing = Q()
            for gap in chunk:
                missing |= Q(id__range=(gap.first, gap.last))
            found += self._fetch_ids(missing, "id", BATCH_SIZE - len(found))
        return sorted(found)

    def _fetch_events(self, ids: list[int]) -> list[Event]:
        """Return the matching events with these ids. Events that became visible since are left to the next poll."""
        if not ids:
            return []
        return list(Event.objects.using(self.alias).filter(self._filter_q, id__in=ids).order_by("id"))
