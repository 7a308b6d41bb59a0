"""URL patterns of the dashboard, for ``include("signalbox.urls")``, and the view for probes."""

from __future__ import annotations

from signalbox.dashboard.health_probe import probe
from signalbox.dashboard.urls import app_name, urlpatterns

__all__ = ["app_name", "probe", "urlpatterns"]
