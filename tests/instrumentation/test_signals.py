from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import Any
from unittest import mock

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.core.signals import request_finished, request_started
from django.db.models.signals import ModelSignal, post_save
from django.dispatch import Signal

import signalbox
from signalbox.core import naming, tracing
from signalbox.instrumentation import install, signals, test_runs
from signalbox.models import Event
from tests.events import get_events
from tests.shop.models import Tag

Answers = list[tuple[Any, Any]]
WAYS = ("send", "send_robust", "asend", "asend_robust")


@pytest.fixture
def signal() -> Iterator[Signal]:
    """A signal that is recorded as tests.signal."""
    made = Signal()
    signalbox.register_signal(made, "tests.signal")
    yield made
    signals.restore_sends(made)
    install._state.recorded_signals.pop(made, None)
    naming._tracked_names.pop(made, None)


@contextmanager
def connected(signal: Signal, *receivers: Any, **options: Any) -> Iterator[None]:
    for receiver in receivers:
        signal.connect(receiver, weak=False, **options)
    try:
        yield
    finally:
        for receiver in receivers:
            signal.disconnect(receiver, **options)


def send(signal: Signal, way: str, sender: Any = None, **named: Any) -> Answers:
    """Send by one of the four ways."""
    method = getattr(signal, way)
    answers: Answers = async_to_sync(method)(sender, **named) if way.startswith("a") else method(sender, **named)
    return answers


def unrecorded(signal: Signal, way: str, sender: Any = None, **named: Any) -> Answers:
    """Send by the method of Django."""
    method = partial(getattr(type(signal), way), signal)
    if not way.startswith("a"):
        answers: Answers = method(sender, **named)
        return answers

    async def wait() -> Answers:
        result: Answers = await method(sender, **named)
        return result

    return async_to_sync(wait)()


@pytest.fixture(autouse=True)
def trace() -> Iterator[tracing.Trace]:
    """Give each test its own trace, so that no test finds the events of another."""
    begun = test_runs.start_test("sends")
    yield begun
    test_runs.finish_test(begun, "ok")


def events() -> list[Event]:
    found = Event.objects.filter(signal="tests.signal", trace_id=tracing.get_current_trace().id)
    return list(found.order_by("time", "span"))


def runs(event: Event) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = event.data.get("receivers", [])
    return found


def plain(sender: object, **kwargs: object) -> str:
    return "plain"


async def coroutine(sender: object, **kwargs: object) -> str:
    await asyncio.sleep(0)
    return "coroutine"


def failing(sender: object, **kwargs: object) -> None:
    raise ValueError("no coal")


async def afailing(sender: object, **kwargs: object) -> None:
    raise LookupError("no water")


# ------------------------------------------------------------------ the same as without recording


@pytest.mark.django_db
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "receivers",
    [(), (plain,), (coroutine,), (plain, coroutine), (coroutine, plain, coroutine)],
    ids=lambda receivers: "-".join(receiver.__name__ for receiver in receivers) or "none",
)
def test_the_answers_are_those_of_django(signal: Signal, way: str, receivers: tuple[Any, ...]) -> None:
    with connected(signal, *receivers):
        assert unrecorded(signal, way, Tag, number=7) == send(signal, way, Tag, number=7)


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send_robust", "asend_robust"])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_robust_sends_return_errors_and_log_the_name_of_the_receiver(
    signal: Signal, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(signal, plain, failing, afailing):
        answers = send(signal, way)

    assert [(plain, "plain"), (failing, "ValueError('no coal')"), (afailing, "LookupError('no water')")] == [
        (receiver, answer if isinstance(answer, str) else repr(answer)) for receiver, answer in answers
    ]
    logged = [record.getMessage() for record in caplog.records if record.name == "django.dispatch"]
    assert {"failing", "afailing"} == {message.split()[2] for message in logged}
    [event] = events()
    assert (2, "sent") == (event.errors, event.outcome)
    # Which kind runs first depends on the way of sending and on Django's version.
    assert {None, "ValueError: no coal", "LookupError: no water"} == {run["error"] for run in runs(event)}


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send", "asend"])
@pytest.mark.parametrize("receiver", [failing, afailing])
def test_an_error_leaves_the_send_as_it_is_and_the_rest_does_not_run(signal: Signal, way: str, receiver: Any) -> None:
    with connected(signal, plain, receiver):
        with pytest.raises((ValueError, LookupError)) as with_recording:
            send(signal, way)
        with pytest.raises((ValueError, LookupError)) as without:
            unrecorded(signal, way)

    assert type(without.value) is type(with_recording.value)
    assert without.value.args == with_recording.value.args
    [event] = events()
    assert ("failed", 1) == (event.outcome, event.errors)
    expected = f"{type(without.value).__name__}: {without.value.args[0]}"
    assert expected in [run["error"] for run in runs(event)]


