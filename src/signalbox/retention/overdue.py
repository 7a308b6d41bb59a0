"""How far the purge of a database is behind its rules, and when it ran. No query scans a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from django.db.models import F

from signalbox.core.clock import now_us
from signalbox.models import Delivery, Event, Trace
from signalbox.retention import watermarks
from signalbox.retention.rules import DAY_US, DELIVERY_STATES

if TYPE_CHECKING:
    from signalbox.retention.rules import RetentionRules

MAX_READ_ROWS: Final = 1000
"""Rows that are read to find the oldest one of a rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionStatus:
    """The rules of the setting, and the purge of one database."""

    alias: str
    days: dict[str, float | None]
    """Days by rule; ``None`` keeps rows for ever."""
    overdue_seconds: dict[str, float]
    """By rule with due rows: seconds for which its oldest row after the watermark has been due."""
    last_purge: int | None
    """Start of the last complete purge by the rules, in microseconds since the epoch; ``None`` without one."""
    next_purge: int | None
    """When a worker purges next; ``None`` if none has registered."""

    @property
    def has_limit(self) -> bool:
        """Whether a rule has a number of days."""
        return any(days is not None for days in self.days.values())


def get_status(alias: str, rules: RetentionRules) -> RetentionStatus:
    """Return the status of the purge of a database that has the tables."""
    now = now_us()
    overdue = {}
    for name, days in rules.days.items():
        oldest = None if days is None else _find_oldest(alias, name, rules)
        if days is not None and oldest is not None and (age := now - int(days * DAY_US) - oldest) > 0:
            overdue[name] = age / 1_000_000
    return RetentionStatus(
        alias=alias,
        days=dict(rules.days),
        overdue_seconds=overdue,
        last_purge=watermarks.get_last_purge(alias),
        next_purge=watermarks.get_next_purge(alias),
    )


def _find_oldest(alias: str, name: str, rules: RetentionRules) -> int | None:
    """Return the time of the oldest known row of a rule; ``None`` if there is none."""
    if name in DELIVERY_STATES:
        return min((time for state in DELIVERY_STATES[name] if (time := _find_finished(alias, state))), default=None)
    position = watermarks.get_position(alias, name)
    if name == "traces":
        ends = Trace._base_manager.using(alias).filter(id__gt=position).order_by("id")
        # A running trace has no duration.
        return ends.annotate(end=F("time") + F("duration")).values_list("end", flat=True).first()
    events = Event._base_manager.using(alias).filter(id__gt=position).order_by("id")
    for time, signal, sender in events.values_list("time", "signal", "sender")[:MAX_READ_ROWS]:
        if (rule := rules.find(signal, sender)) is not None and rule.name == name:
            return int(time)
    return None


def _find_finished(alias: str, state: str) -> int | None:
    finished = Delivery._base_manager.using(alias).filter(state=state, finished__isnull=False).order_by("finished")
    return finished.values_list("finished", flat=True).first()
