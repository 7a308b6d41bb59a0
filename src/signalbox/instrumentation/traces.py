"""Starts and finishes the trace of any unit of work."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from signalbox.core import tracing
from signalbox.core.counted_errors import has_raised_before, remember_ending, was_counted
from signalbox.core.tracing import Trace
from signalbox.pipeline import exporter
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.error_description import describe_error

if TYPE_CHECKING:
    from collections.abc import Iterator


def start_trace(kind: str, name: str, *, trace_id: str | None = None, data: dict[str, Any] | None = None) -> Trace:
    """Start a trace and make it the current one.

    Args:
        kind: The kind of the trace, such as ``"request"``.
        name: Its name. Secrets are removed.
        trace_id: Its id; None creates one.
        data: Further data of the trace.
    """
    trace = Trace(kind, get_redactor().redact_text(name), trace_id=trace_id)
    trace.data = data or {}
    tracing.activate(trace)
    return trace


def leave_trace(trace: Trace, error: BaseException | None) -> None:
    """Make the previous trace the current one. ``error`` is the exception that ended the work, or None."""
    try:
        if error is not None:
            kind = type(error)  # isinstance() would call code of the class
            exited = issubclass(kind, SystemExit) and not getattr(error, "code", None)
            trace.status = trace.status or ("ok" if exited else "failed")
            # KeyboardInterrupt, SystemExit and the end of a generator are not defects.
            if issubclass(kind, Exception):
                count_error(trace, error)
    finally:
        tracing.deactivate(trace)


def count_error(trace: Trace, error: BaseException) -> None:
    """Count ``error``, which ended the work of ``trace``, unless it was counted before."""
    if not was_counted(error, trace.started_monotonic) and not has_raised_before(error):
        trace.add_error(describe_error(error, redactor=get_redactor()))
    remember_ending(error)


@contextmanager
def traced(
    kind: str,
    name: str,
    *,
    trace_id: str | None = None,
    data: dict[str, Any] | None = None,
    is_process: bool = False,
) -> Iterator[Trace]:
    """Run the block in a trace of its own, or in that of the process, which ends with the block.

    Args:
        kind: See ``start_trace()``, as for ``name``, ``trace_id`` and ``data``.
        name: The name of the trace.
        trace_id: Its id; not used with ``is_process``.
        data: Its further data; not used with ``is_process``.
        is_process: Whether the process was started for this work, so that both are one trace.
    """
    if is_process:
        trace = tracing.activate_process_trace(kind, get_redactor().redact_text(name))
    else:
        trace = start_trace(kind, name, trace_id=trace_id, data=data)
    error = None
    try:
        yield trace
    except BaseException as caught:
        error = caught
        raise
    finally:
        try:
            leave_trace(trace, error)
        finally:
            tracing.release_process_trace(trace)
            exporter.finish_trace(trace, "ok")
