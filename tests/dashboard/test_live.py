"""The live page in a browser: updates, pauses and lost connections."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from signalbox.models import Event
from tests.dashboard.browsing import FIRST_TRACE_ID, AddEvent, AddTrace, BrowserWindow, OpenWindow

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = [pytest.mark.browser, pytest.mark.slow]


SAVE = """
import os, sys, time, django
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup()
from signalbox import trace
from tests.shop.models import Order
for name in map(str.strip, sys.stdin):
    with trace(name):
        Order.objects.create(number=name)
    print(time.time(), flush=True)
"""


@contextmanager
def elsewhere() -> Iterator[Callable[[str], float]]:
    """Start another process. The returned function saves an order there and returns after the commit."""
    command = [sys.executable, "-W", "ignore", "-c", SAVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        names, times = process.stdin, process.stdout
        assert names is not None
        assert times is not None

        def save(name: str) -> float:
            print(name, file=names, flush=True)
            return float(times.readline())

        yield save


def saved_elsewhere(name: str) -> None:
    with elsewhere() as save:
        save(name)


def soonest(visitor: BrowserWindow) -> float:
    """Return the seconds from a commit in another process until the page shows it, the fewest of some attempts."""
    taken = [60.0]
    with elsewhere() as save:
        for number in range(10):
            if min(taken) < 2:
                break
            committed = save(f"night train {number}")
            visitor.page.wait_for_selector(f".line >> text=night train {number}")
            taken.append(time.time() - committed)
    return min(taken)


def test_events_of_another_process_appear_within_two_seconds(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    assert soonest(visitor) < 2
    assert "night train" in visitor.page.locator(".line .name").first.inner_text()


@pytest.mark.parametrize("site", ["asgi"], indirect=True)
def test_it_is_live_under_asgi_too(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    assert soonest(visitor) < 2


def test_a_paused_page_counts_new_traces_and_shows_them_on_resuming(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    before = visitor.page.locator(".line").count()
    visitor.page.keyboard.press("p")
    saved_elsewhere("milk train")
    visitor.page.wait_for_selector("[data-new-count]:visible")
    assert before == visitor.page.locator(".line").count()
    assert visitor.page.locator("[data-new-count]").inner_text().endswith(" new")
    visitor.page.click("[data-new-count]")
    visitor.page.wait_for_selector(".line >> text=milk train")
    assert "false" == visitor.page.get_attribute("[data-pause]", "aria-pressed")
    assert visitor.page.locator("[data-new-count]").is_hidden()


def test_an_open_line_stays_open_when_its_trace_continues(
    window: OpenWindow, sample_event: Event, add_event: AddEvent
) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    line = visitor.page.locator(f"#t-{FIRST_TRACE_ID}")
    line.locator("[data-expand]").click()
    line.locator(".leaf").nth(2).wait_for()
    add_event(trace_id=FIRST_TRACE_ID, sender="shop.Tag", object_label="late")
    line.locator(".leaf >> text=late").wait_for()
    assert 1 == visitor.page.locator(f"#t-{FIRST_TRACE_ID}").count()
    assert "true" == line.locator("[data-expand]").get_attribute("aria-expanded")


HEIGHTS = """(line) => {
  window.heights = [];
  const look = () => { heights.push(line.offsetHeight); requestAnimationFrame(look); };
  look();
}"""


def test_an_open_line_neither_moves_nor_loses_focus_when_its_trace_continues(
    window: OpenWindow, sample_event: Event, add_event: AddEvent
) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    line = visitor.page.locator(f"#t-{FIRST_TRACE_ID}")
    line.locator("[data-expand]").click()
    line.locator(".leaf-link").nth(1).focus()
    focused = visitor.page.evaluate("document.activeElement.href")
    line.evaluate(HEIGHTS)
    add_event(trace_id=FIRST_TRACE_ID, sender="shop.Tag", object_label="late")
    line.locator(".leaf >> text=late").wait_for()
    assert focused == visitor.page.evaluate("document.activeElement.href")
    heights = visitor.page.evaluate("heights")
    assert heights == sorted(heights)


def test_a_continued_trace_of_an_older_page_keeps_its_place(window: OpenWindow, add_event: AddEvent) -> None:
    visitor = window()
    oldest, *_ = [add_event(object_label=f"Order {number}") for number in range(45)]
    visitor.open("/signalbox/")
    visitor.page.click("text=Older traces")
    visitor.page.wait_for_selector("text=The beginning of the register")
    line = visitor.page.locator(f"[id='t-{oldest.trace_id}']")
    add_event(trace_id=oldest.trace_id, object_label="late")
    line.locator(".events >> text=2 event").wait_for()
    assert (1, 45) == (line.count(), visitor.page.locator(".line").count())


def label(visitor: BrowserWindow) -> str:
    return visitor.page.locator("[data-pause-label]").inner_text()


def test_a_page_reconnects_when_the_server_is_available_again(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.ignore_request_errors()
    visitor.open("/signalbox/")
    assert "Live" == label(visitor)
    asked: list[float] = []

    def fail(route: Route) -> None:
        asked.append(time.monotonic())
        if len(asked) == 1:
            route.abort()
        else:
            route.fulfill(status=502, body="away")

    visitor.page.route("**/live/**", fail)
    visitor.page.wait_for_selector("[data-pause-label]:text-is('Reconnecting…')")
    deadline = time.monotonic() + 60
    while len(asked) < 3:
        visitor.page.wait_for_timeout(100)
        assert time.monotonic() < deadline
    assert asked[1] - asked[0] >= 1.9
    assert asked[2] - asked[1] >= 3.9
    visitor.page.unroute("**/live/**")
    visitor.page.evaluate("dispatchEvent(new Event('online'))")
    visitor.page.wait_for_selector("[data-pause-label]:text-is('Live')")
    saved_elsewhere("relief train")
    visitor.page.wait_for_selector(".line >> text=relief train")


@pytest.mark.parametrize("paused", [False, True], ids=["live", "paused"])
def test_a_page_whose_session_ended_stops_and_leads_to_the_login(
    window: OpenWindow, sample_event: Event, paused: bool
) -> None:
    visitor = window()
    visitor.ignore_request_errors()
    visitor.open("/signalbox/?q=group:model")
    cookies = visitor.page.context.cookies()
    if paused:
        visitor.page.keyboard.press("p")
    visitor.page.context.clear_cookies()
    link = visitor.page.locator("[data-logged-out]")
    link.wait_for()
    assert "Logged out · log in" == link.inner_text()
    assert visitor.page.locator("[data-pause]").is_hidden()
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    visitor.page.wait_for_timeout(2500)
    assert [] == asked
    visitor.page.context.add_cookies(cookies)  # type: ignore[arg-type]
    visitor.page.evaluate("dispatchEvent(new Event('focus'))")
    link.wait_for(state="hidden")
    assert ("Paused" if paused else "Live") == label(visitor)
    visitor.page.context.clear_cookies()
    link.wait_for()
    link.click()
    visitor.page.wait_for_url("**/admin/login/?next=/signalbox/%3Fq%3Dgroup%3Amodel")


def test_polling_stops_on_a_redirect_to_a_login(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    visitor.page.route(
        "**/live/**", lambda route: route.fulfill(status=302, headers={"Location": f"{visitor.address}/admin/login/"})
    )
    visitor.page.locator("[data-logged-out]").wait_for()
    assert 2 == visitor.page.locator(".line").count()


def test_a_page_that_is_far_behind_reloads_the_list_and_keeps_rows_expanded(
    window: OpenWindow, sample_event: Event
) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    visitor.page.click(f"[id='t-{FIRST_TRACE_ID}'] [data-expand]")
    visitor.page.locator(".leaf").first.wait_for()
    visitor.page.evaluate("document.querySelector('#results').dataset.old = 'yes'")
    behind = {"HX-Trigger": "signalbox:reload"}
    visitor.page.route("**/live/**", lambda route: route.fulfill(status=204, headers=behind), times=1)
    visitor.page.wait_for_selector("#results:not([data-old])")
    visitor.page.locator(".leaf").first.wait_for()
    assert 2 == visitor.page.locator(".line").count()


HIDE = "Object.defineProperty(document, 'hidden', { configurable: true, get: () => %s });"
COME_BACK = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.mark.parametrize("away", ["hidden", "paused"])
def test_a_page_that_was_hidden_for_long_shows_the_newest_traces_and_their_number(
    window: OpenWindow, sample_event: Event, add_event: AddEvent, away: str
) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    if away == "paused":
        visitor.page.keyboard.press("p")
    else:
        visitor.page.evaluate(HIDE % "true")
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    newest = [add_event() for _ in range(130)][-1]
    visitor.page.wait_for_timeout(2500)
    if away == "paused":
        visitor.page.wait_for_selector("[data-new-count]:text-is('100+ new')")
        assert 2 == visitor.page.locator(".line").count()
        visitor.page.click("[data-new-count]")
    else:
        assert [] == asked
        visitor.page.evaluate(HIDE % "false" + COME_BACK)
    visitor.page.wait_for_selector(f"[id='t-{newest.trace_id}']")
    assert 40 == visitor.page.locator(".line").count()
    assert f"t-{newest.trace_id}" == visitor.page.locator(".line").first.get_attribute("id")
    assert "Live" == label(visitor)


def test_a_paused_page_requests_a_number_until_it_has_reached_its_maximum(
    window: OpenWindow, sample_event: Event
) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        more = len(asked) > 1
        route.fulfill(json={"trace_count": 240 if more else 12, "has_more": more})

    visitor.page.keyboard.press("p")
    visitor.page.wait_for_load_state("networkidle")
    visitor.page.route("**/live/**", answer)
    visitor.page.wait_for_selector("[data-new-count]:text-is('12 new')")
    visitor.page.wait_for_selector("[data-new-count]:text-is('240+ new')")
    visitor.page.wait_for_timeout(2500)
    assert ["count=1", "count=1"] == [address.rpartition("&")[2] for address in asked]
    visitor.page.evaluate("document.querySelector('#results').dataset.old = 'yes'")
    visitor.page.click("[data-new-count]")
    visitor.page.wait_for_selector("#results:not([data-old])")
    assert visitor.page.locator("[data-new-count]").is_hidden()


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("-status:5xx", {"status": "503"}),
        ("-kind:command model:shop.Order", {"kind": "command"}),
    ],
)
def test_a_trace_that_no_longer_matches_at_its_end_disappears(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace, text: str, ended: dict[str, str]
) -> None:
    add_trace(trace_id=add_event().trace_id)
    visitor = window()
    visitor.open(f"/signalbox/?{urlencode({'q': text})}")
    kept, gone = add_event(), add_event()
    for event in (kept, gone):
        visitor.page.wait_for_selector(f"#t-{event.trace_id}")
    add_trace(trace_id=kept.trace_id, name="GET /kept/")
    add_trace(trace_id=gone.trace_id, **ended)
    visitor.page.wait_for_selector(f"#t-{gone.trace_id}", state="detached")
    visitor.page.wait_for_selector(f"#t-{kept.trace_id}:has-text('/kept/')")
    assert 0 == visitor.page.locator("[data-removed]").count()
