"""The app: it starts recording early, and completes its setup when every app is loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

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
