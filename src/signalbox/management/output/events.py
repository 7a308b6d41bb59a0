"""An event as a line of a table."""

from __future__ import annotations

from typing import Any, Final

from django.utils import timezone

from signalbox.core.event import Outcome
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.text import took
from signalbox.models import Event, now

COLUMNS: Final = (
    Column(title="id", width=9, least=5, right=True),
    Column(title="time", width=16, least=16, rank=1),
    Column(title="signal", width=22, least=12, end=True),
    Column(title="sender", width=26, least=10, rank=2, end=True),
    Column(title="object", width=28, least=10),
    Column(title="actor", width=12, least=6, rank=4),
    Column(title="outcome", width=11, least=11, rank=1),
    Column(title="took", width=8, least=7, rank=5, right=True),
    Column(title="receivers", width=36, least=12, rank=3),
    Column(title="trace", width=8, least=8, rank=6),
)

STYLES: Final = {
    Outcome.COMMITTED: "green",
    Outcome.ROLLED_BACK: "yellow",
    Outcome.FAILED: "bold red",
    Outcome.SENT: "dim",
}


def row(event: Event, *, exact: bool) -> list[Cell]:
    """Return the event's cells, one for each of ``COLUMNS``; times in full where they are to be ``exact``."""
    runs = event.data.get("receivers") or ()
    return [
        Cell(str(event.id), "dim"),
        Cell(when(event, exact=exact), "dim"),
        Cell(event.signal if exact else event.signal.rpartition(".")[2], "cyan"),
        Cell(event.sender),
        Cell(event.object_label or event.object_key),
        Cell(event.actor_label or event.actor_key),
        Cell(event.outcome.replace("_", " "), style_of(event.outcome)),
        Cell(took(event.duration), "dim"),
        Cell(", ".join(map(_run, runs)), "bold red" if event.errors else ""),
        Cell(event.trace_id[:8], "dim"),
    ]


def when(event: Event, *, exact: bool) -> str:
    """Return the time in the current time zone: of today's events the time of day, of others the date as well."""
    moment = timezone.localtime(event.at)
    if exact:
        return f"{moment:%Y-%m-%d %H:%M:%S.%f}"
    today = moment.date() == timezone.localtime(now()).date()
    return f"{moment:%H:%M:%S.%f}"[:-3] if today else f"{moment:%Y-%m-%d %H:%M}"


def style_of(outcome: str) -> str:
    """Return the style of an outcome."""
    return STYLES[Outcome(outcome)] if outcome in tuple(Outcome) else ""


def _run(run: dict[str, Any]) -> str:
    name = str(run["name"]).rpartition(".")[2]
    return f"{name} FAILED" if run["error"] else name
