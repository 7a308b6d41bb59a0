"""Starts and finishes the traces of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import connections

from signalbox.core import tracing
from signalbox.core.tracing import Trace
from signalbox.instrumentation import patching
from signalbox.instrumentation.traces import start_trace
from signalbox.pipeline import exporter, routing

if TYPE_CHECKING:
    from django.test import SimpleTestCase

TESTCASES_MODULE: Final = "django.test.testcases"


_original_run: Any


def start_test(name: str) -> Trace:
    """Start the trace of a test, and discard events that are pending from before."""
    exporter.discard_pending()
    return start_trace("test", name)


def finish_test(trace: Trace, status: str) -> None:
    """Finish the trace of a test while its database exists. Events that can't be written now are discarded."""
    if tracing.deactivate(trace):
        trace.status = status
        if _is_database_allowed():
            exporter.finish_trace(trace)
    exporter.discard_pending()


def _is_database_allowed() -> bool:
    """Return True if the test may use the database. Test tools replace ``ensure_connection()`` to forbid it."""
    try:
        connections[routing.get_events_database()].ensure_connection()
    except Exception:  # noqa: BLE001 - each tool raises an exception of its own
        return False
    return True


def install() -> None:
    """Patch Django's test cases, so that each test is a trace."""
    from django.test import SimpleTestCase

    global _original_run
    _original_run = patching.install(SimpleTestCase, "run", _run_test)


def uninstall() -> None:
    """Restore Django's test cases."""
    from django.test import SimpleTestCase

    patching.uninstall(SimpleTestCase, "run")


def _run_test(self: SimpleTestCase, result: Any = None) -> Any:
    """Run ``setUp``, the test and ``tearDown`` as one trace. Django's fixtures are outside of it."""
    if tracing.get_current_trace().kind == "test":  # started by the pytest plugin
        return _original_run(self, result)
    trace = start_test(self.id())
    failures_before = _count_failures(result)
    try:
        return _original_run(self, result)
    finally:
        finish_test(trace, "failed" if _count_failures(result) > failures_before else "ok")


def _count_failures(result: Any) -> int:
    """Return how many tests have failed so far. In a process of a parallel run, the result is a list of calls."""
    calls = getattr(result, "events", None)
    if calls is not None:
        return sum(name in ("addError", "addFailure") for name, *_ in calls)
    return len(getattr(result, "failures", ())) + len(getattr(result, "errors", ()))
