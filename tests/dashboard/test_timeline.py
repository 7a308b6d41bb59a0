from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from signalbox.core.tracing import generate_trace_id
from signalbox.models import Event, Trace
from signalbox.queries import live_updates, timeline, trace_summary, window_search
from signalbox.queries.event_summary import summarize_event
from signalbox.queries.live_updates import Position, PositionGap
from signalbox.queries.timeline_filter import TimelineFilter

pytestmark = [pytest.mark.django_db, pytest.mark.every_database]

AddEvent = Callable[..., Event]
AddTrace = Callable[..., Trace]


@pytest.fixture(autouse=True)
def empty(db: None) -> None:
    Event.objects.all().delete()
    Trace.objects.all().delete()


def ask(**parts: str) -> TimelineFilter:
    return TimelineFilter.parse(parts)


def narrow_windows(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Make each statement of a search cover ``size`` ids."""
    monkeypatch.setattr(window_search, "FIRST_WINDOW", size)
    monkeypatch.setattr(window_search, "WIDEST_WINDOW", size)


def walk(asked: TimelineFilter, size: int) -> Iterator[str]:
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


@pytest.mark.parametrize("text", ["", "model:shop.Order", "took>=0us"])
@pytest.mark.parametrize("size", [1, 3])
def test_each_trace_is_on_one_page_while_events_arrive(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch, size: int, text: str
) -> None:
    narrow_windows(monkeypatch, 5)
    chooser = random.Random(size)
    traces = [generate_trace_id() for _ in range(12)]
    for number in range(80):
        add_event(trace_id=traces[number % 12] if number < 12 else chooser.choice(traces))
    asked, found = TimelineFilter.parse({"q": text}), []
    page = timeline.get_timeline_page(asked, None, size)
    while True:
        found += [line.trace_id for line in page.summaries]
        for _ in range(7):
            add_event(trace_id=chooser.choice([*traces, generate_trace_id()]))
        if page.next_cursor is None:
            break
        page = timeline.get_timeline_page(asked, page.next_cursor, size, newest_id=page.newest_id)
    assert sorted(traces) == sorted(found)


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
    narrow_windows(monkeypatch, 3)
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
    narrow_windows(monkeypatch, 3)
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


def test_a_row_summarizes_its_trace(add_event: AddEvent, add_trace: AddTrace) -> None:
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
    assert {crash.trace_id: 1, failed.trace_id: 1, seldom_looked_at.trace_id: 1} == found


def test_an_exception_is_one_error_of_its_line_whatever_it_passed_through(add_event: AddEvent) -> None:
    raised = add_event(errors=1)
    add_event(trace_id=raised.trace_id, outcome="failed", data={"passed_through": True})
    add_event(trace_id=raised.trace_id, signal="got_request_exception", outcome="sent")
    [line] = timeline.get_timeline_page(ask()).summaries
    assert 1 == line.errors


def test_work_that_shares_a_trace_is_one_line(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_trace(trace_id="c" * 32, time=5_000, duration=1_000, name="GET /second/", status="404", actor_label="")
    add_trace(trace_id="c" * 32, time=1_000, duration=9_000, name="GET /first/")
    add_event(trace_id="c" * 32)
    [line] = timeline.get_timeline_page(ask()).summaries
    assert ("GET /first/", 1_000, 9_000, 2, "ada") == (line.name, line.time, line.duration, line.events, line.actor)


def test_lines_that_lie_far_apart_are_looked_at_one_by_one(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "NEAR_IDS", 1000)
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
    assert 2 == sum("LIMIT 3" in one["sql"] for one in queries)


def test_a_trace_s_events_are_read_in_the_order_of_its_index(add_event: AddEvent) -> None:
    events = [add_event(trace_id="a" * 32) for _ in range(4)]
    with CaptureQueriesContext(connection) as queries:
        assert (events[1:3], events[2].id) == timeline.get_trace_events("a" * 32, events[0].id, 2)
    [order] = [one["sql"].rpartition("ORDER BY")[2] for one in queries]
    assert order.index("trace_id") < order.index('"id"' if '"id"' in order else "`id`")


@pytest.fixture
def shared(add_event: AddEvent, add_trace: AddTrace, monkeypatch: pytest.MonkeyPatch) -> list[Trace]:
    """The rows of a trace that a caller gave to many requests."""
    monkeypatch.setattr(trace_summary, "MAX_ROWS_PER_TRACE", 3)
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
    assert len(few) <= 5


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("signal:post_save", ["signal BETWEEN"]),
        ("object:shop.Order:7", ["sender BETWEEN", "object_key BETWEEN"]),
        ("", ["is_system <="]),
    ],
)
def test_what_an_index_finds_is_read_in_its_order(add_event: AddEvent, text: str, conditions: list[str]) -> None:
    """With an order by the id only, PostgreSQL may read all newer events."""
    found, _, newest = add_event(), add_event(signal="post_init", object_key="8", is_system=True), add_event()
    with CaptureQueriesContext(connection) as queries:
        assert [newest.trace_id, found.trace_id] == list_shown(ask(q=text))
    statement = next(one["sql"] for one in queries if "LIMIT 400" in one["sql"])
    condition, _, order = statement.replace('"', "").replace("`", "").partition("WHERE")[2].partition("ORDER BY")
    assert all(one in condition for one in conditions)
    assert len(conditions) + 1 == order.count("DESC")


def test_a_filter_that_an_index_answers_has_a_range_of_time(add_event: AddEvent) -> None:
    events = [add_event(time=moment * 1_000_000) for moment in (1, 2, 3)]
    for text, expected in (("since:1970-01-01T00:00:02Z", [2, 1]), ("until:1970-01-01T00:00:03Z", [1, 0])):
        assert [events[n].trace_id for n in expected] == list_shown(ask(q=f"signal:post_save {text}"))


# ------------------------------------------------------------------ the system


def list_shown(asked: TimelineFilter) -> list[str]:
    return [line.trace_id for line in timeline.get_timeline_page(asked).summaries]


def test_many_events_of_the_system_are_passed_over_with_one_statement(
    add_event: AddEvent, add_trace: AddTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "FETCH_SIZE", 3)
    narrow_windows(monkeypatch, 2)
    request = add_event(trace_id=add_trace().trace_id)
    for kind in ("process", "test"):
        for trace_id in (add_trace(kind=kind).trace_id for _ in range(20)):
            add_event(trace_id=trace_id, is_system=True)
    with CaptureQueriesContext(connection) as queries:
        assert [request.trace_id] == list_shown(ask())
    assert 1 == sum("LIMIT 3" in query["sql"] for query in queries)
    assert timeline.PAGE_SIZE == len(list_shown(ask(system="1")))


def test_a_page_without_lines_says_whether_the_system_worked(add_event: AddEvent) -> None:
    assert not timeline.get_timeline_page(ask()).has_system
    add_event(is_system=True)
    page = timeline.get_timeline_page(ask())
    assert ([], True, True) == (page.summaries, page.is_complete, page.has_system)
    add_event()
    assert not timeline.get_timeline_page(ask()).has_system


def test_a_process_that_runs_is_of_the_system(add_event: AddEvent) -> None:
    running = add_event(is_system=True)
    assert [] == list_shown(ask())
    assert [running.trace_id] == list_shown(ask(system="1"))
    assert {} == timeline.count_matches([running.trace_id], ask(), running.id)


def test_a_process_that_became_a_command_is_shown(add_event: AddEvent, add_trace: AddTrace) -> None:
    trace_id = add_trace(kind="command").trace_id
    add_event(trace_id=trace_id, is_system=True)
    newest = add_event(trace_id=trace_id)
    assert [trace_id] == list_shown(ask())
    assert {trace_id: 0} == timeline.count_matches([trace_id], ask(), newest.id)


def test_a_process_that_ended_long_after_its_events_is_no_news(
    add_event: AddEvent, add_trace: AddTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "NEAR_IDS", 2)
    ended = [add_trace(kind=kind).trace_id for kind in ("process", "request")]
    for trace_id in ended:
        add_event(trace_id=trace_id, is_system=trace_id == ended[0])
    newest = [add_event() for _ in range(3)][-1]
    assert {ended[1]: 0} == timeline.count_matches(ended, ask(), newest.id)


def test_a_page_between_the_events_of_a_large_trace_leaves_out_the_system(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "FETCH_SIZE", 3)
    narrow_windows(monkeypatch, 2)
    oldest = add_event()
    for _ in range(5):
        add_event(trace_id="b" * 32)
        add_event(is_system=True)
    assert ["b" * 32, oldest.trace_id] == list_shown(ask())


# ------------------------------------------------------------------ what is new


def test_nothing_new_costs_one_query(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_event()
    add_trace()
    position = Position.at_end()
    with CaptureQueriesContext(connection) as queries:
        assert ([], position, False) == live_updates.get_live_update(position)
    assert 1 == len(queries)


def test_a_new_event_and_an_ended_trace_are_news(add_event: AddEvent, add_trace: AddTrace) -> None:
    running = add_event()
    position = Position.at_end()
    add_trace(trace_id=running.trace_id)
    fresh = add_event()
    found, after, behind = live_updates.get_live_update(position)
    assert ({running.trace_id, fresh.trace_id}, False) == (set(found), behind)
    assert ([], after, False) == live_updates.get_live_update(after)


def test_new_traces_end_with_the_newest(add_event: AddEvent) -> None:
    position = Position.at_end()
    again, other = add_event(), add_event()
    add_event(trace_id=again.trace_id)
    assert [other.trace_id, again.trace_id] == live_updates.get_live_update(position).trace_ids


@pytest.mark.parametrize("name", ["MAX_LIVE_TRACES", "MAX_UPDATE_ROWS"])
def test_too_many_new_traces_for_one_response_are_not_read(
    name: str, add_event: AddEvent, add_trace: AddTrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, name, 3)
    position = Position.at_end()
    for _ in range(2):
        add_event()
        add_trace(trace_id=add_event().trace_id)
    assert live_updates.get_live_update(position).is_behind


def test_the_query_for_new_events_reads_a_bounded_number_of_rows(
    add_event: AddEvent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_updates, "MAX_UPDATE_ROWS", 3)
    position = Position.at_end()
    first, second, third, *_ = (add_event() for _ in range(20))
    found = live_updates.get_live_update(position)
    assert ([first.trace_id, second.trace_id, third.trace_id], third.id) == (found.trace_ids, found.position.event_id)


def test_an_event_that_is_committed_after_a_later_one_is_not_missed(add_event: AddEvent) -> None:
    last = add_event().id
    position = Position.at_end()
    overtaking = add_event(id=last + 3)
    found, position, _ = live_updates.get_live_update(position)
    assert [overtaking.trace_id] == found
    overtaken = add_event(id=last + 2)
    found, position, _ = live_updates.get_live_update(position)
    assert [overtaken.trace_id] == found
    assert [(last + 1, last + 1)] == [(gap.first, gap.last) for gap in position.gaps if gap.first > last]


def test_a_permanent_gap_is_ignored() -> None:
    old = Position(10, 5, (PositionGap(0, 7, 8, 0),))
    assert Position(10, 5) == live_updates.get_live_update(old).position


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
    monkeypatch.setattr(live_updates, "GAP_LOOKBACK_IDS", 2)
    assert [(0, first + 5, first + 6), (1, end + 1, end + 1)] == gaps_at_the_start()
    monkeypatch.setattr(live_updates, "GAP_LOOKBACK_IDS", 4)
    assert [(0, first + 1, first + 2), (0, first + 5, first + 6)] == gaps_at_the_start()[:2]
    monkeypatch.setattr(live_updates, "MAX_POSITION_GAPS", 1)
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
        assert [] == live_updates.get_live_update(position).trace_ids
    finally:
        opened.set()
        thread.join()
    assert late == live_updates.get_live_update(position).trace_ids


def test_a_position_is_what_its_text_says() -> None:
    position = Position(12, 7, (PositionGap(0, 3, 4, 99), PositionGap(1, 5, 5, 98)))
    assert position == Position.parse(str(position))


@pytest.mark.parametrize("text", ["", "x", "1", "1.2~3", "1.2~a.b.c.d", "~"])
def test_an_invalid_position_is_the_end_of_the_table(add_event: AddEvent, text: str) -> None:
    assert add_event().id == Position.parse(text).event_id


def test_news_are_narrowed_as_the_page_is(add_event: AddEvent) -> None:
    wanted, other = add_event(sender="shop.Tag"), add_event()
    add_event(trace_id=wanted.trace_id)
    lines = timeline.get_trace_summaries([wanted.trace_id, other.trace_id], ask(sender="shop.Tag"), other.id + 1)
    assert [(wanted.trace_id, 1, 2)] == [(line.trace_id, line.match_count, line.events) for line in lines]


def test_looking_for_what_matches_is_bounded_by_keys(add_event: AddEvent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "NEAR_IDS", 4)
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


def test_names_are_those_of_the_latest_events(add_event: AddEvent) -> None:
    add_event(sender="shop.Tag", actor_label="")
    assert {"signal": ["post_save"], "sender": ["shop.Tag"], "actor_label": []} == timeline.get_recent_names()


# ------------------------------------------------------------------ what a line shows


def get_line(**parts: str) -> trace_summary.TraceSummary:
    [line] = timeline.get_timeline_page(ask(**parts)).summaries
    return line


def describe(line: trace_summary.TraceSummary) -> str:
    return "" if line.highlight is None else str(summarize_event(line.highlight))


def test_a_line_shows_the_first_change_and_the_number_of_the_others(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_event(trace_id="a" * 32, signal="request_started", sender="wsgi", object_key="", object_label="")
    add_event(trace_id="a" * 32, data={"changes": {"status": ["open", "paid"]}})
    add_event(trace_id="a" * 32, signal="pre_save")
    add_event(trace_id="a" * 32, signal="m2m_changed", sender="shop.Order_tags")
    add_event(trace_id="a" * 32, signal="shop.paid", outcome="sent")
    add_trace(trace_id="a" * 32, events=5)
    line = get_line()
    assert ("Order 7 · status open → paid", 1) == (describe(line), line.other_changes)


@pytest.mark.parametrize("signal", ["class_prepared", "connection_created", "pre_migrate"])
def test_a_line_shows_a_change_before_an_event_that_says_nothing(add_event: AddEvent, signal: str) -> None:
    add_event(trace_id="a" * 32, signal=signal, sender="shop.Order", outcome="sent", object_key="", object_label="")
    add_event(trace_id="a" * 32, signal="bulk_create", sender="shop.Order", object_key="", object_label="")
    line = get_line()
    assert line.highlight is not None
    assert ("bulk_create", 0) == (line.highlight.signal, line.other_changes)


def test_a_line_of_classes_shows_no_event(add_event: AddEvent) -> None:
    add_event(signal="class_prepared", sender="shop.Order", outcome="sent", object_key="", object_label="")
    assert get_line().highlight is None


def test_an_error_is_shown_before_a_change(add_event: AddEvent) -> None:
    add_event(trace_id="a" * 32, data={"changes": {"status": ["open", "paid"]}})
    receivers = [{"name": "a", "error": "ValueError: no stock"}]
    add_event(trace_id="a" * 32, object_label="Order 8", errors=1, data={"receivers": receivers})
    assert "Order 8 · ValueError: no stock" == describe(get_line())


def test_a_filtered_line_shows_an_event_that_matches_on_a_page_and_in_an_update(add_event: AddEvent) -> None:
    add_event(trace_id="a" * 32)
    wanted = add_event(trace_id="a" * 32, sender="shop.Tag", object_label="urgent")
    newest = add_event(trace_id="a" * 32)
    assert "Tag urgent" == describe(get_line(sender="shop.Tag"))
    [line] = timeline.get_trace_summaries(["a" * 32], ask(sender="shop.Tag"), newest.id)
    assert wanted == line.highlight


def test_a_login_shows_the_address_of_its_request(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_event(trace_id="a" * 32, signal="user_logged_in", sender="auth.User", object_label="anna", outcome="sent")
    add_trace(trace_id="a" * 32, data={"client_address": "10.0.0.1"})
    assert "anna · logged in from 10.0.0.1" == describe(get_line())
    add_trace(trace_id="a" * 32, data={"client_address": "10.0.0.2"})
    assert "anna · logged in" == describe(get_line())


def test_a_request_without_changes_shows_its_view(add_event: AddEvent, add_trace: AddTrace) -> None:
    add_event(trace_id="a" * 32, signal="request_started", sender="wsgi", object_key="", object_label="")
    add_trace(trace_id="a" * 32, data={"view": "shop.views.order_list"})
    line = get_line()
    assert (None, "shop.views.order_list") == (line.highlight, line.view)


def test_lines_are_in_the_order_of_the_times_that_they_show(add_event: AddEvent, add_trace: AddTrace) -> None:
    long_ago = 1_790_000_000_000_000
    late_write = add_event(time=long_ago + 5_000_000)
    command = add_event(time=long_ago + 9_000_000)
    add_trace(trace_id=command.trace_id, kind="command", time=long_ago - 3_600_000_000, duration=3_610_000_000)
    transaction_of_before = add_event(time=long_ago + 4_000_000)
    lines = timeline.get_timeline_page(ask()).summaries
    expected = [command.trace_id, late_write.trace_id, transaction_of_before.trace_id]
    assert expected == [line.trace_id for line in lines]
    times = [line.shown_time for line in lines]
    assert sorted(times, reverse=True) == times
    live = timeline.get_trace_summaries(expected[::-1], ask(), transaction_of_before.id)
    assert expected == [line.trace_id for line in live]


def test_the_number_of_queries_does_not_depend_on_the_number_of_lines(add_event: AddEvent, add_trace: AddTrace) -> None:
    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            timeline.get_timeline_page(ask())
        return len(queries)

    def add(number: int) -> None:
        for _ in range(number):
            for signal in ("post_save", "user_logged_in", "request_started"):
                event = add_event(signal=signal)
                add_trace(trace_id=event.trace_id)

    add(1)
    few = count()
    add(12)
    assert few == count()
