"""Headers of responses to htmx."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.http import HttpResponse


def retarget(response: HttpResponse, target: str, swap: str) -> HttpResponse:
    """Make htmx put ``response`` into another element, without a new address."""
    for name, value in (("HX-Retarget", target), ("HX-Reswap", swap), ("HX-Push-Url", "false")):
        response.headers[name] = value
    return response
