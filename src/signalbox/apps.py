"""The app: it starts recording early, and completes its setup when every app is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig, apps
from django.utils.translation import gettext_lazy as _

from signalbox import conf
from signalbox.core import loggers

if TYPE_CHECKING:
    from types import ModuleType

logger = loggers.get_logger("recording")


class SignalboxConfig(AppConfig):
    """Record from the moment the registry creates this config, so that models prepared after it are recorded."""

    name = "signalbox"
    verbose_name = _("Signalbox")
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        super().__init__(app_name, app_module)
        from signalbox.instrumentation import actor_redaction, install
        from signalbox.pipeline import processors
        from signalbox.serialization import log_filter

        log_filter.install()
        actor_redaction.install()
        if (error := conf.get_environment_error()) is not None:
            logger.warning("%s", error)
        if conf.is_disabled():
            processors.on_change(_warn_about_missing_deliveries)
            _warn_about_missing_deliveries()  # of receivers in apps that precede this one
        try:
            install.start_recording()
        except Exception:  # a failure of Signalbox must not keep the site from starting
            logger.exception("Recording could not be started.")

    def ready(self) -> None:
        """Find the custom signals of all apps, flush pending events before reads, and register the system checks."""
        from signalbox import checks
        from signalbox.instrumentation import install
        from signalbox.pipeline import configured_processors, processors, unit_of_work

        processors.install(unit_of_work.FLUSH_BEFORE_READ)
        try:
            configured_processors.configure()
            install.update_subscriptions()
            install.discover_signals()
            *_, last_app = apps.get_app_configs()
            if last_app is not self:
                install.discover_signals_after(last_app)
        except Exception:  # as above
            logger.exception("Custom signals could not be discovered.")
        checks.register_checks()


_is_warning_logged = False


def _warn_about_missing_deliveries() -> None:
    """Log once per process that durable receivers get no deliveries, as the environment switches recording off."""
    from signalbox.pipeline import processors

    global _is_warning_logged
    if processors.get_wanted_signals() and not _is_warning_logged:
        _is_warning_logged = True
        logger.warning("%s switches recording off. Durable receivers get no deliveries.", conf.DISABLED_VARIABLE)
