"""Dispatch deliveries with Django's Tasks, to the backend ``TASKS["signalbox"]`` if configured, else the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from signalbox.outbox.single_delivery import execute_by_id

try:
    from django.tasks import task
except ImportError:  # Django 5.2 needs the backport
    from django_tasks import task  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Sequence


def get_backend_alias() -> str:
    """Return the alias of the backend that runs deliveries."""
    return "signalbox" if "signalbox" in getattr(settings, "TASKS", {}) else "default"


@task(backend=get_backend_alias())
def run_delivery(alias: str, delivery_id: int) -> None:
    """Run one delivery."""
    execute_by_id(alias, delivery_id)


def publish(alias: str, deliveries: Sequence[tuple[int, str]]) -> None:
    """Enqueue a task for each ``(id, queue)``. The queue must be configured in the backend.

    Errors of the backend are raised.
    """
    for delivery_id, queue in deliveries:
        (run_delivery if queue == "default" else run_delivery.using(queue_name=queue)).enqueue(alias, delivery_id)
