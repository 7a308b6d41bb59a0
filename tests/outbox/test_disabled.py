"""``SIGNALBOX_DISABLED`` and durable receivers: no delivery is created, which is reported; the existing ones run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.core.checks import run_checks

from signalbox.models import Delivery, Event
from signalbox.outbox import receiver_checks
from tests.outbox import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.outbox.conftest import Notes, Process

RECEIVERS = "saved:post_save:shop.Order saved:post_delete:shop.Order"
SAVE = """
import django
django.setup()
from tests.outbox import receivers
from tests.shop.models import Order
Order.objects.create(number="A-1")
"""
WARNING = "SIGNALBOX_DISABLED switches recording off. Durable receivers get no deliveries."


def read_warnings(process: Process) -> list[str]:
    return [line for line in process.log.read_text().splitlines() if "SIGNALBOX_DISABLED" in line]


def count_order_events() -> int:
    """Return the number of events of orders: this process also records the connections that it opens."""
    return Event.objects.filter(sender="shop.Order").count()


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_no_delivery_is_created_and_one_line_of_the_log_reports_it(start_process: Callable[..., Process]) -> None:
    process = start_process("-c", SAVE, receivers=RECEIVERS, SIGNALBOX_DISABLED="1")
    assert 0 == process.wait()

    assert (1, 0, 0) == (Order.objects.count(), count_order_events(), Delivery.objects.count())
    [line] = read_warnings(process)
    assert line.endswith(f" WARNING {WARNING}")


@pytest.mark.usefixtures("empty_tables")
def test_without_durable_receivers_the_log_has_no_line(start_process: Callable[..., Process]) -> None:
    process = start_process("-c", SAVE, SIGNALBOX_DISABLED="1")
    assert 0 == process.wait()
    assert [] == read_warnings(process)


@pytest.mark.usefixtures("empty_tables")
def test_with_recording_on_the_delivery_is_created_and_the_log_has_no_line(
    start_process: Callable[..., Process],
) -> None:
    process = start_process("-c", SAVE, receivers=RECEIVERS, SIGNALBOX_DISABLED="0")
    assert 0 == process.wait()
    assert ([], 1) == (read_warnings(process), Delivery.objects.count())


@pytest.mark.every_database
@pytest.mark.usefixtures("empty_tables")
def test_a_worker_runs_the_deliveries_that_exist(
    make_durable: Callable[..., None], start_worker: Callable[..., Process], notes: Notes
) -> None:
    make_durable(receivers.saved)
    order = Order.objects.create(number="A-1")
    events = count_order_events()

    assert 0 == start_worker("--burst", receivers="saved:post_save:shop.Order", SIGNALBOX_DISABLED="1").wait()
    [delivery] = Delivery.objects.all()
    assert "done" == delivery.state
    assert [["saved", str(order.pk), str(delivery.pk), "1"]] == notes.lines()
    assert events == count_order_events()


def test_a_check_names_the_receivers_without_deliveries(
    make_durable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGNALBOX_DISABLED", "1")
    assert [] == receiver_checks.check_recording_enabled()

    make_durable(receivers.saved)
    make_durable(receivers.never_works)
    [found] = receiver_checks.check_recording_enabled()
    names = "tests.outbox.receivers.never_works, tests.outbox.receivers.saved"
    assert f"SIGNALBOX_DISABLED switches recording off. No delivery is created for {names}." == found.msg
    assert ("signalbox.W012", True) == (found.id, "Remove the environment variable" in str(found.hint))
    assert found in run_checks(tags=["signalbox"])

    monkeypatch.setenv("SIGNALBOX_DISABLED", "0")
    assert [] == receiver_checks.check_recording_enabled()
