"""The addresses of the page, for ``include("signalbox.urls")``."""

from __future__ import annotations

from signalbox.dashboard.urls import app_name, urlpatterns

__all__ = ["app_name", "urlpatterns"]
