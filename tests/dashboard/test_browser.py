"""The page as a browser shows it, under a policy that forbids inline scripts and styles."""

from __future__ import annotations

import datetime as dt
import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import User
from django.db.models.signals import post_save

from signalbox.doctor import Finding, Severity, SourceLine
from signalbox.models import Delivery, Event, Trace
from tests.dashboard.browsing import (
    FIRST_TRACE_ID,
    SECOND_TRACE_ID,
    AddDelivery,
    AddError,
    AddEvent,
    AddTrace,
    OpenWindow,
)
from tests.events import get_newest_event
from tests.shop.models import Customer, Order, Tag

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# The deliveries' page asks each database that there is.
every_alias = pytest.mark.django_db(transaction=True, databases="__all__")


def addresses(event: Event) -> dict[str, str]:
    return {
        "timeline": "/signalbox/?" + urlencode({"signal": "post_save"}),
        "trace": f"/signalbox/trace/{event.trace_id}/",
        "event": f"/signalbox/event/{event.id}/",
        "revert": f"/signalbox/event/{event.id}/revert/",
        "object": "/signalbox/object/?" + urlencode({"sender": event.sender, "key": event.object_key}),
        "map": "/signalbox/map/",
        "receiver": "/signalbox/receiver/?name=shop.signals.send_invoice",
        "signal": "/signalbox/signal/?name=post_save",
        "not found": "/signalbox/receiver/?name=shop.signals.unknown",
        "deliveries": "/signalbox/deliveries/?state=dead",
        "delivery": f"/signalbox/deliveries/{Delivery.objects.get().id}/",
        "doctor": "/signalbox/doctor/",
        "status": "/signalbox/health/",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("timeline", "trace", "event", "revert", "object", "map", "doctor"),
        *(pytest.param(name, marks=every_alias) for name in ("receiver", "signal", "deliveries", "delivery", "status")),
    ],
)
def test_a_page_is_accessible_in_both_schemes_at_any_width(window: OpenWindow, sample_event: Event, name: str) -> None:
    visitor = window(reduced_motion="reduce")
    visitor.open(addresses(sample_event)[name])
    if name == "timeline":
        visitor.page.click("[data-expand]")
        visitor.page.wait_for_selector(".leaf")
    elif name == "deliveries":
        visitor.page.click("text=Replay past events")
    elif name == "status":
        visitor.page.click("text=Replaced in Django")
    for width in (1280, 900, 360):
        visitor.page.set_viewport_size({"width": width, "height": 740})
        assert (width, 0) == (width, visitor.get_overflow_pixels())
        for scheme in () if width == 900 else ("light", "dark"):
            visitor.page.emulate_media(color_scheme=scheme)
            assert (width, scheme, []) == (width, scheme, visitor.find_accessibility_violations())


def test_the_keyboard_leads_everywhere(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    page = visitor.page
    visitor.open("/signalbox/")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("o")
    page.wait_for_selector(".leaf")
    assert 3 == page.locator(".leaf").count()
    assert page.locator(".leaf.in-1").inner_text().startswith("post_save")
    page.keyboard.press("/")
    assert "q" == page.evaluate("document.activeElement.id")
    page.keyboard.type("j")
    assert "j" == page.input_value("#q")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog.keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/signalbox/map/")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url("**/signalbox/")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/signalbox/trace/{FIRST_TRACE_ID}/")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator(f"#n-{sample_event.id}").is_visible()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/signalbox/event/{sample_event.id}/")


