"""Who looks at the page, and what there is to see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client, override_settings

import signalbox
from signalbox.core.tracing import generate_trace_id
from signalbox.models import Delivery, Event, Trace
from signalbox.outbox import registry
from signalbox.pipeline import deliveries, exporter
from tests import services
from tests.dashboard import browsing
from tests.dashboard.browsing import (
    FIRST_TRACE_ID,
    SECOND_TRACE_ID,
    AddDelivery,
    AddEvent,
    AddTrace,
    BrowserWindow,
    OpenWindow,
    Site,
)
from tests.outbox import receivers

if TYPE_CHECKING:
    from playwright.sync_api import Browser

START_US = 1_790_000_000_000_000


@pytest.fixture
def operator(db: None) -> User:
    """Staff with the permission, and no other."""
    user = User.objects.create_user("operator", password="lever", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_event", content_type__app_label="signalbox"))
    return user


@pytest.fixture
def operator_client(operator: User, client: Client) -> Client:
    """A browser in which the operator has logged in, with an empty register."""
    client.force_login(operator)
    Event.objects.all().delete()
    Trace.objects.all().delete()
    return client


@pytest.fixture
def add_event(db: None) -> Callable[..., Event]:
    """Write an event as recording would, one second after the one before."""
    spans = iter(range(1, 1_000_000))

    def add(**given: Any) -> Event:
        span = next(spans)
        values: dict[str, Any] = {
            "time": START_US + span * 1_000_000,
            "trace_id": generate_trace_id(),
            "span": span,
            "parent": None,
            "signal": "post_save",
            "sender": "shop.Order",
            "object_key": "7",
            "object_label": "Order 7",
            "actor_key": "3",
            "actor_label": "ada",
            "database": "default",
            "outcome": "committed",
            "duration": 1500,
            "errors": 0,
            "data": {},
        }
        event: Event = Event.objects.create(**(values | given))
        return event

    return add


@pytest.fixture
def add_trace(db: None) -> Callable[..., Trace]:
    """Write the row of a trace that has ended."""

    def add(**given: Any) -> Trace:
        values: dict[str, Any] = {
            "trace_id": generate_trace_id(),
            "kind": "request",
            "name": "POST /orders/7/",
            "actor_key": "3",
            "actor_label": "ada",
            "time": START_US,
            "duration": 25_000,
            "status": "200",
            "events": 1,
            "errors": 0,
            "rolled_back": 0,
            "data": {},
        }
        trace: Trace = Trace.objects.create(**(values | given))
        return trace

    return add


@pytest.fixture
def add_delivery(db: None) -> Callable[..., Delivery]:
    """Write a delivery that has been due for five seconds."""

    def add(**given: Any) -> Delivery:
        moment = time.time_ns() // 1000 - 5_000_000
        values: dict[str, Any] = {
            "receiver": "shop.signals.send_invoice",
            "queue": "default",
            "ordering_key": "7",
            "partition_id": None,
            "trace_id": "e" * 32,
            "span": 1,
            "signal": "post_save",
            "sender": "shop.Order",
            "object_key": "7",
            "database": "default",
            "state": "pending",
            "run_at": moment,
            "next_check_at": moment,
            "lease_expires_at": None,
            "attempts": 0,
            "fencing_token": 0,
            "error": "",
            "created": moment,
            "finished": None,
            "payload": {},
        }
        delivery: Delivery = Delivery.objects.create(**(values | given))
        return delivery

    return add


@pytest.fixture
def durable_receiver() -> Iterator[str]:
    """A durable receiver's name."""
    signalbox.receiver("post_save", sender="shop.Order", durable=True)(receivers.saved)
    [name] = registry.get_durable_receivers()
    yield name
    registry.disconnect(name)
    deliveries.install_source(deliveries.NO_DELIVERIES)
    signalbox.start_recording()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser; the reason to go without it is a failure where services are required.

    It lives for one module: its driver's event loop runs in this thread, and other modules' tests want none there.
    """
    if reason := browsing.get_unavailable_reason():
        if services.are_services_required():
            pytest.fail(f"{reason} (SIGNALBOX_REQUIRE_SERVICES is set)", pytrace=False)
        pytest.skip(reason)
    # Within an event loop Django would refuse the tests' own queries.
    with pytest.MonkeyPatch.context() as patch, browsing.launch_chromium() as browser:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield browser


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, django_db_setup: None) -> Iterator[Site]:
    """The test site, served under a strict policy; under WSGI where a test doesn't ask for ASGI."""
    middleware = ["tests.dashboard.browsing.StrictPolicy", *settings.MIDDLEWARE]
    serving = {"wsgi": browsing.serve_wsgi, "asgi": browsing.serve_asgi}[getattr(request, "param", "wsgi")]
    with override_settings(MIDDLEWARE=middleware), serving() as site:
        yield site


