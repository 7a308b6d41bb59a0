"""The addresses of the test site: the admin, and the pages of Signalbox."""

from __future__ import annotations

from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

urlpatterns: list[URLPattern | URLResolver] = [path("admin/", admin.site.urls)]
if find_spec("signalbox.urls"):
    urlpatterns.append(path("signalbox/", include("signalbox.urls")))
