"""Does the work of one neighbour's site, in a process of its own: ``python -m tests.neighbours.run RESULT``.

It creates the site's tables in the database that ``tests.neighbours.settings`` names, does the work of the neighbour's
module once in each way of observing, and writes what was observed to the file RESULT as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def prepare_tables() -> None:
    """Create the tables; content types have the same keys with and without Signalbox's own."""
    from django.apps import apps
    from django.contrib.auth.management import create_permissions
    from django.contrib.contenttypes.models import ContentType
    from django.core.management import call_command

    call_command("migrate", run_syncdb=True, verbosity=0)
    ContentType.objects.all().delete()
    ContentType.objects.clear_cache()
    labels = [(m._meta.app_label, m._meta.model_name) for m in apps.get_models()]
    labels.sort(key=lambda label: (label[0] == "signalbox", label))
    ContentType.objects.bulk_create(
        ContentType(pk=1000 + number, app_label=app, model=str(model)) for number, (app, model) in enumerate(labels)
    )
    for config in apps.get_app_configs():
        create_permissions(config, verbosity=0)


def recorded() -> list[list[Any]]:
    """Return signal, sender and number of the events about the site's models."""
    from django.db.models import Count

    from signalbox.models import Event

    events = Event.objects.values_list("signal", "sender").annotate(number=Count("pk")).order_by("signal", "sender")
    return [list(event) for event in events if str(event[1]).startswith(("works.", "auth.User"))]


def main() -> None:
    """Do the work and write what was observed."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.neighbours.settings"
    from django.utils.module_loading import import_string

    from tests.neighbours import settings
    from tests.neighbours.sites import SITES

    site = SITES[settings.SITE_NAME]
    if site.start:
        import_string(site.start)()
    import django

    django.setup()
    work: Any = import_module(settings.WORK)
    getattr(work, "prepare_tables", prepare_tables)()

    from tests.neighbours import observing

    observing.unordered = site.unordered
    observer = observing.Observer()
    for observer.how in getattr(work, "HOWS", observing.HOWS):
        work.work(observer)
    found: dict[str, Any] = {
        "steps": observer.steps,
        "log": observer.log.site,
        "neighbour": observer.neighbour,
        "rows": observing.rows(site.volatile),
        "sent": sorted(observer.sent),
    }
    if settings.SIGNALBOX_PLACE == "absent":
        found["loaded"] = sorted(name for name in sys.modules if name.partition(".")[0] == "signalbox")
    else:
        found["complaints"] = observer.log.signalbox
        found["recorded"] = getattr(work, "recorded", recorded)()
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
