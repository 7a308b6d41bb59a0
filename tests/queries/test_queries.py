from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test.utils import CaptureQueriesContext, override_settings
from django.utils import timezone

import signalbox
from signalbox.instrumentation import recording_state
from signalbox.models import Event, Trace
from signalbox.queries import events, signal_listeners, stats, time_index, trace_tree
from signalbox.queries.filters import EventFilter, FilterError, ObjectReference
from signalbox.queries.json_objects import event_to_dict, trace_to_dict
from signalbox.queries.trace_tree import build_trees
from tests.rows import NOON, TRACE_ID, build_event, create_event, create_trace
from tests.shop.models import Order

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

OTHER = "00f067aa0ba902b74bf92f3577b34da6"


@pytest.fixture(autouse=True)
def _alone(db: None) -> Iterator[None]:
    """The register holds what a test writes into it, and nothing of the test itself."""
    recording_state.disable_recording_for_process()
    Event.objects.all().delete()
    Trace.objects.all().delete()
    yield
    signalbox.start_recording()


def labels(events: list[Event]) -> list[str]:
    return [found.object_label for found in events]


def wanted(**given: Any) -> list[str]:
    return labels(events.get_events(EventFilter.parse(given)))


# ------------------------------------------------------------------ filters


def test_a_filter_of_nothing_wants_everything() -> None:
    create_event(object_label="a")
    create_event(object_label="b", signal="post_delete", outcome="rolled_back")
    assert ["b", "a"] == wanted()
    assert ["b", "a"] == wanted(signal=[], sender=None, text="", since="", unknown="x")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"signal": "post_save"}, ["saved", "of ann"]),
        ({"signal": ["post_save", "shop.signals.paid"]}, ["paid", "saved", "of ann"]),
        ({"group": "auth"}, ["in"]),
        ({"group": "custom"}, ["paid"]),
        ({"group": ["auth", "custom"]}, ["in", "paid"]),
        ({"sender": "shop.Order"}, ["saved"]),
        ({"sender": "shop"}, ["paid", "saved", "of ann"]),
        ({"sender": ["auth", "shop.Order"]}, ["in", "saved"]),
        ({"actor": "7"}, ["of ann"]),
        ({"actor": "ann"}, ["of ann"]),
        ({"actor": "nn"}, []),
        ({"object": "shop.Order:a:b"}, ["saved"]),
        ({"object": "shop.order:a:b"}, ["saved"]),
        ({"sender": "shop.ORDER"}, ["saved"]),
        ({"trace": OTHER}, ["in"]),
        ({"trace": OTHER[:8]}, ["in"]),
        ({"trace": [TRACE_ID, OTHER]}, ["in", "paid", "saved", "of ann"]),
        ({"outcome": ["failed", "sent"]}, ["in", "paid"]),
        ({"database": "other"}, ["of ann"]),
        ({"kind": "request"}, ["paid", "saved", "of ann"]),
        ({"kind": "task"}, []),
        ({"text": "LaTe"}, ["paid"]),
        ({"text": "SIGNALS.PAID"}, ["paid"]),
        ({"sender": "shop", "outcome": "committed", "signal": "post_save", "actor": "3"}, ["saved"]),
    ],
)
def test_a_filter_wants_what_meets_all_its_parts(given: dict[str, Any], found: list[str]) -> None:
    create_event(object_label="of ann", sender="shop.Customer", actor_key="7", actor_label="ann", database="other")
    create_event(object_label="saved", object_key="a:b", actor_label="bob")
    create_event(
        object_label="paid",
        signal="shop.signals.paid",
        sender="shop.views.Till",
        outcome="sent",
        actor_key="",
        actor_label="",
        data={"args": {"note": "paid Late"}},
    )
    create_event(
        object_label="in", signal="user_logged_in", sender="auth.User", trace_id=OTHER, outcome="failed", actor_label=""
    )
    create_trace()
    assert found == wanted(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outcome": "comitted"}, "outcome is 'comitted'; one of committed, rolled_back, failed, sent was expected."),
        ({"group": "models"}, "group is 'models'; one of auth, model,"),
        ({"trace": "xyz"}, "trace is 'xyz'; 8 to 32 hexadecimal digits were expected."),
        ({"object": "17"}, "object is '17'; a model and a primary key were expected, as shop.Order:17."),
        ({"object": ["shop.Order:1", "shop.Order:2"]}, "one value was expected."),
        ({"since": "yesterday"}, "since is 'yesterday'; a time was expected: how long ago as"),
        ({"since": "15"}, "since is '15'"),
        ({"until": "2026-02-30"}, "until is '2026-02-30'"),
        ({"since": "99999999999w"}, "since is '99999999999w'"),
    ],
)
def test_what_a_filter_cannot_read_is_named_with_what_was_expected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(FilterError) as raised:
        EventFilter.parse(given)
    assert message in str(raised.value)
    assert raised.value.field in given


