"""One address, which saves a row for the user of the session."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseForbidden
from django.urls import path

from benchmarks import corpus
from benchmarks.site.models import new_order


def save(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return HttpResponseForbidden()
    request.session["orders"] = request.session.get("orders", 0) + 1
    new_order(corpus.ordinary(500)).save()
    return HttpResponse("saved")


urlpatterns = [path("save/", save)]
