"""Two addresses that save an order, for the user of the session and without a look at the user."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.comparison.models import new_order


def save(request: HttpRequest) -> HttpResponse:
    new_order().save()
    return HttpResponse("saved")


urlpatterns = [path("save/", save), path("save-for-user/", login_required(save))]
