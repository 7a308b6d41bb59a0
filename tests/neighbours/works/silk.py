"""django-silk: what it has recorded of the site's requests is among the rows that are compared."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path
from silk.models import Request, SQLQuery
from silk.profiling.profiler import silk_profile

from tests.neighbours.observing import Observer
from tests.neighbours.works import books, common
from tests.neighbours.works.views import work as write


def paths() -> list[Any]:
    return [path("silk/", include("silk.urls", namespace="silk")), path("profiled/", profiled)]


def profiled(request: HttpRequest) -> HttpResponse:
    with silk_profile(name="work"):
        return JsonResponse(write("Profiled"), safe=False)


def work(observe: Observer) -> None:
    """Do the work with books; silk records that of the requests."""
    books.everything(observe)
    common.requests(observe, ("get", "/profiled/"))
    observe.keep(f"statements, {observe.how}", statements())


def statements() -> list[Any]:
    """Return the statements of each request, in their order."""
    queries = SQLQuery.objects.order_by("pk")
    return [
        [request.path, request.num_sql_queries, list(queries.filter(request=request).values_list("query"))]
        for request in Request.objects.order_by("start_time")
    ]
