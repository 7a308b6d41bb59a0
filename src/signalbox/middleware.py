"""From request to trace: what only the handling of a request knows, its view, its status and its user."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from signalbox import context
from signalbox.recording import traces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from signalbox.context import Trace


class TraceMiddleware:
    """Completes the trace that ``request_started`` began. It stands first, so that nothing of the request escapes it."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if iscoroutinefunction(self):
            return self._answer(request)
        trace, own = _enter(request)
        status = "500"
        try:
            response: HttpResponseBase = self.get_response(request)
            status = str(response.status_code)
            return response
        finally:
            _leave(trace, request, status)
            if own:
                traces.end_request(trace)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        trace, own = _enter(request)
        status = "500"
        try:
            response: HttpResponseBase = await self.get_response(request)
            status = str(response.status_code)
            return response
        except asyncio.CancelledError:
            status = "cancelled"  # the visitor has gone
            raise
        finally:
            _leave(trace, request, status)
            if own:
                await traces.aend_request(trace)


def _enter(request: HttpRequest) -> tuple[Trace, bool]:
    """Return the request's trace, and whether it was begun here: by a handler that sends no ``request_started``."""
    trace = context._current.get()
    own = trace is None or trace.kind != "request" or trace.request is not None
    if own:
        trace = traces.begin_request(request.META, None)
    assert trace is not None
    trace.bind(request)
    return trace, own


def _leave(trace: Trace, request: HttpRequest, status: str) -> None:
    match = getattr(request, "resolver_match", None)
    if match is not None:
        trace.data["view"] = match.view_name or match._func_path
    trace.status = status
    trace.view_done = True
