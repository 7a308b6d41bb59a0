"""``manage.py signalbox purge``: delete old rows of the event log."""

from __future__ import annotations

import datetime as dt
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Final

from django.core.management import CommandError
from django.db import connections

import signalbox
from signalbox import conf
from signalbox.management.output.progress import Progress
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.models import utc_now
from signalbox.queries.filter_values import parse_time
from signalbox.queries.purge import PurgeError
from signalbox.retention.purging import PurgeProgress, find_purge_databases
from signalbox.retention.vacuum import get_vacuum_refusal, vacuum

COLUMNS: Final = (
    Column(title="database", width=20, min_width=8),
    Column(title="rule", width=40, min_width=10, keep_end=True),
    Column(title="rows", width=12, min_width=8, align_right=True),
)

Counts = dict[str, dict[str, int]]


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    several: Any = {"action": "append", "default": []}
    parser.add_argument(
        "--before",
        metavar="TIME",
        help='delete events before a time: "90d" ago, or as 2026-03-01; by default, the setting RETENTION is applied',
    )
    parser.add_argument("--signal", metavar="NAME", help="with --before: only of this signal; repeatable", **several)
    parser.add_argument(
        "--sender", metavar="LABEL", help="with --before: only of shop.Order, or of the app shop; repeatable", **several
    )
    parser.add_argument(
        "--database",
        choices=tuple(connections),
        metavar="ALIAS",
        help=f"only this database, of {', '.join(connections)}; by default, all that have the tables",
    )
    parser.add_argument("--dry-run", action="store_true", help="count the rows, and delete nothing")
    parser.add_argument(
        "--no-input", "--noinput", "--yes", action="store_true", dest="no_input", help="do not ask for confirmation"
    )
    parser.add_argument("--vacuum", action="store_true", help="then release the space, with locks: see the docs")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Delete the rows and write their numbers by rule.

    Return 1 if it was not confirmed. Raise ``CommandError`` if an option or a rule is not valid (exit code 2 or 1), or
    at the end if it was interrupted or databases could not be purged (exit code 1).
    """
    screen = Screen(stdout, options)
    before = _parse_before(options)
    aliases = [options["database"]] if options["database"] else find_purge_databases()[0]
    if options["vacuum"] and not options["dry_run"]:
        _check_vacuum(aliases)
    if before is None and not conf.get().RETENTION and not _has_setting():
        if not options["json"]:
            screen.write_text('Nothing is deleted: SIGNALBOX["RETENTION"] has no rules, and --before is not given.')
        return 0
    work = _Work(options, before)
    if before is not None and not (options["dry_run"] or options["no_input"]):
        counts, failure = work.run(dry_run=True)
        _write_counts(screen, counts, options)
        if failure is not None:
            screen.write_text(f"{failure}.")
        screen.flush()
        if not _ask_for_confirmation(counts):
            screen.write_text("Nothing was deleted.")
            return 1
    try:
        counts, failure = work.run(dry_run=options["dry_run"])
    except KeyboardInterrupt:
        _write_counts(screen, work.counts, options)
        raise CommandError("The purge was interrupted. The next one continues.", returncode=1) from None
    _write_counts(screen, counts, options)
    if options["vacuum"] and not options["dry_run"]:
        for alias in counts:
            if failure is None or alias not in failure.errors:
                vacuum(alias)
    if failure is not None:
        raise CommandError(f"{failure}. The next purge continues.", returncode=1)
    return 0


class _Work:
    """The purge, with its progress."""

    def __init__(self, options: Mapping[str, Any], before: dt.datetime | None) -> None:
        self._options, self._before = options, before
        self.counts: Counts = {}
        """What was deleted so far."""

    def run(self, *, dry_run: bool) -> tuple[Counts, PurgeError | None]:
        """Return the numbers of rows, and the error if databases could not be purged."""
        bar = Progress()
        verb = "to delete" if dry_run else "deleted"
        self.counts = {}

        def show(progress: PurgeProgress) -> None:
            self.counts.setdefault(progress.database, {})[progress.rule] = progress.deleted
            bar.update(f"{progress.database} {progress.rule}", progress.fraction, f"{progress.deleted:,} {verb}")

        try:
            deleted = signalbox.purge(
                before=self._before,
                signal=self._options["signal"] or None,
                sender=self._options["sender"] or None,
                using=self._options["database"],
                dry_run=dry_run,
                on_progress=show,
            )
        except PurgeError as error:
            return error.deleted, error
        finally:
            bar.clear()
        return deleted, None


def _has_setting() -> bool:
    """Return whether the setting has rules that are not valid. ``signalbox.purge()`` reports them."""
    from django.conf import settings

    raw = getattr(settings, "SIGNALBOX", None)
    return isinstance(raw, Mapping) and bool(raw.get("RETENTION"))


def _parse_before(options: Mapping[str, Any]) -> dt.datetime | None:
    if options["before"] is None:
        if options["signal"] or options["sender"]:
            raise CommandError("--signal and --sender select events before a time: add --before.", returncode=2)
        return None
    if options["json"] and not (options["dry_run"] or options["no_input"]):
        raise CommandError("--json asks for no confirmation: add --dry-run or --no-input.", returncode=2)
    return parse_time("before", options["before"], utc_now())


def _check_vacuum(aliases: list[str]) -> None:
    for alias in aliases:
        if reason := get_vacuum_refusal(alias):
            raise CommandError(f"--vacuum is not available for {alias!r}. {reason}", returncode=2)


def _ask_for_confirmation(counts: Counts) -> bool:
    total = sum(sum(rules.values()) for rules in counts.values())
    try:
        return input(f"Delete these {total:,} rows? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        message = "The confirmation could not be read: use --no-input to delete, or --dry-run to count."
        raise CommandError(message, returncode=1) from None


def _write_counts(screen: Screen, counts: Counts, options: Mapping[str, Any]) -> None:
    rows = [(alias, rule, count) for alias, rules in counts.items() for rule, count in rules.items()]
    if options["json"]:
        for alias, rule, count in rows:
            screen.write_json({"database": alias, "rule": rule, "rows": count, "dry_run": options["dry_run"]})
    else:
        screen.write_table(COLUMNS, [[Cell(alias), Cell(rule), Cell(f"{count:,}")] for alias, rule, count in rows])
