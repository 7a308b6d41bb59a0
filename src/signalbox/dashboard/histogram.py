"""The view of the timeline's histogram: its window of time, its bars and the tokens of its legend."""

from __future__ import annotations

import time
from typing import Final

from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from signalbox.dashboard.access import dashboard_view
from signalbox.queries import histogram_counts, local_time, trace_summary
from signalbox.queries.filter_conditions import ANY
from signalbox.queries.filter_language import Token
from signalbox.queries.timeline_filter import TimelineFilter

RANGE_SECONDS: Final = 600
"""Length of the histogram's time axis, in seconds."""

STEP_SECONDS: Final = 5
"""Width of one bar of the histogram, in seconds."""

CHART_TOKENS: Final = (
    *(Token("group", ":", (group,)) for group in trace_summary.GROUP_ORDER),
    Token("error", ":", (ANY,)),
)
"""Tokens that the legend of the histogram adds and removes."""


@dashboard_view
@require_GET
def histogram(request: HttpRequest) -> JsonResponse:
    """Return the numbers of events by time step and group as JSON, and the range of time of the filter.

    The range of the filter does not limit the events, so that the page can show it as a part of the chart.
    """
    now = time.time()
    # The start of a bar, so that the first one is complete.
    since = (int(now) // STEP_SECONDS * STEP_SECONDS - RANGE_SECONDS) * 1_000_000
    timeline_filter = TimelineFilter.parse(request.GET)
    filter_range = timeline_filter.event_filter
    charted = timeline_filter.without_time()
    step = STEP_SECONDS * 1_000_000
    buckets = histogram_counts.get_histogram(charted, since, step, has_system=not timeline_filter.is_quiet)
    start = histogram_counts.get_histogram_start(charted, since)
    return JsonResponse(
        {
            "now": now,
            # The page moves the axis without a request, so an hour in advance.
            "utc_offsets": local_time.get_offset_changes(now - RANGE_SECONDS, now + 3_600),
            "range_seconds": RANGE_SECONDS,
            "step_seconds": STEP_SECONDS,
            "groups": trace_summary.GROUP_ORDER,
            "start": start and start / 1_000_000,
            "text_without_time": charted.text,
            "choices": [
                {
                    "token": str(token),
                    "is_chosen": timeline_filter.has_token(token),
                    "text": timeline_filter.toggle(token).text,
                }
                for token in CHART_TOKENS
            ],
            "since": filter_range.since and filter_range.since.timestamp(),
            "until": filter_range.until and filter_range.until.timestamp(),
            "buckets": [[time_us // 1_000_000, group, number, errors] for time_us, group, number, errors in buckets],
        }
    )