@pytest.mark.django_db
def test_a_receiver_after_one_that_raised_does_not_run(signal: Signal) -> None:
    with connected(signal, failing, plain), pytest.raises(ValueError, match="no coal"):
        signal.send(sender=None)

    assert [f"{__name__}.failing"] == [run["name"] for run in runs(events()[0])]


def nested_events() -> list[Event]:
    """The events of both signals, in the order of their sends."""
    names = ("tests.signal", "tests.inner")
    found = Event.objects.filter(signal__in=names, trace_id=tracing.get_current_trace().id)
    return list(found.order_by("span"))


@pytest.fixture
def inner_signal() -> Iterator[Signal]:
    """A signal that is recorded as tests.inner and has a receiver that raises."""
    made = Signal()
    signalbox.register_signal(made, "tests.inner")
    yield made
    signals.restore_sends(made)
    install._state.recorded_signals.pop(made, None)
    naming._tracked_names.pop(made, None)


@pytest.mark.django_db
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inner_way", ["send", "asend"])
def test_an_exception_is_counted_where_it_was_raised(
    signal: Signal, inner_signal: Signal, way: str, inner_way: str
) -> None:
    def relay(sender: object, **kwargs: object) -> None:
        inner_signal.send(sender=None)

    async def arelay(sender: object, **kwargs: object) -> None:
        await inner_signal.asend(sender=None)

    def reraise(sender: object, **kwargs: object) -> None:
        [(_, error)] = inner_signal.send_robust(sender=None)
        raise error

    for receiver in (arelay if inner_way == "asend" else relay, reraise):
        with connected(inner_signal, afailing if inner_way == "asend" else failing), connected(signal, receiver):
            try:
                send(signal, way)
            except (ValueError, LookupError):
                assert not way.endswith("robust")
    for outer, inner in zip(nested_events()[::2], nested_events()[1::2], strict=True):
        assert ("tests.signal", 0, True) == (outer.signal, outer.errors, outer.data["passed_through"])
        assert ("tests.inner", 1, None) == (inner.signal, inner.errors, inner.data.get("passed_through"))
        assert [True] == [run["passed_through"] for run in runs(outer)]
        assert [None] == [run.get("passed_through") for run in runs(inner)]
        assert [run["error"] for run in runs(outer)] == [run["error"] for run in runs(inner)]
    assert 2 == tracing.get_current_trace().errors


@pytest.mark.django_db
def test_an_exception_that_another_one_replaces_is_counted_too(signal: Signal, inner_signal: Signal) -> None:
    def replace(sender: object, **kwargs: object) -> None:
        try:
            inner_signal.send(sender=None)
        except ValueError as error:
            raise LookupError("no water") from error

    with connected(inner_signal, failing), connected(signal, replace), pytest.raises(LookupError):
        signal.send(sender=None)
    assert [1, 1] == [event.errors for event in nested_events()]


@pytest.mark.django_db
def test_an_exception_object_that_is_raised_again_later_counts_again(signal: Signal) -> None:
    error = ValueError("no coal")

    def fail(sender: object, **kwargs: object) -> None:
        raise error

    for _ in range(2):
        with connected(signal, fail), pytest.raises(ValueError, match="no coal"):
            signal.send(sender=None)
    assert [1, 1] == [event.errors for event in events()]


@pytest.mark.django_db
def test_exceptions_are_released_after_the_outermost_send(signal: Signal, inner_signal: Signal) -> None:
    class Loss(Exception):
        """An exception that weak references can refer to."""

    kept: list[weakref.ref[Loss]] = []

    def lose(sender: object, **kwargs: object) -> None:
        error = Loss()
        kept.append(weakref.ref(error))
        raise error

    def swallow(sender: object, **kwargs: object) -> None:
        with suppress(Loss):
            inner_signal.send(sender=None)

    with connected(inner_signal, lose), connected(signal, swallow):
        signal.send(sender=None)
    gc.collect()
    assert [None] == [reference() for reference in kept]


