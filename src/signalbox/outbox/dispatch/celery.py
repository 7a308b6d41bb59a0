"""Dispatch deliveries with Celery. The task's arguments are only ids: the row decides whether and when to run.

``eta``, ``countdown`` and ``autoretry`` are not used, because brokers may deliver such messages twice or lose them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import shared_task

from signalbox.outbox.single_delivery import execute_by_id

if TYPE_CHECKING:
    from collections.abc import Sequence


@shared_task(  # type: ignore[untyped-decorator]
    name="signalbox.run_delivery", acks_late=True, reject_on_worker_lost=True, ignore_result=True, max_retries=0
)
def run_delivery(alias: str, delivery_id: int) -> None:
    """Run one delivery."""
    execute_by_id(alias, delivery_id)


def publish(alias: str, deliveries: Sequence[tuple[int, str]]) -> None:
    """Send a message for each ``(id, queue)``. The queue ``"default"`` is Celery's default queue.

    Errors of the broker's driver are raised.
    """
    with run_delivery.app.producer_or_acquire() as producer:
        for delivery_id, queue in deliveries:
            route = {} if queue == "default" else {"queue": queue}
            run_delivery.apply_async((alias, delivery_id), producer=producer, retry=False, ignore_result=True, **route)
