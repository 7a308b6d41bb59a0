"""The map as a browser draws it: marks, links and dead deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models.signals import post_save

from signalbox.dashboard.links import get_receiver_url
from tests.dashboard.browsing import AddDelivery, AddEvent, OpenWindow
from tests.shop.models import Order

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True, databases="__all__")]


def listen(sender: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def connected() -> Iterator[str]:
    post_save.connect(listen, sender=Order)
    yield f"{__name__}.listen"
    post_save.disconnect(listen, sender=Order)


def test_the_mark_of_a_receiver_that_raises_is_inside_its_node(
    window: OpenWindow, connected: str, add_event: AddEvent
) -> None:
    call = {"name": connected, "location": "x.py:1", "duration_us": 5, "error": "ValueError: no"}
    add_event(data={"receivers": [call]}, errors=1)
    visitor = window()
    visitor.open("/signalbox/map/")
    visitor.page.wait_for_selector(".node .h-failing", state="attached")
    boxes = visitor.page.eval_on_selector_all(
        ".node .dot",
        """marks => marks.map(mark => [mark, mark.closest('.node').querySelector('rect')].map(each => {
            const box = each.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom, box.width];
        }))""",
    )
    assert boxes
    for mark, node in boxes:
        assert mark[4] > 4
        assert node[0] <= mark[0], (mark, node)
        assert node[1] <= mark[1], (mark, node)
        assert mark[2] <= node[2], (mark, node)
        assert mark[3] <= node[3], (mark, node)


def test_nodes_link_to_the_pages_of_receivers_and_signals(window: OpenWindow, connected: str) -> None:
    visitor = window()
    visitor.open("/signalbox/map/")
    visitor.page.wait_for_selector(".node.receiver")
    links = visitor.page.eval_on_selector_all("a.node", "nodes => nodes.map(node => node.getAttribute('href'))")
    assert get_receiver_url(connected) in links
    assert "/signalbox/signal/?name=post_save" in links
    assert "/signalbox/?sender=shop.Order" in links
    visitor.page.click(f"a.node.receiver[href='{get_receiver_url(connected)}']")
    visitor.page.wait_for_url("**/receiver/?name=*")
    assert "listen" in visitor.page.locator("h1").inner_text()
    visitor.page.wait_for_selector("[aria-busy=true]", state="detached", timeout=60_000)


@pytest.mark.parametrize("width", [1280, 1024, 390])
def test_a_durable_receiver_with_dead_deliveries_has_a_mark_with_their_number(
    window: OpenWindow, durable_receiver: str, add_delivery: AddDelivery, width: int
) -> None:
    for _ in range(3):
        add_delivery(receiver=durable_receiver, state="dead")
    visitor = window(viewport={"width": width, "height": 800})
    visitor.open("/signalbox/map/")
    badge = visitor.page.locator(".dead-badge")
    assert "3 dead" == badge.locator("text").text_content()
    # On a phone the graph is wider than its frame, which scrolls.
    around = "[data-map]" if width > 1000 else "svg.graph"
    inside = visitor.page.eval_on_selector(
        ".dead-badge",
        """(badge, around) => {
            const [inner, outer] = [badge, badge.closest(around)].map(each => each.getBoundingClientRect());
            return inner.right <= outer.right && inner.bottom <= outer.bottom && inner.width > 40;
        }""",
        around,
    )
    assert inside
    badge.dispatch_event("click")
    visitor.page.wait_for_url(f"**/deliveries/?receiver={durable_receiver}&state=dead")
    assert 3 == visitor.page.locator("#queue tbody tr").count()
