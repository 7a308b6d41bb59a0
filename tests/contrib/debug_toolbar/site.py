"""A site with django-debug-toolbar, as a process of its own: the toolbar patches Django when it starts.

Its results are one line of JSON. With ``serve PORT`` it serves the site instead.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

PANEL = "SignalboxPanel"
PAGE = "<!doctype html><html><head><title>Shop</title></head><body><h1>Shop</h1></body></html>"


def change_orders(request: HttpRequest) -> HttpResponse:
    """Save an order, whose receiver queries and saves a tag, update all orders, and roll a tag back."""
    from django.db import transaction

    from tests.shop.models import Order, Tag

    Order.objects.create(number="1")
    Order.objects.update(note="checked")
    try:
        with transaction.atomic():
            Tag.objects.create(name="undone")
            raise ValueError("no such tag")
    except ValueError:
        pass
    return HttpResponse(PAGE)


async def change_orders_async(request: HttpRequest) -> HttpResponse:
    """Save an order in an asynchronous view."""
    from tests.shop.models import Order

    await Order.objects.acreate(number="2")
    return HttpResponse(PAGE)


def change_often(request: HttpRequest) -> HttpResponse:
    """Save more orders than transactions are listed, each in a transaction of its own."""
    from signalbox.core.tracing import MAX_TRANSACTION_ENDS
    from tests.shop.models import Order

    for number in range(MAX_TRANSACTION_ENDS + 5):
        Order.objects.bulk_create([Order(number=f"often {number}")])
    return HttpResponse(PAGE)


def redirect(request: HttpRequest) -> HttpResponse:
    """Save an order, and redirect to another page."""
    from tests.shop.models import Order

    Order.objects.create(number="3")
    return HttpResponseRedirect("/")


def read(request: HttpRequest) -> HttpResponse:
    """Change nothing."""
    return HttpResponse(PAGE)


def render_template(request: HttpRequest) -> HttpResponse:
    """Render a template, for which a receiver of the toolbar runs."""
    from django.template import engines

    return HttpResponse(engines["django"].from_string(PAGE).render({}, request))


def copy_order(sender: Any, instance: Any, **kwargs: Any) -> None:
    """Count the orders twice, and save a tag."""
    from tests.shop.models import Order, Tag

    Order.objects.count()
    Order.objects.count()
    Tag.objects.create(name=f"of order {instance.number}")


def read_tag(sender: Any, instance: Any, **kwargs: Any) -> None:
    """Query once."""
    from tests.shop.models import Tag

    Tag.objects.exists()


def configure() -> None:
    """Set up Django with the toolbar."""
    from django.conf import settings

    from tests import settings as base

    values = {name: getattr(base, name) for name in dir(base) if name.isupper()}
    path = Path(tempfile.mkdtemp(prefix="signalbox-toolbar-"), "site.sqlite3")
    values |= {
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}},
        "DEBUG": True,
        "ROOT_URLCONF": "tests.contrib.debug_toolbar.urls",
        "INSTALLED_APPS": [*base.INSTALLED_APPS, "debug_toolbar"],
        "MIDDLEWARE": [
            base.MIDDLEWARE[0],
            "debug_toolbar.middleware.DebugToolbarMiddleware",
            *base.MIDDLEWARE[1:],
        ],
        "DEBUG_TOOLBAR_PANELS": [
            "debug_toolbar.panels.history.HistoryPanel",
            "debug_toolbar.panels.sql.SQLPanel",
            "debug_toolbar.panels.templates.TemplatesPanel",
            "debug_toolbar.panels.signals.SignalsPanel",
            "debug_toolbar.panels.redirects.RedirectsPanel",
            "signalbox.contrib.debug_toolbar.panels.SignalboxPanel",
        ],
        "DEBUG_TOOLBAR_CONFIG": {
            "SHOW_TOOLBAR_CALLBACK": "tests.contrib.debug_toolbar.site.is_shown",
            "IS_RUNNING_TESTS": False,
            "DISABLE_PANELS": set(),
            "TOOLBAR_STORE_CLASS": os.environ.get("TOOLBAR_STORE", "debug_toolbar.store.MemoryStore"),
        },
    }
    values["SIGNALBOX"] = {"IGNORE_PATHS": ["/__debug__/*", "/ignored/", "dashboard", "static"]}
    settings.configure(**values)
    import django

    django.setup()
    from django.core.management import call_command
    from django.db.models.signals import post_save

    from tests.shop.models import Order, Tag

    call_command("migrate", run_syncdb=True, verbosity=0)
    post_save.connect(copy_order, Order)
    post_save.connect(read_tag, Tag)


def is_shown(request: HttpRequest) -> bool:
    """Show the toolbar, unless the request asks for the site without it."""
    return "without-toolbar" not in request.GET


def get_results() -> dict[str, Any]:
    """Request each page, and return the panel's data and pages."""
    from django.test import AsyncClient, Client

    from signalbox.contrib.debug_toolbar import collector
    from signalbox.instrumentation import install
    from signalbox.models import Trace

    client = Client()
    results: dict[str, Any] = {"change": _request(client, "/change/")}
    trace_id = results["change"]["stats"]["trace_id"]
    results["trace_exists"] = Trace.objects.filter(trace_id=trace_id, kind="request").exists()
    for name in ("redirect", "read", "ignored", "often", "template"):
        results[name] = _request(client, f"/{name}/")
    if "DatabaseStore" not in os.environ.get("TOOLBAR_STORE", ""):  # it can't be used in an event loop
        results["async"] = _describe(client, asyncio.run(_request_async(AsyncClient(), "/async/")))
    client.cookies["djdtSignalboxPanel"] = "off"
    results["off"] = _request(client, "/change/")
    del client.cookies["djdtSignalboxPanel"]
    results["hidden"] = b"djDebug" in client.get("/change/?without-toolbar=1").content
    install.stop_recording()
    results["not_recording"] = _request(client, "/change/")
    gc.collect()
    results["collectors"] = sum(type(one) is collector.Collector for one in gc.get_objects())
    from django.db import connection

    results["wrappers"] = len(connection.execute_wrappers)
    return results


async def _request_async(client: Any, path: str) -> Any:
    return await client.get(path)


def _request(client: Any, path: str) -> dict[str, Any]:
    return _describe(client, client.get(path))


def _describe(client: Any, response: Any) -> dict[str, Any]:
    from debug_toolbar.store import get_store

    text = response.content.decode()
    store = get_store()
    [request_id] = re.findall('data-request-id="([^"]+)"', text)
    panel = store.panel(request_id, PANEL)
    rendered = client.get("/__debug__/render_panel/", {"request_id": request_id, "panel_id": PANEL})
    history = client.get("/__debug__/history_sidebar/", {"request_id": request_id})
    return {
        "status": response.status_code,
        "page": text,
        "stats": panel,
        "panel": rendered.json()["content"] if rendered.status_code == 200 else "",
        "history": history.content.decode(),
        "server_timing": response.headers.get("Server-Timing", ""),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        configure()
        from django.core.management import call_command

        call_command("runserver", f"127.0.0.1:{sys.argv[2]}", "--noreload", "--nothreading")
    else:
        sys.modules["tests.contrib.debug_toolbar.site"] = sys.modules["__main__"]
        configure()
        sys.stdout.write(json.dumps(get_results()) + "\n")
