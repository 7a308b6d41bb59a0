from __future__ import annotations

import pytest
from django.db import connection

from signalbox.models import Delivery, Event, Trace
from signalbox.queries.filters import EventFilter
from tests.rows import create_event

CHECKS_JSON_SQL = {
    "sqlite": "SELECT sql LIKE '%%JSON_VALID%%' FROM sqlite_master WHERE name = %s",
    "postgresql": "SELECT data_type = 'jsonb' FROM information_schema.columns "
    "WHERE table_name = %s AND column_name IN ('data', 'payload')",
    "mysql": "SELECT count(*) > 0 FROM information_schema.check_constraints "
    "WHERE constraint_schema = database() AND table_name = %s AND check_clause LIKE '%%json_valid%%'",
}


@pytest.mark.every_database
@pytest.mark.django_db
@pytest.mark.parametrize("model", [Event, Trace, Delivery])
def test_json_of_the_encoder_is_not_checked_again_on_sqlite(model: type[Event | Trace | Delivery]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(CHECKS_JSON_SQL[connection.vendor], [model._meta.db_table])
        assert (connection.vendor != "sqlite",) == tuple(map(bool, cursor.fetchone()))


@pytest.mark.every_database
@pytest.mark.django_db
def test_a_text_beyond_ascii_is_found_in_a_row_that_was_changed() -> None:
    event = create_event(data={"note": "x"})
    Event.objects.filter(pk=event.pk).update(data={"note": "Zürich 🚆"})
    for text in ("Zürich", "🚆"):
        assert [event] == list(EventFilter.parse_text(text).apply(Event.objects.filter(pk=event.pk)))
