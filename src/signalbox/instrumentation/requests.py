"""Starts and finishes the traces of requests, regardless of the RECORD setting."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.wsgi import get_path_info, get_script_name
from django.db import connections

from signalbox import conf
from signalbox.core import tracing
from signalbox.core.instance_layer import InstanceLayer
from signalbox.core.tracing import Trace
from signalbox.instrumentation import ignored_paths, signal_arguments
from signalbox.pipeline import exporter, unit_of_work
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Iterator


def start_request(environ: Any, scope: Any, *, request: Any = None) -> Trace:
    """Start the trace of a request, with the data of its WSGI ``environ`` or its ASGI ``scope``.

    ``request`` is the request, if it has been created.
    """
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
    tracing.adopt_span_context(trace)
    path, trace.path_info = _get_paths(environ, scope) if request is None else (request.path, request.path_info)
    if ignored_paths.is_ignored_path(path, trace.path_info):
        exporter.ignore_trace(trace)
    tracing.activate(trace)
    return trace


def _get_paths(environ: Any, scope: Any) -> tuple[str, str]:
    """Return the path of a request with and without ``SCRIPT_NAME``, as Django's request has them."""
    if environ is not None:
        try:
            script_name, path_info = get_script_name(environ), get_path_info(environ) or "/"
        except UnicodeError:  # the server passes text that WSGI does not allow
            script_name, path_info = str(environ.get("SCRIPT_NAME", "")), str(environ.get("PATH_INFO", "/"))
        return f"{script_name.rstrip('/')}/{path_info.replace('/', '', 1)}", path_info
    path = str((scope or {}).get("path", ""))
    root_path = settings.FORCE_SCRIPT_NAME or (scope or {}).get("root_path", "")
    return path, path.removeprefix(root_path) if root_path else path


def ignore_dashboard(trace: Trace, request: Any = None, urlconf: Any = None) -> None:
    """Ignore ``trace`` if its request was for the dashboard. The response is known, and so is the URLconf.

    Args:
        trace: The trace of the request.
        request: The request, if the middleware knows it.
        urlconf: The URLconf of a request that is not known, None for ``ROOT_URLCONF``.
    """
    if trace.is_ignored:
        return
    match = getattr(request, "resolver_match", None)
    if ignored_paths.is_dashboard(trace.path_info, getattr(request, "urlconf", urlconf), match):
        exporter.ignore_trace(trace)


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
    """Remove URL arguments that are secret by their names from ``trace`` and its ``request_started`` event.

    The URL pattern of ``request`` has these names, so they are unknown before it is resolved.
    """
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
    """Return the visitor's address: that of the peer, or with trusted proxies the one that the outermost proxy saw.

    Each proxy appends the address of its caller, so the addresses of ``TRUSTED_PROXIES`` proxies are read from the
    right. Any client can send the addresses further left.
    """
    trusted = conf.get().TRUSTED_PROXIES
    if not trusted:
        return peer_address[:64]
    hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
    return (hops[-trusted] if len(hops) >= trusted else hops[0] if hops else peer_address)[:64]


def finish_request(trace: Trace | None = None, urlconf: Any = None) -> None:
    """Finish the trace of the current request. ``urlconf`` is its URLconf, None for ``ROOT_URLCONF``."""
    trace = trace or tracing._current_trace.get()
    while trace is not None and trace.kind != "request":
        trace = trace.previous
    if trace is None:
        return
    tracing.deactivate(trace)
    if trace.request_user is None:  # without the middleware, which has decided otherwise
        ignore_dashboard(trace, urlconf=urlconf)
    with _close_new_connections():
        exporter.finish_trace(trace)
    trace.request_user = None


async def afinish_request(trace: Trace | None = None, urlconf: Any = None) -> None:
    """Finish the trace of the current request in an event loop. A thread writes its events."""
    finish_request(trace, urlconf)
    await sync_to_async(_flush)()


def finish_with_task(trace: Trace) -> None:
    """Finish ``trace`` at the end of the running task, unless ``request_finished`` is sent before.

    A server that stops cancels the tasks of its requests, and Django does not send the signal then.
    """

    def finish(task: asyncio.Task[Any]) -> None:
        if trace.duration is None:
            finish_request(trace)
            task.get_loop().run_in_executor(None, _flush_and_close)

    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(finish)


def _flush() -> None:
    with _close_new_connections():
        exporter.flush()


def _flush_and_close() -> None:
    """Write pending events in a thread that may not run again."""
    is_open = any(connection.connection for connection in connections.all(initialized_only=True))
    exporter.flush()
    if not is_open:
        connections.close_all()


@contextmanager
def _close_new_connections() -> Iterator[None]:
    """Close the connections that the block opens, unless they are persistent.

    Django has closed the connections of the request before.
    """
    already_open = {id(connection) for connection in connections.all(initialized_only=True) if connection.connection}
    try:
        yield
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.connection is not None and id(connection) not in already_open:
                connection.close_if_unusable_or_obsolete()


@contextmanager
def postpone_connection_close() -> Iterator[None]:
    """Postpone the closing of connections to the end of the block.

    ``request_finished`` closes those that are not persistent. The trace of the request is written after that signal,
    which would open another connection for each request.
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
