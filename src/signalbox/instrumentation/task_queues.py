"""A job of Celery or of Django's Tasks is a trace, which goes on with the trace and the actor that sent it.

Neither is imported for this: what a project has not imported by itself it does not use.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Final

from signalbox.core import interrupts, tracing
from signalbox.instrumentation import signals as signal_patches
from signalbox.instrumentation import traces
from signalbox.pipeline import exporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.dispatch import Signal

    from signalbox.core.event import Actor
    from signalbox.core.tracing import Trace

logger = logging.getLogger("signalbox")

ACTOR_HEADER: Final = "signalbox_actor"
"""Header of a Celery message: the actor's key and label."""

DISPATCH_UID: Final = "signalbox"
"""``dispatch_uid`` of what is connected to Celery's signals."""

STATUS_BY_STATE: Final = {"SUCCESS": "ok", "SUCCESSFUL": "ok", "FAILURE": "failed", "FAILED": "failed"}
"""A job's state in the word that other traces have for it; a state without one is its own, as ``retry``."""

DJANGO_TASKS_MODULES: Final = ("django.tasks.signals", "django_tasks.signals")
"""Where Django's Tasks live: in Django from 6.0 on, in a package of their own before."""

_celery_connected = False
_signal_wrappers: dict[Signal, Callable[[Any], Any]] = {}
"""The signals of Django's Tasks that begin and end a trace, with what stands around their sends."""


def install() -> None:
    """Give each job a trace, in those of the libraries that have been imported by now."""
    if not _celery_connected and "celery" in sys.modules:
        _install_celery()
    for name in DJANGO_TASKS_MODULES:
        module: Any = sys.modules.get(name)
        started = getattr(module, "task_started", None)
        finished = getattr(module, "task_finished", None)
        if started is not None and finished is not None and started not in _signal_wrappers:
            for signal, wrapper in ((started, _wrap_task_started), (finished, _wrap_task_finished)):
                _signal_wrappers[signal] = wrapper
                signal_patches.wrap_sends(signal, wrapper)


def uninstall() -> None:
    """Leave the libraries as they were."""
    global _celery_connected
    if _celery_connected:
        from celery import signals

        signals.before_task_publish.disconnect(_before_publish, dispatch_uid=DISPATCH_UID)
        signals.task_prerun.disconnect(_prerun, dispatch_uid=DISPATCH_UID)
        signals.task_postrun.disconnect(_postrun, dispatch_uid=DISPATCH_UID)
        _celery_connected = False
    for signal in _signal_wrappers:
        signal_patches.restore_sends(signal)
    _signal_wrappers.clear()


def get_signal_wrapper(signal: Signal) -> Callable[[Any], Any] | None:
    """Return what stands around the sends of ``signal``, if it is one of those that begin or end a trace."""
    return _signal_wrappers.get(signal)


def _start_trace(name: str, task_id: str, trace_id: str | None, actor: Actor | None) -> None:
    """Begin a job's trace: of the work that sent it, where that is known, else of the work around it."""
    parent_trace = tracing.get_current_trace()
    if trace_id is None and not tracing.is_process_trace(parent_trace):
        trace_id = parent_trace.id
        actor = actor or parent_trace.get_actor()
    trace = traces.start_trace("task", name, trace_id=trace_id, data={"task_id": task_id[:200]})
    trace.set_actor(actor)


def _finish_trace(task_id: str, state: str) -> None:
    trace: Trace | None = tracing.get_current_trace()
    while trace is not None and not (trace.kind == "task" and trace.data.get("task_id") == task_id[:200]):
        trace = trace.previous
    if trace is None:  # it began before recording did
        return
    tracing.deactivate(trace)
    exporter.finish_trace(trace, STATUS_BY_STATE.get(state, state.lower()))


# ------------------------------------------------------------------ Celery


def _install_celery() -> None:
    global _celery_connected
    from celery import signals

    signals.before_task_publish.connect(_before_publish, weak=False, dispatch_uid=DISPATCH_UID)
    signals.task_prerun.connect(_prerun, weak=False, dispatch_uid=DISPATCH_UID)
    signals.task_postrun.connect(_postrun, weak=False, dispatch_uid=DISPATCH_UID)
    _celery_connected = True


def _before_publish(headers: Any = None, **_: Any) -> None:
    """Put the current trace and actor into the message."""
    trace = tracing.get_current_trace()
    if not isinstance(headers, dict):
        return
    if not tracing.is_process_trace(trace):
        headers.setdefault("traceparent", tracing.build_traceparent(trace))
    actor = trace.get_actor()
    if actor is not None:
        headers.setdefault(ACTOR_HEADER, [actor.key, actor.label])


def _prerun(task_id: Any = None, task: Any = None, **_: Any) -> None:
    try:
        request = task.request
        given = tracing.parse_traceparent(str(getattr(request, "traceparent", "") or ""))
        _start_trace(
            str(task.name),
            str(task_id),
            given[0] if given else None,
            _parse_actor(getattr(request, ACTOR_HEADER, None)),
        )
    except Exception as error:  # Celery would log it as the task's
        interrupts.raise_if_interrupt(error)
        logger.exception("The trace of a task could not begin.")


def _parse_actor(header: Any) -> Actor | None:
    """Return the actor in a message's header; whoever may send jobs may say who sends them."""
    match header:
        case [str(key), str(label)]:
            return tracing.build_actor(key, label)
    return None


def _postrun(task_id: Any = None, state: Any = None, **_: Any) -> None:
    _finish_trace(str(task_id), str(state or ""))


# ------------------------------------------------------------------ Django's Tasks


def _wrap_task_started(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        result = named.get("task_result")
        if result is not None:
            _start_trace(str(result.task.module_path), str(result.id), None, None)
        return inner(sender, **named)

    return send


def _wrap_task_finished(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        try:
            return inner(sender, **named)
        finally:
            result = named.get("task_result")
            if result is not None:
                _finish_trace(str(result.id), str(result.status))

    return send
