from __future__ import annotations

from typing import Any

import pytest

from signalbox.dashboard import waterfall
from signalbox.dashboard.transaction_lines import MAX_LINES
from signalbox.dashboard.waterfall import (
    MAX_CALLS_PER_EVENT,
    CallRow,
    EventRow,
    Waterfall,
    build_rows,
    build_waterfall,
)
from signalbox.models import Event, Trace


def event(span: int, **given: Any) -> Event:
    values: dict[str, Any] = {"span": span, "time": span * 100, "parent": None, "duration": 100, "data": {}}
    return Event(**{"signal": "post_save", "outcome": "committed", "errors": 0} | values | given)


def trace(**given: Any) -> Trace:
    return Trace(**{"time": 0, "duration": 1000, "data": {}} | given)


def test_an_event_is_below_the_event_of_its_receiver() -> None:
    rows = build_rows([event(1), event(2, parent=1), event(3, parent=2), event(4), event(5, parent=1)])
    assert [(1, 0), (2, 1), (3, 2), (5, 1), (4, 0)] == [(row.event.span, row.depth) for row in rows]


def test_no_event_is_lost_to_a_circle_or_a_missing_parent() -> None:
    rows = build_rows([event(1, parent=2), event(2, parent=1), event(3, parent=3), event(4, parent=99)])
    assert {1, 2, 3, 4} == {row.event.span for row in rows}


def test_bars_lie_where_they_happened() -> None:
    fall = build_waterfall([event(1), event(5, duration=250)], [trace()])
    assert [("10.000", "10.000", "20.000"), ("50.000", "25.000", "75.000")] == [
        (row.left, row.width, row.end) for row in fall.rows
    ]
    assert [100, 500] == [row.offset_us for row in fall.rows]
    assert (0, 1000) == (fall.axis.start, fall.axis.duration_us)


def test_labels_are_placed_where_they_fit() -> None:
    events = [event(1), event(6, duration=300), event(1, duration=850), event(3, duration=500), event(0, duration=740)]
    fall = build_waterfall(events, [trace()], whole_trace=True)
    told = {(row.event.time, row.event.duration): row.label_side for row in fall.rows if isinstance(row, EventRow)}
    assert {
        (100, 100): "right",
        (600, 300): "left",
        (100, 850): "above",
        (300, 500): "left",
        (0, 740): "right",
    } == told


def call(name: str, start_us: int | None, duration_us: int | None, error: str = "", **given: Any) -> dict[str, Any]:
    return {"name": name, "start_us": start_us, "duration_us": duration_us, "error": error} | given


def outline(fall: Waterfall) -> list[tuple[int, object, str, str]]:
    return [
        (row.depth, row.event.span if isinstance(row, EventRow) else row.call.name, row.left, row.width)
        for row in fall.rows
    ]


def test_receivers_are_rows_below_their_event_at_their_recorded_times() -> None:
    runs = [call("a", 10, 30), call("b", 50, 60, "E: no")]
    fall = build_waterfall([event(1, duration=120, data={"receivers": runs})], [trace()], whole_trace=True)
    assert [(0, 1, "10.000", "12.000"), (1, "a", "11.000", "3.000"), (1, "b", "15.000", "6.000")] == outline(fall)


def test_an_event_is_below_the_receiver_that_caused_it() -> None:
    sent = event(1, duration=500, data={"receivers": [call("a", 0, 200), call("b", 200, 300)]})
    nested = event(2, parent=1, time=350, duration=50, data={"parent_receiver": 1})
    older = event(3, parent=1, time=150, duration=50)
    fall = build_waterfall([sent, nested, older], [trace()], whole_trace=True)
    assert [(0, 1), (1, "a"), (1, "b"), (2, 2), (1, 3)] == [row[:2] for row in outline(fall)]


def test_asynchronous_receivers_are_in_the_order_of_their_calls() -> None:
    runs = [call("late", 0, 10, index=1), call("early", 0, 90, index=0)]
    fall = build_waterfall([event(1, data={"receivers": runs})], [trace()], whole_trace=True)
    assert [1, "early", "late"] == [row[1] for row in outline(fall)]


def test_a_receiver_of_an_older_version_has_a_row_without_a_bar() -> None:
    older = {"name": "a", "location": "", "duration_us": 30, "error": None}
    fall = build_waterfall([event(1, data={"receivers": [older]})], [trace()], whole_trace=True)
    [_, row] = fall.rows
    assert isinstance(row, CallRow)
    assert (False, 30) == (row.is_placed, row.call.duration_us)


def test_a_bar_reaches_to_the_end_of_the_last_receiver() -> None:
    fall = build_waterfall(
        [event(1, duration=100, data={"receivers": [call("a", 400, 100)]})], [trace()], whole_trace=True
    )
    assert "60.000" == fall.rows[0].end  # the send of post_save began after the commit


