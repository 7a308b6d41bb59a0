"""The size of links and buttons on a phone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from signalbox.models import Error, Event
from tests.dashboard.browsing import OpenWindow
from tests.dashboard.test_browser import addresses

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True, databases="__all__")]

MIN_PIXELS = 44

# Links within a sentence are exempt, as in WCAG 2.5.5. A label enlarges its checkbox, and the field's frame the field.
FIND_SMALL = """minimum => {
  const exempt = '.skip, .visually-hidden, p.note, p.dim, p.sentence, p.error, .empty p, dialog:not([open])';
  const getTarget = each => ['checkbox', 'search'].includes(each.type) ? each.closest('label, .search') : each;
  return [...document.querySelectorAll('a, button, summary, select, input, [role=button]')]
    .filter(each => each.type !== 'hidden' && each.checkVisibility({ visibilityProperty: true }))
    .filter(each => !each.closest(exempt))
    .map(each => [each, getTarget(each).getBoundingClientRect()])
    .filter(([, box]) => Math.min(box.width, box.height) < minimum - 0.5)
    .map(([each, box]) => `${each.outerHTML.slice(0, 160)}: ${box.width.toFixed(1)} x ${box.height.toFixed(1)}`);
}"""


@pytest.mark.parametrize(
    "name",
    [
        *("timeline", "trace", "event", "revert", "object", "map", "receiver", "signal", "not found", "doctor"),
        *("deliveries", "delivery", "status", "errors", "error"),
    ],
)
def test_links_and_buttons_have_at_least_44_pixels_on_a_phone(
    window: OpenWindow, sample_event: Event, add_error: Callable[..., Error], name: str
) -> None:
    error = add_error()
    visitor = window(viewport={"width": 390, "height": 844}, has_touch=True)
    visitor.ignore_request_errors()
    paths = addresses(sample_event) | {
        "errors": "/signalbox/errors/",
        "error": f"/signalbox/errors/{error.fingerprint}/",
    }
    visitor.page.goto(visitor.address + paths[name])
    visitor.page.wait_for_selector("[aria-busy=true]", state="detached", timeout=60_000)
    if name == "status":
        visitor.page.wait_for_selector(".checklist a")
    if name == "timeline":
        visitor.page.click("[data-export] summary")
        assert [] == visitor.page.evaluate(FIND_SMALL, MIN_PIXELS)
        visitor.page.keyboard.press("Escape")
        visitor.page.click("[data-expand]")
        visitor.page.wait_for_selector(".leaf")
    elif name == "deliveries":
        visitor.page.click("text=Replay past events")
    assert [] == visitor.page.evaluate(FIND_SMALL, MIN_PIXELS)
    assert 0 == visitor.get_overflow_pixels()