def interrupted(sender: object, **kwargs: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send", "send_robust"])
def test_an_interrupt_is_no_answer(signal: Signal, way: str) -> None:
    with connected(signal, interrupted), pytest.raises(KeyboardInterrupt):
        send(signal, way)

    [event] = events()
    assert ("failed", 1) == (event.outcome, event.errors)


@pytest.mark.parametrize("name", ["send", "send_robust", "asend", "asend_robust"])
@pytest.mark.parametrize("of", [post_save, request_started, request_finished])
def test_asynchronous_receivers_are_coroutine_functions(of: Signal, name: str) -> None:
    assert iscoroutinefunction(getattr(Signal, name)) == iscoroutinefunction(getattr(of, name))


@pytest.mark.parametrize("way", WAYS)
def test_signal_and_sender_are_given_to_each_receiver(signal: Signal, way: str) -> None:
    given = []

    def listen(signal: Signal, sender: object, **kwargs: object) -> None:
        given.append((signal, sender, kwargs))

    async def alisten(signal: Signal, sender: object, **kwargs: object) -> None:
        given.append((signal, sender, kwargs))

    with connected(signal, listen, alisten):
        send(signal, way, Tag, number=7)

    assert [(signal, Tag, {"number": 7})] * 2 == given


def test_has_listeners_answers_as_before(signal: Signal) -> None:
    assert not signal.has_listeners()
    assert not post_save.has_listeners(Tag)
    with connected(signal, plain, sender=Tag):
        assert (True, False) == (signal.has_listeners(Tag), signal.has_listeners(Event))


def test_the_class_and_the_receivers_are_not_changed(signal: Signal) -> None:
    with connected(signal, plain):
        before = list(signal.receivers)
        signal.send(sender=None)
        assert before == signal.receivers
    assert {"send", "send_robust", "asend", "asend_robust"} <= vars(Signal).keys()
    assert type(signal) is Signal


def test_a_receiver_that_disconnects_itself_runs_and_is_disconnected(signal: Signal) -> None:
    called = []

    def once(sender: object, **kwargs: object) -> None:
        called.append(sender)
        signal.disconnect(once)

    signal.connect(once)
    signal.connect(plain)
    try:
        assert [(once, None), (plain, "plain")] == signal.send(sender=None)
        assert [(plain, "plain")] == signal.send(sender=None)
    finally:
        signal.disconnect(plain)
    assert [None] == called


def test_a_signal_that_is_no_longer_recorded_is_as_django_made_it(signal: Signal) -> None:
    before = vars(Signal()).keys()
    signals.restore_sends(signal)
    assert before == vars(signal).keys()


# ------------------------------------------------------------------ receivers


class Station:
    def hear(self, sender: object, **kwargs: object) -> str:
        return "method"

    async def ahear(self, sender: object, **kwargs: object) -> str:
        return "asynchronous method"

    def __call__(self, sender: object, **kwargs: object) -> str:
        return "object"

    @staticmethod
    def static(sender: object, **kwargs: object) -> str:
        return "static"

    @classmethod
    def of_class(cls, sender: object, **kwargs: object) -> str:
        return "class"


def decorated(function: Callable[..., str]) -> Callable[..., str]:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> str:
        return function(*args, **kwargs)

    return wrapper


@decorated
def wrapped(sender: object, **kwargs: object) -> str:
    return "wrapped"


STATION = Station()
KINDS: list[tuple[Any, str]] = [
    (plain, "plain"),
    (coroutine, "coroutine"),
    (STATION.hear, "Station.hear"),
    (STATION.ahear, "Station.ahear"),
    (STATION, "Station"),
    (Station.static, "Station.static"),
    (Station.of_class, "Station.of_class"),
    (wrapped, "wrapped"),
]


@pytest.mark.django_db
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("receiver", "name"), KINDS, ids=[name for _, name in KINDS])
def test_each_kind_of_receiver_is_recorded_by_name_and_place(
    signal: Signal, way: str, receiver: Any, name: str
) -> None:
    with connected(signal, receiver):
        [(answered, _)] = send(signal, way)

    assert receiver == answered
    [run] = runs(events()[0])
    assert (f"{__name__}.{name}", None) == (run["name"], run["error"])
    assert run["location"].startswith("tests/instrumentation/test_signals.py:")
    assert run["duration_us"] >= 0


