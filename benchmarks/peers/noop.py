"""The task that does nothing, as each contestant has it. The last of a run writes how long all of them took."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

PEER = os.environ["SIGNALBOX_BENCH_PEER"]
NUMBER = int(os.environ["SIGNALBOX_BENCH_NUMBER"])

_seen = 0
_began = 0.0


def count() -> None:
    """Take the time from the first to the last."""
    global _seen, _began
    if not _seen:
        _began = time.perf_counter()
    _seen += 1
    if _seen == NUMBER:
        Path(os.environ["SIGNALBOX_BENCH_RESULT"]).write_text(str(time.perf_counter() - _began))


if PEER == "signalbox":
    from django.db.models.signals import post_save

    import signalbox

    @signalbox.receiver(post_save, sender="shop.Tag", durable=True)
    def noop(sender: Any, **kwargs: Any) -> None:
        count()

elif PEER == "procrastinate":
    from procrastinate.contrib.django import app

    @app.task
    def noop() -> None:
        count()

elif PEER == "celery":
    from celery import Celery

    QUEUE = f"signalbox_bench_{os.environ['SIGNALBOX_TEST_RUN']}"

    celery = Celery("bench", broker=os.environ["SIGNALBOX_BENCH_BROKER"])
    celery.conf.update(
        task_default_queue=QUEUE,
        broker_transport_options={"global_keyprefix": f"{QUEUE}:"},
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
    )

    @celery.task
    def noop() -> None:
        count()

else:
    try:
        from django.tasks import task
    except ImportError:  # Django 5.2: the same by another name
        from django_tasks import task

    @task
    def noop() -> None:
        count()
