from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from signalbox.models import Event, Trace
from signalbox.queries import timeline
from signalbox.queries.timeline import Position, PositionGap
from signalbox.queries.timeline_query import TimelineQuery

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

AddEvent = Callable[..., Event]
AddTrace = Callable[..., Trace]


@pytest.fixture(autouse=True)
def empty(db: None) -> None:
    Event.objects.all().delete()
    Trace.objects.all().delete()


def ask(**parts: str) -> TimelineQuery:
    return TimelineQuery.parse(parts)


def walk(asked: TimelineQuery, size: int) -> Iterator[str]:
    """Yield the traces of every page, from the newest to the oldest."""
    before: int | None = None
    while True:
        page = timeline.get_timeline_page(asked, before, size)
        yield from (line.trace_id for line in page.summaries)
        if page.next_cursor is None:
            return
        before = page.next_cursor


def test_the_trace_of_the_newest_event_comes_first(add_event: AddEvent) -> None:
    old, new = add_event(), add_event()
    assert [new.trace_id, old.trace_id] == [line.trace_id for line in timeline.get_timeline_page(ask()).summaries]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_each_trace_is_on_one_page_though_its_events_lie_among_others(add_event: AddEvent, size: int) -> None:
    traces = [f"{number:032x}" for number in range(7)]
    for number in range(60):
        add_event(trace_id=traces[number * number % 7])
    present = {traces[number * number % 7] for number in range(60)}
    found = list(walk(ask(), size))
    assert sorted(present) == sorted(found)


def test_a_search_finds_every_trace_once_on_its_way_through_the_table(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "SEARCH_BUDGET", -1.0)  # it rests after each statement
    monkeypatch.setattr(timeline, "SEARCH_WINDOWS", (3, 3))
    wanted = [add_event(sender="shop.Tag" if number % 5 == 0 else "shop.Order") for number in range(40)]
    expected = [event.trace_id for event in reversed(wanted) if event.sender == "shop.Tag"]
    assert expected == list(walk(ask(sender="shop.Tag"), 40))
    page = timeline.get_timeline_page(ask(sender="shop.Tag"))
    assert not page.is_complete
    assert page.searched_until is not None


def test_a_search_that_rests_where_nothing_lies_further_back_has_ended(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "SEARCH_BUDGET", -1.0)
    monkeypatch.setattr(timeline, "SEARCH_WINDOWS", (3, 3))
    add_event(id=1_000_000, sender="shop.Order")
    page = timeline.get_timeline_page(ask(sender="shop.Tag"))
    assert ([], None, True) == (page.summaries, page.next_cursor, page.is_complete)


def test_a_trace_of_very_many_events_leaves_room_for_the_others(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "FETCH_SIZE", 10)
    first = add_event()
    for _ in range(35):
        add_event(trace_id="a" * 32)
    assert ["a" * 32, first.trace_id] == [line.trace_id for line in timeline.get_timeline_page(ask()).summaries]


def test_a_time_range_bounds_the_search(add_event: AddEvent) -> None:
    hour = 3_600_000_000
    start = 1_790_000_000_000_000
    events = [add_event(time=start + number * hour) for number in range(10)]
    since, until = events[3].timestamp.isoformat(), events[6].timestamp.isoformat()
    found = [line.trace_id for line in timeline.get_timeline_page(ask(since=since, until=until)).summaries]
    assert [event.trace_id for event in (events[5], events[4], events[3])] == found


