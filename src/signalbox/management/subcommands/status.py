"""``manage.py signalbox status``: is everything recorded, and what is replaced in Django for it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import django
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections, router

from signalbox import conf, models
from signalbox.instrumentation import patching, process
from signalbox.instrumentation.patching import PatchState
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.pipeline import writer

TABLE_MODELS: Final = (models.Event, models.Trace, models.Delivery)

PATCH_COLUMNS: Final = (
    Column(title="replaced in Django", width=70, min_width=20, keep_end=True),
    Column(title="state", width=12, min_width=12),
    Column(title="lost without it", width=90, min_width=20, drop_order=1),
)

AUTOCOMMIT_TEXTS: Final = {
    "atomic": "atomic: a write in autocommit commits with its event",
    "after": "after, lossy: a crash can lose the events of the last writes in autocommit",
}


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """The tables of one database."""

    alias: str
    present: tuple[str, ...]
    missing: tuple[str, ...]
    """Tables that a router allows and that do not exist."""
    error: str | None
    """Why the database can't be read."""
    missing_grants: tuple[str, ...] = ()
    """Grants that the role of the connection lacks for the tables."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the status of this process and of every database. Return 1 if something is wrong."""
    screen = Screen(stdout, options)
    is_recording, states = process.get_patch_states()
    databases = [_get_database_status(alias) for alias in connections]
    problems = list(_find_problems(is_recording, states, databases))
    if options["json"]:
        screen.write_json(_status_to_dict(is_recording, states, databases, problems))
    else:
        _write_status(screen, is_recording, states, databases, problems)
    return 1 if problems else 0


def _get_database_status(alias: str) -> DatabaseStatus:
    expected = [model._meta.db_table for model in TABLE_MODELS if router.allow_migrate_model(alias, model)]
    connection = connections[alias]
    try:
        tables = set(connection.introspection.table_names())
        present = tuple(model._meta.db_table for model in TABLE_MODELS if model._meta.db_table in tables)
        grants = tuple(writer.get_missing_grants(connection)) if len(present) == len(TABLE_MODELS) else ()
    except DatabaseError as error:
        return DatabaseStatus(alias, (), (), str(error).strip())
    return DatabaseStatus(alias, present, tuple(table for table in expected if table not in tables), None, grants)


def _find_problems(is_recording: bool, states: list[PatchState], databases: list[DatabaseStatus]) -> Iterator[str]:
    if conf.is_disabled():
        yield f"{conf.DISABLED_VARIABLE} switches recording off."
    elif not is_recording:
        yield "Recording is off."
    for state in states:
        if not state.is_applicable:
            yield f"{state.patch.target} has other parameters in this version of Django. {state.patch.lost_without}."
    for database in databases:
        if database.error is not None:
            yield f"Database {database.alias!r} can't be read: {database.error}"
        elif database.missing:
            into = "" if database.alias == DEFAULT_DB_ALIAS else f" --database {database.alias}"
            missing = ", ".join(database.missing)
            yield f"Database {database.alias!r} has no table {missing}: run manage.py migrate{into}."
        if database.missing_grants:
            yield f"The role of database {database.alias!r} lacks grants: {', '.join(database.missing_grants)}."
    stats = writer.write_stats
    if stats.dropped or stats.failures:
        yield f"{stats.dropped} events were dropped and {stats.failures} writes failed since this process started."


def _status_to_dict(
    is_recording: bool, states: list[PatchState], databases: list[DatabaseStatus], problems: list[str]
) -> dict[str, Any]:
    autocommit = conf.get().AUTOCOMMIT
    stats = writer.write_stats
    return {
        "recording": is_recording,
        "disabled": conf.is_disabled(),
        "autocommit": autocommit,
        "lossy": autocommit == "after",
        "django": django.get_version(),
        "checked": patching.is_checked(),
        "databases": [
            {
                "alias": database.alias,
                "tables": list(database.present),
                "missing": list(database.missing),
                "missing_grants": list(database.missing_grants),
                "error": database.error,
            }
            for database in databases
        ],
        "patches": [
            {
                "target": state.patch.target,
                "active": state.is_active,
                "applicable": state.is_applicable,
                "lost_without": state.patch.lost_without,
            }
            for state in states
        ],
        "written": stats.written,
        "dropped": stats.dropped,
        "failures": stats.failures,
        "problems": problems,
    }


def _write_status(
    screen: Screen, is_recording: bool, states: list[PatchState], databases: list[DatabaseStatus], problems: list[str]
) -> None:
    disabled = f", switched off by {conf.DISABLED_VARIABLE}" if conf.is_disabled() else ""
    checked = "" if patching.is_checked() else f", not checked; checked are {', '.join(patching.CHECKED_VERSIONS)}"
    stats = writer.write_stats
    screen.write_text(f"recording   {'on' if is_recording else 'off'}{disabled}")
    screen.write_text(f"autocommit  {AUTOCOMMIT_TEXTS[conf.get().AUTOCOMMIT]}")
    screen.write_text(f"django      {django.get_version()}{checked}")
    screen.write_text(
        f"events      {stats.written} written, {stats.dropped} dropped, {stats.failures} failed writes in this process"
    )
    for database in databases:
        tables = database.error or ", ".join(database.present) or "no tables"
        screen.write_text(f"database    {database.alias}: {tables}")
    screen.write_line()
    screen.write_table(PATCH_COLUMNS, map(_patch_row, states))
    if problems:
        screen.write_line()
    for problem in problems:
        screen.write_text(f"PROBLEM: {problem}", "bold red")


def _patch_row(state: PatchState) -> list[Cell]:
    if not state.is_applicable:
        name, style = "not applied", "bold red"
    else:
        name, style = ("active", "green") if state.is_active else ("not active", "dim")
    return [Cell(state.patch.target), Cell(name, style), Cell(state.patch.lost_without.replace("`", ""), "dim")]
