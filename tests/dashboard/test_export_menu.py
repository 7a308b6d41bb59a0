from __future__ import annotations

import csv
import re

import pytest

from tests.dashboard.browsing import AddEvent, AddTrace, OpenWindow

pytestmark = pytest.mark.browser


@pytest.mark.django_db(transaction=True)
def test_the_button_exports_the_filter_that_is_shown(
    window: OpenWindow, add_event: AddEvent, add_trace: AddTrace
) -> None:
    for sender in ("shop.Order", "shop.Tag"):
        add_event(sender=sender, trace_id=add_trace().trace_id)
    visitor = window()
    page = visitor.page
    page.goto(f"{visitor.address}/signalbox/")
    page.fill("#q", "shop.Tag")
    page.wait_for_selector("text=Events that match the filter", state="attached")
    page.focus("[data-export] > summary")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert "CSV" == page.evaluate("document.activeElement.textContent")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert re.fullmatch(r"signalbox-\d{4}-\d\d-\d\d\.csv", download.value.suggested_filename)
    with open(download.value.path(), newline="") as file:
        assert ["shop.Tag"] == [row["sender"] for row in csv.DictReader(file)]
