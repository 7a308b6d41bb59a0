"""The app's configuration: where its receivers are connected."""

from __future__ import annotations

from types import ModuleType

from django.apps import AppConfig
from django.conf import settings
from django.db.backends.signals import connection_created
from django.db.models.signals import class_prepared

from blog import early


class BlogConfig(AppConfig):
    default_auto_field = "django.db.models.BigAutoField"
    name = "blog"

    def __init__(self, app_name: str, app_module: ModuleType) -> None:
        super().__init__(app_name, app_module)
        # Model classes are prepared between here and ready(), and any app's ready() may open a connection.
        class_prepared.connect(early.at_class_prepared)
        connection_created.connect(early.conn_db)

    def ready(self) -> None:
        from blog import signals  # noqa: F401 - importing it connects its receivers

        if settings.BROKEN_RECEIVERS:
            from blog import broken  # noqa: F401 - for the doctor
