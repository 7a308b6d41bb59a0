"""Attempts of deliveries as rows of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from signalbox.core.attempt import AttemptOutcome
from signalbox.core.text import format_duration
from signalbox.management.output.table import Cell, Column
from signalbox.queries import local_time

if TYPE_CHECKING:
    from signalbox.models import Attempt

ATTEMPT_COLUMNS: Final = (
    Column(title="ATTEMPT", width=7, min_width=7, align_right=True),
    Column(title="OUTCOME", width=10, min_width=9),
    Column(title="STARTED", width=32, min_width=15, drop_order=2),
    Column(title="DURATION", width=9, min_width=8, align_right=True),
    Column(title="RETRIED AFTER", width=13, min_width=13, drop_order=1),
    Column(title="WORKER", width=30, min_width=10, drop_order=3),
    Column(title="ERROR", width=80, min_width=12),
)


STYLES: Final[dict[str, str]] = {AttemptOutcome.SUCCEEDED: "green", AttemptOutcome.LOST: "yellow"}


def format_time(microseconds: int) -> str:
    """Return a time in microseconds since the epoch in the current time zone, with its offset."""
    return local_time.to_local(microseconds).isoformat(sep=" ", timespec="microseconds")


def build_attempt_cells(attempt: Attempt) -> list[Cell]:
    """Return the cells of an attempt."""
    style = STYLES.get(attempt.outcome, "red")
    wait = None if attempt.retry_at is None else max(attempt.retry_at - attempt.ended, 0)
    return [
        Cell(str(attempt.number)),
        Cell(attempt.outcome.replace("_", " "), style),
        Cell(format_time(attempt.started)),
        Cell(format_duration(max(attempt.ended - attempt.started, 0))),
        Cell(format_duration(wait)),
        Cell(attempt.worker, "dim"),
        Cell(attempt.error, "red"),
    ]
