"""A job of Celery or of Django's Tasks is a trace, which goes on with the trace and the actor that sent it.

Neither is imported for this: what a project has not imported by itself it does not use.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from signalbox.core import tracing
from signalbox.instrumentation import boundaries
from signalbox.instrumentation import signals as signal_patches
from signalbox.pipeline import exporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.dispatch import Signal

    from signalbox.core.event import Actor
    from signalbox.core.tracing import Trace

logger = logging.getLogger("signalbox")

ACTOR: Final = "signalbox_actor"
"""Header of a Celery message: the actor's key and label."""

UID: Final = "signalbox"
"""``dispatch_uid`` of what is connected to Celery's signals."""

STATUS: Final = {"SUCCESS": "ok", "SUCCESSFUL": "ok", "FAILURE": "failed", "FAILED": "failed"}
"""A job's state in the word that other traces have for it; a state without one is its own, as ``retry``."""

MODULES: Final = ("django.tasks.signals", "django_tasks.signals")
"""Where Django's Tasks live: in Django from 6.0 on, in a package of their own before."""

_celery = False
_hooks: dict[Signal, Callable[[Any], Any]] = {}
"""The signals of Django's Tasks that begin and end a trace, with what stands around their sends."""


def install() -> None:
    """Give each job a trace, in those of the libraries that have been imported by now."""
    if not _celery and "celery" in sys.modules:
        _install_celery()
    for name in MODULES:
        module: Any = sys.modules.get(name)
        started = getattr(module, "task_started", None)
        finished = getattr(module, "task_finished", None)
        if started is not None and finished is not None and started not in _hooks:
            for signal, around in ((started, _task_started), (finished, _task_finished)):
                _hooks[signal] = around
                signal_patches.bound(signal, around)


def uninstall() -> None:
    """Leave the libraries as they were."""
    global _celery
    if _celery:
        from celery import signals

        signals.before_task_publish.disconnect(_before_publish, dispatch_uid=UID)
        signals.task_prerun.disconnect(_prerun, dispatch_uid=UID)
        signals.task_postrun.disconnect(_postrun, dispatch_uid=UID)
        _celery = False
    for signal in _hooks:
        signal_patches.unwatch(signal)
    _hooks.clear()


def hook(signal: Signal) -> Callable[[Any], Any] | None:
    """Return what stands around the sends of ``signal``, if it is one of those that begin or end a trace."""
    return _hooks.get(signal)


def _begin(name: str, job: str, trace_id: str | None, actor: Actor | None) -> None:
    """Begin a job's trace: of the work that sent it, where that is known, else of the work around it."""
    around = tracing.get_current_trace()
    if trace_id is None and not tracing.is_process_trace(around):
        trace_id = around.id
        actor = actor or around.get_actor()
    trace = boundaries.begin("task", name, trace_id=trace_id, data={"job": job[:200]})
    trace.set_actor(actor)


def _end(job: str, state: str) -> None:
    trace: Trace | None = tracing.get_current_trace()
    while trace is not None and not (trace.kind == "task" and trace.data.get("job") == job[:200]):
        trace = trace.previous
    if trace is None:  # it began before recording did
        return
    tracing.deactivate(trace)
    exporter.finish_trace(trace, STATUS.get(state, state.lower()))


# ------------------------------------------------------------------ Celery


def _install_celery() -> None:
    global _celery
    from celery import signals

    signals.before_task_publish.connect(_before_publish, weak=False, dispatch_uid=UID)
    signals.task_prerun.connect(_prerun, weak=False, dispatch_uid=UID)
    signals.task_postrun.connect(_postrun, weak=False, dispatch_uid=UID)
    _celery = True


def _before_publish(headers: Any = None, **_: Any) -> None:
    """Put the current trace and actor into the message."""
    trace = tracing.get_current_trace()
    if not isinstance(headers, dict):
        return
    if not tracing.is_process_trace(trace):
        headers.setdefault("traceparent", tracing.build_traceparent(trace))
    actor = trace.get_actor()
    if actor is not None:
        headers.setdefault(ACTOR, [actor.key, actor.label])


def _prerun(task_id: Any = None, task: Any = None, **_: Any) -> None:
    try:
        request = task.request
        given = tracing.parse_traceparent(str(getattr(request, "traceparent", "") or ""))
        _begin(str(task.name), str(task_id), given[0] if given else None, _actor(getattr(request, ACTOR, None)))
    except Exception:  # Celery would log it as the task's
        logger.exception("The trace of a task could not begin.")


def _actor(sent: Any) -> Actor | None:
    """Return the actor in a message's header; whoever may send jobs may say who sends them."""
    match sent:
        case [str(key), str(label)]:
            return tracing.build_actor(key, label)
    return None


def _postrun(task_id: Any = None, state: Any = None, **_: Any) -> None:
    _end(str(task_id), str(state or ""))


# ------------------------------------------------------------------ Django's Tasks


def _task_started(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        result = named.get("task_result")
        if result is not None:
            _begin(str(result.task.module_path), str(result.id), None, None)
        return inner(sender, **named)

    return send


def _task_finished(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        try:
            return inner(sender, **named)
        finally:
            result = named.get("task_result")
            if result is not None:
                _end(str(result.id), str(result.status))

    return send
