"""Each exception is one error, with its place, wherever it passes through. Groups follow class, place and receiver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync
from django.core.management import BaseCommand, call_command
from django.db import DatabaseError, connection, transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

import signalbox
from signalbox.core.clock import now_us
from signalbox.core.event import Actor
from signalbox.core.tracing import generate_trace_id
from signalbox.instrumentation.traces import traced
from signalbox.models import Error, ErrorState, Event, Trace
from signalbox.pipeline import exporter
from signalbox.queries import errors
from signalbox.queries.error_states import StateConflictError, change_state
from signalbox.queries.event_errors import has_error
from tests.shop.models import Order, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.every_database]

sent = Signal()
inner = Signal()


class PriceError(Exception):
    """A defect of the project."""


def fail(**named: Any) -> None:
    raise PriceError("password=hunter2 costs nothing")


def relay(**named: Any) -> None:
    inner.send(sender=None)


def save_order(**named: Any) -> None:
    Order.objects.create(number="1")


def crash(request: HttpRequest) -> HttpResponse:
    raise PriceError("of the view")


def send_in_view(request: HttpRequest) -> HttpResponse:
    sent.send(sender=None)
    return HttpResponse()


def fail_in_a_trace(request: HttpRequest) -> HttpResponse:
    with signalbox.trace("import"):
        raise PriceError("of the import")


def run_command(request: HttpRequest) -> HttpResponse:
    call_command(Failing())
    return HttpResponse()


class Failing(BaseCommand):
    """A command that raises."""

    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        raise PriceError("of the command")


urlpatterns = [
    path("crash/", crash),
    path("send/", send_in_view),
    path("import/", fail_in_a_trace),
    path("command/", run_command),
]


@contextmanager
def connected(signal: Signal, *receivers: Callable[..., object]) -> Iterator[None]:
    for receiver in receivers:
        signal.connect(receiver)
    try:
        yield
    finally:
        for receiver in receivers:
            signal.disconnect(receiver)


@pytest.fixture(autouse=True)
def custom_signals() -> None:
    signalbox.register_signal(sent, "tests.sent")
    signalbox.register_signal(inner, "tests.inner")
    exporter.flush()
    for model in (Event, Trace, Error, ErrorState):
        model.objects.all().delete()


def get(address: str) -> str:
    """Send a request and return its trace id."""
    client = Client(raise_request_exception=False)
    with override_settings(ROOT_URLCONF=__name__):
        client.get(address)
    return str(Trace.objects.order_by("-id").values_list("trace_id", flat=True)[0])


def read_errors(**filters: Any) -> list[tuple[str, str, str]]:
    rows = Error.objects.filter(**filters).order_by("id")
    return [(row.exception, row.function, row.receiver) for row in rows]


def count_of_trace(trace_id: str) -> tuple[int, int]:
    """Return the errors that a trace's row and its events count."""
    row = sum(Trace.objects.filter(trace_id=trace_id).values_list("errors", flat=True))
    return row, sum(Event.objects.filter(trace_id=trace_id).values_list("errors", flat=True))


def test_a_failing_view_is_one_error_at_the_place_of_the_view() -> None:
    trace_id = get("/crash/")
    [error] = Error.objects.all()
    assert (f"{__name__}.PriceError", "of the view", "crash", "") == (
        error.exception,
        error.message,
        error.function,
        error.receiver,
    )
    assert "tests/queries/test_errors.py" == error.file
    assert crash.__code__.co_firstlineno + 1 == error.line
    assert (1, 1) == count_of_trace(trace_id)
    assert error.file in [file for file, _, _ in error.data["frames"]]


def test_an_exception_is_one_error_through_two_sends_and_the_request() -> None:
    with connected(sent, relay), connected(inner, fail):
        trace_id = get("/send/")
    assert [(f"{__name__}.PriceError", "fail", f"{__name__}.fail")] == read_errors()
    assert (1, 1) == count_of_trace(trace_id)
    [error] = Error.objects.all()
    [event] = Event.objects.filter(trace_id=trace_id, errors=1)
    assert ("tests.inner", event.span) == (event.signal, error.span)
    [request] = Event.objects.filter(signal="got_request_exception")
    assert (0, True) == (request.errors, request.data["passed_through"])


@pytest.mark.parametrize(("address", "message"), [("/import/", "of the import"), ("/command/", "of the command")])
def test_an_exception_is_one_error_through_a_nested_trace_and_the_request(address: str, message: str) -> None:
    trace_id = get(address)
    [error] = Error.objects.all()
    assert (message, None) == (error.message, error.span)
    assert trace_id != error.trace_id
    assert (1, 0) == count_of_trace(error.trace_id)
    assert (0, 0) == count_of_trace(trace_id)


