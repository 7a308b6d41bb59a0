"""Django's Tasks as the engine, with any backend: ``TASKS["signalbox"]`` where there is one, else the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from signalbox.outbox.heartbeat import execute_by_id

try:
    from django.tasks import task
except ImportError:  # Django 5.2: the same by another name
    from django_tasks import task  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Sequence


def get_backend_alias() -> str:
    """Return the alias of the backend that takes the messages."""
    return "signalbox" if "signalbox" in getattr(settings, "TASKS", {}) else "default"


@task(backend=get_backend_alias())
def run_delivery(alias: str, delivery_id: int) -> None:
    """Run one delivery."""
    execute_by_id(alias, delivery_id)


def publish(alias: str, deliveries: Sequence[tuple[int, str]]) -> None:
    """Enqueue a task for each ``(id, queue)``; the backend must know the queue.

    Raises what the backend raises.
    """
    for number, queue in deliveries:
        (run_delivery if queue == "default" else run_delivery.using(queue_name=queue)).enqueue(alias, number)
