"""``manage.py signalbox show``: everything about one event, or one trace."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from django.core.management import CommandError

from signalbox.core.display_names import get_value_label
from signalbox.core.receiver_stats import PASSED_THROUGH_KEY
from signalbox.core.text import format_duration
from signalbox.management.output import events
from signalbox.management.output.attempts import ATTEMPT_COLUMNS, build_attempt_cells, format_time
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.text import escape_unprintable
from signalbox.management.subcommands import options as shared
from signalbox.models import Event, Trace
from signalbox.queries import local_time
from signalbox.queries.event_summary import summarize_event, to_terminal_text
from signalbox.queries.events import get_event, get_events, load_client_addresses
from signalbox.queries.filter_values import EXPECTED_TRACE_ID, TRACE_ID_PREFIX
from signalbox.queries.json_objects import attempt_to_dict, delivery_to_dict, event_to_dict, trace_to_dict
from signalbox.queries.trace_calls import RecordedCall, walk_with_calls
from signalbox.queries.trace_deliveries import DeliveryHistory, SplitTrace, get_trace_deliveries, split_trace
from signalbox.queries.trace_tree import TraceTree, find_trace_ids, get_trace_tree
from signalbox.queries.transaction_ends import get_transaction_ends
from signalbox.serialization import encoder

CHANGE_COLUMNS: Final = (
    Column(title="field", width=30, min_width=8),
    Column(title="old", width=60, min_width=10),
    Column(title="new", width=60, min_width=10),
)
FIELD_COLUMNS: Final = (Column(title="field", width=30, min_width=8), Column(title="value", width=120, min_width=10))
RECEIVER_COLUMNS: Final = (
    Column(title="receiver", width=60, min_width=16, keep_end=True),
    Column(title="duration", width=9, min_width=8, align_right=True),
    Column(title="location", width=60, min_width=14, drop_order=1, keep_end=True),
    Column(title="error", width=80, min_width=10),
)
COUNT_COLUMNS: Final = (
    Column(title="signal", width=30, min_width=8),
    Column(title="sender", width=80, min_width=10, keep_end=True),
    Column(title="sends", width=9, min_width=5, align_right=True),
)
SHOWN_DATA_KEYS: Final = ("args", "changes", "row", "receivers", "labels", "pre_signal_time", PASSED_THROUGH_KEY)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "id", type=_parse_id, metavar="ID", help="an event's id, or a trace's id, or at least its first 8 digits"
    )
    shared.add_output_options(parser)
    shared.add_utc_option(parser)


def _parse_id(text: str) -> int | str:
    if text.isascii() and text.isdecimal() and len(text) < 32 and int(text) < 2**63:
        return int(text)
    if TRACE_ID_PREFIX.fullmatch(text):
        return text
    raise ArgumentTypeError(f"{text!r} is neither an event's id nor {EXPECTED_TRACE_ID} of a trace's id")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the event or trace. Raise ``CommandError`` with exit code 1 if it does not exist."""
    screen = Screen(stdout, options)
    identifier, using = options["id"], options["using"]
    if isinstance(identifier, str):
        _write_trace(screen, identifier, options)
        return 0
    event = get_event(identifier, using=using)
    if event is None:
        digits = str(identifier)  # a trace's id may begin with eight digits
        if TRACE_ID_PREFIX.fullmatch(digits) and find_trace_ids(digits, using=using):
            _write_trace(screen, digits, options)
            return 0
        raise _build_event_error(identifier, using)
    tree = get_trace_tree(event.trace_id, using=using)
    load_client_addresses([event], using=using)
    if options["json"]:
        screen.write_json(event_with_context_to_dict(event, tree))
    else:
        _write_event(screen, event, tree)
    return 0


def _build_event_error(event_id: int, using: str | None) -> CommandError:
    """Return the error for an event that does not exist. Only an id below the newest one may have been purged."""
    newest = next(iter(get_events(limit=1, using=using)), None)
    if newest is None:
        reason = "No event is stored in this database."
    elif event_id > newest.id:
        reason = f"The newest event is {newest.id}."
    else:
        reason = "It was purged, or no event was written under this number."
    return CommandError(f"Event {event_id} does not exist. {reason} {_OTHER_DATABASE_HINT}", returncode=1)


def _build_trace_error(trace_id_prefix: str) -> CommandError:
    message = (
        f"Trace {trace_id_prefix} does not exist. Check the id: `signalbox events` lists traces. {_OTHER_DATABASE_HINT}"
    )
    return CommandError(message, returncode=1)


_OTHER_DATABASE_HINT: Final = "Name another database with --using."


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
    """Return the event whose receiver caused this one, and the events that its own receivers caused."""
    others = [other for _, other in tree.walk()] if tree else []
    parent = next((other for other in others if event.parent is not None and other.span == event.parent), None)
    return parent, [other for other in others if other.parent == event.span]


