"""The rows of one trace are read by the index of its id, also if a database expects very many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from signalbox.models import Delivery, Event, Trace
from signalbox.queries import timeline, trace_deliveries, trace_tree
from signalbox.queries.trace_rows import select_trace_rows

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

TRACE_ID, OTHER_ID = "a" * 32, "b" * 32


def create_trace(trace_id: str) -> Trace:
    trace = Trace(trace_id=trace_id, kind="task", time=1, events=0, errors=0, rolled_back=0, data={})
    trace.save()
    return trace


def test_the_rows_of_a_trace_are_in_the_order_of_their_keys() -> None:
    first, _, last = create_trace(TRACE_ID), create_trace(OTHER_ID), create_trace(TRACE_ID)
    assert [first, last] == list(select_trace_rows(Trace.objects.all(), TRACE_ID))
    assert [last, first] == list(select_trace_rows(Trace.objects.all(), TRACE_ID, newest_first=True))


@pytest.mark.parametrize(
    ("read", "table"),
    [
        (timeline.get_trace_summary, Trace),
        (timeline.get_trace_name, Trace),
        (timeline.get_trace_events, Event),
        (trace_tree.get_trace_tree, Event),
        (trace_deliveries.get_trace_rows, Trace),
        (trace_deliveries.get_trace_deliveries, Delivery),
    ],
)
def test_a_limited_number_of_rows_is_ordered_by_the_columns_of_the_index(
    read: Callable[[str], object], table: type[Event | Trace | Delivery]
) -> None:
    with CaptureQueriesContext(connection) as queries:
        read(TRACE_ID)
    quote = connection.ops.quote_name
    limited = [one["sql"] for one in queries if "LIMIT" in one["sql"] and quote(table._meta.db_table) in one["sql"]]
    [statement] = [sql for sql in limited if f"{quote('time')}" not in sql.rpartition("ORDER BY")[2]]
    order = statement.rpartition("ORDER BY")[2]
    assert quote("trace_id") in order.partition(",")[0]
    assert "BETWEEN" in statement
