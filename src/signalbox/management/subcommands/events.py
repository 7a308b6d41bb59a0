"""``manage.py signalbox events``: the newest events."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from signalbox.management.output import events
from signalbox.management.output.screen import Output, Screen
from signalbox.management.subcommands import options as shared
from signalbox.queries.events import events as newest
from signalbox.queries.export import event_record


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output(parser)
    shared.add_filter(parser)
    shared.add_times(parser)
    parser.add_argument("--limit", type=shared.number, default=20, metavar="N", help="at most this many (default 20)")
    parser.add_argument("--before", type=shared.number, metavar="ID", help="older than this event: the next page")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the newest events, the newest first."""
    screen = Screen(stdout, options)
    found = newest(shared.wanted(options), before=options["before"], limit=options["limit"], using=options["using"])
    if options["json"]:
        for event in found:
            screen.json(event_record(event))
    elif found:
        screen.table(events.COLUMNS, [events.row(event, exact=not screen.terminal) for event in found])
    else:
        screen.text("There are no such events.")
    return 0
