"""The histogram of the timeline selects a range of time, a group and the errors."""

from __future__ import annotations

import re
import time
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from signalbox.core.tracing import generate_trace_id
from signalbox.queries.filters import EventFilter
from tests.dashboard.browsing import AddEvent, BrowserWindow, OpenWindow

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def chart(window: OpenWindow, add_event: AddEvent) -> BrowserWindow:
    """A timeline with one event each 30 seconds, of two groups, one of them with an error."""
    now = time.time_ns() // 1_000
    for number in range(18):
        add_event(
            trace_id=generate_trace_id(),
            time=now - (number + 1) * 30_000_000,
            signal="user_logged_in" if number % 3 == 0 else "post_save",
            errors=int(number == 5),
        )
    visitor = window(has_touch=True)
    visitor.open("/signalbox/")
    visitor.page.wait_for_selector("[data-histogram] canvas")
    return visitor


def get_params(visitor: BrowserWindow) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlparse(visitor.page.url).query).items()}


def get_box(visitor: BrowserWindow, selector: str) -> Any:
    return visitor.page.locator(selector).bounding_box()


def get_band(visitor: BrowserWindow) -> tuple[float, float]:
    """Return the start and the width of the selected range, as parts of the chart, which is drawn again at times."""
    for _ in range(40):
        visitor.page.wait_for_selector(".plot .selection", state="attached")
        found = visitor.page.evaluate(
            """() => {
                const all = ['.plot .selection', '.plot .u-over'].map(each => document.querySelector(each));
                if (all.includes(null)) return null;
                const [band, plot] = all.map(each => each.getBoundingClientRect());
                return band.width ? [(band.x - plot.x) / plot.width, band.width / plot.width] : null;
            }"""
        )
        if found:
            return found[0], found[1]
    raise AssertionError("No range is selected.")


def wait_for_lines(visitor: BrowserWindow, number: int) -> None:
    """Wait until the list has this number of lines of the test's events."""
    from playwright.sync_api import expect

    expect(visitor.page.locator(".line .actor:has-text('ada')")).to_have_count(number)


def drag(visitor: BrowserWindow, start: float, end: float) -> None:
    box = get_box(visitor, ".plot .u-over")
    y = box["y"] + box["height"] / 2
    visitor.page.mouse.move(box["x"] + box["width"] * start, y)
    visitor.page.mouse.down()
    visitor.page.mouse.move(box["x"] + box["width"] * end, y, steps=4)
    visitor.page.mouse.up()


def test_dragging_sets_the_filter_of_time_and_back_removes_it(chart: BrowserWindow) -> None:
    wait_for_lines(chart, 18)
    drag(chart, 0.25, 0.5)
    chart.page.wait_for_url(re.compile("since%3A.*until%3A"))
    chart.page.wait_for_selector(".chip")
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
    assert re.fullmatch(f"since:{moment} until:{moment}", get_params(chart)["q"])
    assert get_params(chart)["q"] == chart.page.input_value("#q")
    assert 3 <= chart.page.locator(".line").count() <= 7
    start, width = get_band(chart)
    assert 0.2 < start < 0.3
    assert 0.2 < width < 0.3
    # The chart keeps the events outside of the range.
    assert "events in the last 10 minutes: model, auth" in (
        chart.page.get_attribute("[data-histogram]", "aria-label") or ""
    )
    chart.page.go_back()
    chart.page.wait_for_url("**/signalbox/")
    wait_for_lines(chart, 18)
    assert 0 == chart.page.locator(".plot .selection").count()


def test_a_range_in_the_hour_that_occurs_twice_is_exact(chart: BrowserWindow) -> None:
    answer = chart.page.request.get(f"{chart.address}/signalbox/histogram/").json()
    now = answer["now"] // 5 * 5
    answer |= {"now": now, "utc_offsets": [[now - 3_600, 7_200], [now - 300, -12_600]]}
    chart.page.route("**/histogram/**", lambda route: route.fulfill(json=answer))
    chart.open("/signalbox/")
    chart.page.wait_for_selector("[data-histogram] canvas")
    drag(chart, 0.25, 0.75)
    chart.page.wait_for_url(re.compile("since%3A.*until%3A"))
    since, until = get_params(chart)["q"].split()
    assert (True, True) == (since.endswith("+02:00"), until.endswith("-03:30"))
    found = EventFilter.parse_text(get_params(chart)["q"])
    assert found.since is not None
    assert found.until is not None
    assert abs(found.since.timestamp() - (now - 450)) <= 10
    assert abs(found.until.timestamp() - (now - 150)) <= 10


