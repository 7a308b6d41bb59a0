"""The page of a name that is not known, with a search for it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def render_not_found(request: HttpRequest, title: str, text: str, searched: str) -> HttpResponse:
    """Return a page with status 404.

    Args:
        request: The request.
        title: What was not found.
        text: The possible reasons.
        searched: The text that the link to the timeline searches for; empty for a link to the whole timeline.
    """
    context = {"active_page": "map", "title": title, "text": text, "searched": searched}
    return render(request, "signalbox/not_found.html", context, status=404)
