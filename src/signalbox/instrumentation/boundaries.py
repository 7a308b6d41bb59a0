"""Where work begins and ends: requests, commands and tests. Boundaries are watched whatever is recorded."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connections

from signalbox import conf
from signalbox.core import tracing
from signalbox.core.tracing import Trace
from signalbox.instrumentation import model_metadata
from signalbox.pipeline import exporter, unit_of_work
from signalbox.serialization import signal_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.test import SimpleTestCase

LONG_RUNNING_COMMANDS: Final = frozenset({"runserver", "testserver", "dbshell", "runserver_plus", "signalbox"})
"""Commands whose work is that of others: requests have traces of their own."""

SHELL_COMMANDS: Final = frozenset({"shell", "shell_plus"})


# ------------------------------------------------------------------ requests


def start_request(environ: Any, scope: Any) -> Trace:
    """Begin the trace of a request, told by its WSGI environ or its ASGI scope."""
    unfinished = tracing._current_trace.get()
    if unfinished is not None and unfinished.kind == "request" and unfinished.is_view_done:
        finish_request(unfinished)  # its response was never closed
    facts = _parse_environ(environ) if environ is not None else _parse_asgi_scope(scope or {})
    header = facts.pop("traceparent", "")
    parent_context = tracing.parse_traceparent(header)
    trace = Trace(
        "request", f"{facts['method']} {facts['path']}"[:200], trace_id=parent_context[0] if parent_context else None
    )
    if parent_context:
        facts["parent"] = parent_context[1]
    trace.data = facts
    tracing.activate(trace)
    return trace


def _parse_environ(environ: Any) -> dict[str, Any]:
    return {
        "method": str(environ.get("REQUEST_METHOD", "")),
        "path": signal_arguments.format_path(environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", ""))[:2000],
        "remote": get_client_address(str(environ.get("REMOTE_ADDR", "")), str(environ.get("HTTP_X_FORWARDED_FOR", ""))),
        "traceparent": str(environ.get("HTTP_TRACEPARENT", "")),
    }


def _parse_asgi_scope(scope: Any) -> dict[str, Any]:
    headers: dict[bytes, str] = {}
    for sent, value in scope.get("headers", ()):  # what is sent twice is one list, as WSGI servers join it
        name, text = sent.lower(), value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    client = scope.get("client") or ("",)
    return {
        "method": str(scope.get("method", "")),
        "path": signal_arguments.format_path(scope.get("path", ""), scope.get("query_string", b""))[:2000],
        "remote": get_client_address(str(client[0]), headers.get(b"x-forwarded-for", "")),
        "traceparent": headers.get(b"traceparent", ""),
    }


def redact_resolved_path(trace: Trace, request: Any) -> None:
    """Take out of ``trace``, and of the event of its beginning, what only the URL pattern of ``request`` names as
    secrets."""
    if not any(map(model_metadata.get_redactor().is_secret, request.resolver_match.kwargs)):
        return
    path = signal_arguments.format_request_path(request, request.path_info)[:2000]
    trace.data["path"] = path
    trace.name = f"{request.method} {path}"[:200]
    for event in trace.pending:
        if event.signal == "request_started" and isinstance(event.args, Mapping):
            for facts in event.args.values():
                if isinstance(facts, dict):
                    facts["path"] = path


def get_client_address(peer_address: str, forwarded_for: str) -> str:
    """Return the visitor's address: the peer's, or with trusted proxies the one that the outermost of them has seen.

    Each proxy appends the address that it was called from, so what ``TRUSTED_PROXIES`` of them say is read from the
    right; what stands further left anybody could have sent.
    """
    trusted = conf.get().TRUSTED_PROXIES
    if not trusted:
        return peer_address[:64]
    hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
    return (hops[-trusted] if len(hops) >= trusted else hops[0] if hops else peer_address)[:64]


def finish_request(trace: Trace | None = None) -> None:
    """End the trace of the current request."""
    trace = trace or tracing._current_trace.get()
    while trace is not None and trace.kind != "request":
        trace = trace.previous
    if trace is None:
        return
    tracing.deactivate(trace)
    if settings.STATIC_URL and str(trace.data.get("path")).startswith(f"{settings.STATIC_URL}signalbox/"):
        trace.suppress()  # the page's own files, where the development server hands them out
    with _close_new_connections():
        exporter.finish_trace(trace)
    trace.request = None


async def afinish_request(trace: Trace | None = None) -> None:
    """End the trace of the current request from within an event loop, where a thread has to do the writing."""
    finish_request(trace)
    await sync_to_async(_flush)()


def _flush() -> None:
    with _close_new_connections():
        exporter.flush()


@contextmanager
def _close_new_connections() -> Iterator[None]:
    """Close, if it may not be kept, a connection that the block opens: Django has closed the request's own by now."""
    already_open = {id(connection) for connection in connections.all(initialized_only=True) if connection.connection}
    try:
        yield
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None and id(connection) not in already_open:
                connection.close_if_unusable_or_obsolete()


