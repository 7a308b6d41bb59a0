"""``manage.py signalbox events``: the newest events."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from signalbox.management.output import events
from signalbox.management.output.screen import Output, Screen
from signalbox.management.subcommands import options as shared
from signalbox.queries.events import get_events
from signalbox.queries.export import event_to_dict


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output_options(parser)
    shared.add_filter_options(parser)
    shared.add_time_options(parser)
    parser.add_argument(
        "--limit", type=shared.positive_int, default=20, metavar="N", help="at most this many (default 20)"
    )
    parser.add_argument("--before", type=shared.positive_int, metavar="ID", help="older than this event: the next page")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the newest events, the newest first."""
    screen = Screen(stdout, options)
    found = get_events(
        shared.parse_filter(options), before=options["before"], limit=options["limit"], using=options["using"]
    )
    if options["json"]:
        for event in found:
            screen.write_json(event_to_dict(event))
    elif found:
        screen.write_table(
            events.COLUMNS, [events.event_row(event, full_time=not screen.is_terminal) for event in found]
        )
    else:
        screen.write_text("There are no such events.")
    return 0
