"""New events as they become visible, none missed and each once.

An id is given when a row is inserted, and the row is seen when its transaction commits: of two transactions that
overlap, the one with the greater id may come first. Whoever asks for ids above the last one seen misses the other. So
ids that are missing are remembered and asked for again, until no transaction is left that could fill them:

- SQLite has one writer at a time and takes back the ids of a rolled-back transaction: nothing is ever filled in later.
- PostgreSQL numbers its transactions and tells the oldest that runs. Whoever may fill a gap took an id before the gap
  was seen; when all that ran then have ended, what is missing was rolled back. However long that takes, it is exact.
- MariaDB and MySQL tell it to administrators alone: a gap is given up after ``id_gaps.GAP_TIMEOUT``, an hour.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Final

from django.db import InterfaceError, OperationalError, connections, router
from django.db.models import Q

from signalbox.models import Event
from signalbox.queries.events import get_events
from signalbox.queries.filters import EventFilter, FilterError
from signalbox.queries.id_gaps import IdGap, IdGapTracker, TransactionSnapshot

logger = logging.getLogger("signalbox")

BATCH_SIZE: Final = 500
"""Events of one look; if there are more, the next look follows at once."""

GAP_LOOKBACK_IDS: Final = 1000
"""Ids before the first one, among which open gaps are looked for at the start."""

MIN_POLL_INTERVAL: Final = 0.05
"""Seconds between two looks while events come."""

MAX_POLL_INTERVAL: Final = 1.0
"""Seconds between two looks while none come; the pause doubles up to this."""

MAX_FAILED_POLLS: Final = 30
"""Looks in a row that may fail because the database is away."""


def follow(
    event_filter: EventFilter | None = None,
    *,
    after: int | None = None,
    lines: int = 0,
    using: str | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Event]:
    """Return an endless iterator over events as they become visible, from the moment of this call on.

    They come in the order of their ids, but for those whose transaction was overtaken by another: they come when they
    become visible. Each comes once. With ``after``, it begins with the events above that id; with ``lines``, with
    the newest that many of those which are there. ``using`` is the alias of the database whose tables are read.

    Setting ``stop`` ends it, after a last poll. Between two polls it waits for up to ``MAX_POLL_INTERVAL`` seconds.
    Call it outside of a transaction: within one, some databases show only what was committed before it began.

    Raises ``FilterError`` for a filter by kind, as a trace's kind is not known before it ends; and the database's own
    error if it is away for ``MAX_FAILED_POLLS`` looks.
    """
    event_filter = event_filter or EventFilter()
    if event_filter.kind:
        raise FilterError(
            "kind", ", ".join(event_filter.kind), "none was expected: a trace that runs is of no kind yet."
        )
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
    """What has been seen so far, and what is missing in between."""

    def __init__(self, event_filter: EventFilter, *, after: int | None = None, using: str | None = None) -> None:
        self.alias: str = using or router.db_for_read(Event)
        self.has_more = False
        """Whether the last look left something to see."""
        self._filter_q = event_filter.to_q()
        self._event_filter = event_filter
        self._gaps = IdGapTracker()
        seen = self._fetch_ids(Q() if after is None else Q(id__lte=after), "-id", GAP_LOOKBACK_IDS)
        self._last_id = after if after is not None else seen[0] if seen else 0
        if self._can_have_gaps:
            lowest = seen[-1] if len(seen) == GAP_LOOKBACK_IDS else 1
            self._gaps.add(lowest - 1, sorted({*seen, self._last_id + 1}), monotonic())

    @property
    def _vendor(self) -> str:
        return connections[self.alias].vendor

    @property
    def _can_have_gaps(self) -> bool:
        """Whether a smaller id can become visible after a greater one."""
        return self._vendor != "sqlite"

    def get_newest(self, limit: int) -> list[Event]:
        """Return the newest ``limit`` events up to where the following begins, oldest first."""
        found = get_events(self._event_filter, before=self._last_id + 1, limit=limit, using=self.alias)
        # What has become visible since will come with the following.
        return [event for event in reversed(found) if event.id not in self._gaps]

    def poll(self) -> list[Event]:
        """Return the events that became visible since the last poll, by rising ids, at most ``2 * BATCH_SIZE``."""
        now = monotonic()
        gaps = self._gaps.get_due(now)
        # Read before the ids: the rows of a transaction that it calls ended are visible to the queries below.
        snapshot = self._get_transaction_snapshot() if gaps else None
        filled_ids = self._fetch_filled_ids(gaps)
        new_ids = self._fetch_ids(Q(id__gt=self._last_id), "id", BATCH_SIZE)
        found = self._fetch_events(filled_ids) + self._fetch_events(new_ids)
        # Nothing above has changed what is known: a look that failed is simply repeated.
        if len(filled_ids) < BATCH_SIZE:
            self._gaps.update_checked(gaps, now, snapshot)
        self._gaps.remove_ids(filled_ids)
        if new_ids:
            if self._can_have_gaps:
                self._gaps.add(self._last_id, new_ids, now)
            self._last_id = new_ids[-1]
        self.has_more = BATCH_SIZE in (len(filled_ids), len(new_ids))
        return found

    def poll_with_retry(self, stop: threading.Event) -> list[Event]:
        """Return what a look finds; wait for a database that is away."""
        for _ in range(MAX_FAILED_POLLS - 1):
            try:
                return self.poll()
            except (OperationalError, InterfaceError) as error:
                connection = connections[self.alias]
                if connection.in_atomic_block:
                    raise
                logger.warning("Events can't be followed, trying again: %s", error)
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
        """Return those of the events with these ids that are wanted: what became visible since waits for its turn."""
        if not ids:
            return []
        return list(Event.objects.using(self.alias).filter(self._filter_q, id__in=ids).order_by("id"))

    def _get_transaction_snapshot(self) -> TransactionSnapshot | None:
        if self._vendor != "postgresql":
            return None
        with connections[self.alias].cursor() as cursor:
            cursor.execute(
                "SELECT pg_snapshot_xmin(s)::text::bigint, pg_snapshot_xmax(s)::text::bigint "
                "FROM pg_current_snapshot() s"
            )
            return TransactionSnapshot(*cursor.fetchone())