@pytest.mark.django_db
@pytest.mark.parametrize("way", WAYS)
def test_partials_and_lambdas_have_names(signal: Signal, way: str) -> None:
    shortened = partial(plain, number=7)
    nameless = lambda sender, **kwargs: "lambda"  # noqa: E731
    with connected(signal, shortened, nameless):
        assert [(shortened, "plain"), (nameless, "lambda")] == send(signal, way)

    assert [f"functools.partial({__name__}.plain)", True] == [
        runs(events()[0])[0]["name"],
        runs(events()[0])[1]["name"].endswith("<lambda>"),
    ]


class Hostile:
    """A receiver whose attributes raise errors."""

    def __call__(self, sender: object, **kwargs: object) -> str:
        return "hostile"

    def __getattr__(self, name: str) -> Any:
        if name in ("__func__", "__self__"):  # Django reads these attributes
            raise AttributeError(name)
        raise ZeroDivisionError(name)

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError("eq")

    def __hash__(self) -> int:
        raise ZeroDivisionError("hash")

    def __bool__(self) -> bool:
        raise ZeroDivisionError("bool")


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send", "send_robust"])
def test_a_hostile_receiver_is_recorded_by_its_class(signal: Signal, way: str) -> None:
    hostile = Hostile()
    signal.receivers.append(*_entry(signal, hostile))
    signal.sender_receivers_cache.clear()
    try:
        [(receiver, answer)] = send(signal, way)
        assert receiver is hostile
        assert "hostile" == answer
    finally:
        signal.receivers.clear()
        signal.sender_receivers_cache.clear()

    assert f"{__name__}.Hostile" == runs(events()[0])[0]["name"]


def _entry(signal: Signal, receiver: Any) -> list[Any]:
    """Connect ``receiver`` without ``connect()``, which could not read its attributes."""
    with connected(signal, plain, dispatch_uid="hostile"):
        (key, _, *rest) = signal.receivers[0]
    return [(key, receiver, *rest)]


@pytest.mark.django_db
def test_a_hostile_argument_leaves_the_send_as_it_is(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    with connected(signal, plain):
        assert [(plain, "plain")] == signal.send(sender=STATION, train=Hostile())

    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]
    [event] = events()
    assert f"{__name__}.Station" == event.sender
    assert "train" in event.data["args"]


