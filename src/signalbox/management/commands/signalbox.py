"""``manage.py signalbox``: parses, and hands over to the subcommand's own module."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from django.core.exceptions import ImproperlyConfigured
from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections, router

from signalbox.instrumentation import process
from signalbox.models import Event, Trace
from signalbox.queries.filters import FilterError


class Subcommand(NamedTuple):
    """A word after ``signalbox``: a module with ``add_arguments(parser)`` and ``run(options, stdout)`` -> exit code."""

    help: str
    """What it does, for the list."""
    module: str
    """Dotted path."""
    is_read_only: bool = True
    """Whether it only reads, and is not to be recorded."""


_PACKAGE: Final = "signalbox.management.subcommands"

SUBCOMMANDS: Final[Mapping[str, Subcommand]] = MappingProxyType(
    {
        "status": Subcommand("whether everything is recorded, and what is replaced in Django", f"{_PACKAGE}.status"),
        "tail": Subcommand("events as they are recorded, until Ctrl-C", f"{_PACKAGE}.tail"),
        "events": Subcommand("the newest events", f"{_PACKAGE}.events"),
        "show": Subcommand("everything about one event, or one trace", f"{_PACKAGE}.show"),
        "history": Subcommand("one object's life, or what it was at a time", f"{_PACKAGE}.history"),
        "signals": Subcommand("every signal, and what listens to it", f"{_PACKAGE}.signals"),
        "stats": Subcommand("how often signals were sent, how long receivers ran", f"{_PACKAGE}.stats"),
        "work": Subcommand(
            "durable receivers at work, until told to stop", "signalbox.management.subcommands.work", is_read_only=False
        ),
        "deliveries": Subcommand(
            "how durable receivers get on; retry, discard, replay",
            "signalbox.management.subcommands.deliveries",
            is_read_only=False,
        ),
        "doctor": Subcommand("what is wrong with this project's receivers", "signalbox.management.subcommands.doctor"),
    }
)

GLOBAL_OPTIONS: Final = ("--no-color", "--force-color", "--traceback", "--settings", "--pythonpath", "-v")
"""Django's own options that are understood after the subcommand's name as well."""


class Command(BaseCommand):
    """Exit codes: 0 fine, 1 not found or not readable, 2 not understood."""

    help = "Sees every signal of this project, and what became of it."
    requires_system_checks = []
    _runs_from_argv = False

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as a process's one task."""
        self._runs_from_argv = True
        super().run_from_argv(argv)

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the subcommands."""
        subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND", title="subcommands")
        for name, subcommand in SUBCOMMANDS.items():
            subparser = subparsers.add_parser(name, help=subcommand.help, description=f"Shows {subcommand.help}.")
            import_module(subcommand.module).add_arguments(subparser)
            _add_global_options(subparser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the subcommand."""
        subcommand = SUBCOMMANDS[options["subcommand"]]
        if subcommand.is_read_only and self._runs_from_argv:
            process.disable_recording_for_process()
        try:
            code = import_module(subcommand.module).run(options, self.stdout)
            self.stdout.flush()
        except BrokenPipeError:  # as of `| head`: who reads has seen enough
            _discard_stdout()
            return
        except FilterError as error:
            raise CommandError(str(error), returncode=2) from error
        except DatabaseError as error:
            raise CommandError(_describe_error(error, options.get("using")), returncode=1) from error
        except ImproperlyConfigured as error:  # as of a database that the settings lack
            raise CommandError(str(error), returncode=1) from error
        if code:
            sys.exit(code)


def _add_global_options(parser: argparse.ArgumentParser) -> None:
    """Let Django's own options stand after the subcommand's name; its list of options stays short."""
    for option in GLOBAL_OPTIONS:
        kwargs: dict[str, Any] = {"action": "store_true"} if option.endswith(("color", "traceback")) else {}
        if option == "-v":
            kwargs = {"dest": "verbosity", "type": int, "choices": range(4)}
        parser.add_argument(option, default=argparse.SUPPRESS, help=argparse.SUPPRESS, **kwargs)


def _discard_stdout() -> None:
    """Give the interpreter, which flushes at exit, nowhere to fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _describe_error(error: DatabaseError, using: str | None) -> str:
    """Say what stands between the tables and their reader."""
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
