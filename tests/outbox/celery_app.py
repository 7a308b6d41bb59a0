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
    # Two workers of one name can't both be controlled through RabbitMQ: the second one would end at once.
    worker_enable_remote_control=False,
    # On Redis the messages that are not acknowledged stand in one place, whatever their queue: each run has its own.
    broker_transport_options={"socket_timeout": 5, "socket_connect_timeout": 5, "global_keyprefix": f"{QUEUE}:"},
)
app.autodiscover_tasks()