@contextmanager
def own_trace() -> Iterator[None]:
    """A project's own wrapper of a trace."""
    with signalbox.trace("own"):
        yield


def refuse() -> None:
    raise ValueError("no price")


@pytest.mark.parametrize(
    "make_inner",
    [lambda: signalbox.trace("inner"), own_trace, lambda: traced("command", "inner")],
    ids=["trace", "contextmanager", "traced"],
)
def test_each_exception_of_a_loop_is_one_error_although_their_addresses_are_the_same(
    make_inner: Callable[[], AbstractContextManager[object]],
) -> None:
    with suppress(ValueError), signalbox.trace("outer"):
        for _ in range(3):
            with suppress(ValueError), make_inner():
                refuse()
        with signalbox.trace("first"), make_inner():
            refuse()
    assert 4 == Error.objects.count()
    with suppress(ValueError), signalbox.trace("outer"):
        with suppress(ValueError), make_inner():
            refuse()
        refuse()  # not within an inner trace
    assert 6 == Error.objects.count()


def test_an_exception_from_a_trace_in_a_thread_is_one_error_in_the_receiver() -> None:
    def work() -> None:
        with closing(connection), signalbox.trace("thread"):
            refuse()

    def wait(**named: Any) -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit(work).result()

    with connected(sent, wait), suppress(ValueError), signalbox.trace("work"):
        sent.send(sender=None)
    assert [("ValueError", "refuse", "")] == read_errors()


def test_a_group_of_exceptions_that_were_counted_is_no_other_error() -> None:
    async def send() -> None:
        await sent.asend(sender=None)

    async def run() -> None:
        async with signalbox.trace("work"), asyncio.TaskGroup() as group:
            group.create_task(send())
            group.create_task(send())

    async def wait_and_fail(**named: Any) -> None:
        await asyncio.sleep(0)
        refuse()

    with connected(sent, wait_and_fail), pytest.raises(ExceptionGroup):
        async_to_sync(run)()
    assert {("ValueError", "refuse")} == {found[:2] for found in read_errors()}
    assert 2 == Error.objects.count()


def test_a_group_with_an_exception_that_was_not_counted_is_an_error() -> None:
    with connected(sent, fail), pytest.raises(ExceptionGroup), signalbox.trace("work"):
        [(_, counted)] = sent.send_robust(sender=None)
        raise ExceptionGroup("both", [counted, ValueError()])
    assert {f"{__name__}.PriceError", "ExceptionGroup"} == {found[0] for found in read_errors()}


def test_a_receiver_that_is_cancelled_has_not_failed() -> None:
    started = asyncio.Event()

    async def wait(**named: Any) -> None:
        started.set()
        await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(sent.asend(sender=None))
        await started.wait()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    with connected(sent, wait), signalbox.trace("work"):
        async_to_sync(run)()
    assert not Error.objects.exists()
    [event] = Event.objects.filter(signal="tests.sent")
    [call] = event.data["receivers"]
    assert ("failed", 0, "CancelledError", True) == (event.outcome, event.errors, call["error"], call["passed_through"])
    assert not has_error(event)


def test_exceptions_that_send_robust_returns_are_one_error_each() -> None:
    def fail_too(**named: Any) -> None:
        raise LookupError("no stock")

    with connected(sent, fail, fail_too), signalbox.trace("work") as trace:
        sent.send_robust(sender=None)
    assert ["fail", "test_exceptions_that_send_robust_returns_are_one_error_each.<locals>.fail_too"] == [
        function for _, function, _ in read_errors(trace_id=trace.id)
    ]
    assert [0, 1] == list(Error.objects.order_by("id").values_list("position", flat=True))
    assert (2, 2) == count_of_trace(trace.id)


def test_the_message_has_no_secret_and_is_limited() -> None:
    def fail_long(**named: Any) -> None:
        raise ValueError("x" * 5_000)

    with connected(sent, fail, fail_long), signalbox.trace("work"):
        sent.send_robust(sender=None)
    first, second = Error.objects.order_by("id")
    assert "hunter2" not in first.message
    assert "costs nothing" in first.message
    assert len(second.message) <= 500
    assert "ValueError" == second.exception


def test_an_error_of_a_save_is_stored_once_with_the_update_of_its_event() -> None:
    """In autocommit the event is written before the receiver runs."""
    with connected(post_save, fail), signalbox.trace("work") as trace, pytest.raises(PriceError):
        Order.objects.create(number="1")
    [error] = Error.objects.filter(trace_id=trace.id)
    [event] = Event.objects.filter(trace_id=trace.id, signal="post_save")
    assert (event.span, 1) == (error.span, event.errors)