def test_a_line_tells_of_its_trace(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_trace(trace_id="b" * 32, events=3, errors=1, rolled_back=1, status="500", actor_label="")
    add_event(trace_id="b" * 32, signal="request_started", actor_label="")
    add_event(trace_id="b" * 32, errors=1, actor_label="ada")
    add_event(trace_id="b" * 32, outcome="rolled_back")
    [line] = timeline.get_timeline_page(ask()).summaries
    assert ("request", "POST /orders/7/", "ada", "500", "bad") == (
        line.kind,
        line.name,
        line.actor,
        line.status,
        line.tone,
    )
    assert (3, 1, 1, 25_000, False) == (line.events, line.errors, line.rolled_back, line.duration, line.is_running)
    assert [("model", 2), ("request", 1)] == line.count_groups()
    assert [("model", "0.00", "66.67"), ("request", "66.67", "33.33")] == line.get_bar_segments()


def test_a_trace_without_a_row_runs(add_event: AddEvent) -> None:
    event = add_event(errors=2, outcome="rolled_back", time=time.time_ns() // 1000)
    [line] = timeline.get_timeline_page(ask()).summaries
    assert (True, "", "running", "running", "post_save") == (
        line.is_running,
        line.kind,
        line.status,
        line.tone,
        line.name,
    )
    assert (1, 2, 1, None, event.time) == (line.events, line.errors, line.rolled_back, line.duration, line.time)


@pytest.mark.parametrize(("minutes", "status"), [(59, "running"), (61, "unfinished")])
def test_a_trace_without_a_row_in_which_nothing_happens_is_unfinished(
    minutes: int, status: str, add_event: AddEvent
) -> None:
    hours_ago = time.time_ns() // 1000 - 5 * 3_600_000_000
    add_event(trace_id="d" * 32, time=time.time_ns() // 1000 - minutes * 60_000_000)
    add_event(trace_id="d" * 32, time=hours_ago)
    [line] = timeline.get_timeline_page(ask()).summaries
    assert (status, status, status == "unfinished") == (line.status, line.tone, line.is_unfinished)


def test_a_crashed_request_is_an_error_of_its_line(add_event: AddEvent, add_trace: AddTrace) -> None:
    crash = add_event(signal="got_request_exception", outcome="sent")
    add_trace(trace_id=crash.trace_id, status="500")
    failed = add_event(outcome="failed", errors=1)
    add_event(trace_id=failed.trace_id, outcome="failed")
    seldom_looked_at = add_trace(trace_id=add_event().trace_id, status="500", events=100_000)
    found = {line.trace_id: line.errors for line in timeline.get_timeline_page(ask()).summaries}
    assert {crash.trace_id: 1, failed.trace_id: 2, seldom_looked_at.trace_id: 1} == found


def test_work_that_shares_a_trace_is_one_line(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_trace(trace_id="c" * 32, time=5_000, duration=1_000, name="GET /second/", status="404", actor_label="")
    add_trace(trace_id="c" * 32, time=1_000, duration=9_000, name="GET /first/")
    add_event(trace_id="c" * 32)
    [line] = timeline.get_timeline_page(ask()).summaries
    assert ("GET /first/", 1_000, 9_000, 2, "ada") == (line.name, line.time, line.duration, line.events, line.actor)


def test_lines_that_lie_far_apart_are_looked_at_one_by_one(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "SEARCH_WINDOWS", (1000, 1000))
    monkeypatch.setattr(timeline, "MAX_PREVIEW_EVENTS", 3)
    old = add_event(object_key="5")
    for _ in range(6):
        last = add_event(trace_id=old.trace_id)
    new = add_event(object_key="5", id=last.id + 10_000)
    with CaptureQueriesContext(connection) as queries:
        found = timeline.get_timeline_page(ask(object="shop.Order:5"))
    assert [(new.trace_id, 1, 1), (old.trace_id, 1, 3)] == [
        (line.trace_id, line.match_count, line.events) for line in found.summaries
    ]
    assert 2 == len([one for one in queries if "BETWEEN" in one["sql"] and "trace_id" in one["sql"]])


def test_a_trace_s_events_are_read_in_the_order_of_its_index(add_event: AddEvent) -> None:
    events = [add_event(trace_id="a" * 32) for _ in range(4)]
    with CaptureQueriesContext(connection) as queries:
        assert (events[1:3], events[2].id) == timeline.get_trace_events("a" * 32, events[0].id, 2)
    [order] = [one["sql"].rpartition("ORDER BY")[2] for one in queries]
    assert order.index("trace_id") < order.index('"id"' if '"id"' in order else "`id`")


@pytest.fixture
def shared(add_event: AddEvent, add_trace: AddTrace, monkeypatch: pytest.MonkeyPatch) -> list[Trace]:
    """The rows of a trace that a caller gave to many requests."""
    monkeypatch.setattr(timeline, "MAX_ROWS_PER_TRACE", 3)
    monkeypatch.setattr(timeline, "MAX_TRACE_ROWS", 8)
    add_event(trace_id="c" * 32)
    return [add_trace(trace_id="c" * 32, name=f"GET /{number}/", time=number) for number in range(20)]


def test_of_a_trace_that_very_many_share_the_newest_rows_are_read(
    shared: list[Trace], add_event: AddEvent, add_trace: AddTrace
) -> None:
    other = add_trace(trace_id=add_event().trace_id)
    first, second = timeline.get_timeline_page(ask()).summaries
    assert ([other], False) == (first.traces, first.has_more_traces)
    assert (shared[-3:], True) == (second.traces, second.has_more_traces)
    assert shared[-3:] == timeline.get_trace_summary("c" * 32).traces
    assert "GET /17/" == timeline.get_trace_name("c" * 32)


def test_a_shared_trace_costs_a_bounded_number_of_rows(shared: list[Trace]) -> None:
    with CaptureQueriesContext(connection) as queries:
        timeline.get_timeline_page(ask())
    of_traces = [one["sql"] for one in queries if 'FROM "signalbox_trace"' in one["sql"].replace("`", '"')]
    assert of_traces
    for sql in of_traces:
        assert "LIMIT" in sql
        assert "data" not in sql


def test_few_rows_too_many_are_left_out_in_the_same_way(shared: list[Trace], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_TRACE_ROWS", 100)
    [line] = timeline.get_timeline_page(ask()).summaries
    assert (shared[-3:], True) == (line.traces, line.has_more_traces)


def test_a_page_takes_a_few_queries_however_many_events_there_are(add_event: AddEvent, add_trace: AddTrace) -> None:
    for _ in range(50):
        event = add_event()
        add_trace(trace_id=event.trace_id)
    with CaptureQueriesContext(connection) as few:
        timeline.get_timeline_page(ask())
    assert len(few) <= 4


# ------------------------------------------------------------------ what is new


def test_nothing_new_costs_one_query(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_event()
    add_trace()
    position = Position.at_end()
    with CaptureQueriesContext(connection) as queries:
        assert ([], position, False) == timeline.get_live_update(position)
    assert 1 == len(queries)


def test_a_new_event_and_an_ended_trace_are_news(add_event: AddEvent, add_trace: AddTrace) -> None:
    running = add_event()
    position = Position.at_end()
    add_trace(trace_id=running.trace_id)
    fresh = add_event()
    found, after, behind = timeline.get_live_update(position)
    assert ({running.trace_id, fresh.trace_id}, False) == (set(found), behind)
    assert ([], after, False) == timeline.get_live_update(after)


def test_what_is_new_tells_the_newest_trace_last(add_event: AddEvent) -> None:
    position = Position.at_end()
    again, other = add_event(), add_event()
    add_event(trace_id=again.trace_id)
    assert [other.trace_id, again.trace_id] == timeline.get_live_update(position).trace_ids


@pytest.mark.parametrize("name", ["MAX_LIVE_TRACES", "MAX_UPDATE_ROWS"])
def test_more_news_than_one_answer_holds_are_not_read_bit_by_bit(
    name: str, add_event: AddEvent, add_trace: AddTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, name, 3)
    position = Position.at_end()
    for _ in range(2):
        add_event()
        add_trace(trace_id=add_event().trace_id)
    assert timeline.get_live_update(position).is_behind


def test_a_look_for_news_reads_no_more_rows_than_it_may(add_event: AddEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_UPDATE_ROWS", 3)
    position = Position.at_end()
    first, second, third, *_ = (add_event() for _ in range(20))
    found = timeline.get_live_update(position)
    assert ([first.trace_id, second.trace_id, third.trace_id], third.id) == (found.trace_ids, found.position.event_id)


def test_an_event_that_is_committed_after_a_later_one_is_not_missed(add_event: AddEvent) -> None:
    last = add_event().id
    position = Position.at_end()
    overtaking = add_event(id=last + 3)
    found, position, _ = timeline.get_live_update(position)
    assert [overtaking.trace_id] == found
    overtaken = add_event(id=last + 2)
    found, position, _ = timeline.get_live_update(position)
    assert [overtaken.trace_id] == found
    assert [(last + 1, last + 1)] == [(gap.first, gap.last) for gap in position.gaps if gap.first > last]


def test_a_gap_that_stays_is_given_up() -> None:
    old = Position(10, 5, (PositionGap(0, 7, 8, 0),))
    assert Position(10, 5) == timeline.get_live_update(old).position


def gaps_at_the_start() -> list[tuple[int, int, int]]:
    return [(gap.table, gap.first, gap.last) for gap in Position.at_end().gaps]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_a_page_that_is_opened_knows_what_is_missing_among_the_last_keys(
    add_event: AddEvent, add_trace: AddTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add_event().id
    for key in (first + 3, first + 4, first + 7):
        add_event(id=key)
    end = add_trace().id
    add_trace(id=end + 2)
    monkeypatch.setattr(timeline, "GAP_LOOKBACK_IDS", 2)
    assert [(0, first + 5, first + 6), (1, end + 1, end + 1)] == gaps_at_the_start()
    monkeypatch.setattr(timeline, "GAP_LOOKBACK_IDS", 4)
    assert [(0, first + 1, first + 2), (0, first + 5, first + 6)] == gaps_at_the_start()[:2]
    monkeypatch.setattr(timeline, "MAX_POSITION_GAPS", 1)
    assert 1 == len(gaps_at_the_start())


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_what_a_transaction_wrote_that_was_open_when_the_page_was_opened_is_news(add_event: AddEvent) -> None:
    written, opened = threading.Event(), threading.Event()
    late: list[str] = []

    def work() -> None:
        try:
            with transaction.atomic():
                late.append(add_event().trace_id)
                written.set()
                assert opened.wait(20)
        finally:
            written.set()
            connection.close()

    add_event()
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert written.wait(20)
        add_event()
        position = Position.at_end()
        assert [] == timeline.get_live_update(position).trace_ids
    finally:
        opened.set()
        thread.join()
    assert late == timeline.get_live_update(position).trace_ids


def test_a_position_is_what_its_text_says() -> None:
    position = Position(12, 7, (PositionGap(0, 3, 4, 99), PositionGap(1, 5, 5, 98)))
    assert position == Position.parse(str(position))


@pytest.mark.parametrize("text", ["", "x", "1", "1.2~3", "1.2~a.b.c.d", "~"])
def test_a_text_that_is_no_position_means_the_end_of_the_table(add_event: AddEvent, text: str) -> None:
    assert add_event().id == Position.parse(text).event_id


def test_news_are_narrowed_as_the_page_is(add_event: AddEvent) -> None:
    wanted, other = add_event(sender="shop.Tag"), add_event()
    add_event(trace_id=wanted.trace_id)
    lines = timeline.get_trace_summaries([wanted.trace_id, other.trace_id], ask(sender="shop.Tag"), other.id + 1)
    assert [(wanted.trace_id, 1, 2)] == [(line.trace_id, line.match_count, line.events) for line in lines]


def test_looking_for_what_matches_is_bounded_by_keys(add_event: AddEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "SEARCH_WINDOWS", (2, 4))
    asked = ask(sender="shop.Tag")
    far, *_, near = (add_event(trace_id="a" * 32, sender="shop.Tag") for _ in range(10))
    assert {"a" * 32: 4} == timeline.count_matches(["a" * 32], asked, near.id)
    other = add_event(trace_id="b" * 32, sender="shop.Tag", id=near.id + 10)
    assert [other.trace_id] == [line.trace_id for line in timeline.get_timeline_page(asked, None, 1).summaries]
    with CaptureQueriesContext(connection) as queries:
        timeline.get_timeline_page(asked, far.id + 1, 5)
    [above] = [one["sql"] for one in queries if "DISTINCT" in one["sql"]]
    assert str(far.id + 5) in above


# ------------------------------------------------------------------ sums


def test_the_strip_sums_up_events_by_step_and_group(add_event: AddEvent) -> None:
    add_event(time=11_000_000)
    add_event(time=14_999_999, errors=1)
    add_event(time=15_000_000, signal="update")
    add_event(time=9_000_000)
    add_event(time=15_000_000, signal="got_request_exception", outcome="sent")
    expected = [(10_000_000, "model", 2, 1), (15_000_000, "bulk", 1, 0), (15_000_000, "request", 1, 1)]
    assert expected == timeline.get_histogram(ask(), 10_000_000, 5_000_000)


def test_the_strip_of_a_text_looks_less_far_back(add_event: AddEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "MAX_HISTOGRAM_EVENTS", 8)
    for _ in range(10):
        add_event(time=15_000_000)
    numbers = [timeline.get_histogram(asked, 10_000_000, 5_000_000)[0][2] for asked in (ask(), ask(text="order"))]
    assert [8, 2] == numbers


def test_names_are_those_of_the_latest_events(add_event: AddEvent) -> None:
    add_event(sender="shop.Tag", actor_label="")
    assert {"signal": ["post_save"], "sender": ["shop.Tag"], "actor_label": []} == timeline.get_recent_names()
