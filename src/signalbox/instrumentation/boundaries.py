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

STAYING: Final = frozenset({"runserver", "testserver", "dbshell", "runserver_plus", "signalbox"})
"""Commands whose work is that of others: requests have traces of their own."""

SHELLS: Final = frozenset({"shell", "shell_plus"})


# ------------------------------------------------------------------ requests


def begin_request(environ: Any, scope: Any) -> Trace:
    """Begin the trace of a request, told by its WSGI environ or its ASGI scope."""
    left = tracing._current_trace.get()
    if left is not None and left.kind == "request" and left.is_view_done:
        end_request(left)  # its response was never closed
    facts = _facts_of_environ(environ) if environ is not None else _facts_of_scope(scope or {})
    header = facts.pop("traceparent", "")
    given = tracing.parse_traceparent(header)
    trace = Trace("request", f"{facts['method']} {facts['path']}"[:200], trace_id=given[0] if given else None)
    if given:
        facts["parent"] = given[1]
    trace.data = facts
    tracing.activate(trace)
    return trace


def _facts_of_environ(environ: Any) -> dict[str, Any]:
    return {
        "method": str(environ.get("REQUEST_METHOD", "")),
        "path": signal_arguments.address(environ.get("PATH_INFO", ""), environ.get("QUERY_STRING", ""))[:2000],
        "remote": remote_address(str(environ.get("REMOTE_ADDR", "")), str(environ.get("HTTP_X_FORWARDED_FOR", ""))),
        "traceparent": str(environ.get("HTTP_TRACEPARENT", "")),
    }


def _facts_of_scope(scope: Any) -> dict[str, Any]:
    headers: dict[bytes, str] = {}
    for sent, value in scope.get("headers", ()):  # what is sent twice is one list, as WSGI servers join it
        name, text = sent.lower(), value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    client = scope.get("client") or ("",)
    return {
        "method": str(scope.get("method", "")),
        "path": signal_arguments.address(scope.get("path", ""), scope.get("query_string", b""))[:2000],
        "remote": remote_address(str(client[0]), headers.get(b"x-forwarded-for", "")),
        "traceparent": headers.get(b"traceparent", ""),
    }


def resolved(trace: Trace, request: Any) -> None:
    """Take out of ``trace``, and of the event of its beginning, what only the URL pattern of ``request`` names as
    secrets."""
    if not any(map(model_metadata.redactor().is_secret, request.resolver_match.kwargs)):
        return
    path = signal_arguments.address_of(request, request.path_info)[:2000]
    trace.data["path"] = path
    trace.name = f"{request.method} {path}"[:200]
    for draft in trace.pending:
        if draft.signal == "request_started" and isinstance(draft.args, Mapping):
            for facts in draft.args.values():
                if isinstance(facts, dict):
                    facts["path"] = path


def remote_address(peer: str, forwarded: str) -> str:
    """Return the visitor's address: the peer's, or with trusted proxies the one that the outermost of them has seen.

    Each proxy appends the address that it was called from, so what ``TRUSTED_PROXIES`` of them say is read from the
    right; what stands further left anybody could have sent.
    """
    trusted = conf.get().TRUSTED_PROXIES
    if not trusted:
        return peer[:64]
    hops = [hop.strip() for hop in forwarded.split(",") if hop.strip()]
    return (hops[-trusted] if len(hops) >= trusted else hops[0] if hops else peer)[:64]


def end_request(trace: Trace | None = None) -> None:
    """End the trace of the current request."""
    trace = trace or tracing._current_trace.get()
    while trace is not None and trace.kind != "request":
        trace = trace.previous
    if trace is None:
        return
    tracing.deactivate(trace)
    if settings.STATIC_URL and str(trace.data.get("path")).startswith(f"{settings.STATIC_URL}signalbox/"):
        trace.suppress()  # the page's own files, where the development server hands them out
    with _what_it_opens_closed():
        exporter.finish_trace(trace)
    trace.request = None


async def aend_request(trace: Trace | None = None) -> None:
    """End the trace of the current request from within an event loop, where a thread has to do the writing."""
    end_request(trace)
    await sync_to_async(_drain)()


def _drain() -> None:
    with _what_it_opens_closed():
        exporter.flush()


@contextmanager
def _what_it_opens_closed() -> Iterator[None]:
    """Close, if it may not be kept, a connection that the block opens: Django has closed the request's own by now."""
    opened = {id(connection) for connection in connections.all(initialized_only=True) if connection.connection}
    try:
        yield
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None and id(connection) not in opened:
                connection.close_if_unusable_or_obsolete()


