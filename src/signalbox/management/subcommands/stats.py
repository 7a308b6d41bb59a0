"""``manage.py signalbox stats``: how often signals were sent, how long receivers ran."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Final

from django.utils import timezone

from signalbox.core.event import Outcome
from signalbox.core.receiver_stats import ReceiverStats
from signalbox.core.text import format_duration
from signalbox.management.output.events import get_outcome_style
from signalbox.management.output.progress import Progress
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.subcommands import options as shared
from signalbox.queries.json_objects import format_iso
from signalbox.queries.local_time import get_zone_name
from signalbox.queries.stats import DEFAULT_LIMIT, EventStats, SignalStats, compute_stats

SIGNAL_COLUMNS: Final = (
    Column(title="signal", width=50, min_width=14, keep_end=True),
    Column(title="events", width=9, min_width=6, align_right=True),
    *(
        Column(
            title=outcome.value.replace("_", " "),
            width=11,
            min_width=6,
            align_right=True,
            drop_order=0 if outcome is Outcome.FAILED else 1,
        )
        for outcome in Outcome
    ),
    Column(title="errors", width=8, min_width=6, align_right=True),
)

RECEIVER_COLUMNS: Final = (
    Column(title="receiver", width=60, min_width=16, keep_end=True),
    Column(title="signal", width=30, min_width=10, drop_order=3, keep_end=True),
    Column(title="calls", width=8, min_width=5, align_right=True, drop_order=1),
    Column(title="errors", width=8, min_width=6, align_right=True),
    Column(title="total", width=9, min_width=8, align_right=True, drop_order=2),
    Column(title="median", width=9, min_width=8, align_right=True, drop_order=5),
    Column(title="p95", width=9, min_width=8, align_right=True),
    Column(title="max", width=9, min_width=8, align_right=True, drop_order=4),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output_options(parser)
    shared.add_filter_options(parser)
    shared.add_time_options(parser)
    shared.add_budget_option(parser)
    shared.add_limit_option(parser, "read the newest N events", DEFAULT_LIMIT)


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write two tables: signals by outcome, receivers by time. Return 1 without events."""
    screen = Screen(stdout, options)
    progress = Progress()
    try:
        found = compute_stats(
            shared.parse_filter(options),
            limit=options["limit"],
            using=options["using"],
            budget=options["budget"],
            report=lambda count, share: progress.update("search", share, f"{count:,} events"),
        )
    except KeyboardInterrupt:
        progress.clear()
        sys.stderr.write("Interrupted before the statistics were complete. Use --budget for those of a part.\n")
        return 1
    progress.clear()
    if found.searched_until is not None:
        sys.stderr.write(f"Searched back to {format_iso(found.searched_until)}. Older events are left out.\n")
    if options["json"]:
        for signal in found.signals:
            screen.write_json(signal_to_dict(signal))
        for receiver in found.receivers:
            screen.write_json(receiver_to_dict(receiver))
        return 0 if found.events else 1
    screen.write_text(_format_summary(found))
    if found.signals:
        screen.write_line()
        screen.write_table(SIGNAL_COLUMNS, map(_signal_row, found.signals))
    if found.receivers:
        screen.write_line()
        screen.write_table(RECEIVER_COLUMNS, map(_receiver_row, found.receivers))
    return 0 if found.events else 1


def signal_to_dict(stats: SignalStats) -> dict[str, Any]:
    """Return a signal's counts as a JSON-able dict."""
    outcomes = {outcome.value: stats.outcomes.get(outcome.value, 0) for outcome in Outcome}
    return {"signal": stats.signal, "events": stats.events, **outcomes, "errors": stats.errors}


def receiver_to_dict(stats: ReceiverStats) -> dict[str, Any]:
    """Return a receiver's times as a JSON-able dict."""
    return {
        "receiver": stats.receiver,
        "location": stats.location,
        "signal": stats.signal,
        "calls": stats.calls,
        "errors": stats.errors,
        "total_us": stats.total_us,
        "median_us": stats.median_us,
        "p95_us": stats.p95_us,
        "max_us": stats.max_us,
    }


def _format_summary(stats: EventStats) -> str:
    if stats.first is None or stats.last is None:
        return "No events match."
    first, last = timezone.localtime(stats.first), timezone.localtime(stats.last)
    rest = "" if stats.is_complete else "; older ones are left out"
    return f"{stats.events} events from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} {get_zone_name()}{rest}"


def _signal_row(stats: SignalStats) -> list[Cell]:
    return [
        Cell(stats.signal, "cyan"),
        Cell(str(stats.events)),
        *(_number_cell(stats.outcomes.get(outcome.value, 0), get_outcome_style(outcome)) for outcome in Outcome),
        _number_cell(stats.errors, "bold red"),
    ]


def _receiver_row(stats: ReceiverStats) -> list[Cell]:
    return [
        Cell(stats.receiver),
        Cell(stats.signal, "cyan"),
        Cell(str(stats.calls)),
        _number_cell(stats.errors, "bold red"),
        *(Cell(format_duration(time)) for time in (stats.total_us, stats.median_us, stats.p95_us, stats.max_us)),
    ]


def _number_cell(number: int, style: str) -> Cell:
    return Cell(str(number), style if number else "dim")
