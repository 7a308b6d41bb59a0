"""The field of the filter in a browser: suggestions, keyboard, address, errors, and no scripts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from signalbox.models import Event
from tests.dashboard.browsing import AddEvent, AddTrace, OpenWindow

if TYPE_CHECKING:
    from tests.dashboard.browsing import BrowserWindow

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def get_lines(visitor: BrowserWindow) -> list[str]:
    return visitor.page.locator(".line .name").all_inner_texts()


def get_options(visitor: BrowserWindow) -> list[str]:
    visitor.page.wait_for_selector("#q-options:not([hidden])")
    return visitor.page.locator("#q-options .mono").all_inner_texts()


def test_the_filter_is_in_the_url_and_survives_reload_and_sharing(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    assert {"POST /orders/7/", "import_prices"} <= set(get_lines(visitor))
    visitor.page.fill("#q", "outcome:rolled_back")
    visitor.page.wait_for_url("**/signalbox/?q=outcome%3Arolled_back")
    visitor.page.wait_for_selector(".chip")
    assert ["import_prices"] == get_lines(visitor)
    visitor.page.reload()
    assert ["import_prices"] == get_lines(visitor)
    assert "outcome:rolled_back" == visitor.page.input_value("#q")
    other = window()
    other.open(visitor.page.url.removeprefix(visitor.address))
    assert ["import_prices"] == get_lines(other)
    other.page.click(".chip.clear")
    other.page.wait_for_url("**/signalbox/")
    assert {"POST /orders/7/", "import_prices"} <= set(get_lines(other))


def test_names_and_values_are_completed_with_the_keyboard(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/")
    page = visitor.page
    page.keyboard.press("/")
    page.keyboard.type("outc")
    assert ["outcome:"] == get_options(visitor)
    field = page.locator("#q")
    assert ("combobox", "true") == (field.get_attribute("role"), field.get_attribute("aria-expanded"))
    page.keyboard.press("ArrowDown")
    active = field.get_attribute("aria-activedescendant")
    assert "outcome:" in page.locator(f"#{active}[aria-selected=true]").inner_text()
    page.keyboard.press("Enter")
    assert ["outcome:committed", "outcome:rolled_back", "outcome:failed", "outcome:sent"] == get_options(visitor)
    page.keyboard.type("roll")
    assert ["outcome:rolled_back"] == get_options(visitor)
    assert [] == visitor.find_accessibility_violations()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    assert "outcome:rolled_back " == page.input_value("#q")
    page.wait_for_url("**/signalbox/?q=outcome%3Arolled_back*")
    page.wait_for_selector(".chip")
    assert ["import_prices"] == get_lines(visitor)
    page.keyboard.type("-mo")
    assert ["-model:"] == get_options(visitor)
    page.keyboard.press("Escape")
    page.wait_for_selector("#q-options", state="hidden")
    assert "q" == page.evaluate("document.activeElement.id")
    assert [] == visitor.errors


def test_a_click_chooses_a_suggestion_within_the_text(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/?q=" + quote("object: signal:post_save"))
    visitor.page.evaluate("document.getElementById('q').focus(); document.getElementById('q').setSelectionRange(7, 7)")
    visitor.page.keyboard.type("7")
    assert "object:shop.Order:7" in get_options(visitor)
    visitor.page.click("#q-options >> text=object:shop.Order:7")
    assert "object:shop.Order:7 signal:post_save" == visitor.page.input_value("#q")
    visitor.page.wait_for_selector(".chip >> text=object:")


def test_an_error_is_shown_at_the_field_and_the_list_stays(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/?q=outcome:rolled_back")
    visitor.page.fill("#q", "outcome:rolled_back signl:x")
    error = visitor.page.wait_for_selector("#filter-error:not(:empty)")
    assert error is not None
    assert "At character 21: 'signl' is not a token." in error.inner_text()
    assert "Did you mean signal:?" in error.inner_text()
    assert ["import_prices"] == get_lines(visitor)
    assert visitor.page.url.endswith("?q=outcome:rolled_back")
    assert "true" == visitor.page.get_attribute("#q", "aria-invalid")
    assert [] == visitor.find_accessibility_violations()
    visitor.page.fill("#q", "outcome:committed")
    visitor.page.wait_for_selector("#filter-error:empty", state="attached")
    visitor.page.wait_for_selector(".chip >> text=committed")
    assert ["POST /orders/7/"] == get_lines(visitor)
    assert visitor.page.get_attribute("#q", "aria-invalid") is None
    assert [] == visitor.errors


def test_the_field_works_without_scripts(window: OpenWindow, sample_event: Event) -> None:
    visitor = window(java_script_enabled=False)
    visitor.open("/signalbox/")
    visitor.page.fill("#q", "outcome:rolled_back")
    visitor.page.check("[type=checkbox]")
    visitor.page.click("text=Search >> visible=true")
    visitor.page.wait_for_url("**/signalbox/?q=outcome%3Arolled_back&system=1")
    assert ["import_prices"] == get_lines(visitor)
    visitor.open("/signalbox/?q=signl:x")
    text = visitor.page.locator("[role=alert]").inner_text()
    assert "'signl' is not a token" in text
    assert "The list is not filtered." in text
    assert {"POST /orders/7/", "import_prices"} <= set(get_lines(visitor))


def test_links_and_breadcrumbs_keep_the_filter(window: OpenWindow, sample_event: Event) -> None:
    visitor = window()
    visitor.open("/signalbox/?q=outcome:committed&system=1")
    page = visitor.page
    page.click(".trace-link")
    page.wait_for_url("**/trace/*/?q=outcome%3Acommitted&system=1")
    page.click(".waterfall-link >> nth=0")
    page.wait_for_url("**/event/*/?q=outcome%3Acommitted&system=1")
    page.click(".crumbs a >> nth=1")
    page.wait_for_url("**/trace/*/?q=outcome%3Acommitted&system=1")
    page.click(".crumbs a >> text=Timeline")
    page.wait_for_url("**/signalbox/?q=outcome%3Acommitted&system=1")
    assert ["POST /orders/7/"] == get_lines(visitor)
    assert page.is_checked("[type=checkbox]")


def test_the_first_screen_leaves_out_the_system(window: OpenWindow, add_event: AddEvent, add_trace: AddTrace) -> None:
    Event.objects.all().delete()
    for kind in ("process", "test", "request", "custom"):
        trace_id = add_trace(kind=kind, name=f"a {kind}").trace_id
        add_event(trace_id=trace_id, time=int(time.time() * 1_000_000), is_system=kind in ("process", "test"))
    visitor = window()
    visitor.open("/signalbox/")
    assert ["a custom", "a request"] == get_lines(visitor)
    visitor.page.check("[type=checkbox]")
    visitor.page.wait_for_url("**/signalbox/?system=1")
    visitor.page.wait_for_selector(".line >> text=a process")
    assert ["a custom", "a request", "a test", "a process"] == get_lines(visitor)
    visitor.page.uncheck("[type=checkbox]")
    visitor.page.wait_for_url("**/signalbox/")
    visitor.page.fill("#q", "kind:process")
    visitor.page.wait_for_selector(".chip")
    assert ["a process"] == get_lines(visitor)
