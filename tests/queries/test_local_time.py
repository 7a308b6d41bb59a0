from __future__ import annotations

import datetime as dt
import time
from zoneinfo import ZoneInfo

import pytest
from django.test import override_settings
from django.utils import timezone

from signalbox.models import to_datetime, to_microseconds
from signalbox.queries import local_time

BERLIN = ZoneInfo("Europe/Berlin")


def at(*parts: int) -> int:
    return to_microseconds(dt.datetime(*parts, tzinfo=dt.UTC))  # type: ignore[misc, arg-type]


def test_a_time_that_occurs_twice_has_its_offset() -> None:
    with timezone.override(BERLIN):
        shown = [local_time.format_time_of_day(at(2026, 10, 25, hour, 30)) for hour in (0, 1, 2)]
    assert ["02:30:00.000 +02:00", "02:30:00.000 +01:00", "03:30:00.000"] == shown


def test_an_exact_time_has_zone_and_offset() -> None:
    with timezone.override(BERLIN):
        assert "2026-07-01 12:00:00.000000 Europe/Berlin (UTC+02:00)" == local_time.format_exact(at(2026, 7, 1, 10))
    with timezone.override(dt.UTC):
        assert "2026-07-01 10:00:00.000000 UTC" == local_time.format_exact(at(2026, 7, 1, 10))


@pytest.mark.parametrize(
    ("zone", "text"),
    [("UTC", "UTC"), ("Asia/Kolkata", "Asia/Kolkata (UTC+05:30)"), ("Africa/Abidjan", "Africa/Abidjan (UTC)")],
)
def test_a_zone_is_named_with_its_offset(zone: str, text: str) -> None:
    with timezone.override(ZoneInfo(zone)):
        assert text == local_time.describe_zone()


def test_the_offset_of_a_zone_that_changes_its_clocks_is_that_of_now() -> None:
    with timezone.override(BERLIN):
        assert local_time.describe_zone() in ("Europe/Berlin (UTC+01:00 now)", "Europe/Berlin (UTC+02:00 now)")
    with timezone.override(dt.timezone(dt.timedelta(hours=2))):
        assert "UTC+02:00" == local_time.describe_zone()


@override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin")
def test_times_are_those_of_the_site_without_use_tz() -> None:
    assert "12:00:00.000" == local_time.format_time_of_day(at(2026, 7, 1, 10))
    assert local_time.describe_zone().startswith("Europe/Berlin")


def test_the_offsets_of_an_axis_change_with_the_clocks() -> None:
    start = at(2026, 10, 25, 0, 55) // 1_000_000
    with timezone.override(BERLIN):
        changes = local_time.get_offset_changes(start, start + 600)
    assert [(start, 7200), (start + 300, 3600)] == changes


def test_an_age_has_one_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns() // 1000
    monkeypatch.setattr(local_time, "utc_now", lambda: to_datetime(now))
    ages = [local_time.format_age(now - seconds * 1_000_000) for seconds in (5, 125, 7300, 200_000, -60)]
    assert ["5 s ago", "2 min ago", "2 h ago", "2 d ago", ""] == ages


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2026-03-01T11:00:00.000123+00:00", "2026-03-01 12:00:00 UTC+01:00"),
        ("2026-07-01T10:00:00Z", "2026-07-01 12:00:00 UTC+02:00"),
        ("2026-03-01T12:00:00+01:00", ""),
        ("2026-03-01T11:00:00", ""),
        ("2026-13-01T11:00:00+00:00", ""),
        ("9999-12-31T23:59:59+00:00", ""),
        ("open", ""),
        (7, ""),
        (None, ""),
    ],
)
def test_a_recorded_moment_of_another_zone_is_described_in_that_of_the_page(value: object, text: str) -> None:
    with timezone.override(BERLIN):
        assert text == local_time.describe_moment(value)
