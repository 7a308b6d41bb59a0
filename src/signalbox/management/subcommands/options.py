"""The options that subcommands share: which events, from which database, for whom."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from typing import Any, Final

from django.db import connections

from signalbox.core.event import Outcome
from signalbox.queries.filters import SIGNAL_GROUPS, EventFilter

MAX_NUMBER: Final = 10**18
"""No number that is given is greater: every database takes it, and one more."""


def add_output_options(parser: ArgumentParser) -> None:
    """Add how to answer, and out of which database."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--using",
        choices=tuple(connections),
        metavar="ALIAS",
        help=f"the database whose tables are read, of {', '.join(connections)}; by default, the router's choice",
    )


def add_filter_options(parser: ArgumentParser) -> None:
    """Add what chooses events, but for times."""
    several: Any = {"action": "append", "default": []}
    group = parser.add_argument_group("which events", "An option that is repeated asks for any of its values.")
    group.add_argument("--signal", metavar="NAME", help="as post_save, or shop.signals.order_paid", **several)
    group.add_argument(
        "--group", choices=SIGNAL_GROUPS, metavar="NAME", help=f"one of {', '.join(SIGNAL_GROUPS)}", **several
    )
    group.add_argument("--sender", metavar="LABEL", help="as shop.Order, or shop for the whole app", **several)
    group.add_argument("--object", metavar="MODEL:KEY", help="as shop.Order:17")
    group.add_argument("--actor", metavar="WHO", help="a user's name or primary key", **several)
    group.add_argument("--trace", metavar="ID", help="a trace's id, or how it begins", **several)
    outcomes = tuple(map(str, Outcome))
    group.add_argument("--outcome", choices=outcomes, metavar="NAME", help=f"one of {', '.join(outcomes)}", **several)
    group.add_argument("--database", metavar="ALIAS", help="where something changed", **several)
    group.add_argument("--text", metavar="TEXT", help="what a name, a label or the data contains")


def add_time_options(parser: ArgumentParser) -> None:
    """Add what chooses events by what is known when they lie back."""
    group = parser.add_argument_group("when")
    group.add_argument(
        "--since", metavar="TIME", help='"15m", "2h" or "3d" ago, a day as 2026-03-01, or a moment as 2026-03-01T12:30'
    )
    group.add_argument("--until", metavar="TIME", help="the same; of a day, its end")
    group.add_argument(
        "--kind", metavar="NAME", action="append", default=[], help="kind of the trace, as request, command or task"
    )


def parse_filter(options: Mapping[str, Any]) -> EventFilter:
    """Return the filter that the options ask for. Raises ``FilterError``."""
    return EventFilter.parse(options)


def positive_int(text: str) -> int:
    """Read a number above 0, for ``type``."""
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    if int(text) > MAX_NUMBER:
        raise ArgumentTypeError(f"{text!r} is greater than {MAX_NUMBER}")
    return int(text)


def non_negative_int(text: str) -> int:
    """Read a number of lines, which may be 0, for ``type``."""
    return 0 if text == "0" else positive_int(text)
