"""The writer of events and traces, on each database's own driver."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.test.utils import CaptureQueriesContext

from signalbox.core import clock, tracing
from signalbox.core.event import Actor, Outcome, PendingEvent
from signalbox.models import Event, Trace
from signalbox.pipeline import batches, dropped_events, serializer, writer
from signalbox.pipeline.backends import postgresql
from tests.connecting import get_connection

pytestmark = [pytest.mark.every_database, pytest.mark.django_db(transaction=True)]


TEXT = "Grüße, 你好 🚂 \"quoted\" 'single' back\\slash %s {} ; -- \n\t"


@pytest.fixture(autouse=True)
def empty() -> None:
    Event.objects.all().delete()


def build_event(label: str = "", **changed: Any) -> PendingEvent:
    event = PendingEvent(clock.now(), tracing.get_current_trace(), None, "tests.stored", "shop.Tag", "default")
    event.label = label
    event.outcome = Outcome.SENT
    for name, value in changed.items():
        setattr(event, name, value)
    return event


def write(*events: PendingEvent) -> None:
    writer.write(get_connection(), batches.Batch(events=serializer.build_event_rows(events, Outcome.COMMITTED)))


def stored() -> list[str]:
    return [event.object_label for event in Event.objects.filter(signal="tests.stored").order_by("id")]


def test_every_column_is_read_as_it_was_written() -> None:
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
    """Return the row of an event that every database rejects, because it has no time."""
    return (None, *serializer.build_event_row(build_event("refused"), Outcome.COMMITTED)[1:])


@pytest.mark.parametrize("before", [1, 1000])
def test_either_all_rows_of_a_batch_are_written_or_none(before: int) -> None:
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


def test_an_update_replaces_the_written_values() -> None:
    one, other = build_event("a"), build_event("b")
    write(one, other)
    one.duration, one.errors, one.args = 7_000, 3, {"late": TEXT}
    writer.write(get_connection(), batches.Batch(event_updates=[serializer.build_event_update(one)]))
    first, second = Event.objects.filter(signal="tests.stored").order_by("id")
    assert (7, 3, {"args": {"late": TEXT}}) == (first.duration, first.errors, first.data)
    assert (0, {}) == (second.errors, second.data)


def test_each_of_many_updates_finds_its_event() -> None:
    events = [build_event(str(number)) for number in range(50)]
    write(*events)
    for number, event in enumerate(events[::2]):
        event.duration = number * 1_000
    updates = [serializer.build_event_update(event) for event in reversed(events[::2])]
    writer.write(get_connection(), batches.Batch(event_updates=updates))
    found = Event.objects.filter(signal="tests.stored").order_by("id").values_list("object_label", "duration")
    expected = [(str(number), None if number % 2 else number // 2) for number in range(50)]
    assert expected == list(found)


@pytest.mark.skipif(get_connection().vendor != "sqlite", reason="SQLite counts the steps of a statement")
def test_an_update_does_not_read_the_older_events_of_its_trace() -> None:
    older, newest = [build_event() for _ in range(2_000)], build_event()
    write(*older, newest)
    tens_of_steps: list[int] = []
    raw = get_connection().connection
    raw.set_progress_handler(lambda: tens_of_steps.append(1), 10)
    try:
        writer.write(get_connection(), batches.Batch(event_updates=[serializer.build_event_update(newest)]))
    finally:
        raw.set_progress_handler(None, 0)
    assert len(tens_of_steps) < 50


@pytest.mark.skipif(get_connection().vendor != "postgresql", reason="PostgreSQL counts the rows of a transaction")
def test_an_update_reads_few_of_the_older_events_of_its_trace() -> None:
    oldest, older, newest = build_event("oldest"), [build_event() for _ in range(5_000)], build_event()
    write(oldest, *older, newest)
    newest.duration = oldest.duration = 7_000
    with transaction.atomic(), get_connection().cursor() as cursor:
        counts = []
        for event in (newest, oldest):
            batch = batches.Batch(event_updates=[serializer.build_event_update(event)])
            writer.write(get_connection(), batch, nested=True)
            cursor.execute(
                "SELECT idx_tup_fetch + seq_tup_read FROM pg_stat_xact_user_tables WHERE relname = 'signalbox_event'"
            )
            counts.append(cursor.fetchone()[0])
    assert counts[0] <= postgresql.RECENT_IDS + 10
    assert {"oldest", ""} == {event.object_label for event in Event.objects.filter(duration=7)}


def test_the_query_log_contains_no_statement_of_recording() -> None:
    with transaction.atomic(), CaptureQueriesContext(get_connection()) as captured:
        write(build_event("a"))
    assert [] == [query for query in captured if "signalbox" in query["sql"]]


def test_an_event_that_cannot_be_encoded_does_not_affect_others(caplog: pytest.LogCaptureFixture) -> None:
    before = dropped_events.write_stats.dropped
    with caplog.at_level(logging.ERROR, "signalbox"):
        write(build_event("a"), build_event("broken", time="now"), build_event("b"))
    assert ["a", "b"] == stored()
    assert 1 == dropped_events.write_stats.dropped - before
    assert "could not be encoded" in caplog.text


def test_json_text_is_valid_for_every_combination_of_parts() -> None:
    assert {} == json.loads(serializer.build_data_json(build_event()))
    assert {"args": {"a": 1}} == json.loads(serializer.build_data_json(build_event(args='{"a":1}')))
    assert {"args": {"a": 1}, "receivers": []} == json.loads(
        serializer.build_data_json(build_event(args={"a": 1}, receiver_calls=[]))
    )


def test_the_tables_are_checked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now)
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
    monkeypatch.undo()
    writer.clear_table_cache()  # what was found at a later time would be known for longer
    assert writer.has_tables(get_connection())
