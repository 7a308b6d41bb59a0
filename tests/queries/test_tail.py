from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from django.db import OperationalError, connection
from hypothesis import given
from hypothesis import strategies as st

import signalbox
from signalbox.instrumentation import recording_state
from signalbox.models import Event
from signalbox.pipeline.backends.base import TransactionSnapshot
from signalbox.queries import tail, window_search
from signalbox.queries.filters import EventFilter, FilterError
from signalbox.queries.id_gaps import GAP_TIMEOUT, MAX_GAPS, SNAPSHOT_GRACE_SECONDS, IdGapTracker
from signalbox.queries.tail import EventFollower, follow
from tests.rows import build_event, create_event


@pytest.fixture
def _alone(db: None) -> Iterator[None]:
    """The register holds what a test writes into it, and nothing of the test itself."""
    recording_state.disable_recording_for_process()
    Event.objects.all().delete()
    yield
    signalbox.start_recording()


def labels(events: list[Event]) -> list[str]:
    return [found.object_label for found in events]


def stopped() -> threading.Event:
    stop = threading.Event()
    stop.set()
    return stop


# ------------------------------------------------------------------ gaps


def missing(gaps: IdGapTracker, most: int) -> list[int]:
    return [number for number in range(most) if number in gaps]


def test_missing_ids_are_a_gap() -> None:
    gaps = IdGapTracker()
    gaps.add(3, [4, 7, 8, 10], now=0)
    assert [5, 6, 9] == missing(gaps, 20)


def test_found_ids_are_removed_from_the_gaps() -> None:
    gaps = IdGapTracker()
    gaps.add(0, [10], now=0)
    gaps.remove_ids([5, 1, 9])
    assert [2, 3, 4, 6, 7, 8] == missing(gaps, 20)
    gaps.remove_ids([])
    gaps.remove_ids(range(1, 10))
    assert 0 == len(gaps)


@given(st.lists(st.integers(1, 60), unique=True).map(sorted), st.lists(st.sets(st.integers(1, 60)), max_size=5))
def test_gaps_are_what_was_neither_seen_nor_found(seen: list[int], found: list[set[int]]) -> None:
    gaps = IdGapTracker()
    gaps.add(0, seen, now=0)
    for numbers in found:
        gaps.remove_ids(numbers)
    expected = set(range(1, max(seen, default=0))) - set(seen) - {number for numbers in found for number in numbers}
    assert sorted(expected) == missing(gaps, 61)


def test_a_gap_is_asked_for_at_once_and_ever_more_seldom() -> None:
    gaps = IdGapTracker()
    gaps.add(0, [2], now=0)
    asked = []
    for tenth in range(36_000):
        now = tenth / 10
        if due := gaps.get_due(now):
            asked.append(now)
            gaps.update_checked(due, now, None)
    assert [0.0, 0.1, 0.2] == asked[:3]
    assert len(asked) < 120
    assert max(after - before for before, after in pairwise(asked)) < GAP_TIMEOUT / 8


def test_gaps_are_forgotten_after_an_hour_without_a_snapshot() -> None:
    gaps = IdGapTracker()
    gaps.add(0, [2], now=0)
    gaps.update_checked(gaps.get_due(1.0), 1.0, None)
    gaps.update_checked(gaps.get_due(GAP_TIMEOUT - 1), GAP_TIMEOUT - 1, None)
    assert 1 in gaps
    late = GAP_TIMEOUT * 9 / 8
    gaps.update_checked(gaps.get_due(late), late, None)
    assert 0 == len(gaps)


def test_a_gap_waits_for_the_transactions_that_ran_when_it_was_seen_and_for_no_other() -> None:
    gaps = IdGapTracker()
    gaps.add(0, [2], now=0)
    # Who has just taken an id may not be among the running ones yet: what ran is noted a moment later.
    gaps.update_checked(gaps.get_due(0), 0, TransactionSnapshot(xmin=100, xmax=100))
    assert 1 in gaps
    gaps.update_checked(
        gaps.get_due(SNAPSHOT_GRACE_SECONDS), SNAPSHOT_GRACE_SECONDS, TransactionSnapshot(xmin=100, xmax=105)
    )
    assert 1 in gaps
    gaps.update_checked(gaps.get_due(5 * GAP_TIMEOUT), 5 * GAP_TIMEOUT, TransactionSnapshot(xmin=104, xmax=900))
    assert 1 in gaps
    gaps.update_checked(gaps.get_due(9 * GAP_TIMEOUT), 9 * GAP_TIMEOUT, TransactionSnapshot(xmin=105, xmax=900))
    assert 0 == len(gaps)


def test_a_gap_that_was_not_asked_for_is_not_given_up() -> None:
    gaps = IdGapTracker()
    gaps.add(0, [2], now=0)
    gaps.update_checked([], 9 * GAP_TIMEOUT, None)
    assert 1 in gaps


def test_gaps_take_a_bounded_place_in_memory() -> None:
    gaps = IdGapTracker()
    gaps.add(0, range(2, 4 * MAX_GAPS, 2), now=0)
    assert MAX_GAPS == len(gaps)
    assert 4 * MAX_GAPS - 3 in gaps


