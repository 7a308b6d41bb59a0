"""A failed attempt of a durable receiver is an error, once, in the transaction of its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db.models.signals import post_save

import signalbox
from signalbox.models import Attempt, Delivery, Error, Trace
from signalbox.outbox import manual_changes
from signalbox.outbox.queue import now_us
from signalbox.outbox.single_delivery import execute_by_id
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.usefixtures("empty_tables"), pytest.mark.every_database]


def refuse(**named: Any) -> None:
    raise ValueError("token=hunter2 was refused")


def save_a_tag(**named: Any) -> None:
    Tag.objects.create(name="tag")


def run_once() -> None:
    delivery = Delivery.objects.get()
    Delivery.objects.update(run_at=0, next_check_at=1)
    assert execute_by_id("default", delivery.pk)


def test_each_failed_attempt_is_an_error_until_it_is_dead(make_durable: Callable[..., None]) -> None:
    make_durable(refuse, retries=1)
    Order.objects.create(number="1")
    for _ in range(2):
        run_once()
    [delivery] = Delivery.objects.all()
    assert "dead" == delivery.state
    errors = list(Error.objects.order_by("id"))
    assert [(delivery.pk, 1), (delivery.pk, 2)] == [(one.delivery_id, one.attempt) for one in errors]
    assert {("ValueError", "refuse", f"{__name__}.refuse", delivery.trace_id, delivery.span)} == {
        (one.exception, one.function, one.receiver, one.trace_id, one.span) for one in errors
    }
    assert "hunter2" not in errors[0].message
    assert 1 == len({one.fingerprint for one in errors})
    assert 2 == Attempt.objects.count()


def test_an_exception_that_a_signal_of_the_attempt_counted_is_no_second_error(
    make_durable: Callable[..., None],
) -> None:
    make_durable(save_a_tag, retries=0)
    post_save.connect(refuse, sender=Tag)
    try:
        Order.objects.create(number="1")
        run_once()
    finally:
        post_save.disconnect(refuse, sender=Tag)
    assert "dead" == Delivery.objects.get().state
    [error] = Error.objects.all()
    assert (f"{__name__}.refuse", None) == (error.receiver, error.delivery_id)


def import_prices(**named: Any) -> None:
    with signalbox.trace("import"):
        refuse()


async def import_prices_later(**named: Any) -> None:
    async with signalbox.trace("import"):
        refuse()


@pytest.mark.parametrize("function", [import_prices, import_prices_later])
def test_an_exception_that_a_trace_of_the_attempt_counted_is_no_second_error(
    make_durable: Callable[..., None], function: Callable[..., object]
) -> None:
    make_durable(function, retries=1)
    Order.objects.create(number="1")
    for _ in range(2):
        run_once()
    assert "dead" == Delivery.objects.get().state
    errors = Error.objects.order_by("id")
    assert [("refuse", "", None)] * 2 == [(one.function, one.receiver, one.delivery_id) for one in errors]
    assert {"import"} == {Trace.objects.get(trace_id=one.trace_id).name for one in errors}


def lose_the_lease(delivery: Any, **named: Any) -> None:
    Delivery.objects.filter(pk=delivery.id).update(fencing_token=99, lease_expires_at=now_us() + 60_000_000)
    raise ValueError("too late")


def test_a_result_of_a_lost_lease_writes_no_error(make_durable: Callable[..., None]) -> None:
    make_durable(lose_the_lease)
    Order.objects.create(number="1")
    run_once()
    assert not Error.objects.exists()
    manual_changes.discard(list(Delivery.objects.all()), "default")
