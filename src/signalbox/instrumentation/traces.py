"""Starts and finishes the trace of any unit of work."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from signalbox.core import tracing
from signalbox.core.tracing import Trace
from signalbox.pipeline import exporter
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Iterator


def start_trace(kind: str, name: str, *, trace_id: str | None = None, data: dict[str, Any] | None = None) -> Trace:
    """Begin a trace: what happens from now on belongs to it."""
    trace = Trace(kind, get_redactor().redact_text(name), trace_id=trace_id)
    trace.data = data or {}
    tracing.activate(trace)
    return trace


def leave_trace(trace: Trace, error: BaseException | None) -> None:
    """Let what happens from now on belong to the trace before; ``error`` is what ended the work."""
    if error is not None:
        exited = isinstance(error, SystemExit) and not error.code
        trace.status = trace.status or ("ok" if exited else "failed")
    tracing.deactivate(trace)


@contextmanager
def traced(kind: str, name: str, *, trace_id: str | None = None, data: dict[str, Any] | None = None) -> Iterator[Trace]:
    """Make what happens in the block one trace."""
    trace = start_trace(kind, name, trace_id=trace_id, data=data)
    error = None
    try:
        yield trace
    except BaseException as caught:
        error = caught
        raise
    finally:
        leave_trace(trace, error)
        exporter.finish_trace(trace, "ok")
