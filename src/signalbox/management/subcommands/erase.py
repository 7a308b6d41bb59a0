"""``manage.py signalbox erase``: erase a person's data from the event log."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from django.core.management import CommandError
from django.db import connections

from signalbox.erasure.erase import Erasure, ErasureError, erase_selection
from signalbox.erasure.selection import build_selection
from signalbox.management.output.counts import format_count
from signalbox.management.output.progress import Progress
from signalbox.management.output.screen import Output, Screen


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--actor", metavar="KEY", help="the primary key of the person's user")
    parser.add_argument(
        "--object",
        metavar="MODEL:KEY",
        action="append",
        default=[],
        dest="objects",
        help="an object with data about the person, such as shop.Customer:17; can be repeated",
    )
    parser.add_argument("--keys", action="store_true", help="also erase the primary keys")
    parser.add_argument(
        "--by", metavar="NAME", help="the person who requests the erasure; by default, the user of the operating system"
    )
    parser.add_argument("--dry-run", action="store_true", help="count what would be erased, and change nothing")
    parser.add_argument("--json", action="store_true", help="write the result as a JSON object")
    parser.add_argument(
        "--database",
        "--using",
        choices=tuple(connections),
        metavar="ALIAS",
        dest="using",
        help=f"only the tables of this database, of {', '.join(connections)}; by default, all that have the tables",
    )


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Erase, and write the counts by place. Return 1 if pending deliveries were left out.

    Raises:
        CommandError: a selector is not valid (exit code 2), it matches nothing, or the role may not update the tables
            (exit code 1), or Ctrl-C interrupted the erasure (exit code 130).
    """
    screen = Screen(stdout, options)
    try:
        selection = build_selection(options["actor"], options["objects"], options["keys"])
    except (TypeError, ValueError) as error:
        raise CommandError(f"{error} Nothing was erased.", returncode=2) from error
    counts = _Counts()
    try:
        result = erase_selection(
            selection, by=options["by"], dry_run=options["dry_run"], using=options["using"], progress=counts.update
        )
    except ErasureError as error:
        raise CommandError(str(error), returncode=1) from error
    except KeyboardInterrupt:
        verb = "would be erased" if options["dry_run"] else "were erased"
        raise CommandError(
            f"Interrupted: {format_count(counts.erased, 'row')} {verb}. Run the command again to erase the others.",
            returncode=130,
        ) from None
    finally:
        counts.clear()
    if options["json"]:
        screen.write_json({**asdict(result), "complete": result.is_complete})
    else:
        _write_result(screen, result)
    return 0 if result.is_complete else 1


def _write_result(screen: Screen, result: Erasure) -> None:
    verb = "would be erased" if result.dry_run else "were erased"
    for name, count in result.places.items():
        screen.write_text(f"{name:24} {count:>8}")
    events, traces = format_count(result.events, "event"), format_count(result.traces, "trace")
    deliveries = format_count(result.deliveries, "delivery", "deliveries")
    screen.write_text(f"Data of {events}, {traces} and {deliveries} {verb} in {', '.join(result.databases)}.", "bold")
    if result.pending_deliveries:
        left = format_count(
            result.pending_deliveries, "pending delivery and its event", "pending deliveries and their events"
        )
        screen.write_text(
            f"Left unchanged: {left}. Run the command again when no delivery is pending: "
            "manage.py signalbox deliveries list --state pending.",
            "bold red",
        )
    for alias, number in result.records.items():
        screen.write_text(f"Event {number} of the database {alias} records the erasure.")


class _Counts:
    """The numbers of a running erasure, which are shown as its progress."""

    def __init__(self) -> None:
        self.erased = 0
        """Number of rows that were erased so far."""
        self._by_database: dict[str, int] = {}
        self._progress = Progress()

    def update(self, alias: str, examined: int, erased: int) -> None:
        """Show the numbers of rows of a database."""
        self._by_database[alias] = erased
        self.erased = sum(self._by_database.values())
        self._progress.update(alias, None, f"{examined:,} events examined, {format_count(erased, 'row')} erased")

    def clear(self) -> None:
        """Remove the line."""
        self._progress.clear()
