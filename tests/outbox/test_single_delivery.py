from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from django.db import connections

from signalbox.models import Delivery
from signalbox.outbox import single_delivery, watchdog
from tests.outbox import receivers
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.outbox.conftest import Notes

pytestmark = pytest.mark.usefixtures("empty_tables")


@pytest.fixture
def end_stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """Return a function that ends the stuck receivers."""
    readable, writable = os.pipe()
    monkeypatch.setattr(receivers, "END_FDS", [readable])
    yield lambda: os.write(writable, b".")
    os.close(readable)
    os.close(writable)


@pytest.mark.parametrize(
    "name",
    [
        "stuck",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("blocks_event_loop", "blocks_pool_thread")),
        pytest.param("swallows_cancellation", marks=pytest.mark.slow),
    ],
)
def test_a_receiver_that_does_not_end_fails_while_its_thread_is_still_busy(
    make_durable: Callable[..., None],
    notes: Notes,
    monkeypatch: pytest.MonkeyPatch,
    end_stuck: Callable[[], object],
    name: str,
) -> None:
    monkeypatch.setattr(single_delivery, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(watchdog, "TIMEOUT_GRACE_SECONDS", 0.2)
    make_durable(getattr(receivers, name), retries=0, timeout=0.1)
    Order.objects.create(number="1")
    number = Delivery.objects.get().pk

    def engine() -> None:
        single_delivery.execute_by_id("default", number)
        connections.close_all()

    thread = threading.Thread(target=engine)
    thread.start()
    deadline = time.monotonic() + 30  # the receiver is stuck for 60 seconds
    while Delivery.objects.get().state == "pending" and time.monotonic() < deadline:
        time.sleep(0.05)
    [one] = Delivery.objects.all()
    assert thread.is_alive()
    end_stuck()
    thread.join()
    assert ("dead", "TimeLimitExceeded: it took longer than 0.1 seconds, and did not end") == (one.state, one.error)