@contextmanager
def postpone_connection_close() -> Iterator[None]:
    """Let connections be closed after the block, not within it.

    ``request_finished`` closes those that may not be kept. The trace ends with that signal, and writing its end to a
    connection that has just been closed would open another, once a request.
    """
    postponed: list[Any] = []
    open_connections = [
        c
        for c in connections.all(initialized_only=True)
        if unit_of_work.get_unit_of_work(c) is not None and c.connection is not None
    ]
    for connection in open_connections:
        connection.__dict__["close_if_unusable_or_obsolete"] = partial(postponed.append, connection)
    try:
        yield
    finally:
        for connection in open_connections:
            connection.__dict__.pop("close_if_unusable_or_obsolete", None)
        for connection in postponed:
            connection.close_if_unusable_or_obsolete()


# ------------------------------------------------------------------ commands, and blocks of a project's own

_original_execute: Any = BaseCommand.execute
_discover_signals: Callable[[], object] = tuple


def install(discover_signals: Callable[[], None]) -> None:
    """Give every management command, and every test of Django's runner, a trace.

    ``look_again`` looks for signals that a command's modules have brought.
    """
    global _discover_signals
    _discover_signals = discover_signals
    BaseCommand.execute = _execute  # type: ignore[method-assign]
    if TESTCASES_MODULE in sys.modules:  # a parallel run's process, which executes no command
        _install_tests()


def uninstall() -> None:
    """Leave the classes as Django made them."""
    BaseCommand.execute = _original_execute  # type: ignore[method-assign]
    if TESTCASES_MODULE in sys.modules:
        _uninstall_tests()


def _execute(self: BaseCommand, *args: Any, **options: Any) -> Any:
    name = type(self).__module__.rpartition(".")[2]
    _discover_signals()
    if TESTCASES_MODULE in sys.modules:  # `test` brings Django's test cases
        _install_tests()
    if name in LONG_RUNNING_COMMANDS:
        return _original_execute(self, *args, **options)
    with traced("shell" if name in SHELL_COMMANDS else "command", name):
        return _original_execute(self, *args, **options)


def start_trace(kind: str, name: str, *, trace_id: str | None = None, data: dict[str, Any] | None = None) -> Trace:
    """Begin a trace: what happens from now on belongs to it."""
    trace = Trace(kind, model_metadata.get_redactor().redact_text(name), trace_id=trace_id)
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


# ------------------------------------------------------------------ tests

TESTCASES_MODULE: Final = "django.test.testcases"


def start_test(name: str) -> Trace:
    """Begin the trace of a test. What happened before it is not the test's."""
    exporter.discard_pending()
    return start_trace("test", name)


def finish_test(trace: Trace, status: str) -> None:
    """End a test's trace while the test's database is still there: what can't be written now is no other test's."""
    if tracing.deactivate(trace):
        trace.status = status
        if _is_database_allowed():
            exporter.finish_trace(trace)
    exporter.discard_pending()


def _is_database_allowed() -> bool:
    """Tell whether the test may use the database: test tools put what raises in the place of this method."""
    try:
        connections[exporter.get_events_database()].ensure_connection()
    except Exception:  # noqa: BLE001 - each tool raises an exception of its own
        return False
    return True


def _install_tests() -> None:
    from django.test import SimpleTestCase

    if "run" not in SimpleTestCase.__dict__:
        SimpleTestCase.run = _run_test  # type: ignore[method-assign, assignment]


def _uninstall_tests() -> None:
    from django.test import SimpleTestCase

    if SimpleTestCase.__dict__.get("run") is _run_test:
        del SimpleTestCase.run


def _run_test(self: SimpleTestCase, result: Any = None) -> Any:
    """Run ``setUp``, the test and ``tearDown`` as one trace; Django's fixtures stand around it."""
    from django.test import SimpleTestCase

    run = super(SimpleTestCase, self).run
    if tracing.get_current_trace().kind == "test":  # pytest's plugin was here first
        return run(result)
    trace = start_test(self.id())
    failures_before = _count_failures(result)
    try:
        return run(result)
    finally:
        finish_test(trace, "failed" if _count_failures(result) > failures_before else "ok")


def _count_failures(result: Any) -> int:
    """Return how many tests have failed so far; in a parallel run's process the result is a list of calls."""
    calls = getattr(result, "events", None)
    if calls is not None:
        return sum(name in ("addError", "addFailure") for name, *_ in calls)
    return len(getattr(result, "failures", ())) + len(getattr(result, "errors", ()))
