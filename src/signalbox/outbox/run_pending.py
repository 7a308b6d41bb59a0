"""Durable receivers in tests: run now, in order, with their errors raised."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connections, transaction

from signalbox.models import Delivery
from signalbox.outbox.execution import call_receiver, load_receiver
from signalbox.outbox.queue import SUCCEEDED, TABLE, DeliveryQueue

if TYPE_CHECKING:
    from collections.abc import Sequence


def run_deliveries(*receivers: str, using: str | None = None, limit: int = 1000) -> list[Delivery]:
    """Run what is waiting, due or not, in the order of its events, and return what was run::

        order.save()
        [delivery] = signalbox.testing.run_deliveries()

    Events that the open transaction of a test has not written yet are written first. ``receivers`` are dotted names:
    others are left alone. What receivers cause in turn is run as well. An error of a receiver is raised, and its
    delivery waits on; ``RuntimeError`` is raised after ``limit`` deliveries, for receivers that cause each other.
    """
    ran: list[Delivery] = []
    for alias in [using] if using else _get_open_aliases():
        while (found := _get_next_pending(alias, receivers)) is not None:
            if len(ran) >= limit:
                raise RuntimeError(f"More than {limit} deliveries: {found.receiver} may cause itself. Raise limit=.")
            _run_delivery(alias, found)
            found.state, found.attempts = Delivery.DONE, found.attempts + 1
            ran.append(found)
    return ran


def _get_open_aliases() -> list[str]:
    """Return the databases that this test uses: others may be closed to it."""
    return [
        alias
        for alias in connections
        if connections[alias].connection is not None and TABLE in connections[alias].introspection.table_names()
    ]


def _get_next_pending(alias: str, receivers: Sequence[str]) -> Delivery | None:
    waiting = Delivery.objects.using(alias).filter(state=Delivery.PENDING)
    if receivers:
        waiting = waiting.filter(receiver__in=receivers)
    return waiting.order_by("id").first()


def _run_delivery(alias: str, delivery: Delivery) -> None:
    block = transaction.atomic(using=alias)
    # As TestCase marks its own: a worker calls receivers outside of any block, where theirs may be durable.
    block._from_testcase = True  # type: ignore[attr-defined]
    with block:
        Delivery.objects.using(alias).filter(pk=delivery.pk).update(due=0, wake=0, lease=None)
        claims = DeliveryQueue(alias)
        one = claims.acquire_by_id(delivery.pk)
        if one is None:
            raise RuntimeError(
                f"{delivery} waits for an earlier delivery of its key, {delivery.ordering_key!r}, which is dead."
            )
        call_receiver(one, load_receiver(one))
        claims.complete(one, SUCCEEDED)
