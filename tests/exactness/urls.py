"""Two views that write a row. One of them raises."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path

from tests.shop.models import Tag


def well(request: HttpRequest) -> HttpResponse:
    Tag.objects.create(name="well")
    return HttpResponse()


def badly(request: HttpRequest) -> HttpResponse:
    Tag.objects.create(name="badly")
    raise ValueError("after the row")


urlpatterns = [path("well/", well), path("badly/", badly)]
