"""The view that exports the events of the timeline's filter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.utils.translation import gettext
from django.views.decorators.http import require_POST

from signalbox.core import actors
from signalbox.dashboard.access import dashboard_view
from signalbox.models import Event, utc_now
from signalbox.queries.export_formats import FORMATS
from signalbox.queries.filters import FILTER_PARAM
from signalbox.queries.recorded_export import EventExport
from signalbox.queries.timeline_filter import TimelineFilter

EXPORT_PERMISSION: Final = "signalbox.export_event"


class AsyncParts(AsyncIterator[bytes]):
    """The parts of an export, read in a thread, so that the event loop does not wait for the database."""

    def __init__(self, export: EventExport) -> None:
        self._export = export

    async def __anext__(self) -> bytes:
        """Return the next part."""
        part = await sync_to_async(self._read)()
        if part is None:
            raise StopAsyncIteration
        return part

    def _read(self) -> bytes | None:
        return next(self._export, None)

    def close(self) -> None:
        """Record an incomplete export. Django calls it when the response is closed, in a thread."""
        self._export.close()


@dashboard_view
@require_POST
def export(request: HttpRequest) -> HttpResponseBase:
    """Send the matching events as a file, the oldest first. It is a POST request, as each export is recorded.

    - 400: a value of the filter is not valid.
    - 403: the user lacks the permission. The text names it.
    """
    if not request.user.has_perm(EXPORT_PERMISSION):
        text = gettext("Exporting events needs the permission %(name)s. Ask an administrator for it.")
        return HttpResponse(f"{text % {'name': EXPORT_PERMISSION}}\n", "text/plain; charset=utf-8", status=403)
    export_format = FORMATS.get(request.POST.get("format", ""))
    if export_format is None:
        raise Http404(gettext("Unknown format. Use one of: %(names)s.") % {"names": ", ".join(FORMATS)})
    timeline_filter = TimelineFilter.parse(request.POST)
    if timeline_filter.error:
        return HttpResponse(f"{timeline_filter.error}\n", "text/plain; charset=utf-8", status=400)
    started = EventExport(
        timeline_filter.apply(Event.objects.all()),
        export_format,
        described_filter={FILTER_PARAM: timeline_filter.text} if timeline_filter.text else {},
        origin="page",
        actor=actors.actor_from_user(request.user),
    )
    # A WSGI server can't iterate asynchronously, and a synchronous iterator would block an event loop.
    parts = AsyncParts(started) if isinstance(request, ASGIRequest) else started
    day = timezone.localtime(utc_now()).date()
    return StreamingHttpResponse(
        parts,
        content_type=export_format.media_type,
        headers={
            "Content-Disposition": f'attachment; filename="signalbox-{day:%Y-%m-%d}.{export_format.extension}"',
            "X-Accel-Buffering": "no",
        },
    )