def test_an_error_of_a_rolled_back_transaction_is_stored_with_its_event() -> None:
    with connected(post_save, fail), signalbox.trace("work") as trace, pytest.raises(PriceError), transaction.atomic():
        Order.objects.create(number="1")
    [error] = Error.objects.filter(trace_id=trace.id)
    [event] = Event.objects.filter(trace_id=trace.id, signal="post_save")
    assert ("rolled_back", event.span) == (event.outcome, error.span)


def test_an_error_whose_event_was_written_twice_is_stored_once() -> None:
    """A read flushes the event, its update is pending, and then the savepoint is rolled back."""

    def read_and_fail(sender: type, **named: Any) -> None:
        if sender is Tag:
            return
        assert Event.objects.filter(signal="post_save").exists()
        raise PriceError

    with connected(post_save, read_and_fail), signalbox.trace("work") as trace, transaction.atomic():
        with pytest.raises(PriceError), transaction.atomic():
            Order.objects.create(number="1")
        Tag.objects.create(name="kept")
    events = Event.objects.filter(trace_id=trace.id, signal="post_save", sender="shop.Order")
    assert [("rolled_back", 1)] == list(events.values_list("outcome", "errors"))
    assert [events[0].span] == list(Error.objects.filter(trace_id=trace.id).values_list("span", flat=True))


def test_a_rejected_error_takes_its_event_with_it_and_no_other() -> None:
    """Both are in one transaction."""
    with connected(sent, fail), pytest.MonkeyPatch.context() as patch, signalbox.trace("work") as trace:
        sent.send_robust(sender=None)
        inner.send(sender=None)
        [event] = [one for one in trace.pending if one.raised_errors]
        patch.setattr(event, "raised_errors", [event.raised_errors[0]._replace(receiver=cast("str", None))])
        lost = event.span
    assert not Event.objects.filter(span=lost).exists()
    assert not Error.objects.exists()
    assert Event.objects.filter(trace_id=trace.id, signal="tests.inner").exists()


def test_the_fingerprint_stays_when_lines_move_and_differs_by_receiver() -> None:
    sources = ["def run(**named):\n    raise ValueError('a')\n", "\n\n\ndef run(**named):\n    raise ValueError('b')\n"]
    runs = []
    for source in sources:
        space: dict[str, Any] = {"__name__": "shop.moved"}
        exec(compile(source, "/srv/shop/moved.py", "exec"), space)
        runs.append(space["run"])
    with connected(sent, *runs, fail), signalbox.trace("work"):
        sent.send_robust(sender=None)
    rows = {row.line: row.fingerprint for row in Error.objects.filter(exception="ValueError")}
    assert {2, 5} == rows.keys()
    assert 1 == len(set(rows.values()))
    assert 2 == Error.objects.values("fingerprint").distinct().count()


def test_the_place_is_the_innermost_frame_of_the_project() -> None:
    def read(**named: Any) -> None:
        Order.objects.get(pk="not a number")

    with connected(sent, read), signalbox.trace("work"):
        sent.send_robust(sender=None)
    [error] = Error.objects.all()
    assert "tests/queries/test_errors.py" == error.file
    assert error.function.endswith("<locals>.read")
    assert error.data["frames"][-1][0] != error.file


# ------------------------------------------------------------------ groups


def add_errors(number: int = 1, **given: Any) -> list[Error]:
    values: dict[str, Any] = {
        "trace_id": generate_trace_id(),
        "span": 1,
        "position": 0,
        "fingerprint": "a" * 32,
        "time": now_us(),
        "exception": "shop.PriceError",
        "message": "no price",
        "file": "shop/prices.py",
        "line": 7,
        "function": "get_price",
        "receiver": "",
        "data": {"frames": []},
    }
    return [Error.objects.create(**(values | given)) for _ in range(number)]


def get_groups(**options: Any) -> list[errors.ErrorGroup]:
    return errors.get_error_page("default", **options).groups


OPERATOR = Actor(key="1", label="ada")


def test_groups_have_counts_traces_and_times() -> None:
    add_errors(2, trace_id="1" * 32, time=now_us() - 9_000_000)
    [newest] = add_errors(message="newest")
    add_errors(fingerprint="b" * 32, receiver="shop.receivers.save")
    second, first = get_groups()
    assert ("b" * 32, 1, 1) == (second.fingerprint, second.count, second.trace_count)
    assert (3, 2, "newest", newest.time) == (first.count, first.trace_count, first.newest.message, first.last_seen)
    assert first.first_seen < newest.time
    assert first == errors.find_group("default", "a" * 32)


