from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.db import connection
from django.dispatch import Signal

import signalbox
from signalbox.core import tracing
from signalbox.core.event import Actor
from signalbox.models import Event, Trace
from signalbox.pipeline import exporter
from tests.shop.models import Tag

departed = Signal()


def count(trace: tracing.Trace) -> int:
    """How many events of ``trace`` are written; past Signalbox's own manager, which would write what waits."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM signalbox_event WHERE trace_id = %s", [trace.id])
        return int(cursor.fetchone()[0])


@pytest.fixture(autouse=True)
def named() -> None:
    signalbox.register_signal(departed, "tests.departed")


@pytest.mark.django_db
def test_a_block_is_a_trace_with_an_actor_and_a_kind() -> None:
    with signalbox.trace("import prices", actor="nightly job", kind="cron") as trace:
        Tag.objects.create(name="steam")

    row = Trace.objects.get(trace_id=trace.id)
    assert ("cron", "import prices", "nightly job", "ok", 1) == (
        row.kind,
        row.name,
        row.actor_label,
        row.status,
        row.events,
    )
    assert "nightly job" == Event.objects.get(trace_id=trace.id).actor_label


@pytest.mark.django_db
def test_secrets_are_redacted_from_the_name_of_a_block() -> None:
    with signalbox.trace("import password=hunter2") as trace:
        Tag.objects.create(name="steam")

    assert "import password=[redacted]" == Trace.objects.get(trace_id=trace.id).name


@pytest.mark.django_db
def test_a_block_in_which_nothing_happens_leaves_nothing_and_opens_no_connection() -> None:
    with signalbox.trace("nothing") as trace:
        pass

    assert trace.duration is not None
    assert not Trace.objects.filter(trace_id=trace.id).exists()


@pytest.mark.django_db
def test_a_block_that_fails_says_so_and_its_events_stay() -> None:
    def fail(sender: object, **kwargs: object) -> None:
        raise ValueError("no coal")

    departed.connect(fail)
    try:
        with pytest.raises(ValueError, match="no coal"), signalbox.trace("import prices") as trace:
            departed.send(sender=None)
    finally:
        departed.disconnect(fail)

    assert ("failed", 1) == Trace.objects.values_list("status", "events").get(trace_id=trace.id)


@pytest.mark.django_db
def test_one_trace_object_can_be_used_again_and_within_itself() -> None:
    work = signalbox.trace("again")
    with work as first, work as second:
        departed.send(sender=None)
    with work as third:
        departed.send(sender=None)

    assert 3 == len({first.id, second.id, third.id})
    assert {second.id, third.id} == set(
        Event.objects.filter(signal="tests.departed").values_list("trace_id", flat=True)
    )


@pytest.mark.django_db(transaction=True)
def test_an_asynchronous_block_is_written_before_it_returns() -> None:
    async def work() -> tuple[tracing.Trace, int]:
        async with signalbox.trace("import prices", actor="nightly job") as trace:
            departed.send(sender=None)
            await asyncio.sleep(0)
            assert tracing.get_current_trace() is trace
        return trace, await sync_to_async(count)(trace)

    trace, number = async_to_sync(work)()
    assert 1 == number
    assert ("nightly job", "ok") == Trace.objects.values_list("actor_label", "status").get(trace_id=trace.id)


@pytest.mark.django_db(transaction=True)
def test_an_asynchronous_block_that_fails_or_is_cancelled_says_so() -> None:
    async def fail() -> None:
        async with signalbox.trace("fails"):
            departed.send(sender=None)
            raise ValueError("no coal")

    async def cancelled() -> None:
        async with signalbox.trace("cancelled"):
            departed.send(sender=None)
            await asyncio.sleep(60)

    async def work() -> None:
        with pytest.raises(ValueError, match="no coal"):
            await fail()
        task = asyncio.create_task(cancelled())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async_to_sync(work)()
    rows = Trace.objects.filter(kind="custom").values_list("name", "status")
    assert {("fails", "failed"), ("cancelled", "failed")} == set(rows)


@pytest.mark.django_db(transaction=True)
def test_concurrent_asynchronous_blocks_do_not_meet() -> None:
    async def one(name: str) -> str:
        async with signalbox.trace(name, actor=name) as trace:
            await asyncio.sleep(0.001)
            departed.send(sender=name)
            return trace.id

    async def work() -> list[str]:
        return await asyncio.gather(*(one(name) for name in ("ann", "ben", "cat")))

    ids = async_to_sync(work)()
    rows = Event.objects.filter(trace_id__in=ids).values_list("sender", "actor_label", "trace_id")
    assert sorted(zip(("ann", "ben", "cat"), ("ann", "ben", "cat"), ids, strict=True)) == sorted(rows)


@pytest.mark.django_db(transaction=True)
def test_a_block_that_ends_in_an_event_loop_writes_its_events_later() -> None:
    async def work() -> tracing.Trace:
        with signalbox.trace("in the loop", actor="ann") as trace:
            departed.send(sender=None)
        assert exporter.has_pending()
        return trace

    trace = async_to_sync(work)()
    exporter.flush()
    assert 1 == count(trace)
    assert "ann" == Trace.objects.get(trace_id=trace.id).actor_label


@pytest.mark.parametrize("name", [None, 7, b"import"])
def test_a_trace_needs_a_text_as_its_name(name: Any) -> None:
    with pytest.raises(TypeError, match=rf"given {type(name).__name__} as name; a text was expected"):
        signalbox.trace(name)


@pytest.mark.parametrize("actor", [7, object(), AnonymousUser()])
def test_an_actor_is_a_user_who_has_logged_in_or_a_text(actor: Any) -> None:
    with pytest.raises(
        TypeError, match=f"actor is a {type(actor).__name__}. Expected a user who has logged in, or a text"
    ):
        signalbox.set_actor(actor)
    with pytest.raises(TypeError, match="Expected a user who has logged in"):
        signalbox.trace("import", actor=actor)


def test_an_actor_that_was_set_is_taken_back() -> None:
    def work() -> list[Actor | None]:
        found = []
        with signalbox.trace("import", actor=User(pk=7, username="ann")) as trace:
            found.append(trace.get_actor())
            signalbox.set_actor("robot")
            found.append(trace.get_actor())
            signalbox.set_actor(None)
            found.append(trace.get_actor())
        return found

    actors = contextvars.Context().run(work)
    assert [Actor(key="7", label="ann"), Actor(key="", label="robot"), None] == actors
