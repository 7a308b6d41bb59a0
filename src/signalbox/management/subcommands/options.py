"""The options that subcommands share: filters, the database and the output format."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Mapping
from typing import Any, Final

from django.core.management import CommandParser
from django.db import connections

from signalbox.core.event import Outcome
from signalbox.queries import filter_language
from signalbox.queries.filter_language import FilterError
from signalbox.queries.filter_names import check_names
from signalbox.queries.filter_values import parse_duration
from signalbox.queries.filters import SIGNAL_GROUPS, EventFilter

FILTER_HELP: Final = f"""tokens of a filter:
{filter_language.describe_tokens()}

Several values of a name, or values between commas, match any of them. Different names must all match.
A minus before a token excludes what it matches. A text without a name is searched in names, labels and data.
Use * for any characters in names and paths, and "quotes" for spaces."""

MAX_NUMBER: Final = 10**18
"""Greatest number that an option accepts. Every database accepts it, and the number after it."""


class SubcommandParser(CommandParser):
    """A parser of a subcommand that accepts the tokens of a filter anywhere, also with a minus."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options, and the words that are neither options nor parts of a filter."""
        options, rest = super().parse_known_args(args, namespace)
        if isinstance(getattr(options, "filter", None), list) and all(map(filter_language.is_token, rest)):
            options.filter = [*options.filter, *rest]
            rest = []
        return options, rest


def add_output_options(parser: ArgumentParser) -> None:
    """Add the options of the output format and the database."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_using_option(parser)


def add_utc_option(parser: ArgumentParser) -> None:
    """Add the option of the time zone."""
    parser.add_argument(
        "--utc",
        action="store_true",
        help="read and show times in UTC, not in the TIME_ZONE of the site; JSON is always in UTC",
    )


def add_using_option(parser: ArgumentParser, database: str = "the database whose tables are read") -> None:
    """Add the option of the database. ``database`` is the beginning of its help."""
    parser.add_argument(
        "--using",
        choices=tuple(connections),
        metavar="ALIAS",
        help=f"{database}, of {', '.join(connections)}; by default, the router's choice",
    )


def add_limit_option(parser: ArgumentParser, text: str, default: int | None = None) -> None:
    """Add the option that limits the number of rows. ``text`` is the beginning of its help."""
    help_text = text if default is None else f"{text} (default {default})"
    parser.add_argument("--limit", type=positive_int, default=default, metavar="N", help=help_text)


def add_filter_options(parser: ArgumentParser) -> None:
    """Add the text of a filter, and the options that are short forms of its tokens, except times."""
    several: Any = {"action": "append", "default": []}
    parser.add_argument(
        "filter",
        nargs="*",
        metavar="FILTER",
        help="tokens such as receiver:send_invoice 'took>50ms' -signal:post_init",
    )
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = FILTER_HELP
    group = parser.add_argument_group("which events", "A repeated option matches any of its values.")
    group.add_argument("--signal", metavar="NAME", help="as post_save, or shop.signals.order_paid", **several)
    group.add_argument(
        "--group", choices=SIGNAL_GROUPS, metavar="NAME", help=f"one of {', '.join(SIGNAL_GROUPS)}", **several
    )
    group.add_argument("--sender", metavar="LABEL", help="as shop.Order, or shop for the whole app", **several)
    group.add_argument("--object", metavar="MODEL:KEY", help="as shop.Order:17")
    group.add_argument("--actor", metavar="WHO", help="a user's name or primary key", **several)
    group.add_argument("--trace", metavar="ID", help="a trace's id, or at least its first 8 digits", **several)
    outcomes = tuple(map(str, Outcome))
    group.add_argument("--outcome", choices=outcomes, metavar="NAME", help=f"one of {', '.join(outcomes)}", **several)
    group.add_argument("--database", metavar="ALIAS", help="events in which this database changed", **several)
    group.add_argument("--text", metavar="TEXT", help="text in a name, a label or the data")


def add_time_options(parser: ArgumentParser) -> None:
    """Add the filters by time and by kind of trace, which is known only of traces that have ended."""
    group = parser.add_argument_group("when")
    group.add_argument(
        "--since", metavar="TIME", help='"15m", "2h" or "3d" ago, a day as 2026-03-01, or a moment as 2026-03-01T12:30'
    )
    group.add_argument("--until", metavar="TIME", help="a time as for --since; a day includes its end")
    group.add_argument(
        "--kind", metavar="NAME", action="append", default=[], help="kind of the trace, as request, command or task"
    )
    add_utc_option(parser)


def add_budget_option(parser: ArgumentParser) -> None:
    """Add the option that limits the time of a search."""
    parser.add_argument(
        "--budget",
        type=budget,
        metavar="TIME",
        help="stop searching after this time, as 2s or 1m; by default, the search has no limit",
    )


def budget(text: str) -> float:
    """Read a duration as seconds, for ``type``."""
    try:
        return parse_duration("budget", text) / 1_000_000
    except FilterError as error:
        raise ArgumentTypeError(f"{text!r} is not a duration, as 500ms, 2s or 1m") from error


def parse_filter(options: Mapping[str, Any]) -> EventFilter:
    """Return the filter that the options ask for.

    Raises ``FilterError`` for a value that can't be read, and for a name that is neither in the project nor recorded.
    """
    event_filter = EventFilter.parse(options)
    check_names(event_filter, using=options["using"])
    return event_filter


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
