"""The formats of an export: JSON Lines, CSV and CloudEvents. Each writes one event after the other."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from django.conf import settings

from signalbox import conf
from signalbox.core.catalog import BUILTIN_SIGNALS
from signalbox.models import Event
from signalbox.queries.json_objects import event_to_dict, format_span


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFormat:
    """A format of an export."""

    name: str
    """Its name, as ``csv``."""
    label: str
    """Its name for people."""
    media_type: str
    """Media type of the file."""
    extension: str
    """The end of a file's name, without its first dot."""
    header: str = ""
    """Text before the first event."""
    write_event: Callable[[Event], str]
    """Returns the text of one event, with its line end."""


# ------------------------------------------------------------------ JSON Lines


def _to_json_line(event: Event) -> str:
    return json.dumps(event_to_dict(event)) + "\n"


# ------------------------------------------------------------------ CSV

CSV_COLUMNS: Final = tuple(event_to_dict(Event(time=0, span=0)))
"""Columns of the CSV: the keys of the JSON object."""

_FORMULA_START: Final = re.compile(r"^(?=[\t\r\n]|[\s\0]*[=+\-@\uff1d\uff0b\uff0d\uff20])(?!-[0-9]+(\.[0-9]+)?\Z)")
"""The start of a cell that a spreadsheet could calculate (OWASP, CSV Injection), also if it leaves out the blanks.

A negative number is only a number.
"""

_FORMULA_AFTER_SEPARATOR: Final = re.compile(r"(?<=[;|\t\r\n])(?=[\"' ]*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""The start of a formula in a program that uses another separator than the comma, and so splits the cell."""

_JSON_FORMULA: Final = re.compile(r"(?<=[;|])((?:\\\"|[' ])*)([=+\-@])")


def _protect_text(text: str) -> str:
    """Return a cell's text with an apostrophe before each part that a spreadsheet could calculate."""
    return _FORMULA_START.sub("'", _FORMULA_AFTER_SEPARATOR.sub("'", text))


def _escape_json_formula(match: re.Match[str]) -> str:
    return f"{match[1]}\\u{ord(match[2]):04x}"


def _to_cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        # The same JSON value: ; and | occur only within its strings, where an escape is another form of the character.
        return _JSON_FORMULA.sub(_escape_json_formula, json.dumps(value, ensure_ascii=False))
    return _protect_text(value) if isinstance(value, str) else value


def _to_csv_line(cells: Any) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, quoting=csv.QUOTE_MINIMAL, lineterminator="\r\n").writerow(cells)
    return line.getvalue()


def _event_to_csv(event: Event) -> str:
    return _to_csv_line(map(_to_cell, event_to_dict(event).values()))


# ------------------------------------------------------------------ CloudEvents

_NOT_IN_CLOUDEVENTS_STRINGS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17))
    + "]"
)
"""Characters that an attribute of the type String does not contain (CloudEvents 1.0.2, Type System)."""


def event_to_cloudevent(event: Event) -> dict[str, Any]:
    """Return an event as a CloudEvent 1.0 in its JSON format. ``data`` is the object of ``event_to_dict()``.

    The id consists of the trace and the span, so it is the same in each database that contains the event.
    """
    subject = f"{event.sender}:{event.object_key}" if event.object_key else event.sender
    fields = event_to_dict(event)
    optional = {
        "subject": subject,
        "traceid": event.trace_id,
        "spanid": fields["span"],
        "parentid": fields["parent"],
        "actor": event.actor_label or event.actor_key,
        "outcome": event.outcome,
    }
    return {
        "specversion": "1.0",
        "id": f"{event.trace_id}-{format_span(event.span)}",
        "source": get_cloudevents_source(),
        "type": get_cloudevents_type(event.signal),
        "time": fields["time"],
        **{name: _NOT_IN_CLOUDEVENTS_STRINGS.sub("\ufffd", value) for name, value in optional.items() if value},
        "datacontenttype": "application/json",
        "data": fields,
    }


def get_cloudevents_source() -> str:
    """Return the attribute ``source``: ``CLOUDEVENTS_SOURCE``, or by default a path with the project's name."""
    project: str = str(getattr(settings, "ROOT_URLCONF", "") or "django").partition(".")[0]
    return conf.get().CLOUDEVENTS_SOURCE or f"/{project}"


def get_cloudevents_type(signal: str) -> str:
    """Return the attribute ``type``: the dotted path of the signal, or of the queryset's method of a bulk operation."""
    info = BUILTIN_SIGNALS.get(signal)
    if info is None:
        return _NOT_IN_CLOUDEVENTS_STRINGS.sub("\ufffd", signal)
    return info.path or f"django.db.models.query.QuerySet.{'delete' if signal == 'bulk_delete' else signal}"


def _to_cloudevents_line(event: Event) -> str:
    return json.dumps(event_to_cloudevent(event)) + "\n"


FORMATS: Final[Mapping[str, ExportFormat]] = MappingProxyType(
    {
        found.name: found
        for found in (
            ExportFormat(
                name="jsonl",
                label="JSON Lines",
                media_type="application/x-ndjson",
                extension="jsonl",
                write_event=_to_json_line,
            ),
            ExportFormat(
                name="csv",
                label="CSV",
                media_type="text/csv; charset=utf-8; header=present",
                extension="csv",
                header=_to_csv_line(CSV_COLUMNS),
                write_event=_event_to_csv,
            ),
            ExportFormat(
                name="cloudevents",
                label="CloudEvents",
                media_type="application/x-ndjson",
                extension="cloudevents.jsonl",
                write_event=_to_cloudevents_line,
            ),
        )
    }
)
"""The formats by name."""