def _empty_event_log() -> None:
    exporter.flush()
    Event.objects.all().delete()
    Trace.objects.all().delete()
    connection.close()


@pytest.fixture
def window(browser: Browser, site: Site, transactional_db: None) -> Iterator[Callable[..., BrowserWindow]]:
    """Open windows in which the operator has logged in; in the end none may have complained."""
    client = Client()
    client.force_login(User.objects.create_superuser("operator", password="lever"))
    session = client.cookies["sessionid"].value
    # In a thread of its own: within an event loop, as the browser's driver runs one here, events wait to be written.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_empty_event_log).result()
    opened: list[BrowserWindow] = []
    contexts = []

    def open_window(**options: Any) -> BrowserWindow:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        context.set_default_timeout(20_000)
        context.add_cookies([{"name": "sessionid", "value": session, "url": site.address}])
        contexts.append(context)
        opened.append(BrowserWindow(context.new_page(), site.address))
        return opened[-1]

    yield open_window
    complaints = [complaint for visitor in opened for complaint in visitor.errors]
    for visitor in opened:
        if not visitor.page.is_closed():
            # Closing waits for ever, now and then, for a page that is just going somewhere: this has a time limit.
            visitor.page.goto("about:blank")
    for context in contexts:
        context.close()
    # What was still asked would be recorded in the next test's register.
    site.wait_until_idle()
    assert [] == complaints


@pytest.fixture
def sample_event(window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, add_delivery: AddDelivery) -> Event:
    """A request that changed an order, in whose receiver another was saved, and a command that failed."""
    runs = [
        {"name": "shop.signals.send_invoice", "location": "shop/signals.py:12", "duration_us": 900, "error": None},
        {
            "name": "shop.signals.tell_stock",
            "location": "shop/signals.py:30",
            "duration_us": 300,
            "error": "ValueError: no stock",
        },
    ]
    changes = {
        "status": ["open", "paid"],
        "note": ["Leave it with the neighbours if nobody answers " * 3, "Ring twice"],
    }
    add_trace(trace_id=SECOND_TRACE_ID, kind="command", name="import_prices", status="failed", events=1, rolled_back=1)
    add_event(trace_id=SECOND_TRACE_ID, outcome="rolled_back", signal="update", object_key="", object_label="")
    add_trace(trace_id=FIRST_TRACE_ID, name="POST /orders/7/", events=3, errors=1)
    add_event(
        trace_id=FIRST_TRACE_ID, signal="request_started", sender="wsgi", object_key="", object_label="", outcome="sent"
    )
    changed = add_event(
        trace_id=FIRST_TRACE_ID, errors=1, data={"changes": changes, "receivers": runs, "args": {"created": False}}
    )
    add_delivery(state="dead", trace_id=FIRST_TRACE_ID, span=changed.span, error="ValueError: no such customer")
    add_event(
        trace_id=FIRST_TRACE_ID, parent=changed.span, sender="shop.OrderLine", object_key="9", object_label="Line 9"
    )
    return changed
