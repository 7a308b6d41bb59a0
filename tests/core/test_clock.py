"""A clock that a test freezes or sets back changes recorded times, and never a duration."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from django.dispatch import Signal

import signalbox
from signalbox.core import clock
from signalbox.models import Event, Trace
from signalbox.outbox import health, registry
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.outbox.run_pending import run_deliveries
from signalbox.pipeline import processors
from tests.outbox import receivers
from tests.shop.models import Order

PAST = dt.datetime(2001, 2, 3, tzinfo=dt.UTC)
FUTURE = dt.datetime(2101, 2, 3, tzinfo=dt.UTC)

Freeze = Callable[[dt.datetime], AbstractContextManager[Any]]


def freeze_with_freezegun(moment: dt.datetime) -> AbstractContextManager[Any]:
    frozen: AbstractContextManager[Any] = import_module("freezegun").freeze_time(moment)
    return frozen


def freeze_with_time_machine(moment: dt.datetime) -> AbstractContextManager[Any]:
    frozen: AbstractContextManager[Any] = import_module("time_machine").travel(moment, tick=False)
    return frozen


FREEZERS = [
    pytest.param(
        freeze, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed"), id=package
    )
    for freeze, package in ((freeze_with_freezegun, "freezegun"), (freeze_with_time_machine, "time_machine"))
]

rings = Signal()


def setup_function() -> None:
    signalbox.register_signal(rings, "tests.rings")


def get_event() -> Event:
    event: Event = Event.objects.filter(signal="tests.rings").latest("id")
    return event


@pytest.mark.django_db
@pytest.mark.parametrize("freeze", FREEZERS)
@pytest.mark.parametrize("moment", [PAST, FUTURE])
def test_a_clock_that_is_frozen_within_a_receiver_makes_no_negative_duration(
    freeze: Freeze, moment: dt.datetime
) -> None:
    frozen = freeze(moment)

    def freezes(**kwargs: Any) -> None:
        frozen.__enter__()

    rings.connect(freezes)
    try:
        with signalbox.trace("freezes") as trace:
            rings.send(None)
        rings.disconnect(freezes)
    finally:
        frozen.__exit__(None, None, None)
    event = get_event()
    row = Trace.objects.get(trace_id=trace.id)
    [call] = event.data["receivers"]
    for duration in (event.duration, call["duration_us"], row.duration):
        assert duration is not None
        assert 0 <= duration < 60_000_000


@pytest.mark.django_db
@pytest.mark.parametrize("freeze", FREEZERS)
@pytest.mark.parametrize("moment", [PAST, FUTURE])
def test_work_that_outlives_a_frozen_clock_has_no_negative_duration(freeze: Freeze, moment: dt.datetime) -> None:
    with freeze(moment):
        manager = signalbox.trace("thaws")
        trace = manager.__enter__()
        rings.send(None)
    manager.__exit__(None, None, None)
    row = Trace.objects.get(trace_id=trace.id)
    assert row.duration is not None
    assert 0 <= row.duration < 60_000_000
    assert moment.date() == row.timestamp.date() == get_event().timestamp.date()


@pytest.mark.django_db
@pytest.mark.parametrize("freeze", FREEZERS)
@pytest.mark.parametrize("moment", [PAST, FUTURE])
def test_a_delivery_runs_under_a_frozen_clock(
    freeze: Freeze, moment: dt.datetime, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_TEST_NOTES", str(tmp_path / "notes"))
    signalbox.receiver("post_save", sender="shop.Order", durable=True, timeout=5)(receivers.saved)
    try:
        with freeze(moment):
            Order.objects.create(number="1")
            [delivery] = run_deliveries()
            assert moment.date() == delivery.timestamp.date()
    finally:
        registry.disconnect("tests.outbox.receivers.saved")
        processors.uninstall(OUTBOX)
    figures = health.get_health("default")
    assert figures.seconds_since_done is not None
    assert min(figures.seconds_since_done, figures.oldest_due_seconds) >= 0


def test_the_monotonic_clock_is_in_seconds_and_in_nanoseconds() -> None:
    before = clock.monotonic_ns()
    assert before <= clock.monotonic() * 1_000_000_000 <= clock.monotonic_ns() + 1000
