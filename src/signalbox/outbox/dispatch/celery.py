"""Celery as the engine. The task's arguments are ids alone; when and whether to run is asked of the row.

No ``eta``, no ``countdown``, no ``autoretry``: a broker that keeps such messages hands them out twice or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import shared_task

from signalbox.outbox.heartbeat import execute_by_id

if TYPE_CHECKING:
    from collections.abc import Sequence


@shared_task(  # type: ignore[untyped-decorator]
    name="signalbox.run", acks_late=True, reject_on_worker_lost=True, ignore_result=True, max_retries=0
)
def run_delivery(alias: str, delivery_id: int) -> None:
    """Run one delivery."""
    execute_by_id(alias, delivery_id)


def publish(alias: str, deliveries: Sequence[tuple[int, str]]) -> None:
    """Send a message for each ``(id, queue)``; the queue ``"default"`` is Celery's own default.

    Raises what the broker's driver raises.
    """
    with run_delivery.app.producer_or_acquire() as producer:
        for number, queue in deliveries:
            route = {} if queue == "default" else {"queue": queue}
            run_delivery.apply_async((alias, number), producer=producer, retry=False, ignore_result=True, **route)
