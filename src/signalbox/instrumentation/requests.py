"""Starts and finishes the traces of requests, regardless of the RECORD setting."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections

from signalbox import conf
from signalbox.core import tracing
from signalbox.core.instance_layer import InstanceLayer
from signalbox.core.tracing import Trace
from signalbox.instrumentation import signal_arguments
from signalbox.pipeline import exporter, unit_of_work
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Iterator


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
        "client_address": get_client_address(
            str(environ.get("REMOTE_ADDR", "")), str(environ.get("HTTP_X_FORWARDED_FOR", ""))
        ),
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
        "client_address": get_client_address(str(client[0]), headers.get(b"x-forwarded-for", "")),
        "traceparent": headers.get(b"traceparent", ""),
    }


def redact_resolved_path(trace: Trace, request: Any) -> None:
    """Take out of ``trace``, and of the event of its beginning, what only the URL pattern of ``request`` names as
    secrets."""
    if not any(map(get_redactor().is_secret, request.resolver_match.kwargs)):
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
    layers: list[InstanceLayer] = []
    open_connections = [
        c
        for c in connections.all(initialized_only=True)
        if unit_of_work.get_unit_of_work(c) is not None and c.connection is not None
    ]
    for connection in open_connections:
        layer = InstanceLayer(connection)
        layer.replace("close_if_unusable_or_obsolete", partial(postponed.append, connection))
        layers.append(layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.remove()
        for connection in postponed:
            connection.close_if_unusable_or_obsolete()
