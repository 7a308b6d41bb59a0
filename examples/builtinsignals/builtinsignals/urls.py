"""Addresses of the example site."""

from __future__ import annotations

from blog import views
from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("home/", views.home),
    path("signalbox/", include("signalbox.urls")),
]
