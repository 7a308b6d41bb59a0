"""``manage.py signalbox tail``: events as they are recorded."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from signalbox.management.output import events
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Layout
from signalbox.management.subcommands import options as shared
from signalbox.queries.export import event_record
from signalbox.queries.tail import follow


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output(parser)
    shared.add_filter(parser)
    parser.add_argument(
        "-n", "--lines", type=shared.lines, default=10, help="so many that are there already (default 10)"
    )


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write events as they become visible, until Ctrl-C."""
    screen = Screen(stdout, options)
    following = follow(shared.wanted(options), lines=options["lines"], using=options["using"])
    layout = Layout(events.COLUMNS, screen.width)
    try:
        if screen.terminal and not options["json"]:
            screen.heading(layout)
        screen.flush()
        for event in following:
            if options["json"]:
                screen.json(event_record(event))
            else:
                screen.line(layout.line(events.row(event, exact=not screen.terminal)))
            screen.flush()
    except KeyboardInterrupt:
        return 0
    return 0