class Loud(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError("str")


@pytest.mark.django_db
def test_an_exception_that_can_not_be_shown_is_recorded_by_its_class(signal: Signal) -> None:
    def loud(sender: object, **kwargs: object) -> None:
        raise Loud

    with connected(signal, loud), pytest.raises(Loud):
        signal.send(sender=None)

    assert runs(events()[0])[0]["error"].startswith("Loud")


@pytest.mark.django_db
def test_a_secret_in_an_exception_s_text_is_not_stored(signal: Signal) -> None:
    def leak(sender: object, **kwargs: object) -> None:
        raise ValueError("password=s3cr3t-value")

    with connected(signal, leak), pytest.raises(ValueError, match="s3cr3t"):
        signal.send(sender=None)

    assert "s3cr3t-value" not in str(events()[0].data)


# ------------------------------------------------------------------ classes of signals


class Counting(Signal):
    """A subclass that overrides every send method."""

    sent = 0

    def send(self, sender: Any, **named: Any) -> Answers:
        self.sent += 1
        return super().send(sender, station="Crewe", **named)

    async def asend(self, sender: Any, **named: Any) -> Answers:
        self.sent += 1
        answers: Answers = await super().asend(sender, station="Crewe", **named)
        return answers


@pytest.mark.django_db
@pytest.mark.parametrize("way", WAYS)
def test_an_overridden_send_is_called(way: str) -> None:
    signal, given = Counting(), []
    signalbox.register_signal(signal, "tests.signal")

    def listen(sender: object, **kwargs: object) -> str:
        given.append(kwargs.get("station"))
        return "heard"

    with connected(signal, listen):
        assert [(listen, "heard")] == send(signal, way)

    own = way in ("send", "asend")
    assert (int(own), ["Crewe" if own else None]) == (signal.sent, given)
    [event] = events()
    [run] = runs(event)
    assert run["name"].endswith("listen")
    assert own == (run["duration_us"] is None)


@pytest.mark.django_db
def test_an_overridden_send_that_fails_is_recorded_as_failed() -> None:
    signal = Counting()
    signalbox.register_signal(signal, "tests.signal")
    with connected(signal, failing), pytest.raises(ValueError, match="no coal"):
        signal.send(sender=None)

    assert "failed" == events()[0].outcome


class Dispatching(Signal):
    """A subclass with other parameters, which calls its receivers through another method."""

    dispatched: tuple[Any, ...] = ()

    def send(self, sender: Any, train: Any, **named: Any) -> Answers:  # type: ignore[override]
        self.dispatched = (*self.dispatched, train)
        answers: Answers = self.send_robust(sender, train=train, **named)
        return answers

    async def asend(self, sender: Any, train: Any, **named: Any) -> Answers:  # type: ignore[override]
        self.dispatched = (*self.dispatched, train)
        answers: Answers = await self.asend_robust(sender, train=train, **named)
        return answers


def dispatch(signal: Dispatching, way: str, *args: Any, **named: Any) -> Answers:
    """Send by a method of the subclass."""
    method: Any = getattr(signal, way)
    answers: Answers = async_to_sync(method)(*args, **named) if way == "asend" else method(*args, **named)
    return answers


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send", "asend"])
def test_an_overridden_send_runs_without_receivers(way: str) -> None:
    signal = Dispatching()
    signalbox.register_signal(signal, "tests.signal")
    assert [] == dispatch(signal, way, Tag, 7)
    assert (7,) == signal.dispatched
    [event] = events()
    assert ("shop.Tag", {"train": 7}, []) == (event.sender, event.data["args"], runs(event))


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send", "asend"])
def test_an_overridden_send_with_positional_arguments_is_one_event_with_receivers(way: str) -> None:
    signal = Dispatching()
    signalbox.register_signal(signal, "tests.signal")
    with connected(signal, plain, failing):
        answers = dispatch(signal, way, Tag, 7)
    assert [(plain, "plain"), (failing, "ValueError('no coal')")] == [
        (receiver, repr(answer) if isinstance(answer, Exception) else answer) for receiver, answer in answers
    ]
    [event] = events()
    assert [True, True] == [run["duration_us"] is not None for run in runs(event)]
    assert 1 == event.errors


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send", "asend"])
def test_a_send_by_a_receiver_of_an_overridden_send_is_a_separate_event(way: str) -> None:
    signal = Dispatching()
    signalbox.register_signal(signal, "tests.signal")

    def again(sender: object, train: int, **kwargs: object) -> None:
        if train:
            signal.send_robust(sender, train=0)

    with connected(signal, again):
        dispatch(signal, way, Tag, 7)
    assert [7, 0] == [event.data["args"]["train"] for event in events()]


@pytest.mark.django_db
def test_an_overridden_send_raises_its_own_error_for_wrong_arguments() -> None:
    signal = Dispatching()
    signalbox.register_signal(signal, "tests.signal")
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'train'"):
        dispatch(signal, "send", Tag)
    assert [] == events()


class Slotted(Signal):
    """A subclass that overrides no method."""


@pytest.mark.django_db
def test_a_class_that_inherits_its_ways_is_timed_as_django_s_own() -> None:
    signal = Slotted(use_caching=True)
    signalbox.register_signal(signal, "tests.signal")
    with connected(signal, plain):
        for _ in range(2):
            assert [(plain, "plain")] == signal.send(sender=Tag)

    assert all(run["duration_us"] is not None for event in events() for run in runs(event))


def test_a_signal_of_models_takes_lazy_senders_as_before() -> None:
    signal = ModelSignal()
    signalbox.register_signal(signal, "tests.signal")
    signal.connect(plain, sender="shop.Tag")
    try:
        assert [(plain, "plain")] == signal.send(sender=Tag)
    finally:
        signal.disconnect(plain, sender="shop.Tag")
    assert [] == signal.receivers


# ------------------------------------------------------------------ events


@pytest.mark.django_db
def test_a_send_without_receivers_is_an_event(signal: Signal) -> None:
    signal.send(sender=None, number=7)

    [event] = events()
    assert ("sent", {"number": 7}, []) == (event.outcome, event.data["args"], runs(event))


@pytest.mark.django_db
@pytest.mark.parametrize("way", WAYS)
def test_events_of_a_receiver_have_its_send_as_parent(signal: Signal, way: str, trace: tracing.Trace) -> None:
    def save(sender: object, **kwargs: object) -> None:
        Tag.objects.create(name="steam")

    with connected(signal, save):
        send(signal, way)
        Tag.objects.create(name="afterwards")

    [cause] = events()
    consequence = Event.objects.get(signal="post_save", object_label="steam")
    assert (cause.span, trace.id, None) == (consequence.parent, consequence.trace_id, cause.parent)
    assert Event.objects.get(signal="post_save", object_label="afterwards").parent is None


@pytest.mark.django_db
@pytest.mark.parametrize("way", ["send", "asend", "asend_robust"])
def test_concurrent_receivers_are_distinguished(signal: Signal, way: str, trace: tracing.Trace) -> None:
    inner = Signal()
    signalbox.register_signal(inner, "tests.inner")

    async def first(sender: object, **kwargs: object) -> None:
        await asyncio.sleep(0.01)
        await inner.asend(sender="first")

    async def second(sender: object, **kwargs: object) -> None:
        await inner.asend(sender="second")
        await asyncio.sleep(0.02)
        await inner.asend(sender="second, later")

    with connected(signal, first, second):
        send(signal, way)

    [cause] = events()
    found = Event.objects.filter(signal="tests.inner", trace_id=trace.id)
    assert {("first", cause.span, 0), ("second", cause.span, 1), ("second, later", cause.span, 1)} == {
        (event.sender, event.parent, event.data.get("parent_receiver")) for event in found
    }


@pytest.mark.django_db
def test_an_asynchronous_receiver_gets_what_is_thrown_into_it(signal: Signal) -> None:
    seen: list[object] = []
    begun = asyncio.Event()

    async def waits(sender: object, **kwargs: object) -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")
        return "never"

    async def fails(sender: object, **kwargs: object) -> None:
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except TimeoutError as error:
            seen.append(type(error))

    def gives_a_future(sender: object, **kwargs: object) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.get_loop().call_soon(future.set_result, "result")
        return future

    async def both() -> Any:
        with connected(signal, waits):
            task = asyncio.create_task(signal.asend(sender=None))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with connected(signal, fails, markcoroutinefunction(gives_a_future)):
            return await signal.asend(sender=None)

    assert [None, "result"] == [response for _, response in async_to_sync(both)()]
    assert ["cancelled", "cleaned up", TimeoutError] == seen


@pytest.mark.django_db
def test_how_long_receivers_took_is_recorded_in_microseconds(signal: Signal) -> None:
    waiting = threading.Event()

    def slow(sender: object, **kwargs: object) -> None:
        waiting.wait(0.02)

    with connected(signal, slow):
        signal.send(sender=None)

    [event] = events()
    assert event.duration is not None
    assert 20_000 <= runs(event)[0]["duration_us"] <= event.duration < 15_000_000


@pytest.mark.django_db
def test_a_failure_of_recording_is_logged_and_the_send_continues(
    signal: Signal, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def start(self, *_: object) -> None:
            raise ZeroDivisionError

        finish = handle_no_receivers = start

    signals.record_sends(signal, Broken())
    with connected(signal, plain):
        assert [(plain, "plain")] == signal.send(sender=None)
    assert [] == signal.send(sender=None)

    assert ["A send could not be recorded."] * 2 == [record.getMessage() for record in caplog.records]


def test_an_exception_of_a_receiver_is_freed_without_the_garbage_collector(signal: Signal) -> None:
    class Local:
        """An object that the frame of the receiver keeps alive."""

    found: list[weakref.ref[Local]] = []

    def receiver(**_: Any) -> None:
        local = Local()
        found.append(weakref.ref(local))
        raise ValueError

    def run() -> None:
        with connected(signal, receiver), suppress(ValueError):
            signal.send(None)

    run()
    gc.disable()
    try:
        run()
        assert found[-1]() is None
    finally:
        gc.enable()


@pytest.mark.django_db
def test_a_method_that_is_replaced_on_the_class_is_called() -> None:
    with mock.patch.object(ModelSignal, "send", return_value=[]) as send:
        Tag.objects.create(name="a")
    assert [mock.call(sender=Tag, instance=mock.ANY, raw=False, using="default", update_fields=None)] == [
        call
        for call in send.mock_calls
        if call.kwargs.keys() == {"sender", "instance", "raw", "using", "update_fields"}
    ]
    assert 1 == len(get_events(Tag, "post_save"))