# ------------------------------------------------------------------ following


@pytest.mark.every_database
@pytest.mark.usefixtures("_alone")
class TestFollowing:
    def test_it_begins_when_it_is_asked_for_and_not_when_it_is_first_read(self) -> None:
        create_event(object_label="before")
        stop = threading.Event()
        stream = follow(stop=stop)
        create_event(object_label="after")
        assert "after" == next(stream).object_label
        stop.set()
        assert [] == list(stream)

    def test_it_can_begin_with_the_newest_that_are_there(self) -> None:
        for label in "abcde":
            create_event(object_label=label)
        stop = threading.Event()
        stream = follow(lines=2, stop=stop)
        create_event(object_label="f")
        stop.set()
        assert ["d", "e", "f"] == labels(list(stream))

    def test_lines_are_those_that_the_filter_wants(self) -> None:
        create_event(object_label="a")
        create_event(object_label="b", signal="update")
        create_event(object_label="c")
        chosen = EventFilter(signal=("post_save",))
        assert ["a", "c"] == labels(list(follow(chosen, lines=2, stop=stopped())))

    def test_it_can_begin_after_an_event(self) -> None:
        first = create_event(object_label="a")
        create_event(object_label="b")
        create_event(object_label="c")
        assert ["b", "c"] == labels(list(follow(after=first.id, stop=stopped())))
        assert ["a", "b", "c"] == labels(list(follow(after=0, stop=stopped())))

    def test_each_matching_event_is_returned_once(self) -> None:
        follower = EventFollower(EventFilter(outcome=("failed",)))
        create_event(object_label="a")
        create_event(object_label="b", outcome="failed")
        assert ["b"] == labels(follower.poll())
        create_event(object_label="c", outcome="failed")
        assert ["c"] == labels(follower.poll())

    def test_a_backlog_comes_whole_and_in_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tail, "BATCH_SIZE", 7)
        Event._base_manager.bulk_create(build_event(object_label=str(number)) for number in range(50))
        assert [str(number) for number in range(50)] == labels(list(follow(after=0, stop=stopped())))

    def test_ids_that_were_purged_stop_nothing(self) -> None:
        for label in "abcde":
            create_event(object_label=label)
        Event._base_manager.filter(object_label__in="bd").delete()
        assert ["a", "c", "e"] == labels(list(follow(after=0, stop=stopped())))

    def test_a_filter_by_kind_is_refused(self) -> None:
        with pytest.raises(FilterError, match="kind is 'request'; none was expected: a running trace"):
            follow(EventFilter(kind=("request",)))

    def test_stop_ends_a_wait_at_once(self) -> None:
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        began = time.monotonic()
        assert [] == list(follow(stop=stop))
        assert time.monotonic() - began < 5

    def test_the_pause_grows_while_nothing_comes_and_shrinks_when_something_does(self) -> None:
        pauses: list[float] = []

        class Watched(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                pauses.append(timeout)
                if len(pauses) == 7:
                    create_event()
                return len(pauses) == 9

        assert 1 == len(list(follow(stop=Watched())))
        assert [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 0.05, 0.1] == pauses


@pytest.mark.every_database
@pytest.mark.django_db(transaction=True)
class TestAnUnavailableDatabase:
    @pytest.fixture(autouse=True)
    def _patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tail, "MAX_POLL_INTERVAL", 0.01)
        monkeypatch.setattr(tail, "MAX_FAILED_POLLS", 3)

    @contextmanager
    def failing(self, times: int) -> Iterator[EventFollower]:
        """A follower whose database closes the connection in the middle of a poll, ``times`` times."""
        left = times

        def fail(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            nonlocal left
            if left and " IN (" in sql:  # the query of the events, after that of their ids
                left -= 1
                raise OperationalError("the server closed the connection")
            return execute(sql, *args)

        with connection.execute_wrapper(fail):
            yield EventFollower(EventFilter(sender=("shop.Order",)))

    def test_a_poll_is_repeated_on_a_new_connection_and_misses_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "signalbox"), self.failing(2) as follower:
            create_event(object_label="a")
            raw = connection.connection
            assert ["a"] == labels(follower.poll_with_retry(threading.Event()))
        assert raw is not connection.connection
        assert 2 == caplog.text.count("Events can't be followed, retrying: the server closed the connection")

    def test_the_error_is_raised_after_the_last_poll(self) -> None:
        with self.failing(3) as follower, pytest.raises(OperationalError, match="the server closed the connection"):
            create_event()
            follower.poll_with_retry(threading.Event())


@pytest.mark.usefixtures("_alone")
def test_following_does_not_wait_for_a_search_of_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_search, "FIRST_WINDOW", 2)
    monkeypatch.setattr(window_search, "WIDEST_WINDOW", 2)
    monkeypatch.setattr(tail, "DEFAULT_BUDGET", 0.0)
    create_event(signal="update")
    for _ in range(9):
        create_event()
    follower = EventFollower(EventFilter.parse_text("-signal:post_save"))
    assert [] == follower.get_newest(10)
    monkeypatch.setattr(tail, "DEFAULT_BUDGET", 60.0)
    assert ["update"] == [event.signal for event in follower.get_newest(10)]
