"""``manage.py signalbox tail``: events as they are recorded."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from signalbox.management.output import events
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Layout
from signalbox.management.subcommands import options as shared
from signalbox.queries.json_objects import event_to_dict
from signalbox.queries.tail import follow


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output_options(parser)
    shared.add_utc_option(parser)
    shared.add_filter_options(parser)
    parser.add_argument(
        "-n",
        "--lines",
        type=shared.non_negative_int,
        default=10,
        help="number of existing events to show first (default 10); the search for them takes at most 2 seconds",
    )


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write events as they become visible, until Ctrl-C."""
    screen = Screen(stdout, options)
    following = follow(shared.parse_filter(options), lines=options["lines"], using=options["using"])
    layout = Layout(events.get_columns(), screen.width)
    try:
        if screen.is_terminal and not options["json"]:
            screen.write_heading(layout)
        screen.flush()
        for event in following:
            if options["json"]:
                screen.write_json(event_to_dict(event))
            else:
                screen.write_line(layout.build_line(events.event_row(event, full_time=not screen.is_terminal)))
            screen.flush()
    except KeyboardInterrupt:
        return 0
    return 0
