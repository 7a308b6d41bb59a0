"""The app: it starts recording early, and completes its setup when every app is loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from signalbox import conf

if TYPE_CHECKING:
    from types import ModuleType

logger = logging.getLogger("signalbox")


class SignalboxConfig(AppConfig):
    """Record from the moment the registry creates this config, so that models prepared after it are recorded."""

    name = "signalbox"
    verbose_name = _("Signalbox")
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        super().__init__(app_name, app_module)
        from signalbox.instrumentation import install
        from signalbox.pipeline import deliveries

        if (error := conf.get_environment_error()) is not None:
            logger.warning("%s", error)
        if conf.is_disabled():
            deliveries.on_subscription(_warn_about_missing_deliveries)
            _warn_about_missing_deliveries()  # of receivers in apps that precede this one
        try:
            install.start_recording()
        except Exception:  # a failure of Signalbox must not keep the site from starting
            logger.exception("Recording could not be started.")

    def ready(self) -> None:
        """Find the custom signals of all apps, flush pending events before reads, and register the system checks."""
        from signalbox import checks, models
        from signalbox.instrumentation import install
        from signalbox.pipeline import unit_of_work

        try:
            install.discover_signals()
        except Exception:  # as above
            logger.exception("Custom signals could not be discovered.")
        if unit_of_work.flush_all not in models.before_read_hooks:
            models.before_read_hooks.append(unit_of_work.flush_all)
        checks.register_checks()


_is_warning_logged = False


def _warn_about_missing_deliveries() -> None:
    """Log once per process that durable receivers get no deliveries, as the environment switches recording off."""
    from signalbox.pipeline import deliveries

    global _is_warning_logged
    if deliveries.get_source().get_subscribed_signals() and not _is_warning_logged:
        _is_warning_logged = True
        logger.warning("%s switches recording off. Durable receivers get no deliveries.", conf.DISABLED_VARIABLE)
