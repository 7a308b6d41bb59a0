"""The unit of work of one connection. Its transactions are tested in tests/exactness."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from django.db import connections, transaction

import signalbox
from signalbox.core import clock, tracing
from signalbox.core.event import PendingEvent
from signalbox.models import Event
from signalbox.pipeline import processors, unit_of_work
from tests.connecting import get_connection
from tests.shop.models import Tag

pytestmark = pytest.mark.django_db(transaction=True)


def own() -> unit_of_work.UnitOfWork:
    get_connection().ensure_connection()
    found = unit_of_work.get_unit_of_work(get_connection())
    assert found is not None
    return found


def build_event(name: str) -> PendingEvent:
    made = PendingEvent(clock.now(), tracing.get_current_trace(), None, "post_save", "shop.Tag", "default")
    made.label = name
    return made


def labels(events: list[PendingEvent]) -> list[str]:
    return [event.label for event in events]


def test_a_connection_that_was_never_opened_has_no_unit_of_work() -> None:
    fresh = get_connection().copy()
    assert unit_of_work.get_unit_of_work(fresh) is None
    fresh.ensure_connection()
    assert unit_of_work.get_unit_of_work(fresh) is not None
    fresh.close()


def test_opening_a_connection_again_clears_its_unit_of_work() -> None:
    own().events.append(build_event("left over"))
    seam = get_connection().__dict__["_commit"]
    get_connection().close()
    own().clear()
    assert [] == own().events
    assert seam is get_connection().__dict__["_commit"]


def test_recording_makes_no_reference_cycles_on_a_connection() -> None:
    fresh = get_connection().copy()
    fresh.set_autocommit(False)
    fresh.savepoint_commit(fresh.savepoint())
    fresh.savepoint_rollback(fresh.savepoint())
    fresh.rollback()
    fresh.set_autocommit(True)
    found = unit_of_work.get_unit_of_work(fresh)
    assert found is not None
    fresh.close()
    references: list[weakref.ref[Any]] = [weakref.ref(fresh), weakref.ref(found), weakref.ref(found.layer)]
    # Django's own, such as the operations, refer to the connection as well.
    for name in [name for name, value in vars(fresh).items() if type(value).__module__.startswith("django.")]:
        del vars(fresh)[name]
    gc.disable()
    try:
        del fresh, found
        assert [None] * 3 == [reference() for reference in references]
    finally:
        gc.enable()


def test_rolling_back_to_a_savepoint_restores_the_count_of_written_events() -> None:
    found = own()
    with transaction.atomic():
        found.add(build_event("a"))
        found.add_savepoint("s")
        found.add(build_event("b"))
        found.flush()
        assert 2 == found.flushed_count
        found.rollback_to("s")
        assert (["a"], 0) == (labels(found.events), found.flushed_count)
        found.clear()
        transaction.set_rollback(True)


def test_written_events_that_no_savepoint_can_undo_are_removed_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 2)
    found = own()
    with transaction.atomic():
        found.add(build_event("a"))
        found.add_savepoint("s")
        found.add(build_event("b"))  # written, with the one before it
        assert (["a"], 1) == (labels(found.events), found.flushed_count)
        found.release("s")
        found.add(build_event("c"))
        found.add(build_event("d"))
        assert ([], 0) == (found.events, found.flushed_count)
        found.clear()
        transaction.set_rollback(True)


def test_rolling_back_to_an_unknown_savepoint_changes_nothing() -> None:
    found = own()
    with transaction.atomic():
        found.add(build_event("a"))
        found.rollback_to("nowhere")
        found.release("nowhere")
        assert ["a"] == labels(found.events)
        found.clear()


def test_state_of_deleted_instances_is_removed_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 10)
    found = own()
    with transaction.atomic():
        kept = [Tag.objects.create(name="kept") for _ in range(3)]
        for number in range(100):
            Tag.objects.create(name=str(number))
            assert len(found.rollbackables) <= 30
        assert {"kept"} == {one.name for one in kept}
        transaction.set_rollback(True)


def test_a_save_during_a_flush_is_recorded_once() -> None:
    saved: list[Tag] = []

    class SavesOnce(processors.EventProcessor):
        def on_flush(self, batch: processors.EventBatch) -> None:
            if own().is_flushing and not saved:
                saved.append(Tag.objects.create(name="in the flush"))

    saves_once = SavesOnce()
    processors.install(saves_once)
    try:
        with transaction.atomic():
            Tag.objects.create(name="before the flush")
    finally:
        processors.uninstall(saves_once)
    assert 1 == len(saved)
    assert 2 == Tag.objects.count() == Event.objects.filter(signal="post_save", sender="shop.Tag").count()


def test_a_read_flushes_only_transactions_of_its_own_thread() -> None:
    seen: list[Any] = []

    def work() -> None:
        seen.append(unit_of_work.flush_all())  # type: ignore[func-returns-value]
        connections.close_all()

    with transaction.atomic():
        Tag.objects.create(name="a")
        before = len(own().events)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert (before, 0) == (len(own().events), own().flushed_count)
        transaction.set_rollback(True)


def test_a_transaction_that_is_open_when_recording_ends_keeps_its_events() -> None:
    try:
        with transaction.atomic():
            Tag.objects.create(name="a")
            signalbox.stop_recording()
            Tag.objects.create(name="b")
    finally:
        signalbox.start_recording()
    assert ["a"] == [event.object_label for event in Event.objects.filter(signal="post_save")]


@pytest.mark.django_db(transaction=True)
def test_a_transaction_of_many_savepoints_keeps_few_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 10)
    most = 0
    with transaction.atomic():
        for number in range(200):
            with transaction.atomic():
                Tag.objects.create(name=str(number))
            work = unit_of_work.get_unit_of_work(get_connection())
            assert work is not None
            most = max(most, len(work.events), len(work.rollbackables))
    assert most <= 30
    assert 200 == Event.objects.filter(signal="post_save", outcome="committed").count()


@pytest.mark.django_db(transaction=True)
def test_events_written_within_a_savepoint_are_written_again_after_its_rollback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unit_of_work, "FLUSH_THRESHOLD", 4)
    with transaction.atomic():
        for number in range(3):
            with transaction.atomic():
                Tag.objects.create(name=f"before {number}")
        with pytest.raises(KeyError), transaction.atomic():
            for number in range(9):
                with transaction.atomic():
                    Tag.objects.create(name=f"undone {number}")
            raise KeyError
        Tag.objects.create(name="after")
    committed = Event.objects.filter(signal="post_save", outcome="committed").order_by("span")
    assert [*(f"before {number}" for number in range(3)), "after"] == [event.data["row"]["name"] for event in committed]
    assert sorted(Tag.objects.values_list("name", flat=True)) == sorted(
        event.data["row"]["name"] for event in committed
    )
