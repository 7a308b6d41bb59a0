"""``manage.py signalbox show``: everything about one event, or one trace."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping
from typing import Any, Final

from django.core.management import CommandError
from django.utils import timezone

from signalbox.management.output import events
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.text import escape_unprintable, format_duration
from signalbox.management.subcommands import options as shared
from signalbox.models import Event, Trace
from signalbox.queries.events import get_event
from signalbox.queries.export import event_to_dict, trace_to_dict
from signalbox.queries.trace_tree import TraceTree, find_trace_ids, get_trace_tree

CHANGE_COLUMNS: Final = (
    Column(title="field", width=30, min_width=8),
    Column(title="old", width=60, min_width=10),
    Column(title="new", width=60, min_width=10),
)
FIELD_COLUMNS: Final = (Column(title="field", width=30, min_width=8), Column(title="value", width=120, min_width=10))
RECEIVER_COLUMNS: Final = (
    Column(title="receiver", width=60, min_width=16, keep_end=True),
    Column(title="duration", width=8, min_width=8, align_right=True),
    Column(title="location", width=60, min_width=14, drop_order=1, keep_end=True),
    Column(title="error", width=80, min_width=10),
)
SHOWN_DATA_KEYS: Final = ("args", "changes", "row", "receivers", "pre_signal_time")


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "id", type=_parse_id, metavar="ID", help="an event's number, or a trace's id, or how that begins"
    )
    shared.add_output_options(parser)


def _parse_id(text: str) -> int | str:
    if text.isascii() and text.isdecimal() and len(text) < 32 and int(text) < 2**63:
        return int(text)
    if re.fullmatch("[0-9a-f]{8,32}", text):
        return text
    raise ArgumentTypeError(f"{text!r} is neither an event's number nor 8 to 32 hexadecimal digits of a trace's id")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write what is known of it. Raises ``CommandError``, with 1 as exit code, if there is no such event or trace."""
    screen = Screen(stdout, options)
    identifier, using = options["id"], options["using"]
    if isinstance(identifier, str):
        _write_trace(screen, identifier, options)
        return 0
    event = get_event(identifier, using=using)
    if event is None:
        digits = str(identifier)  # a trace's id may begin with eight digits
        if len(digits) >= 8 and find_trace_ids(digits, using=using):
            _write_trace(screen, digits, options)
            return 0
        raise _not_found("event", identifier)
    tree = get_trace_tree(event.trace_id, using=using)
    if options["json"]:
        screen.write_json(event_with_context_to_dict(event, tree))
    else:
        _write_event(screen, event, tree)
    return 0


def _not_found(kind: str, identifier: int | str) -> CommandError:
    message = f"There is no {kind} {identifier}: it was purged, or it lies in another database (--using)."
    return CommandError(message, returncode=1)


def event_with_context_to_dict(event: Event, tree: TraceTree | None) -> dict[str, Any]:
    """Return an event as a JSON-able dict, with its traces and the ids of the events around it."""
    parent, children = _find_parent_and_children(event, tree)
    return {
        **event_to_dict(event),
        "traces": [trace_to_dict(row) for row in (tree.traces if tree else ())],
        "parent_event_id": None if parent is None else parent.id,
        "child_event_ids": [child.id for child in children],
    }


def _find_parent_and_children(event: Event, tree: TraceTree | None) -> tuple[Event | None, list[Event]]:
    """Return the event in whose receiver this one happened, and those that happened in its own receivers."""
    others = [other for _, other in tree.walk()] if tree else []
    parent = next((other for other in others if event.parent is not None and other.span == event.parent), None)
    return parent, [other for other in others if other.parent == event.span]


