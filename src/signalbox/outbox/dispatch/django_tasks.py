"""Django's Tasks as the engine, with any backend: ``TASKS["signalbox"]`` where there is one, else the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from signalbox.outbox.heartbeat import run_one

try:
    from django.tasks import task
except ImportError:  # Django 5.2: the same by another name
    from django_tasks import task  # type: ignore[no-redef]

if TYPE_CHECKING:
    from collections.abc import Sequence


def backend() -> str:
    """Return the alias of the backend that takes the messages."""
    return "signalbox" if "signalbox" in getattr(settings, "TASKS", {}) else "default"


@task(backend=backend())
def run(alias: str, number: int) -> None:
    """Run one delivery."""
    run_one(alias, number)


def publish(alias: str, deliveries: Sequence[tuple[int, str]]) -> None:
    """Enqueue a task for each ``(id, queue)``; the backend must know the queue.

    Raises what the backend raises.
    """
    for number, queue in deliveries:
        (run if queue == "default" else run.using(queue_name=queue)).enqueue(alias, number)
