"""Run pending deliveries within a test, in order, and raise the errors of their receivers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connections, transaction

from signalbox.models import Delivery
from signalbox.outbox.execution import call_receiver, check_chain, load_receiver
from signalbox.outbox.queue import SUCCEEDED, TABLE, DeliveryQueue

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_deliveries(*receivers: str, using: str | None = None, limit: int = 1000) -> list[Delivery]:
    """Run pending deliveries, due or not, in the order of their events; return those that ran::

        order.save()
        [delivery] = signalbox.testing.run_deliveries()

    Events of the test's open transaction are written first. ``receivers`` are dotted names: with any, only their
    deliveries run. Deliveries that receivers cause run too. An error of a receiver is raised, and its delivery stays
    pending. ``RuntimeError`` is raised after ``limit`` deliveries, and after ``DURABLE["MAX_CHAIN"]``
    deliveries that cause each other.
    """
    ran: list[Delivery] = []
    for alias in [using] if using else _get_open_aliases():
        while (delivery := _get_next_pending(alias, receivers)) is not None:
            if len(ran) >= limit:
                raise RuntimeError(f"More than {limit} deliveries: {delivery.receiver} may cause itself. Raise limit=.")
            _run_delivery(alias, delivery)
            delivery.state, delivery.attempts = Delivery.DONE, delivery.attempts + 1
            ran.append(delivery)
    return ran


def _get_open_aliases() -> list[str]:
    """Return the databases with the tables that this test has connected to, and may use."""
    return [alias for alias in connections if connections[alias].connection is not None and _has_table(alias)]


def _has_table(alias: str) -> bool:
    from django.test import testcases  # only tests need Django's test cases

    try:
        return TABLE in connections[alias].introspection.table_names()
    except testcases.DatabaseOperationForbidden:  # type: ignore[attr-defined]
        return False  # an earlier test has left the connection open


def _get_next_pending(alias: str, receivers: Sequence[str]) -> Delivery | None:
    pending = Delivery.objects.using(alias).filter(state=Delivery.PENDING)
    if receivers:
        pending = pending.filter(receiver__in=receivers)
    return pending.order_by("id").first()


def _run_delivery(alias: str, delivery: Delivery) -> None:
    block = transaction.atomic(using=alias)
    # TestCase marks its own blocks so. A worker calls receivers outside any block, so theirs may be durable.
    block._from_testcase = True  # type: ignore[attr-defined]
    with block:
        row = Delivery.objects.using(alias).filter(pk=delivery.pk)
        row.update(run_at=0, next_check_at=0, lease_expires_at=None)
        delivery_queue = DeliveryQueue(alias)
        leased = delivery_queue.acquire_by_id(delivery.pk)
        if leased is None:
            raise RuntimeError(
                f"{delivery} waits for an earlier delivery of its key, {delivery.ordering_key!r}, which is dead."
            )
        durable = load_receiver(leased)
        check_chain(leased)
        call_receiver(leased, durable)
        delivery_queue.complete(leased, SUCCEEDED)
