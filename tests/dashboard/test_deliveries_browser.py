"""The list of deliveries and the bars of the pages in a browser."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission, User

from signalbox.models import Delivery, Event, Trace
from tests.dashboard.browsing import AddDelivery, AddEvent, BrowserWindow, OpenWindow

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True, databases="__all__"),
]


@pytest.fixture
def dead(add_delivery: AddDelivery) -> list[Delivery]:
    return [
        add_delivery(state="dead", next_check_at=None, error=f"ValueError: no customer {number}", finished=number)
        for number in range(3)
    ]


def open_deliveries(window: OpenWindow, path: str = "/signalbox/deliveries/?state=dead") -> BrowserWindow:
    visitor = window()
    visitor.open(path)
    return visitor


def wait_for_refresh(visitor: BrowserWindow) -> None:
    """Wait until the list was replaced by a poll."""
    visitor.page.evaluate("document.querySelector('#queue').dataset.old = '1'")
    visitor.page.wait_for_selector("#queue:not([data-old])", timeout=20_000)
    visitor.page.wait_for_selector("#queue.htmx-settling", state="detached")


def test_the_selection_and_the_focus_are_kept_when_the_list_is_refreshed(
    window: OpenWindow, dead: list[Delivery], add_delivery: AddDelivery
) -> None:
    visitor = open_deliveries(window)
    page = visitor.page
    page.check(f"#select-{dead[1].pk}")
    page.click("#workers summary")
    page.focus(f"#delivery-{dead[2].pk}")
    late = add_delivery(state="dead", next_check_at=None, error="ValueError: no customer 9", finished=9)
    wait_for_refresh(visitor)
    page.wait_for_selector(f"#select-{late.pk}")
    page.wait_for_selector(".htmx-settling", state="detached")
    assert f"delivery-{dead[2].pk}" == page.evaluate("document.activeElement.id")
    selected = page.eval_on_selector_all("[data-select-row]:checked", "boxes => boxes.map(box => box.value)")
    assert [str(dead[1].pk)] == selected
    assert "1 selected" == page.inner_text("[data-selected-count]")
    assert page.evaluate("document.querySelector('#workers').open")


def test_selected_deliveries_are_retried_after_a_confirmation(window: OpenWindow, dead: list[Delivery]) -> None:
    visitor = open_deliveries(window)
    page = visitor.page
    page.check("[data-select-all]")
    assert "3 selected" == page.inner_text("[data-selected-count]")
    page.uncheck(f"#select-{dead[0].pk}")
    assert "2 selected" == page.inner_text("[data-selected-count]")
    page.click("[data-bulk] button[value=retry]")
    page.wait_for_selector("h1:has-text('Retry 2 deliveries?')")
    assert [] == visitor.find_accessibility_violations()
    Delivery.objects.filter(pk=dead[1].pk).update(state="done")
    page.click("button:has-text('Retry 2')")
    assert "1 delivery is due again; 1 was already done." == page.inner_text("[data-result]")
    page.wait_for_function("!location.search.includes('result=')")
    states = dict(Delivery.objects.values_list("pk", "state"))
    assert ["dead", "done", "pending"] == [states[one.pk] for one in dead]


def test_a_filter_is_completed_and_part_of_the_address(
    window: OpenWindow, dead: list[Delivery], add_delivery: AddDelivery
) -> None:
    late = add_delivery(object_key="a, b: 50%", queue="mail")
    visitor = open_deliveries(window, "/signalbox/deliveries/")
    page = visitor.page
    page.focus("#q")
    page.keyboard.type("stat")
    page.wait_for_selector("#q-options:not([hidden])")
    assert ["state:"] == page.locator("#q-options .mono").all_inner_texts()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.type("dea")
    page.wait_for_selector("#q-options .mono:has-text('state:dead')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/deliveries/?q=state%3Adead*")
    page.wait_for_selector(f"#select-{dead[0].pk}")
    assert 0 == page.locator(f"#select-{late.pk}").count()
    assert [] == visitor.find_accessibility_violations()
    page.fill("#q", "stat:dead")
    page.wait_for_selector("#filter-error:has-text('Did you mean state:?')")
    assert 1 == page.locator(f"#select-{dead[0].pk}").count()
    page.fill("#q", 'object:"shop.Order:a, b: 50%" queue:mail')
    page.wait_for_selector(f"#select-{late.pk}")
    assert "" == page.inner_text("#filter-error")
    wait_for_refresh(visitor)
    assert 1 == page.locator("[data-line]").count()
    page.reload()
    assert 'object:"shop.Order:a, b: 50%" queue:mail' == page.input_value("#q")
    page.click(".chip:has-text('queue:')")
    page.wait_for_selector(f"#select-{late.pk}")
    assert 'object:"shop.Order:a, b: 50%"' == page.input_value("#q")
    page.click("#tab-dead")
    page.wait_for_selector("text=Nothing matches.")
    page.go_back()
    page.wait_for_selector(f"#select-{late.pk}")


def test_a_group_is_closed_and_opened_without_losing_the_focus(window: OpenWindow, dead: list[Delivery]) -> None:
    visitor = open_deliveries(window)
    page = visitor.page
    for is_open in ("false", "true"):
        page.focus(".toggle")
        page.keyboard.press("Enter")
        page.wait_for_selector(f".toggle[aria-expanded={is_open}]")
        assert page.evaluate("document.activeElement.matches('.toggle')")
    page.wait_for_url("**open=*")
    wait_for_refresh(visitor)
    assert 3 == page.locator("[data-line]").count()


def test_a_reconnecting_page_says_so_wherever_it_is_scrolled(window: OpenWindow, add_event: AddEvent) -> None:
    for _ in range(40):
        add_event()
    visitor = window(viewport={"width": 1024, "height": 400})
    visitor.ignore_request_errors()
    page = visitor.page
    for path, part in (("/signalbox/", "**/live/**"), ("/signalbox/health/", "**/health/**")):
        visitor.open(path)
        assert page.locator("[data-connection]").is_hidden()
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.route(part, lambda route: route.abort())
        page.wait_for_selector("[data-connection]:not([hidden])", timeout=30_000)
        assert page.inner_text("[data-connection-text]").startswith("Reconnecting…")
        box = page.locator("[data-connection]").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 100
        assert page.evaluate("scrollY") > 0
        page.unroute(part)
        page.wait_for_selector("[data-connection]", state="hidden", timeout=40_000)


def test_an_empty_timeline_has_the_checklist_until_it_is_done(window: OpenWindow) -> None:
    visitor = window()
    Event.objects.all().delete()
    Trace.objects.all().delete()
    visitor.open("/signalbox/")
    visitor.page.wait_for_selector(".checklist", timeout=60_000)
    assert "Old events are deleted" in visitor.page.inner_text(".checklist")
    assert [] == visitor.find_accessibility_violations()


@pytest.mark.parametrize("path", ["/signalbox/event/999999/", "/signalbox/"])
def test_an_error_page_is_accessible_in_both_schemes(window: OpenWindow, path: str) -> None:
    visitor = window()
    visitor.ignore_request_errors()
    if path == "/signalbox/":
        User.objects.update(is_superuser=False)
        Permission.objects.get(codename="view_event").user_set.clear()
    answer = visitor.page.goto(visitor.address + path)
    assert answer is not None
    assert answer.status in (403, 404)
    for scheme in ("light", "dark"):
        visitor.page.emulate_media(color_scheme=scheme)
        assert [] == visitor.find_accessibility_violations()
    visitor.page.set_viewport_size({"width": 360, "height": 740})
    assert 0 == visitor.get_overflow_pixels()


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_the_counts_fill_their_frame(window: OpenWindow, dead: list[Delivery], width: int) -> None:
    visitor = window(viewport={"width": width, "height": 800})
    visitor.open("/signalbox/deliveries/")
    missing = visitor.page.eval_on_selector(
        ".tiles", "tiles => tiles.getBoundingClientRect().right - tiles.lastElementChild.getBoundingClientRect().right"
    )
    assert missing < 2


def test_the_columns_of_all_groups_are_aligned(window: OpenWindow, add_delivery: AddDelivery) -> None:
    add_delivery(receiver="shop.signals.a", state="done", finished=1)
    add_delivery(receiver="shop.signals.write_a_letter_to_each_customer", state="dead", error="ValueError: no " * 9)
    visitor = window(viewport={"width": 1440, "height": 900})
    visitor.open("/signalbox/deliveries/")
    for index in range(2):
        toggle = visitor.page.locator(".toggle").nth(index)
        if toggle.get_attribute("aria-expanded") == "false":
            toggle.click()
            visitor.page.wait_for_function(
                "number => document.querySelectorAll('.group-rows').length > number", arg=index
            )
    rows = visitor.page.eval_on_selector_all(
        ".group-rows thead tr", "rows => rows.map(row => [...row.cells].map(cell => cell.getBoundingClientRect().x))"
    )
    assert 2 == len(rows)
    assert rows[0] == rows[1]
    for width in (1440, 1190, 1024):
        visitor.page.set_viewport_size({"width": width, "height": 900})
        cells = visitor.page.eval_on_selector_all(
            ".group-rows td:nth-child(3)", "cells => cells.map(cell => cell.getBoundingClientRect().width)"
        )
        assert (width, True) == (width, min(cells) > 120)
