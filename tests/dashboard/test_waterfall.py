from __future__ import annotations

from typing import Any

from signalbox.dashboard.waterfall import build_rows, build_waterfall
from signalbox.models import Event, Trace


def event(span: int, **given: Any) -> Event:
    values: dict[str, Any] = {"span": span, "time": span * 100, "parent": None, "duration": 100, "data": {}}
    return Event(**{"signal": "post_save", "outcome": "committed", "errors": 0} | values | given)


def trace(**given: Any) -> Trace:
    return Trace(**{"time": 0, "duration": 1000} | given)


def test_an_event_stands_below_the_one_in_whose_receiver_it_happened() -> None:
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
    assert (0, 1000) == (fall.start, fall.duration_us)


def test_numbers_stand_where_there_is_room_for_them() -> None:
    events = [event(1), event(6, duration=300), event(1, duration=850), event(3, duration=500), event(0, duration=740)]
    fall = build_waterfall(events, [trace()], whole_trace=True)
    told = {(row.event.time, row.event.duration): row.label_side for row in fall.rows}
    assert {
        (100, 100): "right",
        (600, 300): "left",
        (100, 850): "above",
        (300, 500): "left",
        (0, 740): "right",
    } == told


def test_receivers_lie_inside_their_event_one_after_the_other() -> None:
    runs = [
        {"name": "a", "location": "", "duration_us": 30, "error": None},
        {"name": "b", "location": "x.py:1", "duration_us": 60, "error": "E: no"},
    ]
    [row] = build_waterfall([event(1, data={"receivers": runs})], [trace()], whole_trace=True).rows
    assert [("a", "10.000", "3.000"), ("b", "13.000", "6.000")] == [
        (run.name, run.left, run.width) for run in row.calls
    ]


def test_in_a_short_bar_only_receivers_that_raised_are_drawn() -> None:
    runs = [{"name": "a", "duration_us": 2, "error": None}, {"name": "b", "duration_us": 1, "error": "E: no"}]
    [row] = build_waterfall([event(1, duration=3, data={"receivers": runs})], [trace()], whole_trace=True).rows
    assert (["a", "b"], ["b"]) == ([run.name for run in row.calls], [run.name for run in row.visible_calls])


def test_what_went_wrong_is_told_whoever_raised() -> None:
    events = [event(1), event(2, errors=1), event(3, outcome="failed"), event(4, signal="got_request_exception")]
    assert [False, True, True, True] == [row.has_error for row in build_rows(events)]


def test_ticks_stand_at_round_times() -> None:
    fall = build_waterfall([event(1)], [trace(duration=20_500)], whole_trace=True)
    assert ["0", "5.00 ms", "10.0 ms", "15.0 ms"] == [tick.label for tick in fall.ticks]


def test_events_that_take_little_of_the_trace_have_an_axis_of_their_own() -> None:
    events = [event(8), event(9)]
    fall = build_waterfall(events, [trace()])
    assert (True, False, 800, 200, 800) == (
        fall.is_sparse,
        fall.is_whole_trace,
        fall.start,
        fall.duration_us,
        fall.skipped_us,
    )
    assert ["0.000", "50.000"] == [row.left for row in fall.rows]
    whole = build_waterfall(events, [trace()], whole_trace=True)
    assert (True, True, 0, 1000, 0) == (
        whole.is_sparse,
        whole.is_whole_trace,
        whole.start,
        whole.duration_us,
        whole.skipped_us,
    )


def test_a_trace_without_events_or_end_has_an_axis() -> None:
    assert ([], 1) == (build_waterfall([], [trace(duration=None)]).rows, build_waterfall([], []).duration_us)


def test_a_transaction_s_end_stands_where_its_last_event_ended() -> None:
    events = [
        event(1, database="default", duration=350),
        event(2, database="default", parent=1),
        event(6, database="default", outcome="rolled_back"),
        event(7, database="default", outcome="rolled_back", parent=6),
        event(8, outcome="sent"),
    ]
    fall = build_waterfall(events, [trace()], whole_trace=True)
    assert [("commit", 2, 450, "45.000"), ("rollback", 2, 800, "80.000")] == [
        (ending.label, ending.event_count, ending.offset_us, ending.position) for ending in fall.transaction_ends
    ]


def test_each_database_has_its_own_ends() -> None:
    fall = build_waterfall(
        [event(1, database="a"), event(2, database="b"), event(3, database="a")], [trace()], whole_trace=True
    )
    assert [("b", 1, 300), ("a", 2, 400)] == [
        (end.database, end.event_count, end.offset_us) for end in fall.transaction_ends
    ]


def test_a_savepoint_that_is_rolled_back_in_a_receiver_ends_no_transaction_around_it() -> None:
    events = [
        event(1, database="default", duration=500),
        event(2, database="default", parent=1, outcome="rolled_back"),
        event(4, database="default", parent=1),
        event(7, database="default"),
    ]
    fall = build_waterfall(events, [trace()], whole_trace=True)
    assert [("rollback", 1, 300), ("commit", 3, 800)] == [
        (end.label, end.event_count, end.offset_us) for end in fall.transaction_ends
    ]


def test_names_of_ends_that_lie_close_together_give_way() -> None:
    events = [event(at, database="default", outcome=("committed", "rolled_back")[at % 2]) for at in range(1, 6)]
    fall = build_waterfall(events, [trace(duration=10_000)], whole_trace=True)
    assert [True, False, False, False, False] == [ending.has_label for ending in fall.transaction_ends]


def test_what_failed_without_a_receiver_is_told_apart() -> None:
    events = [event(1), event(2, outcome="failed"), event(3, signal="got_request_exception", outcome="sent")]
    assert [False, True, True] == [row.has_own_error for row in build_rows(events)]
