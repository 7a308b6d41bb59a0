"""The one page of the blog."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse


def home(request: HttpRequest) -> HttpResponse:
    """Fail, so that there is a got_request_exception to see."""
    return HttpResponse(f"Hello {10 / 0}")
