"""The view of the page "Status"."""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET

from signalbox.dashboard.access import dashboard_view
from signalbox.queries.status import get_status
from signalbox.queries.status_problems import find_problems, is_healthy
from signalbox.queries.status_sections import build_sections

PROCESS_NOTE: Final = _("The counters are those of the process that answers this request. Each process has its own.")


@dashboard_view
@require_GET
def status(request: HttpRequest) -> HttpResponse:
    """Show the state of Signalbox; for htmx only that part of the page."""
    found = get_status()
    problems = find_problems(found)
    context = {
        "active_page": "status",
        "problems": problems,
        "is_healthy": is_healthy(problems),
        "sections": build_sections(found, process_note=str(PROCESS_NOTE)),
        "patches": found.recording.patches,
    }
    part = request.headers.get("HX-Target") == "status"
    return render(request, "signalbox/parts/status.html" if part else "signalbox/status.html", context)
