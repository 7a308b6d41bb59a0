"""``manage.py signalbox status``: recording, tables, sizes, deliveries, workers, and whether Signalbox is healthy."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Final

from django.utils import translation

from signalbox.instrumentation.patching import PatchState
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.text import escape_unprintable
from signalbox.management.subcommands import options as shared
from signalbox.queries.status import Status, get_status
from signalbox.queries.status_export import status_to_dict
from signalbox.queries.status_problems import Problem, find_problems, is_healthy
from signalbox.queries.status_sections import build_sections

PROCESS_NOTE: Final = (
    "The counters are those of this command. Each process of the site has its own: see the page Status and the probe."
)

ANSWER_SECONDS: Final = 10.0
"""Seconds after which a database counts as one that can't be read."""

LABEL_WIDTH: Final = 11

STYLES: Final = {"good": "green", "caution": "yellow", "bad": "bold red", "dim": "dim"}
"""Colours of the tones of a row."""

PATCH_COLUMNS: Final = (
    Column(title="replaced in Django", width=70, min_width=20, keep_end=True),
    Column(title="state", width=12, min_width=12),
    Column(title="lost without it", width=90, min_width=20, drop_order=1),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--json", action="store_true", help="one JSON object")
    shared.add_utc_option(parser)


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the status of this process and of every database. Return 1 if Signalbox is not healthy."""
    screen = Screen(stdout, options)
    status = get_status(timeout=ANSWER_SECONDS)
    with translation.override("en"):  # like the texts of all commands
        problems = find_problems(status)
        if options["json"]:
            screen.write_json(status_to_dict(status, problems))
        else:
            _write_status(screen, status, problems)
    return 0 if is_healthy(problems) else 1


def _write_status(screen: Screen, status: Status, problems: list[Problem]) -> None:
    for section in build_sections(status, process_note=PROCESS_NOTE):
        screen.write_line([Cell(section.title, "bold")])
        for row in section.rows:
            label = Cell(f"  {escape_unprintable(row.label):{LABEL_WIDTH}} ", "dim")
            screen.write_line([label, Cell(escape_unprintable(row.text), STYLES.get(row.tone, ""))])
        if section.note:
            screen.write_text(f"  {section.note}", "dim")
        screen.write_line()
    screen.write_table(PATCH_COLUMNS, map(_patch_row, status.recording.patches))
    screen.write_line()
    for problem in problems:
        kind, style = ("WARNING", "yellow") if problem.is_warning else ("PROBLEM", "bold red")
        screen.write_text(f"{kind}: {problem.text}", style)
    if is_healthy(problems):
        screen.write_text("Signalbox is healthy.", "green")


def _patch_row(state: PatchState) -> list[Cell]:
    if not state.is_applicable:
        name, style = "not applied", "bold red"
    else:
        name, style = ("active", "green") if state.is_active else ("not active", "dim")
    return [Cell(state.patch.target), Cell(name, style), Cell(state.patch.lost_without.replace("`", ""), "dim")]