def test_receivers_beyond_the_limit_are_counted_and_those_that_raised_are_shown() -> None:
    runs = [call(f"r{number}", number, 1, "E: no" if number == 90 else "") for number in range(100)]
    fall = build_waterfall([event(1, data={"receivers": runs})], [trace()], whole_trace=True)
    assert isinstance(fall.rows[0], EventRow)
    assert (MAX_CALLS_PER_EVENT + 2, 100 - MAX_CALLS_PER_EVENT - 1) == (len(fall.rows), fall.rows[0].hidden_calls)
    assert "r90" == outline(fall)[-1][1]


def test_receivers_that_raised_are_shown_up_to_a_limit_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waterfall, "MAX_CALL_ROWS", 5)
    monkeypatch.setattr(waterfall, "MAX_RAISED_ROWS", 7)
    runs = [call(f"r{number}", number, 1, "E: no" if number >= 5 else "") for number in range(30)]
    events = [event(1, data={"receivers": runs}), event(2, parent=1, data={"parent_receiver": 29})]
    rows = build_waterfall(events, [trace()], whole_trace=True).rows
    names = [row.call.name for row in rows if isinstance(row, CallRow)]
    assert [f"r{number}" for number in (*range(12), 29)] == names
    assert isinstance(rows[0], EventRow)
    assert 17 == rows[0].hidden_calls


def test_errors_of_receivers_operations_and_requests_are_shown() -> None:
    events = [event(1), event(2, errors=1), event(3, outcome="failed"), event(4, signal="got_request_exception")]
    assert [False, True, True, True] == [row.has_error for row in build_rows(events)]


def test_ticks_are_at_round_times() -> None:
    fall = build_waterfall([event(1)], [trace(duration=20_500)], whole_trace=True)
    assert ["0", "5.00 ms", "10.0 ms", "15.0 ms"] == [tick.label for tick in fall.ticks]


def test_short_events_have_their_own_axis() -> None:
    events = [event(8), event(9)]
    fall = build_waterfall(events, [trace()])
    assert (True, False, 800, 200, 800) == (
        fall.is_sparse,
        fall.is_whole_trace,
        fall.axis.start,
        fall.axis.duration_us,
        fall.skipped_us,
    )
    assert ["0.000", "50.000"] == [row.left for row in fall.rows]
    whole = build_waterfall(events, [trace()], whole_trace=True)
    assert (True, True, 0, 1000, 0) == (
        whole.is_sparse,
        whole.is_whole_trace,
        whole.axis.start,
        whole.axis.duration_us,
        whole.skipped_us,
    )


def test_a_trace_without_events_or_end_has_an_axis() -> None:
    assert ([], 1) == (build_waterfall([], [trace(duration=None)]).rows, build_waterfall([], []).axis.duration_us)


def ended(time_us: int, outcome: str = "committed", events: int | None = 1, **given: Any) -> dict[str, Any]:
    return {"time_us": time_us, "outcome": outcome, "database": "default", "events": events} | given


def test_commits_and_rollbacks_are_drawn_at_their_recorded_times() -> None:
    ends = [ended(450, events=2), ended(800, "rolled_back"), ended(300, "rolled_back", savepoint=True)]
    fall = build_waterfall([event(1)], [trace(data={"transactions": ends, "transaction_count": 3})], whole_trace=True)
    assert [
        "savepoint rollback of 1 event on default at 300 µs",
        "commit of 2 events on default at 450 µs",
        "rollback of 1 event on default at 800 µs",
    ] == [str(line) for line in fall.lines]
    assert ["30.000", "45.000", "80.000"] == [line.position for line in fall.lines]
    assert (0, False) == (fall.hidden_line_count, fall.has_unknown_ends)


def test_no_commit_is_drawn_if_none_was_recorded() -> None:
    fall = build_waterfall([event(1, database="default")], [trace()], whole_trace=True)
    assert ([], True) == (fall.lines, fall.has_unknown_ends)


def test_commits_beyond_the_limit_are_counted() -> None:
    ends = [ended(10 * number) for number in range(1, 61)]
    fall = build_waterfall([event(1)], [trace(data={"transactions": ends, "transaction_count": 70})], whole_trace=True)
    assert (MAX_LINES, 70 - MAX_LINES) == (len(fall.lines), fall.hidden_line_count)


def test_labels_of_adjacent_ends_are_omitted() -> None:
    ends = [ended(at) for at in range(100, 106)]
    fall = build_waterfall([event(1)], [trace(data={"transactions": ends})], whole_trace=True)
    assert [True, False, False, False, False, False] == [line.has_label for line in fall.lines]


def test_errors_without_a_receiver_are_marked() -> None:
    events = [event(1), event(2, outcome="failed"), event(3, signal="got_request_exception", outcome="sent")]
    assert [False, True, True] == [row.has_own_error for row in build_rows(events)]
