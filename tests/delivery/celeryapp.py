"""The Celery app of the processes that a test starts."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("signalbox-tests", broker=os.environ["SIGNALBOX_TEST_BROKER"])
app.conf.update(
    task_default_queue=os.environ["SIGNALBOX_TEST_QUEUE"],
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 5},
)
app.autodiscover_tasks()
