"""``manage.py signalbox revert``: undo the change of an event, after a preview."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Final

from django.core.management import CommandError

from signalbox.core.event import UNKNOWN
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.values import format_labelled
from signalbox.management.subcommands import options as shared
from signalbox.queries.events import get_event
from signalbox.queries.revert import RevertError, preview_revert, revert
from signalbox.queries.revert_preview import FieldRestoration, FieldStatus, RevertPreview

COLUMNS: Final = (
    Column(title="field", width=30, min_width=8),
    Column(title="current", width=50, min_width=10),
    Column(title="restored", width=50, min_width=10),
    Column(title="note", width=90, min_width=10),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("id", type=shared.positive_int, metavar="ID", help="an event's number")
    parser.add_argument("--dry-run", action="store_true", help="show the preview, and change nothing")
    parser.add_argument(
        "--no-input", "--noinput", "--yes", action="store_true", dest="no_input", help="do not ask for confirmation"
    )
    parser.add_argument(
        "--event-values",
        action="store_true",
        help="for a deletion: restore the event's values, even if newer values were recorded",
    )
    parser.add_argument(
        "--relations", action="store_true", help="for a deletion: also restore the many-to-many relations"
    )
    shared.add_output_options(parser)


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the preview, ask for confirmation and revert the event.

    Return 1 if the event can't be reverted or the answer is no. Raise ``CommandError`` with the same exit code if
    such an event does not exist, or the confirmation can't be read.
    """
    if options["json"] and not (options["dry_run"] or options["no_input"]):
        raise CommandError("--json asks for no confirmation: add --dry-run or --no-input.", returncode=2)
    screen = Screen(stdout, options)
    event = get_event(options["id"], using=options["using"])
    if event is None:
        raise CommandError(f"Event {options['id']} does not exist: it was purged, or is in another database (--using).")
    choices = {"use_newer_state": not options["event_values"], "restore_relations": options["relations"]}
    preview = preview_revert(event, **choices)
    if options["json"]:
        screen.write_json(preview_to_dict(preview))
    else:
        _write_preview(screen, preview)
    if not preview.can_revert:
        return 1
    if options["dry_run"]:
        return 0
    screen.flush()
    if not (options["no_input"] or _ask_for_confirmation()):
        screen.write_text("Nothing was changed.")
        return 1
    try:
        instance = revert(event, **choices)
    except RevertError as error:
        raise CommandError(str(error), returncode=1) from error
    if not options["json"]:
        screen.write_text(f"Event {event.pk} was reverted: {instance._meta.label} {instance.pk}.")
    return 0


def _ask_for_confirmation() -> bool:
    try:
        return input("Revert this event? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        message = "The confirmation could not be read: use --no-input to revert, or --dry-run to do nothing."
        raise CommandError(message, returncode=1) from None


def _write_preview(screen: Screen, preview: RevertPreview) -> None:
    event = preview.event
    name = f"{event.sender} {event.object_key}"
    effect = f"creates {name} again" if preview.creates else f"changes {name}"
    screen.write_text(f"Reverting event {event.pk} ({event.signal}) {effect}.", "bold")
    if preview.fields:
        screen.write_table(COLUMNS, [_build_row(field, creates=preview.creates) for field in preview.fields])
    if preview.newer_fields:
        screen.write_text(
            "Other events recorded a newer state than this one. --event-values restores the event's values."
        )
    if preview.purged_before:
        screen.write_text(
            f"Events of {event.sender} before {preview.purged_before:%Y-%m-%d %H:%M} UTC were purged. "
            "A newer value than the event's may have been recorded there."
        )
    if preview.error:
        screen.write_text(preview.error, "bold red")
    elif preview.refused_fields:
        screen.write_text("The event can't be reverted. Nothing was changed.", "bold red")


def _build_row(field: FieldRestoration, *, creates: bool) -> list[Cell]:
    note = "a newer value than the event's" if field.is_newer else field.reason
    is_restored = field.status == FieldStatus.RESTORED
    return [
        Cell(field.name),
        Cell("(none)", "dim") if creates else _build_value(field.current, field.current_label, "red"),
        _build_value(field.restored, field.restored_label, "green")
        if is_restored
        else Cell(f"({field.status})", "dim"),
        Cell(note, "bold red" if field.status == FieldStatus.REFUSED else "dim"),
    ]


def _build_value(value: Any, label: str, style: str) -> Cell:
    return Cell("(unknown)", "dim") if value is UNKNOWN else Cell(format_labelled(value, label), style)


def preview_to_dict(preview: RevertPreview) -> dict[str, Any]:
    """Return a preview as a JSON-able dict. Unknown values are null."""
    return {
        "event": preview.event.pk,
        "creates": preview.creates,
        "can_revert": preview.can_revert,
        "error": preview.error,
        "purged_before": preview.purged_before and preview.purged_before.isoformat(),
        "fields": [_field_to_dict(field) for field in preview.fields],
    }


def _field_to_dict(field: FieldRestoration) -> dict[str, Any]:
    return {
        "name": field.name,
        "status": str(field.status),
        "current": None if field.current is UNKNOWN else field.current,
        "restored": None if field.restored is UNKNOWN else field.restored,
        "reason": field.reason,
        "is_newer": field.is_newer,
        "current_label": field.current_label,
        "restored_label": field.restored_label,
    }