@override_settings(TIME_ZONE="Europe/Berlin")
@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("15m", NOON - dt.timedelta(minutes=15), NOON - dt.timedelta(minutes=15)),
        ("2h", NOON - dt.timedelta(hours=2), NOON - dt.timedelta(hours=2)),
        ("3d", NOON - dt.timedelta(days=3), NOON - dt.timedelta(days=3)),
        ("2026-03-01", dt.datetime(2026, 2, 28, 23, tzinfo=dt.UTC), dt.datetime(2026, 3, 1, 23, tzinfo=dt.UTC)),
        ("9999-12-31", dt.datetime(9999, 12, 30, 23, tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)),
        ("2026-03-01T12:30", *[dt.datetime(2026, 3, 1, 11, 30, tzinfo=dt.UTC)] * 2),
        ("2026-03-01 12:30:01.5+00:00", *[dt.datetime(2026, 3, 1, 12, 30, 1, 500_000, tzinfo=dt.UTC)] * 2),
    ],
)
def test_times_are_read_in_the_current_time_zone(text: str, since: dt.datetime, until: dt.datetime) -> None:
    assert since == EventFilter.parse({"since": text}, now=NOON).since
    assert until == EventFilter.parse({"until": text}, now=NOON).until


def test_an_object_is_written_as_it_is_read() -> None:
    assert "shop.Order:a:b" == str(EventFilter.parse({"object": "shop.Order:a:b"}).object[0])
    assert (ObjectReference("shop.Order", "a:b"),) == EventFilter.parse({"object": "shop.Order:a:b"}).object


# ------------------------------------------------------------------ times


def minutes(number: float) -> dt.datetime:
    return NOON + dt.timedelta(minutes=number)


def test_a_stretch_of_time_begins_with_its_first_moment_and_ends_before_its_last() -> None:
    for minute in range(5):
        create_event(object_label=str(minute), at=minutes(minute))
    assert ["3", "2"] == labels(events.get_events(EventFilter(since=minutes(2), until=minutes(4))))
    assert ["4", "3", "2"] == labels(events.get_events(EventFilter(since=minutes(2))))
    assert ["1", "0"] == labels(events.get_events(EventFilter(until=minutes(2))))
    assert [] == events.get_events(EventFilter(since=minutes(9)))
    assert [] == events.get_events(EventFilter(until=minutes(-9)))
    assert [] == events.get_events(EventFilter(since=minutes(300)))


def test_nothing_is_found_in_an_empty_table() -> None:
    assert [] == events.get_events(EventFilter(since=minutes(0), until=minutes(1)))
    assert [] == events.get_traces(EventFilter(since=minutes(0), until=minutes(1)))


def test_events_that_were_written_late_are_found_at_their_own_time() -> None:
    """A transaction of 50 minutes writes its events when it commits, among others that are younger."""
    for minute in range(300):
        create_event(object_label=f"on time {minute}", at=minutes(minute))
        if minute == 100:
            for late in range(51, 101):
                create_event(object_label=f"late {late}", at=minutes(late))
    found = labels(events.get_events(EventFilter(since=minutes(60), until=minutes(62)), limit=100))
    assert ["late 61", "late 60", "on time 61", "on time 60"] == found
    found = labels(events.get_events(EventFilter(since=minutes(99), until=minutes(102)), limit=100))
    assert ["on time 101", "late 100", "late 99", "on time 100", "on time 99"] == found


@pytest.mark.parametrize("hole", [0, 5_000])
def test_a_stretch_of_time_is_found_in_few_steps_whatever_the_tables_size(
    hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_index, "WINDOW_ROWS", 5)
    rows = [build_event(at=minutes(number), object_label=str(number), span=number) for number in range(2000)]
    Event._base_manager.bulk_create(rows[:1000])
    if hole:  # ids that a purge, or a rolled-back transaction, has left empty
        last = Event._base_manager.order_by("id").last()
        assert last is not None
        for number, row in enumerate(rows[1000:]):
            row.id = last.id + hole + number
    Event._base_manager.bulk_create(rows[1000:])
    newest = events.get_events(limit=1)[0]
    for first in (0, 600, 999, 1000, 1998):
        with CaptureQueriesContext(connection) as queries:
            found = labels(events.get_events(EventFilter(since=minutes(first), until=minutes(first + 2))))
        assert [str(first + 1), str(first)] == found
        assert len(queries) < 40
        # What is read at last lies between two ids, not far beyond the margin of an hour on either side.
        ids = [int(number) for number in re.findall(r"id[`\"] (?:>=|<) (\d+)", queries[-1]["sql"])]
        lowest, highest = sorted([*ids, newest.id][:2])
        assert highest - lowest <= 140 + hole


