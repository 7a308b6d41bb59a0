"""``manage.py signalbox``: parses, and hands over to the subcommand's own module."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections, router
from django.utils import timezone

from signalbox.instrumentation import recording_state
from signalbox.management.subcommands import options as shared
from signalbox.models import Event, Trace
from signalbox.queries.filters import FilterError


class Subcommand(NamedTuple):
    """A word after ``signalbox``: a module with ``add_arguments(parser)`` and ``run(options, stdout)`` -> exit code."""

    help: str
    """Short description, after "Shows"."""
    module: str
    """Dotted path."""
    is_read_only: bool = True
    """Whether it only reads, so that it is not recorded."""


_PACKAGE: Final = "signalbox.management.subcommands"

SUBCOMMANDS: Final[Mapping[str, Subcommand]] = MappingProxyType(
    {
        "status": Subcommand("the state of recording, and the parts of Django that it replaces", f"{_PACKAGE}.status"),
        "tail": Subcommand("events as they are recorded, until Ctrl-C", f"{_PACKAGE}.tail"),
        "events": Subcommand("the newest events", f"{_PACKAGE}.events"),
        "export": Subcommand("events as a file for other programs; each export is recorded", f"{_PACKAGE}.export"),
        "show": Subcommand("everything about one event, or one trace", f"{_PACKAGE}.show"),
        "history": Subcommand("the history of one object, or its state at a time", f"{_PACKAGE}.history"),
        "revert": Subcommand(
            "the preview of a revert, and reverts the event after confirmation",
            f"{_PACKAGE}.revert",
            is_read_only=False,
        ),
        "erase": Subcommand(
            "what would be erased with --dry-run, and erases a person's data from the event log",
            f"{_PACKAGE}.erase",
            is_read_only=False,
        ),
        "signals": Subcommand("every signal and its receivers", f"{_PACKAGE}.signals"),
        "errors": Subcommand(
            "exceptions by class and place; resolves, mutes and reopens them",
            f"{_PACKAGE}.errors",
            is_read_only=False,
        ),
        "stats": Subcommand("how often signals were sent, how long receivers ran", f"{_PACKAGE}.stats"),
        "work": Subcommand(
            "the work of durable receivers, which it runs until it is stopped",
            "signalbox.management.subcommands.work",
            is_read_only=False,
        ),
        "deliveries": Subcommand(
            "the state of durable receivers; retries, discards and replays deliveries",
            "signalbox.management.subcommands.deliveries",
            is_read_only=False,
        ),
        "purge": Subcommand(
            "the rows that retention does not keep, and deletes them", f"{_PACKAGE}.purge", is_read_only=False
        ),
        "doctor": Subcommand("the problems of this project's receivers", "signalbox.management.subcommands.doctor"),
    }
)

GLOBAL_OPTIONS: Final = ("--no-color", "--force-color", "--traceback", "--settings", "--pythonpath", "-v")
"""Django's own options that are also accepted after the subcommand's name."""


class Command(BaseCommand):
    """Run a subcommand. Exit codes are 0, 1 (nothing found, not healthy or not readable) and 2 (bad usage)."""

    help = "Shows the recorded signals of this project, and their outcomes."
    requires_system_checks = []
    _runs_from_argv = False

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command as the main task of this process. Without a subcommand, print the list of them and exit."""
        if len(argv) == 2:
            self.create_parser(*argv).print_help(sys.stderr)
            sys.exit(2)
        self._runs_from_argv = True
        super().run_from_argv(argv)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        subparsers = parser.add_subparsers(
            dest="subcommand",
            required=True,
            metavar="SUBCOMMAND",
            title="subcommands",
            parser_class=shared.SubcommandParser,
        )
        for name, subcommand in SUBCOMMANDS.items():
            subparser = subparsers.add_parser(name, help=subcommand.help, description=f"Shows {subcommand.help}.")
            import_module(subcommand.module).add_arguments(subparser)
            _add_global_options(subparser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand."""
        subcommand = SUBCOMMANDS[options["subcommand"]]
        if subcommand.is_read_only and self._runs_from_argv:
            recording_state.disable_recording_for_process()
        try:
            with timezone.override(dt.UTC) if options.get("utc") else nullcontext():
                code = import_module(subcommand.module).run(options, self.stdout)
            self.stdout.flush()
        except BrokenPipeError:  # the reader has ended, such as `| head`
            _discard_stdout()
            return
        except FilterError as error:
            raise CommandError(str(error), returncode=2) from error
        except DatabaseError as error:
            raise CommandError(_describe_error(error, options.get("using")), returncode=1) from error
        except ImproperlyConfigured as error:  # such as a database without settings
            raise CommandError(str(error), returncode=1) from error
        if code:
            sys.exit(code)


def _add_global_options(parser: argparse.ArgumentParser) -> None:
    """Accept Django's own options after the subcommand's name, without listing them in its help."""
    for option in GLOBAL_OPTIONS:
        kwargs: dict[str, Any] = {"action": "store_true"} if option.endswith(("color", "traceback")) else {}
        if option == "-v":
            kwargs = {"dest": "verbosity", "type": int, "choices": range(4)}
        parser.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **kwargs)


def _discard_stdout() -> None:
    """Redirect stdout to the null device, so that the interpreter's flush at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_error(error: DatabaseError, using: str | None) -> str:
    """Return the reason why the tables can't be read."""
    alias = using or router.db_for_read(Event)
    try:
        tables = connections[alias].introspection.table_names()
    except DatabaseError:
        return f"Database {alias!r} can't be read: {error}"
    missing = [table for table in (Event._meta.db_table, Trace._meta.db_table) if table not in tables]
    if missing:
        into = "" if alias == "default" else f" --database {alias}"
        return f"Database {alias!r} has no table {' and no table '.join(missing)}: run manage.py migrate{into}."
    return f"Database {alias!r} can't be read: {error}"
