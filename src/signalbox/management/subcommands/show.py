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
from signalbox.management.output.text import clean, took
from signalbox.management.subcommands import options as shared
from signalbox.models import Event, Trace
from signalbox.queries.events import event as find_event
from signalbox.queries.export import event_record, trace_record
from signalbox.queries.trace_tree import TraceTree, trace_ids
from signalbox.queries.trace_tree import trace as find_trace

CHANGES: Final = (
    Column(title="field", width=30, least=8),
    Column(title="old", width=60, least=10),
    Column(title="new", width=60, least=10),
)
ROW: Final = (Column(title="field", width=30, least=8), Column(title="value", width=120, least=10))
RECEIVERS: Final = (
    Column(title="receiver", width=60, least=16, end=True),
    Column(title="took", width=8, least=8, right=True),
    Column(title="place", width=60, least=14, rank=1, end=True),
    Column(title="error", width=80, least=10),
)
KNOWN: Final = ("args", "changes", "row", "receivers", "announced")


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("id", type=_id, metavar="ID", help="an event's number, or a trace's id, or how that begins")
    shared.add_output(parser)


def _id(text: str) -> int | str:
    if text.isascii() and text.isdecimal() and len(text) < 32 and int(text) < 2**63:
        return int(text)
    if re.fullmatch("[0-9a-f]{8,32}", text):
        return text
    raise ArgumentTypeError(f"{text!r} is neither an event's number nor 8 to 32 hexadecimal digits of a trace's id")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write what is known of it. Raises ``CommandError``, with 1 as exit code, if there is no such event or trace."""
    screen = Screen(stdout, options)
    wanted, using = options["id"], options["using"]
    if isinstance(wanted, str):
        _trace(screen, wanted, options)
        return 0
    event = find_event(wanted, using=using)
    if event is None:
        if len(str(wanted)) >= 8 and trace_ids(str(wanted), using=using):  # an id may begin with digits alone
            _trace(screen, str(wanted), options)
            return 0
        raise _missing("event", wanted)
    tree = find_trace(event.trace_id, using=using)
    if options["json"]:
        screen.json(record(event, tree))
    else:
        _event(screen, event, tree)
    return 0


def _missing(what: str, wanted: int | str) -> CommandError:
    message = f"There is no {what} {wanted}: it was purged, or it lies in another database (--using)."
    return CommandError(message, returncode=1)


def record(event: Event, tree: TraceTree | None) -> dict[str, Any]:
    """Return an event as a JSON-able dict, with its traces and the ids of the events around it."""
    before, after = _around(event, tree)
    return {
        **event_record(event),
        "traces": [trace_record(row) for row in (tree.rows if tree else ())],
        "happened_in": None if before is None else before.id,
        "led_to": [found.id for found in after],
    }


def _around(event: Event, tree: TraceTree | None) -> tuple[Event | None, list[Event]]:
    """Return the event in whose receiver this one happened, and those that happened in its own receivers."""
    found = [other for _, other in tree.walk()] if tree else []
    before = next((other for other in found if event.parent is not None and other.span == event.parent), None)
    return before, [other for other in found if other.parent == event.span]


def _event(screen: Screen, event: Event, tree: TraceTree | None) -> None:
    data: dict[str, Any] = event.data
    before, after = _around(event, tree)
    screen.line([Cell(f"event {event.id}", "bold"), Cell("  "), Cell(clean(event.signal), "cyan")])
    facts = [
        ("time", f"{timezone.localtime(event.at):%Y-%m-%d %H:%M:%S.%f %Z}", ""),
        ("sender", event.sender, ""),
        ("object", _named(event.object_label, event.object_key), ""),
        ("actor", _named(event.actor_label, event.actor_key), ""),
        ("outcome", event.outcome.replace("_", " "), events.style_of(event.outcome)),
        ("took", took(event.duration), ""),
        ("database", event.database, ""),
        ("trace", event.trace_id, ""),
        *(("", _of(row), "") for row in (tree.rows if tree else ())),
        ("happened in", "" if before is None else f"event {before.id}, {before}", ""),
        *(("led to", f"event {other.id}, {other}", "") for other in after),
    ]
    for name, text, style in facts:
        if text:
            screen.line([Cell(f"  {name:<12}", "dim"), Cell(clean(text), style)])
    if data.get("args"):
        _heading(screen, "arguments")
        screen.table(ROW, [[Cell(name), Cell(_value(value))] for name, value in data["args"].items()])
    if data.get("changes"):
        _heading(screen, "changes")
        screen.table(CHANGES, [[Cell(name), *_change(pair)] for name, pair in data["changes"].items()])
    if data.get("row"):
        _heading(screen, "row")
        screen.table(ROW, [[Cell(name), Cell(_value(value))] for name, value in data["row"].items()])
    if data.get("receivers"):
        _heading(screen, "receivers")
        screen.table(RECEIVERS, map(_run, data["receivers"]))
    rest = {name: value for name, value in data.items() if name not in KNOWN}
    if rest:
        _heading(screen, "more")
        screen.table(ROW, [[Cell(name), Cell(_value(value))] for name, value in rest.items()])


def _trace(screen: Screen, wanted: str, options: Mapping[str, Any]) -> None:
    found = trace_ids(wanted, using=options["using"])
    if len(found) > 1:
        message = f"Several traces begin with {wanted}, as {' and '.join(found)}: give more digits."
        raise CommandError(message, returncode=1)
    tree = find_trace(found[0], using=options["using"]) if found else None
    if tree is None:
        raise _missing("trace", wanted)
    if options["json"]:
        for row in tree.rows:
            screen.json(trace_record(row))
        for _, event in tree.walk():
            screen.json(event_record(event))
        return
    screen.line([Cell(f"trace {tree.trace_id}", "bold")])
    for row in tree.rows:
        screen.text(f"  {_of(row)}")
    if not tree.rows:
        screen.text("  It has not ended.")
    screen.line()
    walked = list(tree.walk())
    rows = [events.row(event, exact=not screen.terminal) for _, event in walked]
    signal = [column.title for column in events.COLUMNS].index("signal")
    for (depth, _), row_ in zip(walked, rows, strict=True):
        row_[signal] = Cell("  " * depth + row_[signal].text, row_[signal].style)
    screen.table(events.COLUMNS[:-1], rows)
    if not tree.complete:
        screen.text(f"These are its first {len(walked)} events; `events --trace` has them all.")


def _heading(screen: Screen, text: str) -> None:
    screen.line()
    screen.line([Cell(text, "bold")])


def _named(label: str, key: str) -> str:
    return f"{label} ({key})" if label and key else label or key


def _of(trace: Trace) -> str:
    return " ".join(filter(None, (trace.kind, trace.name, trace.status, took(trace.duration))))


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _change(pair: list[Any]) -> list[Cell]:
    """Return old and new; what was written without having been read has no old value."""
    *old, new = pair
    return [Cell(_value(old[0]), "red") if old else Cell("(unknown)", "dim"), Cell(_value(new), "green")]


def _run(run: dict[str, Any]) -> list[Cell]:
    place, error = run["place"] or "", run["error"] or ""
    return [Cell(run["name"]), Cell(took(run["us"])), Cell(place, "dim"), Cell(error, "bold red")]