@contextmanager
def closing_postponed() -> Iterator[None]:
    """Let connections be closed after the block, not within it.

    ``request_finished`` closes those that may not be kept. The trace ends with that signal, and writing its end to a
    connection that has just been closed would open another, once a request.
    """
    asked: list[Any] = []
    held = [
        c
        for c in connections.all(initialized_only=True)
        if unit_of_work.get_unit_of_work(c) is not None and c.connection is not None
    ]
    for connection in held:
        connection.__dict__["close_if_unusable_or_obsolete"] = partial(asked.append, connection)
    try:
        yield
    finally:
        for connection in held:
            connection.__dict__.pop("close_if_unusable_or_obsolete", None)
        for connection in asked:
            connection.close_if_unusable_or_obsolete()


# ------------------------------------------------------------------ commands, and blocks of a project's own

_original_execute: Any = BaseCommand.execute
_look_again: Callable[[], object] = tuple


def install(look_again: Callable[[], None]) -> None:
    """Give every management command, and every test of Django's runner, a trace.

    ``look_again`` looks for signals that a command's modules have brought.
    """
    global _look_again
    _look_again = look_again
    BaseCommand.execute = _execute  # type: ignore[method-assign]
    if TESTS in sys.modules:  # a parallel run's process, which executes no command
        _install_tests()


def uninstall() -> None:
    """Leave the classes as Django made them."""
    BaseCommand.execute = _original_execute  # type: ignore[method-assign]
    if TESTS in sys.modules:
        _uninstall_tests()


def _execute(self: BaseCommand, *args: Any, **options: Any) -> Any:
    name = type(self).__module__.rpartition(".")[2]
    _look_again()
    if TESTS in sys.modules:  # `test` brings Django's test cases
        _install_tests()
    if name in STAYING:
        return _original_execute(self, *args, **options)
    with traced("shell" if name in SHELLS else "command", name):
        return _original_execute(self, *args, **options)


def begin(kind: str, name: str, *, trace_id: str | None = None, data: dict[str, Any] | None = None) -> Trace:
    """Begin a trace: what happens from now on belongs to it."""
    trace = Trace(kind, model_metadata.redactor().text(name), trace_id=trace_id)
    trace.data = data or {}
    tracing.activate(trace)
    return trace


def leave(trace: Trace, error: BaseException | None) -> None:
    """Let what happens from now on belong to the trace before; ``error`` is what ended the work."""
    if error is not None:
        exited = isinstance(error, SystemExit) and not error.code
        trace.status = trace.status or ("ok" if exited else "failed")
    tracing.deactivate(trace)


@contextmanager
def traced(kind: str, name: str, *, trace_id: str | None = None, data: dict[str, Any] | None = None) -> Iterator[Trace]:
    """Make what happens in the block one trace."""
    trace = begin(kind, name, trace_id=trace_id, data=data)
    error = None
    try:
        yield trace
    except BaseException as caught:
        error = caught
        raise
    finally:
        leave(trace, error)
        exporter.finish_trace(trace, "ok")


# ------------------------------------------------------------------ tests

TESTS: Final = "django.test.testcases"


def begin_test(name: str) -> Trace:
    """Begin the trace of a test. What happened before it is not the test's."""
    exporter.discard_pending()
    return begin("test", name)


def end_test(trace: Trace, status: str) -> None:
    """End a test's trace while the test's database is still there: what can't be written now is no other test's."""
    if tracing.deactivate(trace):
        trace.status = status
        if _database_allowed():
            exporter.finish_trace(trace)
    exporter.discard_pending()


def _database_allowed() -> bool:
    """Tell whether the test may use the database: test tools put what raises in the place of this method."""
    try:
        connections[exporter.get_events_database()].ensure_connection()
    except Exception:  # noqa: BLE001 - each tool raises an exception of its own
        return False
    return True


def _install_tests() -> None:
    from django.test import SimpleTestCase

    if "run" not in SimpleTestCase.__dict__:
        SimpleTestCase.run = _run  # type: ignore[method-assign, assignment]


def _uninstall_tests() -> None:
    from django.test import SimpleTestCase

    if SimpleTestCase.__dict__.get("run") is _run:
        del SimpleTestCase.run


def _run(self: SimpleTestCase, result: Any = None) -> Any:
    """Run ``setUp``, the test and ``tearDown`` as one trace; Django's fixtures stand around it."""
    from django.test import SimpleTestCase

    run = super(SimpleTestCase, self).run
    if tracing.get_current_trace().kind == "test":  # pytest's plugin was here first
        return run(result)
    trace = begin_test(self.id())
    broken = _broken(result)
    try:
        return run(result)
    finally:
        end_test(trace, "failed" if _broken(result) > broken else "ok")


def _broken(result: Any) -> int:
    """Return how many tests have failed so far; in a parallel run's process the result is a list of calls."""
    calls = getattr(result, "events", None)
    if calls is not None:
        return sum(name in ("addError", "addFailure") for name, *_ in calls)
    return len(getattr(result, "failures", ())) + len(getattr(result, "errors", ()))