def test_a_trace_counts_at_the_time_of_its_end() -> None:
    create_trace(name="long", at=minutes(0), duration=10 * 60_000_000)
    create_trace(name="short", at=minutes(11), duration=1000)
    assert ["long"] == [row.name for row in events.get_traces(EventFilter(since=minutes(9), until=minutes(11)))]
    assert ["short", "long"] == [row.name for row in events.get_traces(EventFilter(since=minutes(9)))]
    assert [] == events.get_traces(EventFilter(until=minutes(9)))


# ------------------------------------------------------------------ pages


def test_events_come_newest_first_a_page_at_a_time_and_none_twice() -> None:
    for number in range(7):
        create_event(object_label=str(number))
    pages = []
    before = None
    while page := events.get_events(before=before, limit=3):
        pages.append(labels(page))
        before = page[-1].id
    assert [["6", "5", "4"], ["3", "2", "1"], ["0"]] == pages


def test_a_page_is_read_in_one_statement_without_counting_or_skipping() -> None:
    for _ in range(5):
        create_event()
    with CaptureQueriesContext(connection) as queries:
        events.get_events(EventFilter.parse({"signal": "post_save", "text": "order"}), before=10**6, limit=2)
        events.get_traces(EventFilter.parse({"kind": "request"}), before=10**6, limit=2)
    statements = [query["sql"].upper() for query in queries]
    assert 2 == len(statements)
    assert not any("OFFSET" in sql or "COUNT(" in sql for sql in statements)


def test_an_event_is_found_by_its_id_or_not_at_all() -> None:
    kept = create_event(object_label="kept")
    found = events.get_event(kept.id)
    assert found is not None
    assert "kept" == found.object_label
    assert events.get_event(kept.id + 1) is None


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ["import", "POST /"]),
        ({"kind": "task"}, ["import"]),
        ({"actor": "ann"}, ["POST /"]),
        ({"trace": OTHER}, ["import"]),
        ({"signal": "post_delete"}, ["import"]),
        ({"outcome": "committed"}, ["POST /"]),
        ({"object": "shop.Order:17"}, ["import", "POST /"]),
        ({"text": "IMP"}, ["import"]),
        ({"text": "csv"}, ["import"]),
        ({"signal": "post_save", "kind": "task"}, []),
    ],
)
def test_traces_are_chosen_by_themselves_and_by_what_happened_in_them(given: dict[str, Any], names: list[str]) -> None:
    create_trace(name="POST /")
    create_event(signal="post_save")
    create_trace(
        name="import", kind="task", trace_id=OTHER, actor_key="", actor_label="cron", data={"file": "prices.CSV"}
    )
    create_event(signal="post_delete", trace_id=OTHER, outcome="failed")
    assert names == [row.name for row in events.get_traces(EventFilter.parse(given))]


# ------------------------------------------------------------------ trees


def shape(nodes: tuple[trace_tree.Node, ...]) -> list[Any]:
    return [(node.event.object_label, shape(node.children)) for node in nodes]


def test_a_trace_is_a_tree_in_the_order_of_its_sends() -> None:
    create_trace(name="POST /")
    create_event(span=4, object_label="d")
    create_event(span=3, parent=1, object_label="c")
    create_event(span=1, object_label="a")
    create_event(span=2, parent=1, object_label="b")
    create_event(span=5, parent=3, object_label="e")
    create_event(trace_id=OTHER, span=6, object_label="of another")
    found = trace_tree.get_trace_tree(TRACE_ID)
    assert found is not None
    assert ["POST /"] == [row.name for row in found.traces]
    assert [("a", [("b", []), ("c", [("e", [])])]), ("d", [])] == shape(found.roots)
    assert [(0, "a"), (1, "b"), (1, "c"), (2, "e"), (0, "d")] == [(d, e.object_label) for d, e in found.walk()]
    assert found.is_complete


def test_a_trace_that_has_not_ended_has_no_row_and_its_events() -> None:
    create_event(object_label="a")
    found = trace_tree.get_trace_tree(TRACE_ID)
    assert found is not None
    assert ((), [("a", [])]) == (found.traces, shape(found.roots))


def test_a_trace_without_events_has_its_row() -> None:
    create_trace(name="POST /")
    found = trace_tree.get_trace_tree(TRACE_ID)
    assert found is not None
    assert (1, ()) == (len(found.traces), found.roots)


