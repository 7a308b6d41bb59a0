"""Expose the Celery task for ``autodiscover_tasks()``, if Celery is the dispatcher."""

from __future__ import annotations

from signalbox import conf

if conf.get().DURABLE.DISPATCHER == "celery":
    from signalbox.outbox.dispatch.celery import run_delivery

    __all__ = ["run_delivery"]