def _write_event(screen: Screen, event: Event, tree: TraceTree | None) -> None:
    data: dict[str, Any] = event.data
    parent, children = _find_parent_and_children(event, tree)
    screen.write_line([Cell(f"event {event.id}", "bold"), Cell("  "), Cell(escape_unprintable(event.signal), "cyan")])
    facts = [
        ("time", f"{timezone.localtime(event.timestamp):%Y-%m-%d %H:%M:%S.%f %Z}", ""),
        ("sender", event.sender, ""),
        ("object", _format_label(event.object_label, event.object_key), ""),
        ("actor", _format_label(event.actor_label, event.actor_key), ""),
        ("outcome", event.outcome.replace("_", " "), events.get_outcome_style(event.outcome)),
        ("duration", format_duration(event.duration), ""),
        ("database", event.database, ""),
        ("trace", event.trace_id, ""),
        *(("", _format_trace(row), "") for row in (tree.traces if tree else ())),
        ("parent", "" if parent is None else f"event {parent.id}, {parent}", ""),
        *(("children", f"event {child.id}, {child}", "") for child in children),
    ]
    for name, text, style in facts:
        if text:
            screen.write_line([Cell(f"  {name:<12}", "dim"), Cell(escape_unprintable(text), style)])
    if data.get("args"):
        _write_heading(screen, "arguments")
        screen.write_table(
            FIELD_COLUMNS, [[Cell(name), Cell(_format_value(value))] for name, value in data["args"].items()]
        )
    if data.get("changes"):
        _write_heading(screen, "changes")
        screen.write_table(
            CHANGE_COLUMNS, [[Cell(name), *_change_cells(pair)] for name, pair in data["changes"].items()]
        )
    if data.get("row"):
        _write_heading(screen, "row")
        screen.write_table(
            FIELD_COLUMNS, [[Cell(name), Cell(_format_value(value))] for name, value in data["row"].items()]
        )
    if data.get("receivers"):
        _write_heading(screen, "receivers")
        screen.write_table(RECEIVER_COLUMNS, map(_receiver_row, data["receivers"]))
    rest = {name: value for name, value in data.items() if name not in SHOWN_DATA_KEYS}
    if rest:
        _write_heading(screen, "more")
        screen.write_table(FIELD_COLUMNS, [[Cell(name), Cell(_format_value(value))] for name, value in rest.items()])


def _write_trace(screen: Screen, trace_id_prefix: str, options: Mapping[str, Any]) -> None:
    found = find_trace_ids(trace_id_prefix, using=options["using"])
    if len(found) > 1:
        message = f"Several traces begin with {trace_id_prefix}, as {' and '.join(found)}: give more digits."
        raise CommandError(message, returncode=1)
    tree = get_trace_tree(found[0], using=options["using"]) if found else None
    if tree is None:
        raise _not_found("trace", trace_id_prefix)
    if options["json"]:
        for row in tree.traces:
            screen.write_json(trace_to_dict(row))
        for _, event in tree.walk():
            screen.write_json(event_to_dict(event))
        return
    screen.write_line([Cell(f"trace {tree.trace_id}", "bold")])
    for row in tree.traces:
        screen.write_text(f"  {_format_trace(row)}")
    if not tree.traces:
        screen.write_text("  It has not ended.")
    screen.write_line()
    walked = list(tree.walk())
    rows = [events.event_row(event, full_time=not screen.is_terminal) for _, event in walked]
    signal = [column.title for column in events.COLUMNS].index("signal")
    for (depth, _), row_ in zip(walked, rows, strict=True):
        row_[signal] = Cell("  " * depth + row_[signal].text, row_[signal].style)
    screen.write_table(events.COLUMNS[:-1], rows)
    if not tree.is_complete:
        screen.write_text(f"These are its first {len(walked)} events; `events --trace` has them all.")


def _write_heading(screen: Screen, text: str) -> None:
    screen.write_line()
    screen.write_line([Cell(text, "bold")])


def _format_label(label: str, key: str) -> str:
    return f"{label} ({key})" if label and key else label or key


def _format_trace(trace: Trace) -> str:
    return " ".join(filter(None, (trace.kind, trace.name, trace.status, format_duration(trace.duration))))


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _change_cells(pair: list[Any]) -> list[Cell]:
    """Return old and new; what was written without having been read has no old value."""
    *old, new = pair
    return [Cell(_format_value(old[0]), "red") if old else Cell("(unknown)", "dim"), Cell(_format_value(new), "green")]


def _receiver_row(call: dict[str, Any]) -> list[Cell]:
    location, error = call["location"] or "", call["error"] or ""
    return [
        Cell(call["name"]),
        Cell(format_duration(call["duration_us"])),
        Cell(location, "dim"),
        Cell(error, "bold red"),
    ]
