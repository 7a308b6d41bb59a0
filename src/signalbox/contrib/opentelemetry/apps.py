"""The app that connects both traces: add ``"signalbox.contrib.opentelemetry"`` to ``INSTALLED_APPS``."""

from __future__ import annotations

from django.apps import AppConfig

from signalbox.contrib.requirements import require


class OpenTelemetryConfig(AppConfig):
    """Use the trace ids of OpenTelemetry, and start spans."""

    name = "signalbox.contrib.opentelemetry"
    label = "signalbox_opentelemetry"

    def ready(self) -> None:
        """Start to use the current span.

        Raises:
            ImproperlyConfigured: ``opentelemetry-api`` is missing.
        """
        require("opentelemetry.trace", app=self.name, extra="otel")
        from signalbox.contrib.opentelemetry import spans

        spans.install()