def test_a_trace_that_is_not_there_is_none() -> None:
    assert trace_tree.get_trace_tree(OTHER) is None


def test_a_traces_id_that_came_from_outside_may_belong_to_several() -> None:
    create_trace(name="second", at=minutes(2))
    create_trace(name="first", at=minutes(1))
    found = trace_tree.get_trace_tree(TRACE_ID)
    assert found is not None
    assert ["first", "second"] == [row.name for row in found.traces]


def test_an_event_whose_parent_is_missing_is_a_root() -> None:
    assert [("orphan", [])] == shape(build_trees([build_event(span=5, parent=4, object_label="orphan")]))


def test_events_that_claim_to_be_each_others_parents_do_no_harm() -> None:
    circle = [
        build_event(span=1, parent=2, object_label="a"),
        build_event(span=2, parent=1, object_label="b"),
        build_event(span=3, parent=3, object_label="c"),
    ]
    assert [("a", [("b", [])]), ("c", [])] == shape(build_trees(circle))


def test_events_of_several_processes_come_in_the_order_of_their_beginning() -> None:
    """Each process numbers from a random start: the greater number may be the earlier event's."""
    high, low = 9 << 22, 1 << 22
    events = [
        build_event(span=low, at=minutes(2), object_label="child's", parent=high),
        build_event(span=high, at=minutes(1), object_label="parent's"),
        build_event(span=high + 1, at=minutes(3), object_label="parent's second"),
    ]
    assert [("parent's", [("child's", [])]), ("parent's second", [])] == shape(build_trees(events))


def test_a_trace_too_large_to_show_says_so() -> None:
    for span in range(4):
        create_event(span=span, object_label=str(span))
    found = trace_tree.get_trace_tree(TRACE_ID, limit=3)
    assert found is not None
    assert not found.is_complete
    assert ["0", "1", "2"] == [e.object_label for _, e in found.walk()]


# ------------------------------------------------------------------ JSON


def test_a_record_has_every_column_and_spans_that_every_parser_can_read() -> None:
    found = create_event(
        span=2**62 - 1, parent=5, at=NOON + dt.timedelta(microseconds=7), data={"args": {"created": True}}
    )
    record = event_to_dict(found)
    columns = {field.name for field in Event._meta.fields} - {"is_system"}  # follows from the kind of its trace
    assert columns == {"duration" if key == "duration_us" else key for key in record}
    assert "2026-03-01T12:00:00.000007+00:00" == record["time"]
    assert ("3fffffffffffffff", "0000000000000005") == (record["span"], record["parent"])
    assert {"args": {"created": True}} == record["data"]


def test_a_traces_record_has_every_column() -> None:
    record = trace_to_dict(create_trace())
    assert {field.name for field in Trace._meta.fields} == {
        "duration" if key == "duration_us" else key for key in record
    }


# ------------------------------------------------------------------ signals


def hears_orders(sender: object, **kwargs: object) -> None: ...


async def hears_everything(sender: object, **kwargs: object) -> None: ...


def signals(**given: Any) -> dict[str, signal_listeners.SignalListeners]:
    return {one.name: one for one in signal_listeners.get_signal_listeners({}, {"post_save"}, EventFilter.parse(given))}


def test_the_catalog_describes_each_receiver_and_its_connection() -> None:
    post_save.connect(hears_orders, sender=Order, weak=False, dispatch_uid="once")
    post_save.connect(hears_everything)
    try:
        found = signals()["post_save"]
        ours = [listener for listener in found.listeners if "test_queries" in listener.name]
    finally:
        post_save.disconnect(sender=Order, dispatch_uid="once")
        post_save.disconnect(hears_everything)
    assert ("model", True) == (found.group, found.is_recorded)
    orders, everything = ours
    assert ("tests.queries.test_queries.hears_orders", "shop.Order", False, "once", False, False) == (
        orders.name,
        orders.sender,
        orders.weak,
        orders.dispatch_uid,
        orders.is_async,
        orders.dead,
    )
    line = hears_orders.__code__.co_firstlineno
    assert f"tests/queries/test_queries.py:{line}" == orders.location
    assert (None, True, "", True) == (everything.sender, everything.weak, everything.dispatch_uid, everything.is_async)


