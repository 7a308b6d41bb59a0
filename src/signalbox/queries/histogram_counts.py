"""The numbers of events of the timeline's histogram, by step of time and group."""

from __future__ import annotations

from collections import Counter
from typing import Final

from django.db.models import Count, F

from signalbox.core import display_names
from signalbox.models import Event
from signalbox.queries.event_errors import ERRORS_ONLY
from signalbox.queries.timeline import get_newest_event_id, get_time_at
from signalbox.queries.timeline_filter import TimelineFilter

MAX_HISTOGRAM_EVENTS: Final = 20_000
"""Newest keys that the histogram covers; a quarter of them if the filter reads the data of each event."""


def get_histogram(
    timeline_filter: TimelineFilter, since: int, step: int, *, has_system: bool = True
) -> list[tuple[int, str, int, int]]:
    """Return ``(time, group, events, errors)`` of each step since ``since``; all times in microseconds.

    Without ``has_system``, events of traces of the system are left out, as the list leaves them out.
    """
    floor = _get_histogram_floor(timeline_filter)
    query = Event.objects.filter(timeline_filter.to_q(), id__gt=floor, time__gte=since).order_by()
    if not has_system:
        query = query.filter(is_system=False)
    rows = query.annotate(bucket=F("time") - F("time") % step).values_list("bucket", "signal")
    found: Counter[tuple[int, str]] = Counter()
    failed: Counter[tuple[int, str]] = Counter()
    for bucket, signal, number, errors in rows.annotate(number=Count("id"), failed=Count("id", filter=ERRORS_ONLY)):
        found[bucket, display_names.get_signal_group(signal)] += number
        failed[bucket, display_names.get_signal_group(signal)] += errors
    return [(bucket, group, number, failed[bucket, group]) for (bucket, group), number in sorted(found.items())]


def get_histogram_start(timeline_filter: TimelineFilter, since: int) -> int | None:
    """Return the start of the histogram in microseconds, if its limit of keys cuts it off; else ``None``."""
    reached = get_time_at(_get_histogram_floor(timeline_filter))
    return reached if reached is not None and reached > since else None


def _get_histogram_floor(timeline_filter: TimelineFilter) -> int:
    """Return the greatest key that the histogram does not cover."""
    limit = MAX_HISTOGRAM_EVENTS // 4 if timeline_filter.event_filter.reads_data else MAX_HISTOGRAM_EVENTS
    return get_newest_event_id() - limit
