from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal

import signalbox
from signalbox.models import Event
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import dropped_events, exporter, pending, processors
from signalbox.testing import run_deliveries
from tests.contrib.packages import require
from tests.shop.models import Order

require("prometheus_client")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contrib.prometheus.conftest import Samples

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture(autouse=True)
def _disconnect_receivers() -> Iterator[None]:
    yield
    from signalbox.outbox import registry

    for name in list(registry.get_durable_receivers()):
        registry.disconnect(name)
    processors.uninstall(OUTBOX)
    signalbox.start_recording()


class Undo(Exception):
    pass


@pytest.mark.every_database
def test_events_are_counted_by_group_and_by_the_outcome_of_their_transaction(sample: Samples) -> None:
    Order.objects.create(number="autocommit")
    with transaction.atomic():
        Order.objects.create(number="1")
        Order.objects.create(number="2")
        assert 1 == sample("signalbox_events_total", group="model", outcome="committed"), "these are not committed yet"
    assert 3 == sample("signalbox_events_total", group="model", outcome="committed")
    with pytest.raises(Undo), transaction.atomic():
        Order.objects.create(number="3")
        raise Undo
    with transaction.atomic():
        Order.objects.create(number="4")
        with pytest.raises(Undo), transaction.atomic():
            Order.objects.create(number="5")
            raise Undo
    exporter.flush()
    assert 4 == sample("signalbox_events_total", group="model", outcome="committed")
    assert 2 == sample("signalbox_events_total", group="model", outcome="rolled_back")
    events = Event.objects.filter(signal="post_save")
    assert 4 == events.filter(outcome="committed").count()
    assert 2 == events.filter(outcome="rolled_back").count()


def test_a_send_without_a_change_is_counted_as_sent_or_failed(sample: Samples) -> None:
    signal = Signal()
    signalbox.register_signal(signal, "shop.signals.measured")

    def fails(**_: Any) -> None:
        raise ValueError

    with signalbox.trace("work"):
        signal.send(None)
        signal.connect(fails)
        with pytest.raises(ValueError):  # noqa: PT011 - the receiver's own
            signal.send(None)
    assert 1 == sample("signalbox_events_total", group="custom", outcome="sent")
    assert 1 == sample("signalbox_events_total", group="custom", outcome="failed")


def test_a_write_is_measured_in_seconds_and_bytes(sample: Samples) -> None:
    Order.objects.create(number="1", note="é" * 1000)
    writes = sample("signalbox_write_seconds_count")
    assert writes >= 1
    assert 0 < sample("signalbox_write_seconds_sum") < 10
    assert 2000 < sample("signalbox_written_bytes_total") < 10_000


