"""Users of the dashboard, and recorded events and deliveries."""

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
from signalbox.core.clock import now_us
from signalbox.core.tracing import generate_trace_id
from signalbox.models import Attempt, Delivery, Error, Event, Trace
from signalbox.outbox import registry
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.pipeline import exporter, processors
from tests import services
from tests.dashboard import browsing
from tests.dashboard.browsing import (
    ERROR_FINGERPRINT,
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
    """Staff with only the permission to view events."""
    user = User.objects.create_user("operator", password="lever", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_event", content_type__app_label="signalbox"))
    return user


@pytest.fixture
def operator_client(operator: User, client: Client) -> Client:
    """A client with the operator logged in, and without recorded events."""
    client.force_login(operator)
    Event.objects.all().delete()
    Trace.objects.all().delete()
    return client


@pytest.fixture
def add_event(db: None) -> Callable[..., Event]:
    """Write an event, one second after the previous one."""
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
    """Write the row of a finished trace."""

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
def add_attempt(db: None) -> Callable[..., Attempt]:
    """Write an attempt of a delivery that began ``after_us`` microseconds after it was queued."""

    def add(delivery: Delivery, number: int, after_us: int, duration_us: int, **given: Any) -> Attempt:
        values: dict[str, Any] = {
            "delivery_id": delivery.pk,
            "fencing_token": number,
            "number": number,
            "started": delivery.created + after_us,
            "ended": delivery.created + after_us + duration_us,
            "outcome": "succeeded",
            "worker": "web-1:4211",
        }
        attempt: Attempt = Attempt.objects.create(**(values | given))
        return attempt

    return add


@pytest.fixture
def add_error(db: None) -> Callable[..., Error]:
    """Write an error that was raised now."""

    def add(**given: Any) -> Error:
        values: dict[str, Any] = {
            "trace_id": FIRST_TRACE_ID,
            "span": 1,
            "position": 0,
            "fingerprint": ERROR_FINGERPRINT,
            "time": now_us(),
            "exception": "tests.shop.errors.PriceError",
            "message": "no price for <b>salt</b>",
            "file": "tests/shop/models.py",
            "line": 12,
            "function": "Order.get_price",
            "receiver": "tests.shop.receivers.announce",
            "data": {"frames": [["tests/shop/models.py", 12, "Order.get_price"]]},
        }
        error: Error = Error.objects.create(**(values | given))
        return error

    return add


@pytest.fixture
def retried_trace(
    add_event: AddEvent, add_trace: AddTrace, add_delivery: AddDelivery, add_attempt: Callable[..., Attempt]
) -> Trace:
    """A request with nested receivers, a savepoint that was rolled back, and deliveries that were retried or lost."""
    start = START_US
    ends = [
        {"id": f"{1:016x}", "database": "default", "outcome": outcome, "time_us": start + offset, "events": events}
        for outcome, offset, events in (("rolled_back", 21_000, 1), ("committed", 38_000, 3))
    ]
    ends[0]["savepoint"] = True
    trace = add_trace(
        trace_id=FIRST_TRACE_ID,
        name="POST /orders/",
        events=5,
        errors=1,
        rolled_back=1,
        duration=45_000,
        data={"transactions": ends, "transaction_count": 2},
    )
    calls = [
        {"name": "shop.signals.send_invoice", "location": "shop/signals.py:12", "start_us": 300, "duration_us": 900},
        {
            "name": "shop.signals.reserve_stock",
            "location": "shop/signals.py:30",
            "start_us": 1300,
            "duration_us": 9_000,
        },
        {
            "name": "shop.signals.tell_warehouse",
            "location": "shop/signals.py:44",
            "start_us": 10_500,
            "duration_us": 2_500,
            "error": "ConnectionError: the warehouse did not answer",
        },
    ]
    in_transaction = {"transaction": f"{1:016x}"}
    written: dict[str, Any] = {"trace_id": FIRST_TRACE_ID, "data": in_transaction}
    saved = add_event(
        **written | {"data": in_transaction | {"receivers": calls}}, time=start + 5_000, errors=1, duration=12_800
    )
    add_event(
        **written | {"data": in_transaction | {"parent_receiver": 1}},
        time=start + 7_000,
        parent=saved.span,
        sender="shop.Stock",
        object_label="Stock 9",
        duration=2_000,
    )
    add_event(**written, time=start + 19_000, outcome="rolled_back", sender="shop.Coupon", object_label="SUMMER")
    add_event(**written, time=start + 24_000, sender="shop.Customer", object_label="Ada Lovelace", duration=4_000)
    shared = {"trace_id": FIRST_TRACE_ID, "span": saved.span, "created": start + 20_000}
    done = add_delivery(
        **shared, state="done", receiver="shop.tasks.send_mail", attempts=3, finished=start + 312_000_000
    )
    add_attempt(done, 1, 30_000, 80_000, outcome="failed", retry_at=start + 5_000_000, error="SMTPException: 451 busy")
    add_attempt(done, 2, 5_000_000, 60_000_000, outcome="lost", error="The worker was killed")
    add_attempt(done, 3, 311_900_000, 60_000)
    data = {"delivery": done.pk, "fencing_token": 3, "first_span": f"{1 << 40:016x}", "attempt": 3}
    add_trace(trace_id=FIRST_TRACE_ID, kind="task", name=done.receiver, time=start + 311_920_000, data=data)
    add_event(
        trace_id=FIRST_TRACE_ID,
        span=1 << 40,
        parent=saved.span,
        time=start + 311_940_000,
        sender="shop.Mail",
        object_label="Invoice",
        duration=3_000,
    )
    dead = add_delivery(
        **shared, state="dead", receiver="shop.tasks.call_partner", attempts=1, finished=start + 2_000_000
    )
    add_attempt(dead, 1, 1_500_000, 400_000, outcome="timed_out", error="TimeLimitExceeded: it took longer than 0.4 s")
    add_delivery(**shared, receiver="shop.tasks.index_order")
    return trace


@pytest.fixture
def durable_receiver() -> Iterator[str]:
    """A durable receiver's name."""
    signalbox.receiver("post_save", sender="shop.Order", durable=True)(receivers.saved)
    [name] = registry.get_durable_receivers()
    yield name
    registry.disconnect(name)
    processors.uninstall(OUTBOX)
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


def _log_in() -> str:
    """Return the session of an operator. The log is empty afterwards."""
    client = Client()
    client.force_login(User.objects.create_superuser("operator", password="lever"))
    exporter.flush()
    Event.objects.all().delete()
    Trace.objects.all().delete()
    connection.close()
    return client.cookies["sessionid"].value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Permit every database to the tests in a browser: pages read errors and deliveries of all of them."""
    for item in items:
        if "window" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.django_db(transaction=True, databases="__all__"), append=False)


@pytest.fixture
def window(browser: Browser, site: Site, transactional_db: None) -> Iterator[Callable[..., BrowserWindow]]:
    """Open windows with the operator logged in. A console error in one of them fails the test."""
    # In a thread of its own: within an event loop, as the browser's driver runs one here, events wait to be written.
    with ThreadPoolExecutor(1) as pool:
        session = pool.submit(_log_in).result()
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
        "note": ["Leave it with the neighbours if the door is shut " * 3, "Ring twice"],
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
