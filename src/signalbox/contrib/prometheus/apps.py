"""The app that makes the metrics: add ``"signalbox.contrib.prometheus"`` to ``INSTALLED_APPS``."""

from __future__ import annotations

import os

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

from signalbox.contrib.requirements import require

MULTIPROCESS_VARIABLES = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


class PrometheusConfig(AppConfig):
    """Make the metrics when the apps are ready."""

    name = "signalbox.contrib.prometheus"
    label = "signalbox_prometheus"

    def ready(self) -> None:
        """Install the observer and the event processor, and register the collector of deliveries.

        Raises:
            ImproperlyConfigured: ``prometheus-client`` is missing, or the directory of its multiprocess mode is.
        """
        for variable in MULTIPROCESS_VARIABLES:
            path = os.environ.get(variable)
            if path is not None and not os.path.isdir(path):
                raise ImproperlyConfigured(
                    f"The environment variable {variable} is {path!r}, which is not a directory. "
                    "Create an empty directory there before the server starts."
                )
        require("prometheus_client", app=self.name, extra="metrics")
        from signalbox.contrib.prometheus import metrics

        metrics.install()