def test_errors_before_the_window_are_not_counted_but_first_seen() -> None:
    [old] = add_errors(time=now_us() - 40 * 86_400_000_000)
    add_errors()
    [group] = get_groups()
    assert (1, old.time) == (group.count, group.first_seen)


def test_only_the_newest_errors_are_counted_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "MAX_ERRORS", 3)
    add_errors(5)
    page = errors.get_error_page("default")
    assert (True, [3]) == (page.is_cut_off, [group.count for group in page.groups])


def test_groups_are_found_by_a_text_and_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        add_errors(fingerprint=f"{number}" * 32, receiver=f"shop.receivers.number_{number}")
    assert ["1" * 32] == [group.fingerprint for group in get_groups(text="NUMBER_1")]
    monkeypatch.setattr(errors, "PAGE_SIZE", 2)
    page = errors.get_error_page("default")
    rest = errors.get_error_page("default", before=page.next_cursor)
    assert ["2" * 32, "1" * 32, "0" * 32] == [group.fingerprint for group in (*page.groups, *rest.groups)]
    assert rest.next_cursor is None


def test_the_state_of_a_group_that_a_text_finds_is_that_of_all_its_errors() -> None:
    add_errors(message="first", time=now_us() - 9_000_000)
    change_state("default", "a" * 32, "resolved", OPERATOR)
    [newest] = add_errors(message="second", time=now_us() + 1)
    [group] = get_groups(text="first", state="open")
    assert ("regressed", 1, newest.time) == (group.state, group.count, group.last_seen)
    assert [] == get_groups(text="first", state="resolved")


def test_a_resolved_error_that_comes_back_has_regressed() -> None:
    add_errors()
    change_state("default", "a" * 32, "resolved", OPERATOR)
    assert [] == get_groups(state="open")
    [group] = get_groups(state="resolved")
    assert group.decision is not None
    assert ("resolved", "ada") == (group.state, group.decision.actor_label)
    add_errors(time=now_us() + 1)
    assert ["regressed"] == [group.state for group in get_groups(state="open")]
    assert [] == get_groups(state="resolved")


def test_a_muted_error_is_recorded_and_not_open() -> None:
    add_errors()
    change_state("default", "a" * 32, "muted", OPERATOR)
    [later] = add_errors(time=now_us() + 1)
    assert [] == get_groups(state="open")
    assert [2] == [group.count for group in get_groups(state="muted")]
    found = errors.count_trace_errors("default", [later.trace_id])
    assert {later.trace_id: (1, "a" * 32)} == found
    change_state("default", "a" * 32, "open", OPERATOR)
    assert ["open"] == [group.state for group in get_groups(state="open")]


def test_the_second_of_two_operators_learns_of_the_first() -> None:
    add_errors()
    first = change_state("default", "a" * 32, "muted", OPERATOR, version=0)
    with pytest.raises(StateConflictError, match="ada has already set it to muted"):
        change_state("default", "a" * 32, "resolved", Actor(key="2", label="bob"), version=0)
    second = change_state("default", "a" * 32, "resolved", Actor(key="2", label="bob"), version=first.changed)
    with pytest.raises(StateConflictError, match="bob has already set it to resolved"):
        change_state("default", "a" * 32, "open", OPERATOR, version=first.changed)
    assert second.changed > first.changed
    with pytest.raises(ValueError, match="expected one of open, resolved, muted"):
        change_state("default", "a" * 32, "gone", OPERATOR)


def test_recording_reads_and_updates_no_row_of_a_group() -> None:
    """A lock of an operator, or of another request, must not delay the site."""
    add_errors()
    with connected(sent, fail), signalbox.trace("first"):
        sent.send_robust(sender=None)
    [fingerprint] = Error.objects.exclude(fingerprint="a" * 32).values_list("fingerprint", flat=True)
    change_state("default", fingerprint, "muted", OPERATOR)
    before = list(ErrorState.objects.values())
    with connected(sent, fail), signalbox.trace("second"):
        sent.send_robust(sender=None)
    assert before == list(ErrorState.objects.values())
    assert 2 == Error.objects.filter(fingerprint=fingerprint).count()


def test_an_error_that_the_database_rejects_does_not_fail_the_site() -> None:
    try:
        with connected(sent, fail), transaction.atomic():
            sent.send_robust(sender=None)
            Order.objects.create(number="kept")
    except DatabaseError as error:  # pragma: no cover - the reason of the failure
        pytest.fail(str(error))
    assert Order.objects.filter(number="kept").exists()
