"""The Celery app of the processes that a test starts."""

from __future__ import annotations

import os

from celery import Celery

QUEUE = os.environ["SIGNALBOX_TEST_QUEUE"]

app = Celery("signalbox-tests", broker=os.environ["SIGNALBOX_TEST_BROKER"])
app.conf.update(
    task_default_queue=QUEUE,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    # RabbitMQ controls one worker per name: a second worker with the same name would end immediately.
    worker_enable_remote_control=False,
    # Redis keeps unacknowledged messages of all queues under one key, so each run uses another one.
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 5, "global_keyprefix": f"{QUEUE}:"},
)
app.autodiscover_tasks()
