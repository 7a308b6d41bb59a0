"""The URLs of the site with django-debug-toolbar."""

from __future__ import annotations

from debug_toolbar.toolbar import debug_toolbar_urls
from django.contrib import admin
from django.urls import include, path

from tests.contrib.debug_toolbar import site

urlpatterns = [
    path("admin/", admin.site.urls),
    path("signalbox/", include("signalbox.urls")),
    path("change/", site.change_orders),
    path("async/", site.change_orders_async),
    path("often/", site.change_often),
    path("redirect/", site.redirect),
    path("read/", site.read),
    path("template/", site.render_template),
    path("ignored/", site.change_orders),
    *debug_toolbar_urls(),
]
