"""How receivers did, summed up from the recorded events."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from signalbox.doctor import examine, recorded_stats, runtime
from signalbox.doctor.project import Project
from signalbox.doctor.recorded_stats import ReceiverStats
from signalbox.doctor.rules import Fault
from signalbox.doctor.rules.failures import MIN_RUNS, SLOW_P95_US, raising_receiver, slow_receiver
from signalbox.doctor.source import read_source
from signalbox.models import Event


def run(us: int = 10, error: str | None = None, name: str = "shop.receivers.on_save") -> dict[str, Any]:
    return {"name": name, "location": "shop/receivers.py:3", "duration_us": us, "error": error}


def build_stats(**changes: Any) -> ReceiverStats:
    values = {
        "signal": "post_save",
        "receiver": "shop.receivers.on_save",
        "location": "shop/receivers.py:3",
        "runs": MIN_RUNS,
        "failures": 0,
        "p95_us": 10,
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
        build_stats(runs=100, failures=2, p95_us=92, last_error="KeyError: 'last'"),
        build_stats(receiver="shop.other", runs=1, p95_us=7),
        build_stats(signal="pre_save", runs=1, p95_us=1),
    ] == sorted(recorded_stats.aggregate_runs(rows), key=lambda r: (-r.runs, r.signal))


def test_a_receiver_that_raised_is_reported_and_one_that_never_did_is_not() -> None:
    (fault,) = faults(
        raising_receiver, build_stats(failures=2, last_error="KeyError: 'x'"), build_stats(receiver="shop.fine")
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
        build_stats(receiver="shop.rare", p95_us=SLOW_P95_US + 1, runs=MIN_RUNS - 1),
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
def test_where_the_table_is_missing_the_doctor_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Event._meta, "db_table", "no_such_table")

    assert () == recorded_stats.read_receiver_stats()
    assert connection.introspection.table_names()  # the transaction is whole


def test_without_permission_to_ask_the_database_the_other_rules_are_asked() -> None:
    # No django_db: any query of this test would fail.
    assert [] == [
        finding
        for finding in examine(use_recorded_events=False)
        if finding.rule in {"raising-receiver", "slow-receiver", "rule-failed"}
    ]
