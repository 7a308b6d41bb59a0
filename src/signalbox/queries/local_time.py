"""Times in the current time zone, for pages and commands.

The zone is Django's current one: ``TIME_ZONE``, unless the site activates another for the request. It is the same with
``USE_TZ = False``, as events are stored in UTC. JSON and exports are in UTC.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from django.utils.dateparse import parse_datetime
from django.utils.timezone import get_current_timezone, is_aware, localtime
from django.utils.translation import gettext

from signalbox.models import to_datetime, utc_now

OFFSET_STEP_SECONDS: Final = 900
"""Zones change their offset at a quarter of an hour."""


def to_local(microseconds: int) -> dt.datetime:
    """Return microseconds since the epoch as a ``datetime`` in the current time zone."""
    return localtime(to_datetime(microseconds))


def get_zone_name() -> str:
    """Return the name of the current time zone, as ``Europe/Berlin``."""
    zone = get_current_timezone()
    return str(getattr(zone, "key", None) or zone)


def format_offset(moment: dt.datetime) -> str:
    """Return the offset of an aware ``datetime``, as ``UTC+01:00``; ``UTC`` if it is zero."""
    return f"UTC{_format_sign_and_time(moment)}" if moment.utcoffset() else "UTC"


def _format_sign_and_time(moment: dt.datetime) -> str:
    return moment.isoformat(timespec="seconds")[19:]


def describe_zone() -> str:
    """Return the current time zone with its offset, as ``Europe/Berlin (UTC+01:00 now)``.

    The word "now" is left out if the offset is the same throughout the year.
    """
    name, now = get_zone_name(), localtime(utc_now())
    offset = format_offset(now)
    is_constant = len({now.replace(month=month, day=1).utcoffset() for month in range(1, 13)}) == 1
    if name == offset or (offset == "UTC" and is_constant and name in ("UTC", "Etc/UTC")):
        return name
    return f"{name} ({offset})" if is_constant else f"{name} ({offset} now)"


def is_ambiguous(moment: dt.datetime) -> bool:
    """Return whether the same local time occurs twice, as in the hour before clocks are set back."""
    return moment.replace(fold=1 - moment.fold).utcoffset() != moment.utcoffset()


def format_time_of_day(microseconds: int) -> str:
    """Return the local time of day with milliseconds, and with its offset if the time occurs twice on that day."""
    moment = to_local(microseconds)
    text = f"{moment:%H:%M:%S.%f}"[:-3]
    return f"{text} {_format_sign_and_time(moment)}" if is_ambiguous(moment) else text


def format_exact(microseconds: int) -> str:
    """Return date, time, zone and offset, as ``2026-03-01 12:00:00.000123 Europe/Berlin (UTC+01:00)``."""
    moment = to_local(microseconds)
    name, offset = get_zone_name(), format_offset(moment)
    return f"{moment:%Y-%m-%d %H:%M:%S.%f} {name}" + ("" if name == offset else f" ({offset})")


def parse_moment(text: str) -> dt.datetime | None:
    """Return a recorded moment, as ``2026-03-01T11:00:00+00:00``, in the current time zone; otherwise ``None``."""
    try:
        moment = parse_datetime(text)
        return localtime(moment) if moment is not None and is_aware(moment) else None
    except (ValueError, OverflowError):  # a part of it does not exist, as a month 13, or a year 10000 in this zone
        return None


def describe_moment(value: object) -> str:
    """Return a recorded moment as ``2026-03-01 12:00:00 UTC+01:00``.

    It is empty for every other value, and for a moment that was recorded with the same offset.
    """
    local = parse_moment(value) if isinstance(value, str) else None
    if local is None or str(value).endswith(local.isoformat()[-6:]):
        return ""
    return f"{local:%Y-%m-%d %H:%M:%S} {format_offset(local)}"


def format_age(microseconds: int) -> str:
    """Return how long ago a time was, as ``3 min ago`` in the active language; empty for a time in the future."""
    seconds = int((utc_now() - to_datetime(microseconds)).total_seconds())
    if seconds < 0:
        return ""
    for size, text in (
        (86_400, gettext("%(number)s d ago")),
        (3_600, gettext("%(number)s h ago")),
        (60, gettext("%(number)s min ago")),
    ):
        if seconds >= size:
            return text % {"number": f"{seconds // size:,}"}
    return gettext("%(number)s s ago") % {"number": seconds}


def get_offset_changes(start: float, end: float) -> list[tuple[int, int]]:
    """Return ``(since, offset)`` for each offset of the zone from ``start`` to ``end``, in seconds."""
    changes: list[tuple[int, int]] = []
    time = int(start)
    while time <= end:
        offset = int((to_local(time * 1_000_000).utcoffset() or dt.timedelta()).total_seconds())
        if not changes or changes[-1][1] != offset:
            changes.append((time, offset))
        time += OFFSET_STEP_SECONDS - time % OFFSET_STEP_SECONDS
    return changes
