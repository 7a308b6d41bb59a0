"""Statistics of receivers and deliveries, from the database."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from signalbox.core.receiver_stats import ReceiverStats
from signalbox.doctor import examine, recorded_stats, runtime
from signalbox.doctor.project import Project
from signalbox.doctor.recorded_stats import DeliveryStats
from signalbox.doctor.rules import Fault
from signalbox.doctor.rules.deliveries import all_deliveries_dead, unknown_receiver
from signalbox.doctor.rules.failures import MIN_RUNS, SLOW_P95_US, raising_receiver, slow_receiver
from signalbox.doctor.source import read_source
from signalbox.models import Delivery, Event


def run(us: int = 10, error: str | None = None, name: str = "shop.receivers.on_save") -> dict[str, Any]:
    return {"name": name, "location": "shop/receivers.py:3", "duration_us": us, "error": error}


def build_stats(**changes: Any) -> ReceiverStats:
    values = {
        "signal": "post_save",
        "receiver": "shop.receivers.on_save",
        "location": "shop/receivers.py:3",
        "calls": MIN_RUNS,
        "errors": 0,
        "total_us": 10,
        "median_us": 10,
        "p95_us": 10,
        "max_us": 10,
        "last_error": "",
    }
    return ReceiverStats(**{**values, **changes})


def faults(rule: Any, *stats: ReceiverStats) -> list[Fault]:
    process = runtime.read_runtime()
    return list(rule(Project(runtime=process, source=read_source([], process.aliases), receiver_stats=stats)))


def test_runs_failures_and_times_are_summed_by_signal_and_receiver() -> None:
    rows: list[tuple[str, Any]] = [
        ("post_save", {"receivers": [run(error="KeyError: 'last'")]}),
        ("post_save", {"receivers": [run(error="KeyError: 'first'"), run(name="shop.other", us=7)]}),
        *(("post_save", {"receivers": [run(us)]}) for us in range(98)),
        ("pre_save", {"receivers": [run(1)]}),
        ("post_save", {"args": {}}),
        ("post_save", None),
    ]

    assert [
        ("post_save", "shop.receivers.on_save", 100, 2, 92, "KeyError: 'last'"),
        ("post_save", "shop.other", 1, 0, 7, ""),
        ("pre_save", "shop.receivers.on_save", 1, 0, 1, ""),
    ] == [
        (one.signal, one.receiver, one.calls, one.errors, one.p95_us, one.last_error)
        for one in sorted(recorded_stats.aggregate_calls(rows), key=lambda one: (-one.calls, one.signal))
    ]


def test_a_receiver_that_raised_is_reported_and_one_that_never_did_is_not() -> None:
    (fault,) = faults(
        raising_receiver, build_stats(errors=2, last_error="KeyError: 'x'"), build_stats(receiver="shop.fine")
    )

    assert ("shop.receivers.on_save", "It raised in 2 of 20 recorded runs, last: KeyError: 'x'.") == (
        fault.receiver,
        fault.message,
    )


def test_a_receiver_is_slow_by_its_95th_percentile_of_enough_runs() -> None:
    (fault,) = faults(
        slow_receiver,
        build_stats(p95_us=SLOW_P95_US + 50_000),
        build_stats(receiver="shop.fast", p95_us=SLOW_P95_US),
        build_stats(receiver="shop.rare", p95_us=SLOW_P95_US + 1, calls=MIN_RUNS - 1),
    )

    assert ("shop.receivers.on_save", "Of 20 recorded runs, one in twenty took more than 150 ms.") == (
        fault.receiver,
        fault.message,
    )


@pytest.mark.django_db
def test_recorded_events_are_examined() -> None:
    Event.objects.create(
        time=1,
        trace_id="0" * 32,
        span=1,
        signal="post_save",
        sender="shop.Order",
        object_key="1",
        outcome="failed",
        errors=1,
        data={"receivers": [run(error="ValueError: no total", name="django.db.close_old_connections")]},
    )

    found = [f for f in examine(rules=["raising-receiver"]) if f.receiver == "django.db.close_old_connections"]

    assert ["It raised in 1 of 1 recorded runs, last: ValueError: no total."] == [finding.message for finding in found]
    assert found[0].location.partition(":")[0].endswith("django/db/__init__.py")


@pytest.mark.django_db
def test_without_a_table_the_doctor_skips_recorded_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event._meta, "db_table", "no_such_table")

    assert () == recorded_stats.read_receiver_stats()
    assert connection.introspection.table_names()  # the transaction is whole


@pytest.mark.slow
def test_without_database_access_the_other_rules_run() -> None:
    # No django_db: any query of this test would fail.
    assert [] == [
        finding
        for finding in examine(use_recorded_events=False)
        if finding.rule in {"raising-receiver", "slow-receiver", "rule-failed"}
    ]


def build_delivery_stats(**changes: Any) -> DeliveryStats:
    values = {"receiver": "shop.receivers.pay", "pending": 0, "done": 0, "dead": 0, "deferred": 0, "last_error": ""}
    return DeliveryStats(**{**values, **changes})


def delivery_faults(rule: Any, *stats: DeliveryStats) -> list[Fault]:
    process = runtime.read_runtime()
    return list(rule(Project(runtime=process, source=read_source([], process.aliases), delivery_stats=stats)))


def test_deliveries_are_counted_by_receiver() -> None:
    rows = [
        ("shop.pay", "pending", 3, 2, "waits"),
        ("shop.pay", "dead", 2, 1, "KeyError: 'x'"),
        ("shop.done", "done", 4, 0, ""),
        ("shop.done", "discarded", 1, 0, ""),
    ]
    assert [
        build_delivery_stats(receiver="shop.done", done=4),
        build_delivery_stats(receiver="shop.pay", pending=3, dead=2, deferred=3, last_error="KeyError: 'x'"),
    ] == list(recorded_stats.aggregate_deliveries(rows))


def test_a_receiver_that_no_worker_has_is_reported() -> None:
    deferred = build_delivery_stats(pending=3, dead=1, deferred=2)
    (fault,) = delivery_faults(unknown_receiver, deferred, build_delivery_stats(receiver="shop.fine", pending=3))
    assert "shop.receivers.pay" == fault.receiver
    assert "3 of its deliveries are pending and 1 are dead" in fault.message
    assert [] == delivery_faults(all_deliveries_dead, deferred)


def test_a_receiver_without_a_successful_delivery_is_reported() -> None:
    (fault,) = delivery_faults(
        all_deliveries_dead,
        build_delivery_stats(dead=2, pending=5, last_error="KeyError: 'x'"),
        build_delivery_stats(receiver="shop.sometimes", dead=2, done=1),
        build_delivery_stats(receiver="shop.waits", pending=1),
    )
    assert "shop.receivers.pay" == fault.receiver
    assert "(dead letters: 2, pending: 5). One of their errors: KeyError: 'x'" in fault.message
    assert "deliveries retry --all --receiver shop.receivers.pay" in fault.hint


@pytest.mark.every_database
@pytest.mark.django_db
def test_the_doctor_reads_the_stored_deliveries() -> None:
    values = {"queue": "default", "span": 1, "run_at": 1, "created": 1, "payload": {}, "error": "ValueError: no"}
    Delivery.objects.create(receiver="nowhere.dead", state="dead", **values)
    Delivery.objects.create(receiver="nowhere.renamed", state="pending", deferred_since=1, **values)
    found = {finding.rule: finding.receiver for finding in examine(rules=["unknown-receiver", "all-deliveries-dead"])}
    assert {"unknown-receiver": "nowhere.renamed", "all-deliveries-dead": "nowhere.dead"} == found
    assert [] == examine(rules=["unknown-receiver"], use_recorded_events=False)
