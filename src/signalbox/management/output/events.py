"""An event as a line of a table."""

from __future__ import annotations

from typing import Any, Final

from django.utils import timezone

from signalbox.core.event import Outcome
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.text import format_duration
from signalbox.models import Event, utc_now

COLUMNS: Final = (
    Column(title="id", width=9, min_width=5, align_right=True),
    Column(title="time", width=16, min_width=16, drop_order=1),
    Column(title="signal", width=22, min_width=12, keep_end=True),
    Column(title="sender", width=26, min_width=10, drop_order=2, keep_end=True),
    Column(title="object", width=28, min_width=10),
    Column(title="actor", width=12, min_width=6, drop_order=4),
    Column(title="outcome", width=11, min_width=11, drop_order=1),
    Column(title="duration", width=8, min_width=8, drop_order=5, align_right=True),
    Column(title="receivers", width=36, min_width=12, drop_order=3),
    Column(title="trace", width=8, min_width=8, drop_order=6),
)

OUTCOME_STYLES: Final = {
    Outcome.COMMITTED: "green",
    Outcome.ROLLED_BACK: "yellow",
    Outcome.FAILED: "bold red",
    Outcome.SENT: "dim",
}


def event_row(event: Event, *, full_time: bool) -> list[Cell]:
    """Return the event's cells, one for each of ``COLUMNS``; with the date and microseconds if ``full_time``."""
    calls = event.data.get("receivers") or ()
    return [
        Cell(str(event.id), "dim"),
        Cell(format_event_time(event, full_time=full_time), "dim"),
        Cell(event.signal if full_time else event.signal.rpartition(".")[2], "cyan"),
        Cell(event.sender),
        Cell(event.object_label or event.object_key),
        Cell(event.actor_label or event.actor_key),
        Cell(event.outcome.replace("_", " "), get_outcome_style(event.outcome)),
        Cell(format_duration(event.duration), "dim"),
        Cell(", ".join(map(_format_call, calls)), "bold red" if event.errors else ""),
        Cell(event.trace_id[:8], "dim"),
    ]


def format_event_time(event: Event, *, full_time: bool) -> str:
    """Return the time in the current time zone: of today's events the time of day, of others the date as well."""
    local_time = timezone.localtime(event.timestamp)
    if full_time:
        return f"{local_time:%Y-%m-%d %H:%M:%S.%f}"
    today = local_time.date() == timezone.localtime(utc_now()).date()
    return f"{local_time:%H:%M:%S.%f}"[:-3] if today else f"{local_time:%Y-%m-%d %H:%M}"


def get_outcome_style(outcome: str) -> str:
    """Return the style of an outcome."""
    return OUTCOME_STYLES[Outcome(outcome)] if outcome in tuple(Outcome) else ""


def _format_call(call: dict[str, Any]) -> str:
    name = str(call["name"]).rpartition(".")[2]
    return f"{name} FAILED" if call["error"] else name
