"""The panel: add ``"signalbox.contrib.debug_toolbar.panels.SignalboxPanel"`` to ``DEBUG_TOOLBAR_PANELS``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import sync_to_async
from debug_toolbar.panels import Panel
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from signalbox.contrib.debug_toolbar.collector import PROCESSOR, Collector
from signalbox.contrib.debug_toolbar.stats import build_stats
from signalbox.core import tracing
from signalbox.instrumentation import install
from signalbox.pipeline import processors

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

_OFF: Final = "off"


class SignalboxPanel(Panel):
    """Signals, receivers, bulk operations and ends of transactions of a request, and the queries of each receiver."""

    title = _("Signalbox")
    template = "signalbox/debug_toolbar/panel.html"
    is_async = True

    _collector: Collector | None = None

    @classmethod
    def ready(cls) -> None:
        """Install the event processor that collects events. The toolbar calls this when it starts."""
        processors.install_isolated(PROCESSOR)

    @property
    def nav_subtitle(self) -> str:
        """The numbers of events and of queries within receivers, or that recording is off."""
        stats = self.get_stats()
        if not stats:
            return ""
        if stats["problem"] == _OFF:
            return str(_("Recording is off"))
        events = ngettext("%(count)d event", "%(count)d events", stats["event_count"]) % {"count": stats["event_count"]}
        count = stats["receiver_query_count"]
        queries = ngettext("%(count)d query in receivers", "%(count)d queries in receivers", count) % {"count": count}
        return f"{events}, {queries}"

    def enable_instrumentation(self) -> None:
        """Start to collect the events of the current request."""
        trace = tracing.get_current_trace()
        if self._collector is None and install.is_recording() and trace.kind == "request":
            self._collector = Collector(trace)
        if self._collector is not None:
            self._collector.start()

    async def aenable_instrumentation(self) -> None:
        """Start to collect the events of the current request. Its queries run in the thread of the ORM."""
        await sync_to_async(self.enable_instrumentation)()

    def disable_instrumentation(self) -> None:
        """Stop to collect events. Those that were collected remain."""
        if self._collector is not None:
            self._collector.stop()

    def generate_stats(self, request: HttpRequest, response: HttpResponse) -> None:
        """Store what was collected, as JSON data."""
        if self._collector is None:
            self.record_stats({"problem": _OFF})
            return
        problem = "ignored" if self._collector.trace.is_ignored else ""
        trace_url = _get_trace_url(self._collector.trace.id)
        self.record_stats({"problem": problem, "trace_url": trace_url, **build_stats(self._collector)})
        self._collector = None

    def generate_server_timing(self, request: HttpRequest, response: HttpResponse) -> None:
        """Add the time of the receivers to the header ``Server-Timing``."""
        stats: dict[str, Any] = self.get_stats()
        if stats.get("receivers"):
            self.record_server_timing("receivers", "Signal receivers", stats["receiver_ms"])


def _get_trace_url(trace_id: str) -> str:
    """Return the URL of the trace's page; empty if the site does not include the dashboard."""
    try:
        return reverse("signalbox:trace", args=[trace_id])
    except NoReverseMatch:
        return ""
