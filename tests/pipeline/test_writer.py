"""The writer of events and traces, on each database's own driver."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.test.utils import CaptureQueriesContext

from signalbox.core import tracing
from signalbox.core.event import Actor, Outcome, PendingEvent
from signalbox.models import Event, Trace
from signalbox.pipeline import batches, serializer, writer
from tests.connecting import get_connection

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]


TEXT = "Grüße, 你好 🚂 \"quoted\" 'single' back\\slash %s {} ; -- \n\t"


@pytest.fixture(autouse=True)
def empty() -> None:
    Event.objects.all().delete()


def build_event(label: str = "", **changed: Any) -> PendingEvent:
    event = PendingEvent(tracing.now(), tracing.get_current_trace(), None, "tests.stored", "shop.Tag", "default")
    event.label = label
    event.outcome = Outcome.SENT
    for name, value in changed.items():
        setattr(event, name, value)
    return event


def write(*events: PendingEvent) -> None:
    writer.write(get_connection(), batches.Batch(events=serializer.build_event_rows(events, Outcome.COMMITTED)))


def stored() -> list[str]:
    return [event.object_label for event in Event.objects.filter(signal="tests.stored").order_by("id")]


def test_every_column_comes_back_as_it_was() -> None:
    one = build_event(
        TEXT[:200],
        parent=-(2**62),
        key=TEXT[:200],
        actor=Actor(key="7", label=TEXT[:150]),
        duration=1_234_567,
        errors=2,
        args={"text": TEXT, "number": 2**53, "list": [1, None, True, {"deep": "🚂"}]},
    )
    write(one)
    event = Event.objects.get(signal="tests.stored")
    assert (one.time // 1000, one.trace.id, one.span, one.parent) == (
        event.time,
        event.trace_id,
        event.span,
        event.parent,
    )
    assert (one.label, one.key, "shop.Tag", "default") == (
        event.object_label,
        event.object_key,
        event.sender,
        event.database,
    )
    assert ("7", TEXT[:150], "sent", 1234, 2) == (
        event.actor_key,
        event.actor_label,
        event.outcome,
        event.duration,
        event.errors,
    )
    assert {"args": one.args} == event.data


@pytest.mark.parametrize("number", [1, 2, 499, 500, 501, 1200])
def test_any_number_of_events_keep_their_order(number: int) -> None:
    write(*(build_event(str(n)) for n in range(number)))
    assert [str(n) for n in range(number)] == stored()


def test_events_and_traces_are_written_together() -> None:
    trace = tracing.Trace("custom", TEXT)
    trace.duration = 5_000
    trace.data = {"view": TEXT}
    trace.status = "ok"
    batch = batches.Batch(
        events=serializer.build_event_rows([build_event("a")], Outcome.COMMITTED),
        traces=[serializer.build_trace_row(trace)],
    )
    writer.write(get_connection(), batch)
    row = Trace.objects.get(trace_id=trace.id)
    assert (TEXT, "ok", 5, {"view": TEXT}) == (row.name, row.status, row.duration, row.data)
    assert ["a"] == stored()


def refused() -> tuple[Any, ...]:
    """Return the row of an event that no database takes: it has no time."""
    return (None, *serializer.build_event_row(build_event("refused"), Outcome.COMMITTED)[1:])


@pytest.mark.parametrize("before", [1, 1000])
def test_a_batch_is_written_whole_or_not_at_all(before: int) -> None:
    rows = [*serializer.build_event_rows([build_event(str(n)) for n in range(before)], Outcome.COMMITTED), refused()]
    with pytest.raises(DatabaseError):
        writer.write(get_connection(), batches.Batch(events=rows))
    assert [] == stored()
    with transaction.atomic():
        write(build_event("mine"))
        with pytest.raises(DatabaseError):
            writer.write(get_connection(), batches.Batch(events=rows))
        write(build_event("after"))
    assert ["mine", "after"] == stored()


def test_a_failed_write_of_its_own_leaves_no_transaction_open() -> None:
    with pytest.raises(DatabaseError):
        writer.write(get_connection(), batches.Batch(events=[refused()]))
    write(build_event("a"))
    get_connection().close()
    assert ["a"] == stored()


def test_what_is_known_late_replaces_what_was_written() -> None:
    one, other = build_event("a"), build_event("b")
    write(one, other)
    one.duration, one.errors, one.args = 7_000, 3, {"late": TEXT}
    writer.write(get_connection(), batches.Batch(event_updates=[serializer.build_event_update(one)]))
    first, second = Event.objects.filter(signal="tests.stored").order_by("id")
    assert (7, 3, {"args": {"late": TEXT}}) == (first.duration, first.errors, first.data)
    assert (0, {}) == (second.errors, second.data)


def test_the_application_sees_no_statement() -> None:
    with transaction.atomic(), CaptureQueriesContext(get_connection()) as captured:
        write(build_event("a"))
    assert [] == [query for query in captured if "signalbox" in query["sql"]]


def test_an_event_that_cant_be_encoded_takes_no_other_with_it(caplog: pytest.LogCaptureFixture) -> None:
    before = writer.write_stats.dropped
    with caplog.at_level(logging.ERROR, "signalbox"):
        write(build_event("a"), build_event("broken", time="now"), build_event("b"))
    assert ["a", "b"] == stored()
    assert 1 == writer.write_stats.dropped - before
    assert "could not be encoded" in caplog.text


def test_json_text_is_valid_whatever_parts_there_are() -> None:
    assert {} == json.loads(serializer.build_data_json(build_event()))
    assert {"args": {"a": 1}} == json.loads(serializer.build_data_json(build_event(args='{"a":1}')))
    assert {"args": {"a": 1}, "receivers": []} == json.loads(
        serializer.build_data_json(build_event(args={"a": 1}, receiver_calls=[]))
    )


def test_the_tables_are_looked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    names = ("signalbox_event", "signalbox_trace")
    with get_connection().cursor() as cursor:
        for name in names:
            cursor.execute(f"ALTER TABLE {name} RENAME TO {name}_away")
    try:
        writer.clear_table_cache()
        assert not writer.has_tables(get_connection())
    finally:
        with get_connection().cursor() as cursor:
            for name in names:
                cursor.execute(f"ALTER TABLE {name}_away RENAME TO {name}")
    assert not writer.has_tables(get_connection())
    now += writer.TABLE_CHECK_SECONDS + 0.1
    assert writer.has_tables(get_connection())
    writer.clear_table_cache()
    assert writer.has_tables(get_connection())
