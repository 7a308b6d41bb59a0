"""``manage.py signalbox errors``: exceptions by class and place; resolves, mutes and reopens them."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from typing import Any, Final

from django.core.management import CommandError
from django.db import router

from signalbox.core.system_user import get_system_actor
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.subcommands import options as shared
from signalbox.models import Error, ErrorState, to_datetime
from signalbox.queries import errors
from signalbox.queries.error_states import ACTIONS, change_state
from signalbox.queries.json_objects import error_to_dict
from signalbox.queries.timeline_filter import clean_param

ALL_STATES: Final = "all"

STYLES: Final = {
    "open": "bold red",
    errors.REGRESSED: "bold yellow",
    ErrorState.RESOLVED: "green",
    ErrorState.MUTED: "dim",
}
"""Colours of the states."""

COLUMNS: Final = (
    Column(title="ID", width=8, min_width=8),
    Column(title="STATE", width=9, min_width=8),
    Column(title="COUNT", width=7, min_width=5, align_right=True),
    Column(title="TRACES", width=7, min_width=6, align_right=True, drop_order=3),
    Column(title="LAST SEEN", width=19, min_width=19, drop_order=4),
    Column(title="EXCEPTION", width=36, min_width=14, keep_end=True),
    Column(title="PLACE", width=60, min_width=16, keep_end=True),
    Column(title="RECEIVER", width=40, min_width=14, keep_end=True, drop_order=2),
    Column(title="MESSAGE", width=60, min_width=12, drop_order=1),
)


def _parse_prefix(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{8,32}", text):
        raise ArgumentTypeError(f"{text[:40]!r} is not the id of an error: 8 to 32 hexadecimal digits were expected")
    return text


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("ids", nargs="*", type=_parse_prefix, metavar="ID", help="errors by their ids in the list")
    actions = parser.add_mutually_exclusive_group()
    for name, text in (
        ("resolve", "mark these errors as resolved; if one is raised again, its state is regressed"),
        ("mute", "record these errors, and do not list them"),
        ("reopen", "list these errors again"),
    ):
        actions.add_argument(f"--{name}", dest="action", action="store_const", const=name, help=text)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument(
        "--state",
        choices=(*errors.STATES, ALL_STATES),
        default=ErrorState.OPEN,
        help="open (the default, with regressed errors), resolved, muted or all",
    )
    parser.add_argument(
        "--text", default="", metavar="TEXT", help="show errors with this text in the class, message, place or receiver"
    )
    shared.add_limit_option(parser, "at most this many", errors.PAGE_SIZE)
    shared.add_using_option(parser, "the database that contains them")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """List groups of errors, or change their states. Return 1 if none was found."""
    screen = Screen(stdout, options)
    alias = options["using"] or router.db_for_read(Error)
    if options["action"] and not options["ids"]:
        raise CommandError(f"--{options['action']} needs the ids of errors, from the list.", returncode=2)
    if not options["ids"]:
        return _list(screen, alias, options)
    groups = [_find_group(alias, prefix) for prefix in options["ids"]]
    if options["action"]:
        actor = get_system_actor()
        for group in groups:
            change_state(alias, group.fingerprint, ACTIONS[options["action"]], actor)
        groups = [_find_group(alias, group.fingerprint) for group in groups]
    return _write(screen, groups, options)


def _list(screen: Screen, alias: str, options: Mapping[str, Any]) -> int:
    state = "" if options["state"] == ALL_STATES else options["state"]
    groups: list[errors.ErrorGroup] = []
    before: int | None = None
    is_cut_off = False
    while len(groups) < options["limit"]:
        page = errors.get_error_page(alias, state=state, text=clean_param(options["text"]), before=before)
        groups += page.groups
        before, is_cut_off = page.next_cursor, page.is_cut_off
        if before is None:
            break
    code = _write(screen, groups[: options["limit"]], options)
    if is_cut_off and not options["json"]:
        screen.write_text(f"Counted are the newest {errors.MAX_ERRORS} errors. Older ones are stored, and not listed.")
    return code


def _find_group(alias: str, prefix: str) -> errors.ErrorGroup:
    found = errors.find_fingerprints(alias, prefix)
    group = errors.find_group(alias, found[0]) if len(found) == 1 else None
    if group is None:
        reason = "several errors have ids that begin so; give more digits" if found else "no stored error has this id"
        raise CommandError(f"The id is {prefix}: {reason}.", returncode=1)
    return group


def _write(screen: Screen, groups: list[errors.ErrorGroup], options: Mapping[str, Any]) -> int:
    if options["json"]:
        for group in groups:
            screen.write_json(error_to_dict(group))
    elif groups:
        screen.write_table(COLUMNS, map(_build_cells, groups))
    else:
        screen.write_text("No errors match.")
    return 0 if groups else 1


def _build_cells(group: errors.ErrorGroup) -> list[Cell]:
    newest = group.newest
    return [
        Cell(group.fingerprint[:8]),
        Cell(group.state, STYLES[group.state]),
        Cell(str(group.count)),
        Cell(str(group.trace_count)),
        Cell(f"{to_datetime(group.last_seen).astimezone():%Y-%m-%d %H:%M:%S}", "dim"),
        Cell(newest.exception, "bold"),
        Cell(newest.place),
        Cell(newest.receiver),
        Cell(newest.message, "dim"),
    ]
