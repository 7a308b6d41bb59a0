"""Gives each job of Celery or of Django's Tasks a trace, with the trace id and the actor of the sender.

The exception that fails a job is counted with its trace.

Neither library is imported for this: a project that uses one has imported it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from signalbox.core import actors, interrupts, loggers, tracing
from signalbox.instrumentation import signals as signal_patches
from signalbox.instrumentation import traces
from signalbox.pipeline import exporter
from signalbox.serialization.error_description import describe_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.dispatch import Signal

    from signalbox.core.event import Actor
    from signalbox.core.tracing import Trace

logger = loggers.get_logger("recording")

ACTOR_HEADER: Final = "signalbox_actor"
"""Header of a Celery message: the actor's key and label."""

DISPATCH_UID: Final = "signalbox"
"""``dispatch_uid`` of the receivers that are connected to Celery's signals."""

STATUS_BY_STATE: Final = {"SUCCESS": "ok", "SUCCESSFUL": "ok", "FAILURE": "failed", "FAILED": "failed"}
"""The status of a trace by the state of its job. Another state is the status in lower case, such as ``retry``."""

DJANGO_TASKS_MODULES: Final = ("django.tasks.signals", "django_tasks.signals")
"""Modules of the signals of Django's Tasks: in Django from 6.0 on, in a package of their own before."""

SUBSTITUTE_CLASS: Final = "UnpickleableExceptionWrapper"
"""Class of the exceptions that Celery sends instead of those that can't be pickled."""

_celery_connected = False
_signal_wrappers: dict[Signal, Callable[[Any], Any]] = {}
"""The signals of Django's Tasks that start and finish a trace, with the wrappers of their sends."""


def install() -> None:
    """Give each job a trace, for the libraries that have been imported so far."""
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
    """Disconnect from the libraries."""
    global _celery_connected
    if _celery_connected:
        from celery import signals

        signals.before_task_publish.disconnect(_before_publish, dispatch_uid=DISPATCH_UID)
        signals.task_prerun.disconnect(_prerun, dispatch_uid=DISPATCH_UID)
        signals.task_failure.disconnect(_failure, dispatch_uid=DISPATCH_UID)
        signals.task_postrun.disconnect(_postrun, dispatch_uid=DISPATCH_UID)
        _celery_connected = False
    for signal in _signal_wrappers:
        signal_patches.restore_sends(signal)
    _signal_wrappers.clear()


def get_signal_wrapper(signal: Signal) -> Callable[[Any], Any] | None:
    """Return the wrapper of the sends of ``signal`` if it starts or finishes a trace, otherwise None."""
    return _signal_wrappers.get(signal)


def _start_trace(name: str, task_id: str, trace_id: str | None, actor: Actor | None) -> None:
    """Start the trace of a job.

    It has ``trace_id``, the id of the sender's trace. If that is unknown, it has the id of the current trace.
    """
    parent_trace = tracing.get_current_trace()
    if trace_id is None and not tracing.is_process_trace(parent_trace):
        trace_id = parent_trace.id
        actor = actor or parent_trace.get_actor()
    trace = traces.start_trace("task", name, trace_id=trace_id, data={"task_id": task_id[:200]})
    trace.set_actor(actor)


def _find_trace(task_id: str) -> Trace | None:
    """Return the trace of a job, None if the job started before recording did, or in another process."""
    trace: Trace | None = tracing.get_current_trace()
    while trace is not None and not (trace.kind == "task" and trace.data.get("task_id") == task_id[:200]):
        trace = trace.previous
    return trace


def _finish_trace(task_id: str, state: str, error: BaseException | None = None) -> None:
    """Finish the trace of a job. ``error`` is the exception that ended it, unless it was counted before."""
    trace = _find_trace(task_id)
    if trace is None:
        return
    traces.leave_trace(trace, error)
    exporter.finish_trace(trace, STATUS_BY_STATE.get(state, state.lower()))


# ------------------------------------------------------------------ Celery


def _install_celery() -> None:
    global _celery_connected
    from celery import signals

    signals.before_task_publish.connect(_before_publish, weak=False, dispatch_uid=DISPATCH_UID)
    signals.task_prerun.connect(_prerun, weak=False, dispatch_uid=DISPATCH_UID)
    signals.task_failure.connect(_failure, weak=False, dispatch_uid=DISPATCH_UID)
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
        logger.exception("The trace of a task could not be started.")


def _parse_actor(header: Any) -> Actor | None:
    """Return the actor in a message's header, None if there is none. The broker decides which processes send jobs."""
    match header:
        case [str(key), str(label)]:
            return actors.build_actor(key, label)
    return None


def _failure(task_id: Any = None, exception: Any = None, **_: Any) -> None:
    """Count the exception of a job. Its trace ends with ``task_postrun``."""
    try:
        current = sys.exception()
        # Celery sends a substitute for an exception that can't be pickled, while the exception is being handled.
        error = current if type(exception).__name__ == SUBSTITUTE_CLASS and current is not None else exception
        trace = _find_trace(str(task_id))
        if trace is not None and isinstance(error, Exception):
            traces.count_error(trace, error)
    except Exception as error:  # Celery would log it as the task's
        interrupts.raise_if_interrupt(error)
        logger.exception("The exception of a task could not be recorded.")


def _postrun(task_id: Any = None, state: Any = None, **_: Any) -> None:
    # Without a state, an eager job raises its exception to its caller. Celery has not sent task_failure then.
    _finish_trace(str(task_id), str(state or ""), None if state else sys.exception())


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
        result = named.get("task_result")
        error = sys.exception()  # the backends send the signal while they handle the exception of the task
        if result is not None and STATUS_BY_STATE.get(str(result.status)) == "failed":
            _count_failure(result, error)
        error = None  # its traceback may refer to this frame: a reference cycle
        try:
            return inner(sender, **named)
        finally:
            if result is not None:
                _finish_trace(str(result.id), str(result.status))

    return send


def _count_failure(result: Any, error: BaseException | None) -> None:
    """Count the exception of a failed task. Without ``error``, only the class that ``result`` names is known."""
    try:
        trace = _find_trace(str(result.id))
        if trace is None:
            return
        named_class = str(result.errors[-1].exception_class_path) if result.errors else ""
        if error is not None and named_class in ("", f"{type(error).__module__}.{type(error).__qualname__}"):
            traces.count_error(trace, error)
        elif named_class:
            trace.add_error(describe_class(named_class))
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("The exception of a task could not be recorded.")
