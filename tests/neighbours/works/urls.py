"""The paths of the sites: those of every site, and those of the neighbour's work."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.urls import path

from tests.neighbours.works import views

urlpatterns = [
    path("write/", views.write),
    path("transaction/", views.in_transaction),
    path("rollback/", views.rolled_back),
    path("failure/", views.failing),
    path("query-failure/", views.failing_query),
    path("asynchronous/", views.asynchronous),
    *getattr(import_module(settings.WORK), "paths", list)(),
]
