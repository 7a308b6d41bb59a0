"""How receivers did in the events recorded last: runs, failures, times."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.apps import apps
from django.db import DatabaseError, connections, router

MAX_EVENTS: Final = 5_000
"""How many of the latest events are looked at."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceiverStats:
    """How one receiver of one signal did."""

    signal: str
    """The signal by name."""
    receiver: str
    """Dotted name."""
    location: str
    """``file:line`` as recorded."""
    runs: int
    """How often it ran."""
    failures: int
    """How often it raised."""
    p95_us: int
    """Microseconds that 95 of 100 runs took at most."""
    last_error: str
    """What it raised last; empty if it never did."""


@dataclass(slots=True)
class _RunTotals:
    location: str = ""
    durations_us: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def read_receiver_stats() -> tuple[ReceiverStats, ...]:
    """Read the latest events; none where signalbox isn't installed, or its table is missing or can't be read."""
    if not apps.is_installed("signalbox"):
        return ()
    from signalbox.models import Event

    alias = router.db_for_read(Event)
    try:
        if Event._meta.db_table not in connections[alias].introspection.table_names():
            return ()
        rows = Event.objects.using(alias).order_by("-id").values_list("signal", "data")[:MAX_EVENTS]
        return tuple(aggregate_runs(rows))
    except DatabaseError:
        logger.warning(
            "The doctor can't read the recorded events of database %r: it goes on without.", alias, exc_info=True
        )
        return ()


def aggregate_runs(rows: Iterable[tuple[str, Any]]) -> Iterable[ReceiverStats]:
    """Sum up events, newest first, given as pairs of the signal's name and the event's data."""
    totals_by_receiver: defaultdict[tuple[str, str], _RunTotals] = defaultdict(_RunTotals)
    for signal, data in rows:
        receivers = data.get("receivers") if isinstance(data, Mapping) else None
        for run in receivers or ():
            totals = totals_by_receiver[signal, run["name"]]
            totals.location = totals.location or run.get("location") or ""
            totals.durations_us.append(run.get("duration_us") or 0)
            if run.get("error"):
                totals.errors.append(run["error"])
    for (signal, receiver), totals in sorted(totals_by_receiver.items()):
        durations_us = sorted(totals.durations_us)
        yield ReceiverStats(
            signal=signal,
            receiver=receiver,
            location=totals.location,
            runs=len(durations_us),
            failures=len(totals.errors),
            p95_us=durations_us[(len(durations_us) * 95 + 99) // 100 - 1],
            last_error=totals.errors[0] if totals.errors else "",
        )
