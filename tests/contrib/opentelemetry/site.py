"""A site whose worker exports spans in batches: ``python -m tests.contrib.opentelemetry.site FOLDER COMMAND``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from django.conf import settings
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

if TYPE_CHECKING:
    from collections.abc import Sequence


class FileExporter(SpanExporter):
    """Appends the name of each span, and the process that exports it, to the file ``spans``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self.path.open("a") as file:
            file.writelines(f"{os.getpid()} {span.name}\n" for span in spans)
        return SpanExportResult.SUCCESS


def main(folder: Path, *command: str) -> None:
    """Create a delivery, and run the command."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(FileExporter(folder / "spans"), schedule_delay_millis=600_000))
    trace.set_tracer_provider(provider)
    settings.configure(
        INSTALLED_APPS=[
            "signalbox",
            "signalbox.contrib.opentelemetry",
            "django.contrib.contenttypes",
            "tests.shop",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": folder / "site.sqlite3",
                "OPTIONS": {"timeout": 20},
            }
        },
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    )
    import django

    django.setup()
    from django.core.management import call_command
    from django.db.models.signals import post_save

    import signalbox
    from tests.shop.models import Order

    call_command("migrate", run_syncdb=True, verbosity=0)
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(ship)
    Order.objects.create(number="1")
    call_command(*command)


def ship(sender: object, **kwargs: object) -> None:
    """Do nothing."""


if __name__ == "__main__":
    sys.modules["tests.contrib.opentelemetry.site"] = sys.modules["__main__"]
    ship.__module__ = "tests.contrib.opentelemetry.site"
    main(Path(sys.argv[1]), *sys.argv[2:])