def test_the_first_tab_stop_skips_the_navigation(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Enter")
    assert "main" == visitor.page.evaluate("document.activeElement.id")


def test_the_chosen_colours_are_stored(window: OpenWindow, sample_event: Event) -> None:
    visitor = window(color_scheme="light")
    visitor.open("/signalbox/doctor/")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = visitor.page.evaluate(ground)
    visitor.page.click("[data-scheme-toggle]")
    visitor.page.click("[data-scheme-toggle]")
    dark = visitor.page.evaluate(ground)
    assert light != dark
    visitor.open("/signalbox/map/")
    assert dark == visitor.page.evaluate(ground)
    assert "Dark" == visitor.page.locator("[data-scheme-name]").inner_text()


def test_the_histogram_has_a_text_for_screen_readers(window: OpenWindow, add_event: AddEvent) -> None:
    visitor = window()
    add_event(time=int(time.time() * 1_000_000), errors=1)
    visitor.open("/signalbox/")
    visitor.page.wait_for_selector("[data-histogram] canvas")
    label = visitor.page.get_attribute("[data-histogram]", "aria-label")
    assert "1 event in the last 10 minutes: model; some failed" == label


def test_an_empty_histogram_is_hidden(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    visitor.page.wait_for_selector(".histogram.is-empty")
    assert visitor.page.locator(".histogram").bounding_box()["height"] < 50  # type: ignore[index]
    assert "none in the last 10 minutes" in visitor.page.locator(".histogram h2").inner_text()


def test_the_histogram_shows_that_a_limit_was_reached(
    window: OpenWindow, add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitor = window()
    monkeypatch.setattr("signalbox.queries.histogram_counts.MAX_HISTOGRAM_EVENTS", 2)
    moment = int(time.time() * 1_000_000)
    for _ in range(3):
        add_event(time=moment)
    visitor.open("/signalbox/")
    since = dt.datetime.fromtimestamp(moment / 1_000_000, tz=dt.UTC)
    visitor.page.wait_for_selector(f"text=only the latest events, since {since:%H:%M:%S}")


def test_the_histogram_uses_the_server_s_time_if_the_browser_s_clock_is_wrong(
    window: OpenWindow, add_event: AddEvent
) -> None:
    visitor = window()
    visitor.page.clock.install(time=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=20))
    add_event(time=int(time.time() * 1_000_000))
    visitor.open("/signalbox/")
    visitor.page.wait_for_selector("[data-histogram] canvas")
    visitor.page.clock.run_for(11_000)
    assert "1 event in the last 10 minutes: model" == visitor.page.get_attribute("[data-histogram]", "aria-label")


WRITTEN = """
window.written = [];
const fillText = CanvasRenderingContext2D.prototype.fillText;
CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
  const width = this.measureText(text).width;
  const begin = x - (this.textAlign === "center" ? width / 2 : this.textAlign === "right" ? width : 0);
  written.push([text, begin >= 0 && begin + width <= this.canvas.width]);
  return fillText.call(this, text, x, y);
};
"""


FIND_COVERED_LINKS = """links => links.filter(link => {
  link.scrollIntoView({block: "center"});
  const box = link.getClientRects()[0];
  return box && !link.contains(document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2));
}).map(link => link.outerHTML)"""


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_nothing_covers_the_links_of_a_line_and_of_its_events(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, add_error: AddError, width: int
) -> None:
    event = add_event(trace_id=FIRST_TRACE_ID, errors=1)
    add_trace(trace_id=event.trace_id, name="POST /buy/", status="500", errors=1, actor_label="ann")
    add_error(trace_id=event.trace_id, span=event.span)
    visitor = window(viewport={"width": width, "height": 900})
    visitor.open("/signalbox/")
    visitor.page.click("[data-expand]")
    visitor.page.wait_for_selector(".leaf-link")
    assert visitor.page.locator(".row .actor a, .row a.flag, .row a.trace-link").count() == 3
    assert [] == visitor.page.eval_on_selector_all(".lines a", FIND_COVERED_LINKS)


def test_a_short_change_is_not_truncated_on_a_wide_screen(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace
) -> None:
    now = time.time_ns() // 1_000  # an earlier day is shown with its date
    event = add_event(time=now, object_label="Order A-1", data={"changes": {"status": ["open", "paid"]}})
    add_trace(trace_id=event.trace_id, name="POST /admin/shop/order/1/change/", status="302", actor_label="ann")
    visitor = window(viewport={"width": 1440, "height": 900})
    visitor.open("/signalbox/")
    shown = visitor.page.locator(".row-summary")
    assert "status open → paid" in str(shown.text_content())
    assert shown.evaluate("summary => summary.scrollWidth <= summary.clientWidth")


@pytest.mark.parametrize("second", [1, 20, 40])
def test_labels_of_the_histogram_are_not_truncated(window: OpenWindow, sample_event: Event, second: int) -> None:
    visitor = window()
    now = 1_790_000_400 + second
    answer = {
        "now": now,
        "utc_offsets": [[0, 0]],
        "choices": [],
        "text_without_time": "",
        "since": None,
        "until": None,
        "range_seconds": 600,
        "step_seconds": 5,
        "groups": ["model"],
        "start": None,
    }
    bucket = [(now - 60) // 5 * 5, "model", 1, 0]
    visitor.page.route("**/histogram/**", lambda route: route.fulfill(json=answer | {"buckets": [bucket]}))
    visitor.page.add_init_script(WRITTEN)
    visitor.open("/signalbox/")
    visitor.page.wait_for_selector("[data-histogram] canvas")
    visitor.page.wait_for_function("written.length > 5")
    assert [] == [text for text, whole in visitor.page.evaluate("written") if not whole]


def test_the_histogram_follows_a_change_of_the_clocks(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    now = 1_790_000_400
    answer = {
        "now": now,
        "utc_offsets": [[now - 600, 7200], [now - 300, 3600]],
        "choices": [],
        "text_without_time": "",
        "since": None,
        "until": None,
        "range_seconds": 600,
        "step_seconds": 5,
        "groups": ["model"],
        "start": None,
        "buckets": [[now - 60, "model", 1, 0]],
    }
    visitor.page.route("**/histogram/**", lambda route: route.fulfill(json=answer))
    visitor.page.add_init_script(WRITTEN)
    visitor.open("/signalbox/")
    visitor.page.wait_for_selector("[data-histogram] canvas")
    visitor.page.wait_for_function("written.length > 5")
    hours = {text[:2] for text, _ in visitor.page.evaluate("written") if re.fullmatch(r"\d\d:\d\d", text)}
    assert {f"{dt.datetime.fromtimestamp(now, dt.UTC) + dt.timedelta(hours=h, minutes=-4):%H}" for h in (1,)} <= hours
    assert {f"{dt.datetime.fromtimestamp(now, dt.UTC) + dt.timedelta(hours=h, minutes=-8):%H}" for h in (2,)} <= hours


def test_all_times_are_in_the_zone_that_the_page_names(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, settings: Any
) -> None:
    settings.TIME_ZONE = "Asia/Kolkata"
    moment = dt.datetime(2026, 3, 1, 10, 0, tzinfo=dt.UTC)
    event = add_event(time=int(moment.timestamp()) * 1_000_000)
    add_trace(trace_id=event.trace_id, time=event.time - 3_600_000_000, duration=3_600_000_000)
    visitor = window(timezone_id="America/New_York")
    visitor.open("/signalbox/")
    assert "Times in Asia/Kolkata (UTC+05:30)" == visitor.page.locator(".time-zone").inner_text()
    time_of_row = visitor.page.locator(f"#t-{event.trace_id} time")
    assert time_of_row.inner_text().endswith("15:30:00.000")
    assert "2026-03-01T10:00:00+00:00" == time_of_row.get_attribute("datetime")
    title = time_of_row.get_attribute("title") or ""
    assert "2026-03-01 15:30:00.000000 Asia/Kolkata (UTC+05:30)" in title
    assert "began 2026-03-01 14:30:00" in title
    for path in (f"trace/{event.trace_id}/", f"event/{event.id}/", "object/?sender=shop.Order&key=7"):
        visitor.open(f"/signalbox/{path}")
        times = visitor.page.locator("main time")
        assert times.count() > 0
        for index in range(times.count()):
            assert "Asia/Kolkata (UTC+05:30)" in (times.nth(index).get_attribute("title") or "")


def test_a_row_shows_what_happened_also_after_a_live_update(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace
) -> None:
    add_event(object_label="Order 6")
    visitor = window()
    visitor.open("/signalbox/")
    labels = {"status": {"open": "Open", "paid": "Paid"}}
    event = add_event(data={"changes": {"status": ["open", "paid"]}, "labels": labels})
    add_event(trace_id=event.trace_id, sender="shop.Customer", object_key="2", object_label="<b>Bea</b>")
    add_trace(trace_id=event.trace_id, events=2)
    row = visitor.page.locator(f"#t-{event.trace_id}")
    row.locator(".more-changes").wait_for()
    assert ["Order 7", "status Open → Paid"] == row.locator(".row-summary bdi").all_inner_texts()
    assert "+1 change" == row.locator(".more-changes").inner_text()
    row.locator("[data-expand]").click()
    leaves = row.locator(".leaf")
    leaves.first.wait_for()
    assert "status Open → Paid" == leaves.first.locator(".event-summary").inner_text()
    assert "<b>Bea</b>" == leaves.nth(1).locator(".object").inner_text()
    visitor.page.reload()
    assert ["Order 7", "status Open → Paid"] == row.locator(".row-summary bdi").all_inner_texts()


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_rows_with_summaries_fit_any_width(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, width: int
) -> None:
    receivers = [{"name": "a.b", "location": "a.py:1", "duration_us": 1, "error": "ValueError: " + "no stock " * 20}]
    changes = {name: ["v" * 60, "שלם " * 20] for name in ("note", "number", "status", "total")}
    event = add_event(object_label="W" * 200, errors=1, data={"changes": changes, "receivers": receivers})
    add_trace(trace_id=event.trace_id, name="POST /" + "orders/" * 25, events=1, errors=1)
    visitor = window(reduced_motion="reduce", viewport={"width": width, "height": 800})
    for path in ("", f"trace/{event.trace_id}/", "object/?sender=shop.Order&key=7"):
        visitor.open(f"/signalbox/{path}")
        if not path:
            visitor.page.click("[data-expand]")
            visitor.page.wait_for_selector(".leaf")
        assert (path, 0) == (path, visitor.get_overflow_pixels())
        for scheme in ("light", "dark"):
            visitor.page.emulate_media(color_scheme=scheme)
            assert (path, scheme, []) == (path, scheme, visitor.find_accessibility_violations())


def test_a_row_shows_a_failed_request_of_its_events_and_retries(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.ignore_request_errors()
    visitor.open("/signalbox/")
    visitor.page.route("**/tree/", lambda route: route.fulfill(status=502, body="away"), times=1)
    line = visitor.page.locator(f"#t-{FIRST_TRACE_ID}")
    line.locator("[data-expand]").click()
    line.locator("text=The server did not answer").wait_for()
    line.locator("[data-expand]").click()
    line.locator("[data-expand]").click()
    line.locator(".leaf").first.wait_for()


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_no_number_of_the_waterfall_is_cut_off(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, width: int
) -> None:
    trace = add_trace(trace_id=FIRST_TRACE_ID, duration=1_000_000)
    for begins, took in (
        (0, 976_000),
        (100, 850_000),
        (200_000, 780_000),
        (300_000, 690_000),
        (900_000, 90_000),
        (0, 9),
    ):
        add_event(trace_id=FIRST_TRACE_ID, time=trace.time + begins, duration=took)
    visitor = window(viewport={"width": width, "height": 800})
    visitor.open(f"/signalbox/trace/{FIRST_TRACE_ID}/?axis=whole")
    cut = """[...document.querySelectorAll('.waterfall-row .axis text')].filter(text => {
        const [label, panel] = [text, text.closest('.waterfall')].map(each => each.getBoundingClientRect());
        return label.left < panel.left || label.right > panel.right;
    }).map(text => text.textContent)"""
    assert 6 == visitor.page.locator(".waterfall-row .axis text").count()
    assert [] == visitor.page.evaluate(cut)


def test_older_traces_are_appended(window: OpenWindow, add_event: AddEvent) -> None:
    visitor = window()
    for number in range(45):
        add_event(object_label=f"Order {number}")
    visitor.open("/signalbox/")
    assert 40 == visitor.page.locator(".line").count()
    visitor.page.click("text=Older traces")
    visitor.page.wait_for_selector("text=The beginning of the register")
    assert 45 == visitor.page.locator(".line").count()
    assert 45 == visitor.page.evaluate("new Set([...document.querySelectorAll('.line')].map(line => line.id)).size")


def test_the_slider_shows_an_object_s_state_then(window: OpenWindow) -> None:
    visitor = window()
    order = Order.objects.create(number="1889")
    order.status = "paid"
    order.save()
    visitor.open(f"/signalbox/object/?sender=shop.Order&key={order.pk}")
    state = visitor.page.locator("#state tr:has(th:text-matches('^status')) td")
    assert "paid · Paid" == state.inner_text()
    visitor.page.focus("[data-slider]")
    visitor.page.keyboard.press("Home")
    visitor.page.wait_for_selector("#state td:has-text('open')")
    assert "open · Open" == visitor.page.locator("#state tr:has(th:text-matches('^status')) td").inner_text()
    visitor.page.wait_for_url("**event=*")


def test_a_slider_s_steps_are_one_step_back_and_only_the_last_is_fetched(window: OpenWindow) -> None:
    visitor = window()
    order = Order.objects.create(number="1889")
    for number in range(12):
        order.number = str(number)
        order.save()
    visitor.open("/signalbox/map/")
    visitor.open(f"/signalbox/object/?sender=shop.Order&key={order.pk}")
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    before = visitor.page.evaluate("history.length")
    # At once, as the keyboard would be on a machine that is not busy.
    visitor.page.eval_on_selector(
        "[data-slider]",
        "slider => { for (let i = 0; i < 8; i++) { slider.stepDown(); slider.dispatchEvent(new Event('input')); } }",
    )
    stop = visitor.page.evaluate(
        "document.querySelector('[data-slider]').dataset.versions.split(',').at(document.querySelector('[data-slider]').value)"
    )
    visitor.page.wait_for_selector(f"#state[data-event='{stop}']")
    visitor.page.wait_for_url(f"**event={stop}*")
    assert 1 == len(asked)
    assert before == visitor.page.evaluate("history.length")
    visitor.page.go_back()
    visitor.page.wait_for_url("**/map/")


def test_a_search_that_is_typed_is_one_step_back(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    before = visitor.page.evaluate("history.length")
    visitor.page.keyboard.press("/")
    for typed in ("im", "import", "import_prices"):
        visitor.page.keyboard.type(typed[len(visitor.page.input_value("#q")) :])
        visitor.page.wait_for_url(f"**/signalbox/?q={typed}")
    assert before + 1 == visitor.page.evaluate("history.length")
    visitor.page.go_back()
    visitor.page.wait_for_url("**/signalbox/")


def test_an_event_is_reverted_after_a_confirmation(window: OpenWindow) -> None:
    visitor = window()
    order = Order.objects.create(number="1889")
    order.status = "paid"
    order.save()
    event = Event.objects.filter(signal="post_save", sender="shop.Order").order_by("-id").first()
    assert event is not None
    visitor.open(f"/signalbox/event/{event.id}/")
    visitor.page.click("a.button:has-text('Revert')")
    visitor.page.wait_for_url("**/revert/")
    order.refresh_from_db()
    assert "paid" == order.status
    visitor.page.click("button:has-text('Revert')")
    visitor.page.wait_for_url("**/object/**")
    order.refresh_from_db()
    assert "open" == order.status


def test_a_deleted_object_is_restored_with_its_relations_by_options_of_the_page(window: OpenWindow) -> None:
    visitor = window(reduced_motion="reduce")
    order = Order.objects.create(number="1889", customer=Customer.objects.create(name="Ada"), note="a " * 60)
    order.tags.add(Tag.objects.create(name="gift"))
    Order.objects.filter(pk=order.pk).update(status="paid", note="b " * 60)
    order.delete()
    event = get_newest_event(Order, "post_delete")
    visitor.open(f"/signalbox/event/{event.id}/revert/")
    visitor.page.check("text=Many-to-many relations too")
    visitor.page.click("text=Update the preview")
    visitor.page.wait_for_url("**/revert/?relations=1")
    for width in (1280, 360):
        visitor.page.set_viewport_size({"width": width, "height": 740})
        assert (width, 0) == (width, visitor.get_overflow_pixels())
        for scheme in ("light", "dark"):
            visitor.page.emulate_media(color_scheme=scheme)
            assert (width, scheme, []) == (width, scheme, visitor.find_accessibility_violations())
    visitor.page.click("button:has-text('Revert')")
    visitor.page.wait_for_url("**/object/**")
    assert ("paid", "gift") == Order.objects.values_list("status", "tags__name").get()


def test_the_map_draws_and_filters_receivers(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/map/")
    visitor.page.check("[name=django]")
    visitor.page.wait_for_selector("svg.graph .node.receiver")
    drawn = visitor.page.locator("svg.graph .node.receiver").count()
    listed = visitor.page.locator("[data-edges] tbody tr:visible").count()
    assert 0 < drawn <= listed
    visitor.page.select_option("[name=app]", "auth")
    assert 0 < visitor.page.locator("[data-edges] tbody tr:visible").count() < listed


def test_the_filter_of_the_map_is_in_the_url_and_survives_a_reload(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/map/")
    visitor.page.check("[name=django]")
    visitor.page.select_option("[name=health]", "not called")
    visitor.page.wait_for_url("**/signalbox/map/?health=not+called&django=on")
    visitor.page.reload()
    visitor.page.wait_for_selector("svg.graph")
    # How many there are may be another number by now: the page's own requests open connections.
    shown = visitor.page.locator("[data-edges] tbody tr:visible .health").all_inner_texts()
    assert {"not called"} == set(shown)
    assert str(len(shown)) == visitor.page.locator("[data-count]").inner_text()
    assert visitor.page.is_checked("[name=django]")
    assert "not called" == visitor.page.input_value("[name=health]")


def test_the_map_uses_one_label_for_a_receiver_s_state(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/map/")
    said = [
        set(visitor.page.locator(where).all_inner_texts())
        for where in (".legend li", "[name=health] option:not([value=''])")
    ]
    assert said[0] == said[1]
    assert said[0] > set(visitor.page.locator("[data-edges] .health").all_inner_texts())


FIND_BROKEN_NAMES = """links => links.filter(
  link => link.textContent.length < 22 && link.getClientRects().length > 1).map(link => link.textContent)"""


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_the_names_of_signals_are_on_one_line_in_the_map(window: OpenWindow, sample_event: Event, width: int) -> None:
    visitor = window(viewport={"width": width, "height": 900})
    visitor.open("/signalbox/map/?django=1")
    names = visitor.page.locator("[data-edges] td:first-child a")
    assert names.count() > 5
    assert [] == names.evaluate_all(FIND_BROKEN_NAMES)


@pytest.mark.parametrize("width", [1280, 1000, 700, 360])
def test_a_row_shows_actor_and_number_of_events_at_any_width(
    window: OpenWindow, sample_event: Event, width: int
) -> None:
    visitor = window(viewport={"width": width, "height": 740})
    visitor.open("/signalbox/")
    line = visitor.page.locator(f"#t-{FIRST_TRACE_ID}")
    for what in (".actor", ".events", ".duration", ".flags .bad", ".time"):
        box = line.locator(what).bounding_box()
        assert box is not None, what
        assert box["width"] > 5, what
        assert box["x"] + box["width"] <= width, what
    assert "POST /orders/7/" == line.locator(".name").get_attribute("title")
    assert 0 == visitor.get_overflow_pixels()


@every_alias
def test_tables_are_cards_on_a_phone_and_nothing_scrolls_sideways(window: OpenWindow, sample_event: Event) -> None:
    visitor = window(viewport={"width": 360, "height": 740})
    for name in ("event", "map", "deliveries"):
        visitor.open(addresses(sample_event)[name])
        beyond = visitor.page.eval_on_selector_all(
            ".receivers", "tables => tables.filter(table => table.scrollWidth > innerWidth).length"
        )
        assert (name, 0) == (name, beyond)
    visitor.open(addresses(sample_event)["event"])
    for what in ("shop/signals.py:12", "900 µs"):
        box = visitor.page.locator(f".receivers >> text={what}").first.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= 360


@every_alias
def test_a_state_is_never_broken_within_its_word(
    window: OpenWindow, sample_event: Event, add_delivery: AddDelivery
) -> None:
    add_delivery(
        state="discarded",
        trace_id=FIRST_TRACE_ID,
        span=sample_event.span,
        error="ValueError: " + "no such customer " * 20,
    )
    for width in (1280, 360):
        visitor = window(viewport={"width": width, "height": 740})
        visitor.open(f"/signalbox/event/{sample_event.id}/")
        heights = visitor.page.eval_on_selector_all(".status", "all => all.map(one => one.getClientRects().length)")
        assert {1} == set(heights)
        assert visitor.page.locator(".status >> text=discarded").bounding_box()["height"] < 30  # type: ignore[index]


def test_an_empty_value_is_marked(window: OpenWindow, add_event: AddEvent) -> None:
    event = add_event(errors=1, data={"changes": {"subtitle": ["", "Now"], "note": ["Then", ""], "blind": ["new"]}})
    visitor = window()
    visitor.open(f"/signalbox/event/{event.id}/")
    rows = [row.split("	") for row in visitor.page.locator(".diff tbody").inner_text().splitlines()]
    assert [["subtitle", "empty", "Now"], ["note", "Then", "empty"], ["blind", "unknown", "new"]] == rows
    outcome, flag = (visitor.page.locator(f".head {what}").bounding_box() for what in (".outcome", ".flag"))
    assert outcome is not None
    assert flag is not None
    assert 0 < flag["x"] - outcome["x"] - outcome["width"] < 30


def test_the_revert_page_shows_inline_diffs_of_long_texts(window: OpenWindow) -> None:
    visitor = window()
    note = "at the door of the workshop, and wait until the door is open."
    order = Order.objects.create(number="1889", note=f"Leave the parcel {note}")
    order.note = f"Ring the bell {note}"
    order.save()
    event = Event.objects.filter(sender="shop.Order", signal="post_save").latest("id")
    visitor.open(f"/signalbox/event/{event.id}/revert/")
    row = visitor.page.locator(".diff tr", has_text="note").locator(".inline-diff")
    assert "Ring" in row.locator("del").first.inner_text()
    assert "Leave" in row.locator("ins").first.inner_text()


def test_commits_and_rollbacks_are_marked_on_the_axis(window: OpenWindow, retried_trace: Trace) -> None:
    visitor = window()
    visitor.open(f"/signalbox/trace/{FIRST_TRACE_ID}/")
    assert ["savepoint rollback", "commit"] == visitor.page.locator(".waterfall-ends text").all_text_contents()
    texts = visitor.page.locator("[aria-label='Commits and rollbacks'] li").all_text_contents()
    assert "commit of 3 events on default at 38.0 ms" == texts[1]
    position = visitor.page.evaluate(
        """(() => {
            const box = (selector) => document.querySelector(selector).getBoundingClientRect();
            const axis = box('.waterfall-head .axis');
            return (box('.waterfall-ends line.end-committed').left - axis.left) / axis.width;
        })()"""
    )
    assert abs(38 / 45 - position) < 0.01
    assert 1 == visitor.page.locator(".waterfall-row .event-bar.hatched").count()


def test_receivers_are_rows_with_their_own_bars(window: OpenWindow, retried_trace: Trace) -> None:
    visitor = window()
    visitor.open(f"/signalbox/trace/{FIRST_TRACE_ID}/")
    names = visitor.page.locator(".waterfall-row.call .receiver").all_text_contents()
    assert ["send_invoice", "reserve_stock", "tell_warehouse"] == names
    lefts = visitor.page.evaluate(
        "[...document.querySelectorAll('.call .call-bar')].map(bar => bar.getBoundingClientRect().left)"
    )
    assert sorted(set(lefts)) == lefts
    raised = visitor.page.locator(".waterfall-row.call", has_text="tell_warehouse")
    assert "the warehouse did not answer" in raised.locator(".row-error").inner_text()
    raised.locator("a").focus()
    visitor.page.keyboard.press("k")
    visitor.page.keyboard.press("j")
    assert raised.locator(".tooltip").is_visible()


@every_alias
def test_deliveries_follow_with_attempts_and_a_gap(window: OpenWindow, retried_trace: Trace) -> None:
    visitor = window()
    visitor.open(f"/signalbox/trace/{FIRST_TRACE_ID}/")
    section = visitor.page.locator("section.deliveries-part")
    outcomes = section.locator(".attempt .tone").all_text_contents()
    assert ["failed, retried after 4.87 s", "lost", "succeeded", "timed out"] == outcomes
    assert "Nothing happened for 4 m 06 s" in section.locator("[aria-label=Gaps]").inner_text()
    assert 1 == section.locator(".attempt-bar.lost").count()
    assert ["Invoice"] == section.locator(".waterfall-row.committed .object").all_text_contents()
    section.locator(".waterfall-row.delivery a").first.click()
    visitor.page.wait_for_url("**/deliveries/*/")
    assert ["succeeded", "lost", "failed"] == visitor.page.locator("#attempts .tone").all_text_contents()


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_the_waterfall_is_accessible_at_any_width(window: OpenWindow, retried_trace: Trace, width: int) -> None:
    visitor = window(reduced_motion="reduce", viewport={"width": width, "height": 800})
    visitor.open(f"/signalbox/trace/{FIRST_TRACE_ID}/")
    assert 0 == visitor.get_overflow_pixels()
    for scheme in ("light", "dark"):
        visitor.page.emulate_media(color_scheme=scheme)
        assert [] == visitor.find_accessibility_violations()


def test_a_button_copies(window: OpenWindow, sample_event: Event) -> None:
    visitor = window(permissions=["clipboard-read", "clipboard-write"])
    visitor.open(f"/signalbox/event/{sample_event.id}/")
    visitor.page.click("[data-copy='shop/signals.py:12']")
    visitor.page.wait_for_selector(".copy.done")
    assert "shop/signals.py:12" == visitor.page.evaluate("navigator.clipboard.readText()")


EVIL = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>{{7*7}}</title></textarea>"


@every_alias
def test_stored_values_are_escaped(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, add_delivery: AddDelivery
) -> None:
    visitor = window()
    User.objects.filter(username="operator").update(username=EVIL)
    add_trace(
        trace_id=FIRST_TRACE_ID,
        name=EVIL,
        kind="<b>kind",
        status="<i>5",
        actor_label=EVIL,
        data={"path": EVIL, "view": EVIL, "client_address": EVIL, "send_counts": {EVIL: {EVIL: 1}}},
    )
    event = add_event(
        trace_id=FIRST_TRACE_ID,
        signal=EVIL,
        sender=EVIL,
        object_key=EVIL,
        object_label=EVIL,
        actor_key="<b>",
        actor_label=EVIL,
        database="<b>db",
        errors=1,
        data={
            "args": {EVIL: EVIL, "environ": {"user_agent": EVIL, "path": EVIL}, "exception": EVIL},
            "changes": {EVIL: [EVIL, EVIL * 2], "blank": [EVIL]},
            "row": {EVIL: EVIL, "list": [EVIL, {EVIL: EVIL}]},
            "labels": {EVIL: {EVIL: EVIL}},
            "receivers": [{"name": EVIL, "location": EVIL, "duration_us": 10, "error": EVIL}],
        },
    )
    add_event(signal=EVIL, sender=EVIL, object_key=EVIL, object_label=EVIL)
    facts = {"signal": EVIL, "sender": EVIL, "object_key": EVIL, "trace_id": event.trace_id, "span": event.span}
    evil = {"receiver": EVIL, "queue": "<b>q", "ordering_key": EVIL, "error": EVIL, "payload": {EVIL: EVIL}}
    delivery = add_delivery(**facts, **evil, state="dead")
    paths = [
        "/signalbox/",
        f"/signalbox/trace/{FIRST_TRACE_ID}/",
        f"/signalbox/event/{event.id}/",
        "/signalbox/object/?" + urlencode({"sender": EVIL, "key": EVIL}),
        "/signalbox/deliveries/",
        f"/signalbox/deliveries/{delivery.id}/",
        "/signalbox/deliveries/?" + urlencode({"receiver": EVIL}),
        "/signalbox/?" + urlencode({"q": EVIL}),
        "/signalbox/?" + urlencode(dict.fromkeys(["text", "signal", "sender", "actor"], EVIL)),
        "/signalbox/?" + urlencode(dict.fromkeys(["since", "object", "outcome", "group", "kind"], EVIL)),
    ]
    for path in paths:
        visitor.open(path)
        assert 0 == visitor.page.locator("img, main script:not([type='application/json'])").count(), path
        assert EVIL.split(">", maxsplit=1)[0] in visitor.page.content().replace("&lt;", "<"), path
    visitor.open("/signalbox/")
    visitor.page.click("[data-expand]")
    visitor.page.wait_for_selector(".leaf")
    visitor.page.focus("#q")
    visitor.page.keyboard.type("signal:<")
    visitor.page.wait_for_selector("#q-options li")
    assert EVIL.split(">", maxsplit=1)[0] in visitor.page.locator("#q-options li").first.inner_text()
    visitor.page.keyboard.press("Escape")
    visitor.page.wait_for_selector("#q-options", state="hidden")
    visitor.page.fill("#q", "")
    add_event(trace_id=SECOND_TRACE_ID, signal=EVIL, sender=EVIL, object_label=EVIL)
    visitor.page.wait_for_selector(f"#t-{SECOND_TRACE_ID}")
    visitor.page.wait_for_timeout(100)
    assert 0 == visitor.page.locator("img, main script").count()


@pytest.fixture
def evil_receiver() -> Iterator[None]:
    """A receiver of orders whose name is hostile."""

    def receiver(**given: object) -> None:
        pass

    receiver.__module__ = "shop"
    receiver.__qualname__ = EVIL
    post_save.connect(receiver, sender=Order, weak=False)
    yield
    post_save.disconnect(receiver, sender=Order)


@pytest.mark.usefixtures("evil_receiver")
def test_stored_values_are_escaped_on_the_map_and_the_revert_page(window: OpenWindow, add_event: AddEvent) -> None:
    visitor = window()
    runs = [{"name": f"shop.{EVIL}", "location": EVIL, "duration_us": 10, "error": EVIL}]
    changes = {"status": [EVIL, EVIL * 2], "note": ["a" * 80, EVIL], "number": [EVIL]}
    event = add_event(object_label=EVIL, actor_label=EVIL, errors=1, data={"receivers": runs, "changes": changes})
    for path in ("/signalbox/map/", f"/signalbox/event/{event.id}/revert/"):
        visitor.open(path)
        if "map" in path:
            visitor.page.wait_for_selector("svg.graph .node.receiver")
        assert 0 == visitor.page.locator("img, main script:not([type='application/json'])").count(), path
        assert EVIL.split(">", maxsplit=1)[0] in visitor.page.content().replace("&lt;", "<"), path
    visitor.open("/signalbox/map/?" + urlencode({"app": EVIL, "health": EVIL, "django": EVIL, EVIL: EVIL}))
    visitor.page.wait_for_selector("svg.graph .node.receiver")


def test_findings_are_escaped(window: OpenWindow, monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    found = Finding(
        id=EVIL,
        rule=EVIL,
        severity=Severity.ERROR,
        app=EVIL,
        path=EVIL,
        line=1,
        location=EVIL,
        signal=EVIL,
        receiver=EVIL,
        message=EVIL,
        reason=EVIL,
        hint=EVIL,
        excerpt=(SourceLine(number=1, text=EVIL, highlighted=True),),
    )
    monkeypatch.setattr("signalbox.doctor.examine", lambda: [found])
    settings.SIGNALBOX = {"DASHBOARD": {"SHOW_SOURCE": True}}
    visitor = window()
    visitor.open("/signalbox/doctor/")
    visitor.page.wait_for_selector(".finding")
    assert 0 == visitor.page.locator("img, main script").count()
    assert EVIL in visitor.page.locator(".finding .excerpt").inner_text()


def test_stored_values_are_escaped_in_the_admin(window: OpenWindow, add_event: AddEvent, add_trace: AddTrace) -> None:
    visitor = window()
    visitor.ignored_messages += ("Failed to load resource",)  # the admin has no icon of its own
    User.objects.filter(username="operator").update(username=EVIL)
    trace = add_trace(trace_id=FIRST_TRACE_ID, name=EVIL, status="<i>5", actor_label=EVIL, data={"path": EVIL})
    event = add_event(
        trace_id=FIRST_TRACE_ID,
        signal=EVIL,
        sender=EVIL,
        object_key=EVIL,
        object_label=EVIL,
        actor_label=EVIL,
        data={"args": {EVIL: EVIL}, "changes": {EVIL: [EVIL, EVIL]}},
    )
    for path in ("event/", f"event/{event.pk}/change/", "trace/", f"trace/{trace.pk}/change/"):
        visitor.open(f"/admin/signalbox/{path}")
        assert 0 == visitor.page.locator("img[src='x'], [onerror]").count(), path
        assert EVIL.split(">", maxsplit=1)[0] in visitor.page.content().replace("&lt;", "<"), path