def _write_event(screen: Screen, event: Event, tree: TraceTree | None) -> None:
    data: dict[str, Any] = event.data
    parent, children = _find_parent_and_children(event, tree)
    screen.write_line([Cell(f"event {event.id}", "bold"), Cell("  "), Cell(escape_unprintable(event.signal), "cyan")])
    facts = [
        ("time", local_time.format_exact(event.time), ""),
        ("sender", event.sender, ""),
        ("object", _format_label(event.object_label, event.object_key), ""),
        ("summary", to_terminal_text(str(summarize_event(event))), ""),
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
            CHANGE_COLUMNS, [[Cell(name), *_change_cells(data, name, pair)] for name, pair in data["changes"].items()]
        )
    if data.get("row"):
        _write_heading(screen, "row")
        screen.write_table(
            FIELD_COLUMNS,
            [[Cell(name), Cell(_format_field(data, name, value))] for name, value in data["row"].items()],
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
        raise CommandError(message, returncode=2)
    tree = get_trace_tree(found[0], using=options["using"]) if found else None
    if tree is None:
        raise _build_trace_error(trace_id_prefix)
    histories, has_more = get_trace_deliveries(tree.trace_id, options["using"])
    if options["json"]:
        for row in tree.traces:
            screen.write_json(trace_to_dict(row))
        for _, event in tree.walk():
            screen.write_json(event_to_dict(event))
        for history in histories:
            attempts = [attempt_to_dict(attempt) for attempt in history.attempts]
            screen.write_json(delivery_to_dict(history.delivery) | {"attempts_made": attempts})
        return
    load_client_addresses((event for _, event in tree.walk()), using=options["using"])
    _write_tree(screen, tree, histories)
    if has_more:
        screen.write_text(f"These are its first {len(histories)} deliveries.")


def _write_tree(screen: Screen, tree: TraceTree, histories: Sequence[DeliveryHistory]) -> None:
    screen.write_line([Cell(f"trace {tree.trace_id}", "bold")])
    for row in tree.traces:
        screen.write_text(f"  {_format_trace(row)}")
    if not tree.traces:
        screen.write_text("  It has not ended.")
    screen.write_line()
    all_events = [event for _, event in tree.walk()]
    split = split_trace(all_events, tree.traces, histories)
    _write_events(screen, split.events)
    _write_send_counts(screen, tree)
    if not tree.is_complete:
        screen.write_text(f"These are its first {len(all_events)} events; `events --trace` has them all.")
    for end in get_transaction_ends(split.traces).ends:
        label = "commit" if end.outcome == "committed" else "savepoint rollback" if end.is_savepoint else "rollback"
        number = "" if end.event_count is None else f" of {end.event_count} events"
        screen.write_text(f"{format_time(end.time)} {label}{number} on {end.database}", "dim")
    for history in histories:
        _write_delivery(screen, history, split)


def _write_events(screen: Screen, found: Iterable[Event]) -> None:
    """Write events and the calls of their receivers as a tree."""
    signal = [column.title for column in events.COLUMNS].index("signal")
    rows = []
    for depth, item in walk_with_calls(found):
        if isinstance(item, RecordedCall):
            row = events.call_row(item, full_time=not screen.is_terminal)
        else:
            row = events.event_row(item, full_time=not screen.is_terminal)
        row[signal] = Cell("  " * depth + row[signal].text, row[signal].style)
        rows.append(row)
    screen.write_table(events.get_columns(events.COLUMNS[:-1]), rows)


def _write_delivery(screen: Screen, history: DeliveryHistory, split: SplitTrace) -> None:
    delivery = history.delivery
    screen.write_line()
    heading = f"delivery {delivery.pk} of {delivery.receiver}"
    screen.write_line([Cell(escape_unprintable(heading), "bold"), Cell(f"  {delivery.state}")])
    finished = "" if delivery.finished is None else f", {delivery.state} {format_time(delivery.finished)}"
    screen.write_text(f"  queued {format_time(delivery.created)}{finished}")
    if history.has_more_attempts:
        screen.write_text("  Only its newest attempts are shown.")
    if history.attempts:
        screen.write_table(ATTEMPT_COLUMNS, map(build_attempt_cells, history.attempts))
    for attempt in history.attempts:
        caused = split.attempt_events.get((delivery.pk, attempt.fencing_token))
        if caused:
            screen.write_text(f"  events of attempt {attempt.number}")
            _write_events(screen, caused)


def _write_send_counts(screen: Screen, tree: TraceTree) -> None:
    counted = [
        (signal, sender, number)
        for row in tree.traces
        for signal, senders in row.data.get("send_counts", {}).items()
        for sender, number in senders.items()
    ]
    if counted:
        _write_heading(screen, "counted signals, not recorded individually")
        screen.write_table(
            COUNT_COLUMNS, [[Cell(signal, "cyan"), Cell(sender), Cell(str(n))] for signal, sender, n in counted]
        )


def _write_heading(screen: Screen, text: str) -> None:
    screen.write_line()
    screen.write_line([Cell(text, "bold")])


def _format_label(label: str, key: str) -> str:
    return f"{label} ({key})" if label and key else label or key


def _format_trace(trace: Trace) -> str:
    return " ".join(filter(None, (trace.kind, trace.name, trace.status, format_duration(trace.duration))))


def _format_value(value: Any) -> str:
    if encoder.is_not_restorable(value):
        return encoder.describe_not_restorable(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _format_field(data: Mapping[str, Any], name: str, value: Any) -> str:
    """Return a field's value with its label."""
    label = get_value_label(data.get("labels"), name, value)
    return f"{_format_value(value)} · {label}" if label else _format_value(value)


def _change_cells(data: Mapping[str, Any], name: str, pair: list[Any]) -> list[Cell]:
    """Return old and new value; the old value of a field that was not read is unknown."""
    *old, new = (_format_field(data, name, value) for value in pair)
    return [Cell(old[0], "red") if old else Cell("(unknown)", "dim"), Cell(new, "green")]


def _receiver_row(call: dict[str, Any]) -> list[Cell]:
    location, error = call["location"] or "", call["error"] or ""
    if call.get(PASSED_THROUGH_KEY):
        error += " (raised in a nested send, counted there)"
    return [
        Cell(call["name"]),
        Cell(format_duration(call["duration_us"])),
        Cell(location, "dim"),
        Cell(error, "bold red"),
    ]
