"""Where Celery's ``autodiscover_tasks()`` looks: the engine's task, if Celery is the engine."""

from __future__ import annotations

from signalbox import conf

if conf.get().ENGINE == "celery":
    from signalbox.outbox.dispatch.celery import run_delivery

    __all__ = ["run_delivery"]
