"""A search by ranges of ids covers the ids that exist."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from signalbox.models import Event
from signalbox.queries.filters import EventFilter
from signalbox.queries.window_search import WIDEST_WINDOW, EventSearch
from tests.rows import create_event

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]


def test_a_search_ends_at_the_oldest_event() -> None:
    Event.objects.all().delete()
    first_id = create_event().id + 50 * WIDEST_WINDOW
    Event.objects.all().delete()
    create_event(id=first_id, data={"receivers": [{"name": "shop.signals.send_invoice"}]})
    create_event(id=first_id + 5_000)
    with CaptureQueriesContext(connection) as queries:
        found = list(EventSearch(EventFilter.parse_text("receiver:send_invoice"), limit=10))
    assert [first_id] == [event.id for event in found]
    assert len(queries) < 10
