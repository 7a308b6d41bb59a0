"""``manage.py signalbox history``: one object's life, or what it was at a time."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management import CommandError
from django.db.models import Model
from django.utils import timezone

from signalbox.core.event import UNKNOWN
from signalbox.management.output import events
from signalbox.management.output.counts import format_count
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.text import escape_unprintable
from signalbox.management.output.values import format_field, format_labelled
from signalbox.management.subcommands import options as shared
from signalbox.models import Event, to_microseconds, utc_now
from signalbox.queries.filter_values import parse_time
from signalbox.queries.json_objects import event_to_dict, format_iso
from signalbox.queries.object_history import ObjectHistory, ObjectState, history
from signalbox.serialization import encoder

EVENT_COLUMNS: Final = (
    Column(title="id", width=9, min_width=5, align_right=True),
    Column(title="time", width=16, min_width=16, drop_order=2),
    Column(title="signal", width=14, min_width=11, drop_order=1),
    Column(title="actor", width=12, min_width=6, drop_order=3),
    Column(title="outcome", width=11, min_width=11),
    Column(title="summary", width=90, min_width=20),
)
FIELD_COLUMNS: Final = (Column(title="field", width=30, min_width=8), Column(title="value", width=120, min_width=10))


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("model", metavar="MODEL", help="as shop.Order")
    parser.add_argument("key", metavar="KEY", help='the primary key; a composite one as JSON, as [17,"maths"]')
    parser.add_argument(
        "--as-of", metavar="TIME", help='show its fields at a time: "2h" or "3d" ago, or as 2026-03-01T12:30'
    )
    shared.add_limit_option(parser, "show the newest N events")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    shared.add_utc_option(parser)
    shared.add_using_option(parser, "the database that contains the object")


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the object's events, newest first, or its fields.

    Raises:
        CommandError: the model or key is not valid (exit code 2), or the object has no events (exit code 1).
    """
    screen = Screen(stdout, options)
    found = _get_history(options)
    if options["as_of"]:
        when = parse_time("as-of", options["as_of"], utc_now())
        _write_state(screen, found, found.as_of(when), options)
        return 0
    rows = list(found.events(limit=options["limit"]))
    purged = _describe_purge(found)
    if not rows:
        raise CommandError(
            f"Nothing is recorded of {options['model']} {options['key']}. {purged}".strip(), returncode=1
        )
    if options["json"]:
        for event in rows:
            screen.write_json({**event_to_dict(event), "uncertain": event.uncertain})
    else:
        screen.write_table(
            events.get_columns(EVENT_COLUMNS), [_build_row(event, exact=not screen.is_terminal) for event in rows]
        )
        if purged and len(rows) != options["limit"]:
            screen.write_text(purged, "dim")
    return 0


def _describe_purge(object_history: ObjectHistory) -> str:
    """Return since when the object's events are complete, or an empty text if none were purged."""
    purged_before = object_history.purged_before
    if purged_before is None:
        return ""
    return f"Older events were purged, up to {timezone.localtime(purged_before):%Y-%m-%d %H:%M}."


def _get_history(options: Mapping[str, Any]) -> ObjectHistory:
    label = options["model"]
    if label.count(".") != 1:
        raise CommandError(f"Unknown model {label!r}. Use app_label.Model.", returncode=2)
    try:
        model: type[Model] = apps.get_model(label)
    except LookupError as error:
        raise CommandError(f"Unknown model {label!r}: {error}", returncode=2) from error
    meta = model._meta
    if meta.swapped:
        raise CommandError(f"{meta.label} is not in use: {meta.swapped} replaces it.", returncode=1)
    try:
        key: Any = options["key"]
        pk = tuple(json.loads(key)) if len(meta.pk_fields) > 1 else meta.pk.to_python(key)
    except (TypeError, ValueError, ValidationError) as error:
        raise CommandError(f"{key!r} is not a primary key of {meta.label}.", returncode=2) from error
    return history(model, pk, using=options["using"])


def _write_state(screen: Screen, object_history: ObjectHistory, state: ObjectState, options: Mapping[str, Any]) -> None:
    fields = {name: None if value is UNKNOWN else value for name, value in state.items()}
    if options["json"]:
        record: dict[str, Any] = {
            "at": format_iso(to_microseconds(state.at)),
            "exists": state.exists,
            "purged": state.is_purged,
        }
        labels = {name: label for name in state if (label := state.get_label(name))}
        screen.write_json(
            {**record, "fields": fields, "labels": labels, "unknown_fields": sorted(state.unknown_fields)}
        )
    elif state.is_purged:
        name = f"{object_history.model._meta.label} {object_history.key}"
        screen.write_text(f"The state of {name} at this time is unknown. {_describe_purge(object_history)}")
    elif not state.exists:
        screen.write_text(f"{object_history.model._meta.label} {object_history.key} was not there.")
    else:
        rows = [
            [
                Cell(name),
                Cell("unknown", "dim")
                if name in state.unknown_fields
                else Cell(format_labelled(value, state.get_label(name))),
            ]
            for name, value in fields.items()
        ]
        screen.write_table(FIELD_COLUMNS, rows)


def _build_row(event: Event, *, exact: bool) -> list[Cell]:
    return [
        Cell(str(event.id), "dim"),
        Cell(events.format_event_time(event, full_time=exact), "dim"),
        Cell(event.signal, "cyan"),
        Cell(event.actor_label or event.actor_key),
        Cell(event.outcome.replace("_", " "), events.get_outcome_style(event.outcome)),
        Cell(escape_unprintable(f"perhaps: {summarize_event(event)}" if event.uncertain else summarize_event(event))),
    ]


def summarize_event(event: Event) -> str:
    """Return in one line what an event did to its object."""
    data = event.data
    args, labels = data.get("args") or {}, data.get("labels")
    if "changes" in data:
        pairs = (
            f"{name}: {' → '.join(format_field(labels, name, value) for value in pair)}"
            for name, pair in data["changes"].items()
        )
        return ", ".join(pairs) or "nothing changed"
    if "related_keys" in args:
        return f"removed {', '.join(f'{name} {_format_keys(keys)}' for name, keys in args['related_keys'].items())}"
    if event.signal in ("post_delete", "bulk_delete"):
        return "deleted"
    if "row" in data or event.signal == "bulk_create":
        others = 0 if "row" in data else (args.get("count") or 1) - 1
        return f"created, with {format_count(others, 'other')}" if others else "created"
    if event.signal == "m2m_changed":
        verb = "added" if "added" in args else "removed"
        keys = args.get(verb)
        return f"{verb} {args.get('model')} {_format_keys(keys)}" if keys else str(args.get("action", ""))
    if "values" in args:
        values = (f"{name} = {format_field(args.get('labels'), name, value)}" for name, value in args["values"].items())
        return f"{', '.join(values)}{_format_rows(args)}"
    if "fields" in args:
        return f"{', '.join(args['fields'])}{_format_rows(args)}"
    return ""


def _format_rows(args: Mapping[str, Any]) -> str:
    count = args.get("count")
    return f" ({format_count(count, 'row')})" if isinstance(count, int) else ""


def _format_keys(keys: Any) -> str:
    found = keys if isinstance(keys, list) else [keys]
    return ", ".join(dict.fromkeys(encoder.ERASED if encoder.is_erased(key) else str(key) for key in found))
