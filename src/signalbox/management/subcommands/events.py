"""``manage.py signalbox events``: the newest events."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from signalbox.management.output import events
from signalbox.management.output.progress import Progress
from signalbox.management.output.screen import Output, Screen
from signalbox.management.subcommands import options as shared
from signalbox.models import Event
from signalbox.queries.events import load_client_addresses
from signalbox.queries.json_objects import event_to_dict, format_iso
from signalbox.queries.window_search import EventSearch


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output_options(parser)
    shared.add_filter_options(parser)
    shared.add_time_options(parser)
    shared.add_limit_option(parser, "at most this many", 20)
    shared.add_budget_option(parser)
    parser.add_argument("--before", type=shared.positive_int, metavar="ID", help="older than this event: the next page")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the newest events, the newest first. Return 1 if none meets the options."""
    screen = Screen(stdout, options)
    event_filter = shared.parse_filter(options)
    progress = Progress()
    search = EventSearch(
        event_filter,
        before=options["before"],
        limit=options["limit"],
        using=options["using"],
        budget=options["budget"],
        report=lambda count, share: progress.update("search", share, f"{count:,} events"),
    )
    is_interrupted = False
    found: list[Event] = []
    try:
        for event in search:
            if options["json"]:
                progress.clear()
                screen.write_json(event_to_dict(event))
            else:
                found.append(event)
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        progress.clear()
    if found:
        load_client_addresses(found, using=options["using"])
        screen.write_table(
            events.get_columns(), [events.event_row(event, full_time=not screen.is_terminal) for event in found]
        )
    elif not options["json"]:
        screen.write_text("No events match." if not (is_interrupted or search.is_cut_off) else "No events found yet.")
    if is_interrupted or search.is_cut_off:
        screen.flush()
        sys.stderr.write(_describe_end(search))
    return 1 if is_interrupted or not search.count else 0


def _describe_end(search: EventSearch) -> str:
    """Return how far an incomplete search came, and how to continue it."""
    reached = search.get_reached_time()
    if reached is None:
        return "The search stopped before its first event.\n"
    cursor = search.windows.cursor
    return f"Searched back to {format_iso(reached)} (event {cursor}). Continue with --before {cursor}.\n"
