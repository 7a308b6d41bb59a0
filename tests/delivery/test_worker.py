from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import transaction

from signalbox.models import Delivery
from tests.delivery import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.delivery.conftest import Notes, Process

pytestmark = [pytest.mark.every_database, pytest.mark.usefixtures("clean")]

SAVED = "saved:post_save:shop.Order"


def test_a_delivery_is_written_with_its_change_and_run_by_a_worker(
    durable: Callable[..., None], worker: Callable[..., Process], notes: Notes
) -> None:
    durable(receivers.saved)
    with transaction.atomic():
        kept = Order.objects.create(number="1")
        with pytest.raises(RuntimeError), transaction.atomic():
            Order.objects.create(number="2")
            raise RuntimeError
    assert 0 == worker("--burst", receivers=SAVED).wait()
    [delivery] = Delivery.objects.all()
    assert [["saved", str(kept.pk), str(delivery.pk), "1"]] == notes.lines()
    assert ("done", 1, None, None) == (delivery.state, delivery.attempts, delivery.wake, delivery.lane)


def test_a_failed_delivery_is_tried_again(
    durable: Callable[..., None], worker: Callable[..., Process], notes: Notes
) -> None:
    durable(receivers.fails_once, backoff=0.1)
    Order.objects.create(number="1")
    running = worker(receivers="fails_once:post_save:shop.Order:backoff=0.1")
    notes.wait_for("saved", 1)
    assert 0 == running.end()
    assert ["1", "2"] == [line[3] for line in notes.lines("tried")]
