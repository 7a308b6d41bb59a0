from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext

from signalbox.core import clock
from signalbox.models import Delivery
from signalbox.outbox import health, queue
from signalbox.outbox.queue import DeliveryQueue
from tests.contrib.packages import require

require("prometheus_client")

from signalbox.contrib.prometheus import deliveries  # noqa: E402
from signalbox.contrib.prometheus.deliveries import DeliveryCollector  # noqa: E402

if TYPE_CHECKING:
    from prometheus_client.core import Metric

pytestmark = [pytest.mark.django_db(databases=["default", "other"]), pytest.mark.every_database]


def create(receiver: str, state: str = "pending", **columns: Any) -> None:
    now = clock.now_us() - 120_000_000
    values = {"run_at": now, "next_check_at": now, "created": now, "span": 1, "payload": {}, **columns}
    Delivery.objects.create(receiver=receiver, queue="default", trace_id="1" * 32, state=state, **values)


def collect(collector: DeliveryCollector) -> dict[tuple[str, ...], float]:
    families: list[Metric] = list(collector.collect())
    return {
        (found.name, *(value for _, value in sorted(found.labels.items()))): found.value
        for family in families
        for found in family.samples
    }


def test_deliveries_are_counted_by_state_and_receiver() -> None:
    create("shop.receivers.mail")
    create("shop.receivers.mail")
    create("shop.receivers.pay", "dead", next_check_at=None)
    create("shop.receivers.pay", "done", next_check_at=None)
    create("shop.receivers.pay", lease_expires_at=DeliveryQueue("default").lease_time + 60_000_000)
    found = collect(DeliveryCollector())
    assert found.pop(("signalbox_oldest_due_delivery_age_seconds",)) == pytest.approx(120, abs=30)
    assert {
        ("signalbox_deliveries", "shop.receivers.mail", "pending"): 2,
        ("signalbox_deliveries", "shop.receivers.pay", "dead"): 1,
        ("signalbox_deliveries", "shop.receivers.pay", "running"): 1,
    } == found


def test_the_oldest_due_delivery_has_no_age_if_none_is_due() -> None:
    create("shop.receivers.pay", "dead", next_check_at=None)
    assert 0 == collect(DeliveryCollector())["signalbox_oldest_due_delivery_age_seconds",]


def test_the_figures_are_kept_for_some_seconds() -> None:
    collector = DeliveryCollector(cache_seconds=60)
    collect(collector)
    create("shop.receivers.mail")
    with CaptureQueriesContext(connection) as queries:
        assert ("signalbox_deliveries", "shop.receivers.mail", "pending") not in collect(collector)
    assert [] == queries.captured_queries
    assert ("signalbox_deliveries", "shop.receivers.mail", "pending") in collect(DeliveryCollector())


def test_a_count_stops_at_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_COUNTED", 3)
    for _ in range(5):
        create("shop.receivers.mail")
    assert 3 == collect(DeliveryCollector())["signalbox_deliveries", "shop.receivers.mail", "pending"]


def test_receivers_beyond_the_limit_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "MAX_RECEIVERS", 1)
    for receiver in ("shop.receivers.a", "shop.receivers.b", "shop.receivers.c"):
        create(receiver)
    found = collect(DeliveryCollector())
    assert 1 == found["signalbox_deliveries", "shop.receivers.a", "pending"]
    assert 2 == found["signalbox_deliveries", "other", "pending"]


def test_the_names_of_the_metrics_need_no_database() -> None:
    with CaptureQueriesContext(connection) as queries:
        names = [family.name for family in DeliveryCollector().describe()]
    assert ["signalbox_deliveries", "signalbox_oldest_due_delivery_age_seconds"] == names
    assert [] == queries.captured_queries


def test_an_unavailable_database_costs_its_figures_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(alias: str) -> dict[tuple[str, str], int]:
        raise OperationalError("the server is down")

    monkeypatch.setattr(health, "count_by_receiver", fail)
    assert {} == collect(DeliveryCollector())
    assert "could not be counted: the server is down" in caplog.text


def test_a_database_that_does_not_answer_costs_its_figures_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release, queried = threading.Event(), threading.Event()

    def count(alias: str) -> dict[tuple[str, str], int]:
        queried.set()
        release.wait(30)
        return {("pending", "shop.receivers.mail"): 1}

    monkeypatch.setattr(deliveries, "QUERY_SECONDS", 0.05)
    monkeypatch.setattr(deliveries, "_may_block", lambda: True)
    monkeypatch.setattr(queue, "get_delivery_databases", lambda: ["default"])
    monkeypatch.setattr(health, "count_by_receiver", count)
    monkeypatch.setattr(health, "get_lag", lambda alias: Lag(0.0))
    collector = DeliveryCollector()
    assert {} == collect(collector) == collect(collector)
    assert ["Deliveries could not be counted within 0.05 seconds."] == [r.getMessage() for r in caplog.records]
    assert queried.wait(20)
    release.set()
    deadline = clock.monotonic() + 30
    while not (found := collect(collector)):
        assert clock.monotonic() < deadline
    assert 1 == found["signalbox_deliveries", "shop.receivers.mail", "pending"]


class Lag(NamedTuple):
    oldest_due_seconds: float