def test_a_collected_receiver_is_listed_as_dead() -> None:
    signal = Signal()

    def local(sender: object, **kwargs: object) -> None: ...

    signal.connect(local, sender="a module's name")
    del local
    (found,) = [
        one
        for one in signal_listeners.get_signal_listeners({signal: "shop.signals.paid"}, {"shop.signals.paid"})
        if one.info is None
    ]
    assert ("shop.signals.paid", "custom", True) == (found.name, found.group, found.is_recorded)
    assert [(True, "")] == [(listener.dead, listener.name) for listener in found.listeners]


def test_durable_receivers_are_listed_for_signals_without_connected_receivers() -> None:
    durable = [("post_save", "shop.Order", hears_orders), ("bulk_create", None, hears_everything)]
    found = {one.name: one for one in signal_listeners.get_signal_listeners({}, (), durable_receivers=durable)}
    orders, everything = found["post_save"].listeners[-1], found["bulk_create"].listeners[-1]
    assert ("tests.queries.test_queries.hears_orders", "shop.Order", True, False) == (
        orders.name,
        orders.sender,
        orders.durable,
        orders.is_async,
    )
    assert f"tests/queries/test_queries.py:{hears_orders.__code__.co_firstlineno}" == orders.location
    assert (None, True, True) == (everything.sender, everything.durable, everything.is_async)


def test_signals_that_are_not_recorded_are_listed_too() -> None:
    found = signals()
    assert [] == [name for name, one in found.items() if one.is_recorded and name != "post_save"]
    assert {"user_logged_in", "pre_init", "request_started", "update"} <= found.keys()


def test_signals_are_chosen_by_name_and_group() -> None:
    assert {"pre_migrate", "post_migrate"} == signals(group="management").keys()
    assert {"pre_save"} == signals(signal="pre_save").keys()


def test_only_the_newest_events_of_signals_are_counted() -> None:
    for _ in range(5):
        create_event(signal="post_save", data={"pre_signal_time": 5})
    create_event(signal="post_delete")
    create_trace(data={"send_counts": {"pre_init": {"shop.Order": 3, "shop.Tag": 2}}})
    create_trace(at=minutes(-60), data={"send_counts": {"pre_init": {"shop.Order": 1000}}})
    counts = {
        one.name: one.event_count for one in signal_listeners.get_signal_listeners({}, (), limit=4) if one.event_count
    }
    assert {"post_save": 3, "pre_save": 3, "post_delete": 1, "pre_init": 5} == counts


# ------------------------------------------------------------------ statistics


def run(name: str, us: int | None, error: str | None = None) -> dict[str, Any]:
    return {"name": name, "location": f"{name}.py:1", "duration_us": us, "error": error}


def test_statistics_count_outcomes_and_time_receivers() -> None:
    for us in range(1, 101):
        create_event(at=minutes(us), data={"receivers": [run("shop.index", us), run("shop.mail", 1000 * us)]})
    create_event(outcome="rolled_back", errors=1, data={"receivers": [run("shop.mail", None, "ValueError: no")]})
    create_event(signal="update")
    found = stats.compute_stats()
    assert (102, True, minutes(0), minutes(100)) == (found.events, found.is_complete, found.first, found.last)
    assert [("post_save", 101, {"committed": 100, "rolled_back": 1}, 1), ("update", 1, {"committed": 1}, 0)] == [
        (one.signal, one.events, one.outcomes, one.errors) for one in found.signals
    ]
    assert [
        ("shop.mail", "post_save", "shop.mail.py:1", 101, 1, 5_050_000, 50_000, 95_000, 100_000),
        ("shop.index", "post_save", "shop.index.py:1", 100, 0, 5_050, 50, 95, 100),
    ] == [
        (
            one.receiver,
            one.signal,
            one.location,
            one.calls,
            one.errors,
            one.total_us,
            one.median_us,
            one.p95_us,
            one.max_us,
        )
        for one in found.receivers
    ]


def test_statistics_are_of_the_newest_events_and_say_what_they_leave_out() -> None:
    for number in range(5):
        create_event(at=minutes(number))
    found = stats.compute_stats(limit=3)
    assert (3, False, minutes(2)) == (found.events, found.is_complete, found.first)
    assert stats.compute_stats(limit=5).is_complete


def test_statistics_of_nothing_are_empty() -> None:
    found = stats.compute_stats(EventFilter.parse({"since": "5m"}))
    assert (0, None, None, (), ()) == (found.events, found.first, found.last, found.signals, found.receivers)


def test_reading_sees_what_the_open_transaction_has_recorded() -> None:
    signalbox.start_recording()
    order = Order.objects.create(number="A-18")
    found = events.get_events(EventFilter(object=(ObjectReference("shop.Order", str(order.pk)),)))
    assert ["post_save"] == [one.signal for one in found]
    assert timezone.now() - found[0].timestamp < dt.timedelta(minutes=1)
