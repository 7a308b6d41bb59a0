"""An event as a line of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from django.utils import timezone

from signalbox.core.event import Outcome
from signalbox.core.text import format_duration
from signalbox.management.output.table import Cell, Column
from signalbox.models import Event, utc_now
from signalbox.queries import local_time
from signalbox.queries.event_summary import summarize_event, to_terminal_text
from signalbox.queries.trace_calls import RecordedCall

COLUMNS: Final = (
    Column(title="id", width=9, min_width=5, drop_order=1, align_right=True),
    Column(title="time", width=16, min_width=16, drop_order=4),
    Column(title="signal", width=22, min_width=9, drop_order=2, keep_end=True),
    Column(title="sender", width=26, min_width=10, drop_order=5, keep_end=True),
    Column(title="object", width=28, min_width=10, drop_order=3),
    Column(title="summary", width=48, min_width=10, drop_order=4),
    Column(title="actor", width=12, min_width=6, drop_order=6),
    Column(title="outcome", width=11, min_width=11),
    Column(title="duration", width=9, min_width=8, drop_order=7, align_right=True),
    # Failed calls are at the end, which a narrow terminal shows: "…FAILED".
    Column(title="receivers", width=36, min_width=7, keep_end=True),
    Column(title="trace", width=8, min_width=8, drop_order=8),
)

OUTCOME_STYLES: Final = {
    Outcome.COMMITTED: "green",
    Outcome.ROLLED_BACK: "yellow",
    Outcome.FAILED: "bold red",
    Outcome.SENT: "dim",
}


def get_columns(columns: Sequence[Column] = COLUMNS) -> tuple[Column, ...]:
    """Return the columns, with the last part of the time zone's name in the heading of the time."""
    title = f"time {local_time.get_zone_name().rpartition('/')[2]}"
    return tuple(replace(column, title=title) if column.title == "time" else column for column in columns)


def event_row(event: Event, *, full_time: bool) -> list[Cell]:
    """Return the event's cells, one for each of ``COLUMNS``; with the date and microseconds if ``full_time``."""
    calls = sorted(event.data.get("receivers") or (), key=_has_failed)
    return [
        Cell(str(event.id), "dim"),
        Cell(format_event_time(event, full_time=full_time), "dim"),
        Cell(event.signal if full_time else event.signal.rpartition(".")[2], "cyan"),
        Cell(event.sender),
        Cell(event.object_label or event.object_key),
        Cell(to_terminal_text(summarize_event(event).description), "bold red" if event.errors else ""),
        Cell(event.actor_label or event.actor_key),
        Cell(event.outcome.replace("_", " "), get_outcome_style(event.outcome)),
        Cell(format_duration(event.duration), "dim"),
        Cell(", ".join(map(_format_call, calls)), "bold red" if event.errors else ""),
        Cell(event.trace_id[:8], "dim"),
    ]


def call_row(call: RecordedCall, *, full_time: bool) -> list[Cell]:
    """Return the cells of a receiver's call, one for each of ``COLUMNS``."""
    started = "" if call.started is None else format_time(call.started, full_time=full_time)
    return [
        Cell(""),
        Cell(started, "dim"),
        Cell(call.name if full_time else call.name.rpartition(".")[2]),
        Cell(""),
        Cell(""),
        Cell(""),
        Cell(""),
        Cell("raised" if call.error else "", "bold red"),
        Cell(format_duration(call.duration_us), "dim"),
        Cell(call.error, "bold red"),
        Cell(""),
    ]


def format_event_time(event: Event, *, full_time: bool) -> str:
    """Return the event's time: see ``format_time()``."""
    return format_time(event.time, full_time=full_time)


def format_time(microseconds: int, *, full_time: bool) -> str:
    """Return a time in microseconds since the epoch, in the current time zone.

    Of today the time of day, of other days the date as well; with ``full_time`` also microseconds and the offset.
    """
    local = local_time.to_local(microseconds)
    if full_time:
        return local.isoformat(sep=" ", timespec="microseconds")
    today = local.date() == timezone.localtime(utc_now()).date()
    return f"{local:%H:%M:%S.%f}"[:-3] if today else f"{local:%Y-%m-%d %H:%M}"


def get_outcome_style(outcome: str) -> str:
    """Return the style of an outcome."""
    return OUTCOME_STYLES[Outcome(outcome)] if outcome in tuple(Outcome) else ""


def _has_failed(call: dict[str, Any]) -> bool:
    return call["error"] is not None


def _format_call(call: dict[str, Any]) -> str:
    name = str(call["name"]).rpartition(".")[2]
    return f"{name} FAILED" if _has_failed(call) else name
