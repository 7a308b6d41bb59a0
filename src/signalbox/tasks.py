"""Expose the Celery tasks for ``autodiscover_tasks()``: the purge, and deliveries if Celery is the dispatcher."""

from __future__ import annotations

from importlib.util import find_spec

from signalbox import conf

__all__: list[str] = []

if find_spec("celery") is not None:
    from celery import shared_task

    from signalbox.queries import purge as purge_queries

    @shared_task(name="signalbox.purge", ignore_result=True)  # type: ignore[untyped-decorator]
    def purge() -> None:
        """Delete the rows that ``SIGNALBOX["RETENTION"]`` does not keep, in every database."""
        purge_queries.purge()

    __all__ += ["purge"]

if conf.get().DURABLE.DISPATCHER == "celery":
    from signalbox.outbox.dispatch.celery import run_delivery

    __all__ += ["run_delivery"]