def test_a_drag_to_the_left_and_beyond_the_edge_selects_too(chart: BrowserWindow) -> None:
    drag(chart, 0.3, -0.5)
    chart.page.wait_for_url(re.compile("since%3A.*until%3A"))
    start, width = get_band(chart)
    assert -0.05 < start < 0.01  # the axis may have moved since
    assert 0.25 < width < 0.35


def test_a_click_on_the_chart_selects_nothing(chart: BrowserWindow) -> None:
    chart.page.click(".plot .u-over")
    assert {} == get_params(chart)


def test_the_range_is_selected_by_keyboard(chart: BrowserWindow) -> None:
    chart.page.focus("[data-histogram]")
    chart.page.keyboard.press("ArrowLeft")
    chart.page.keyboard.press("ArrowLeft")
    chart.page.keyboard.press("Shift+ArrowRight")
    chart.page.wait_for_selector(".plot .selection")
    assert re.fullmatch(r"\d\d:\d\d:\d\d . \d\d:\d\d:\d\d", chart.page.locator("[data-announcement]").inner_text())
    assert {} == get_params(chart)
    chart.page.keyboard.press("Enter")
    chart.page.wait_for_url(re.compile("since%3A.*until%3A"))
    chart.page.wait_for_selector(".chip")
    chart.page.focus("[data-histogram]")
    chart.page.keyboard.press("Escape")
    chart.page.wait_for_url("**/signalbox/")
    chart.page.wait_for_selector(".plot .selection", state="detached")


def test_the_range_is_selected_by_touch(chart: BrowserWindow) -> None:
    box = get_box(chart, ".plot .u-over")
    y = box["y"] + box["height"] / 2
    session = chart.page.context.new_cdp_session(chart.page)

    def touch(kind: str, *points: float) -> None:
        where = [{"x": box["x"] + box["width"] * point, "y": y} for point in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": where})

    touch("touchStart", 0.4)
    for point in (0.45, 0.5, 0.6, 0.7):
        touch("touchMove", point)
    touch("touchEnd")
    chart.page.wait_for_url(re.compile("since%3A.*until%3A"))
    _start, width = get_band(chart)
    assert 0.25 < width < 0.36


def test_the_legend_filters_by_group_and_by_errors(chart: BrowserWindow) -> None:
    assert {"model", "auth", "errors"} <= set(chart.page.locator(".legend-button").all_inner_texts())
    chart.page.click(".legend-button:has-text('auth')")
    chart.page.wait_for_url("**/signalbox/?q=group%3Aauth")
    wait_for_lines(chart, 6)
    chart.page.wait_for_selector(".legend-button[aria-pressed=true]:has-text('auth')")
    chart.page.go_back()
    chart.page.wait_for_url("**/signalbox/")
    chart.page.wait_for_selector(".legend-button:has-text('errors')")
    chart.page.focus(".legend-button:has-text('errors')")
    chart.page.keyboard.press("Enter")
    chart.page.wait_for_url("**/signalbox/?q=error%3A*")
    wait_for_lines(chart, 1)
    chart.page.wait_for_selector(".legend-button[aria-pressed=true]:has-text('errors')")
    chart.page.click(".legend-button:has-text('errors')")
    chart.page.wait_for_url("**/signalbox/")


def test_a_range_in_the_url_is_shown_after_a_reload(chart: BrowserWindow) -> None:
    chart.open("/signalbox/?q=since:5m+until:2m")
    chart.page.wait_for_selector(".plot .selection")
    _start, width = get_band(chart)
    assert 0.27 < width < 0.33
