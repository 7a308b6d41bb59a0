"""The app: one call into the wiring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

if TYPE_CHECKING:
    from types import ModuleType


class SignalboxConfig(AppConfig):
    """Records from the moment the registry makes it, so that models prepared after it are seen."""

    name = "signalbox"
    verbose_name = _("Signalbox")
    default_auto_field = "django.db.models.BigAutoField"

    def __init__(self, app_name: str, app_module: ModuleType | None) -> None:
        super().__init__(app_name, app_module)
        from signalbox import wiring

        wiring.install_recording()

    def ready(self) -> None:
        """Record, and check."""
        from signalbox import wiring

        wiring.complete_setup()
