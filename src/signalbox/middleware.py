"""Adds the view, the status and the user of a request to its trace."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import MiddlewareNotUsed

from signalbox import conf
from signalbox.core import tracing
from signalbox.instrumentation import requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from signalbox.core.tracing import Trace


class TraceMiddleware:
    """Middleware that adds view, status and user to the trace of a request. Put it first in ``MIDDLEWARE``.

    It is not used if the environment variable ``SIGNALBOX_DISABLED`` switches recording off.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]) -> None:
        if conf.is_disabled():
            raise MiddlewareNotUsed(f"{conf.DISABLED_VARIABLE} switches recording off.")
        self.get_response: Any = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Return the site's response to ``request``."""
        return self._handle_async(request) if self.is_async else self._handle(request)

    def _handle(self, request: HttpRequest) -> HttpResponseBase:
        trace, own = _get_or_start_trace(request)
        status = "500"
        try:
            response: HttpResponseBase = self.get_response(request)
            status = str(response.status_code)
            return response
        except BaseException as error:
            # The server ends the process, as gunicorn does after its timeout. Django sends no request_finished.
            own = own or not isinstance(error, Exception)
            raise
        finally:
            _record_response(trace, request, status)
            if own:
                requests.finish_request(trace)

    async def _handle_async(self, request: HttpRequest) -> HttpResponseBase:
        trace, own = _get_or_start_trace(request)
        status = "500"
        try:
            response: HttpResponseBase = await self.get_response(request)
            status = str(response.status_code)
            return response
        except asyncio.CancelledError:
            status = "cancelled"  # the client has disconnected, or the server stops
            if not own:
                requests.finish_with_task(trace)
            raise
        finally:
            _record_response(trace, request, status)
            if own:
                await requests.afinish_request(trace)


def _get_or_start_trace(request: HttpRequest) -> tuple[Trace, bool]:
    """Return the request's trace, and whether it was started here, as the handler sent no ``request_started``."""
    begun = tracing._current_trace.get()
    own = begun is None or begun.kind != "request" or begun.request_user is not None
    trace = requests.start_request(request.META, None, request=request) if begun is None or own else begun
    tracing.adopt_span_context(trace)
    trace.bind_request(request)
    return trace, own


def _record_response(trace: Trace, request: HttpRequest, status: str) -> None:
    match = getattr(request, "resolver_match", None)
    if match is not None:
        trace.data["view"] = match.view_name or match._func_path
        if match.kwargs:
            requests.redact_resolved_path(trace, request)
    requests.ignore_dashboard(trace, request)
    trace.status = status
    trace.is_view_done = True


__all__ = ["TraceMiddleware"]