def test_dropped_events_and_failed_writes_are_counted_by_reason(
    sample: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    from signalbox.pipeline.backends.sqlite import SQLiteBackend

    if connection.vendor != "sqlite":
        pytest.skip("replaces the write of SQLite")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("disk I/O error")

    monkeypatch.setattr(SQLiteBackend, "write", fail)
    monkeypatch.setattr(SQLiteBackend, "is_row_error", lambda *_: False)
    Order.objects.create(number="1")
    assert 1 == sample("signalbox_events_dropped_total", reason="database_error")
    assert sample("signalbox_write_failures_total") >= 1


def test_each_reason_of_a_loss_is_counted(sample: Samples) -> None:
    for reason in dropped_events.DropReason:
        dropped_events.write_stats.add_dropped(reason, 3)
        assert 3 == sample("signalbox_events_dropped_total", reason=reason)


def test_the_queue_of_the_exporter_has_a_length(sample: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    signal = Signal()
    signalbox.register_signal(signal, "shop.signals.queued")
    with transaction.atomic():
        with signalbox.trace("work"):
            signal.send(None)
            signal.send(None)
        assert 3 == sample("signalbox_exporter_queue_length"), "two events and the trace are pending"
        assert 3 == pending.count()
    exporter.flush()
    assert 0 == sample("signalbox_exporter_queue_length")


def measured(sender: Any, instance: Any, **kwargs: Any) -> None:
    """Do nothing."""


def breaks(sender: Any, instance: Any, **kwargs: Any) -> None:
    raise LookupError("password=hunter2")


def test_the_run_time_and_the_exceptions_of_receivers_are_measured(sample: Samples) -> None:
    post_save.connect(measured, sender=Order)
    post_save.connect(breaks, sender=Order)
    try:
        with pytest.raises(LookupError):
            Order.objects.create(number="1")
    finally:
        post_save.disconnect(measured, sender=Order)
        post_save.disconnect(breaks, sender=Order)
    name = f"{__name__}.breaks"
    assert 1 == sample("signalbox_receiver_seconds_count", receiver=name)
    assert 1 == sample("signalbox_receiver_seconds_count", receiver=f"{__name__}.measured")
    assert 1 == sample("signalbox_receiver_errors_total", receiver=name)
    assert 0 == sample("signalbox_receiver_errors_total", receiver=f"{__name__}.measured")


@pytest.mark.every_database
def test_attempts_of_deliveries_are_measured_by_outcome(sample: Samples) -> None:
    from signalbox.outbox.execution import execute
    from signalbox.outbox.queue import DeliveryQueue

    signalbox.receiver(post_save, sender="shop.Order", durable=True)(measured)
    signalbox.receiver(post_save, sender="shop.Order", durable=True, retries=1, key=None)(breaks)
    Order.objects.create(number="1")
    delivery_queue = DeliveryQueue("default")
    for delivery in delivery_queue.acquire(2, 2):
        delivery_queue.complete(delivery, execute(delivery))
    done, failed = f"{__name__}.measured", f"{__name__}.breaks"
    assert 1 == sample("signalbox_delivery_attempts_total", receiver=done, outcome="done")
    assert 1 == sample("signalbox_delivery_attempts_total", receiver=failed, outcome="retry")
    assert 1 == sample("signalbox_delivery_retries_total", receiver=failed)
    assert 0 == sample("signalbox_delivery_retries_total", receiver=done)
    assert 1 == sample("signalbox_delivery_attempt_seconds_count", receiver=done)


def test_the_number_of_receivers_in_labels_is_limited(sample: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    from signalbox.contrib.prometheus import metrics

    def first(sender: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def second(sender: Any, **kwargs: Any) -> None:
        """Do nothing."""

    first.__qualname__, second.__qualname__ = "first_of_the_limit", "second_of_the_limit"
    try:
        post_save.connect(first, sender=Order)
        Order.objects.create(number="1")
        monkeypatch.setattr(metrics, "MAX_RECEIVERS", 1)
        post_save.connect(second, sender=Order)
        Order.objects.create(number="2")
    finally:
        post_save.disconnect(first, sender=Order)
        post_save.disconnect(second, sender=Order)
    assert 2 == sample("signalbox_receiver_seconds_count", receiver=f"{__name__}.first_of_the_limit")
    assert 1 == sample("signalbox_receiver_seconds_count", receiver="other")


def test_the_name_of_a_receiver_is_valid_in_the_format_of_the_scraper(sample: Samples) -> None:
    from prometheus_client import REGISTRY, generate_latest

    def receive(sender: Any, **kwargs: Any) -> None:
        """Do nothing."""

    receive.__qualname__ = 'lone \ud800\n"surrogate'
    post_save.connect(receive, sender=Order)
    try:
        Order.objects.create(number="1")
    finally:
        post_save.disconnect(receive, sender=Order)
    assert b'lone \xef\xbf\xbd\\n\\"surrogate' in generate_latest(REGISTRY)


def test_no_label_has_a_value_of_an_object_or_a_request(sample: Samples) -> None:
    from prometheus_client import REGISTRY

    Order.objects.create(number="1")
    run_deliveries()
    names = {
        name
        for family in REGISTRY.collect()
        if family.name.startswith("signalbox")
        for found in family.samples
        for name in found.labels
    }
    assert names <= {"group", "outcome", "receiver", "state", "reason", "le"}


def test_an_error_in_a_metric_does_not_reach_the_site(sample: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    from signalbox.contrib.prometheus import metrics

    monkeypatch.setattr(metrics, "get_text_size", lambda batch: 1 / 0)
    monkeypatch.setattr(metrics, "get_group", lambda signal: 1 / 0)
    Order.objects.create(number="1")
    assert Event.objects.filter(signal="post_save").exists()


def test_nothing_is_measured_when_the_app_is_not_installed() -> None:
    from signalbox.core import observers

    assert () == (*observers.writes, *observers.sends, *observers.receivers, *observers.attempts)
    assert not processors.has_on_commit()
