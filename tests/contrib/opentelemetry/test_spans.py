from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import Signal
from django.test import override_settings

import signalbox
from signalbox.core import observers, tracing
from signalbox.instrumentation import task_queues
from signalbox.models import Delivery, Event, Trace
from signalbox.outbox import registry
from signalbox.outbox.execution import execute
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.outbox.queue import DeliveryQueue
from signalbox.pipeline import exporter, processors
from tests.contrib.packages import require
from tests.shop.models import Order

require("opentelemetry.sdk")

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import (  # noqa: E402
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from signalbox.contrib.opentelemetry import spans  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from django.test import Client

pytestmark = pytest.mark.django_db(transaction=True)

EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def _provider() -> None:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    spans.install()
    EXPORTER.clear()
    yield
    spans.uninstall()
    for name in list(registry.get_durable_receivers()):
        registry.disconnect(name)
    processors.uninstall(OUTBOX)
    signalbox.start_recording()


def finished() -> dict[str, ReadableSpan]:
    return {span.name: span for span in EXPORTER.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def get_id(span: Any) -> str:
    return format(span.get_span_context().trace_id, "032x")


TRACER = trace.get_tracer("tests")


# ------------------------------------------------------------------ trace ids


@pytest.mark.every_database
def test_a_trace_has_the_id_of_the_span_in_which_it_begins() -> None:
    with TRACER.start_as_current_span("job") as span, signalbox.trace("job"):
        Order.objects.create(number="1")
    assert get_id(span) == Event.objects.get(signal="post_save").trace_id
    assert get_id(span) == Trace.objects.get(name="job").trace_id


def test_a_trace_outside_of_spans_has_an_id_of_its_own() -> None:
    with signalbox.trace("one"), TRACER.start_as_current_span("later") as span:
        Order.objects.create(number="1")
    assert get_id(span) != Event.objects.get(signal="post_save").trace_id


def test_a_trace_within_another_one_of_the_same_span_stays_a_separate_trace() -> None:
    with TRACER.start_as_current_span("job") as span, signalbox.trace("outer"):
        with signalbox.trace("inner"):
            Order.objects.create(number="1")
        with signalbox.trace("inner"):
            Order.objects.create(number="2")
        Order.objects.create(number="3")
    ids = list(Event.objects.filter(signal="post_save").order_by("id").values_list("trace_id", flat=True))
    assert get_id(span) == ids[2]
    assert 3 == len(set(ids))


def test_two_traces_of_a_distributed_trace_share_its_id() -> None:
    from signalbox.queries.trace_tree import get_trace_tree

    with TRACER.start_as_current_span("distributed") as span:
        for name in ("first", "second"):
            with signalbox.trace(name):
                Order.objects.create(number=name)
    tree = get_trace_tree(get_id(span))
    assert tree is not None
    assert ["first", "second"] == [row.name for row in tree.traces]
    assert len(list(tree.walk())) == sum(row.events for row in tree.traces)
    labels = [event.object_label for _, event in tree.walk() if event.signal == "post_save"]
    assert ["Order first", "Order second"] == labels
    assert len(list(tree.walk())) == len({event.span for _, event in tree.walk()})


def test_the_trace_of_the_process_does_not_take_the_id_of_a_span() -> None:
    tracing.release_process_trace(tracing.get_process_trace())
    with TRACER.start_as_current_span("request") as span:
        assert get_id(span) != tracing.get_process_trace().id


class SpanMiddleware:
    """Starts the span of a request like the middleware of opentelemetry-instrumentation-django."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: Any) -> Any:
        with TRACER.start_as_current_span("request"):
            return self.get_response(request)


@pytest.fixture
def _span_middleware(settings: Any) -> None:
    settings.MIDDLEWARE = [f"{__name__}.SpanMiddleware", *settings.MIDDLEWARE]


@pytest.mark.usefixtures("_span_middleware")
def test_a_request_has_the_id_of_the_span_that_middleware_starts(client: Client) -> None:
    client.get("/missing/")
    expected = get_id(finished()["request"])
    assert [expected] == list(Trace.objects.filter(kind="request").values_list("trace_id", flat=True))
    assert {expected} == set(Event.objects.filter(signal="request_started").values_list("trace_id", flat=True))


@pytest.mark.usefixtures("_span_middleware")
def test_the_span_of_a_request_counts_more_than_its_header(client: Client) -> None:
    client.get("/missing/", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    assert get_id(finished()["request"]) == Trace.objects.get(kind="request").trace_id


def test_an_id_that_was_written_or_sent_on_does_not_change() -> None:
    written, sent = tracing.Trace("request", "GET /"), tracing.Trace("request", "GET /")
    written.has_writes = True
    tracing.build_traceparent(sent)
    for one in (written, sent):
        before = one.id
        with TRACER.start_as_current_span("request"):
            tracing.adopt_span_context(one)
        assert before == one.id


def test_the_header_for_a_job_names_the_current_span() -> None:
    signals = pytest.importorskip("celery.signals")
    task_queues.install()
    headers: dict[str, Any] = {}
    with TRACER.start_as_current_span("request") as span, signalbox.trace("work"):
        signals.before_task_publish.send(None, headers=headers)
    context = span.get_span_context()
    assert f"00-{get_id(span)}-{context.span_id:016x}-01" == headers["traceparent"]


# ------------------------------------------------------------------ sends


def works(sender: Any, **kwargs: Any) -> None:
    with TRACER.start_as_current_span("inside"):
        pass


def breaks(sender: Any, **kwargs: Any) -> None:
    raise LookupError("password=hunter2")


async def works_later(sender: Any, **kwargs: Any) -> None:
    """Do nothing."""


SIGNAL = Signal()
SIGNAL.connect(works)
SIGNAL.connect(works_later)


def record_signal() -> None:
    signalbox.register_signal(SIGNAL, "shop.signals.spanned")


def test_a_send_has_no_span_by_default() -> None:
    record_signal()
    SIGNAL.send(None)
    assert {"inside"} == finished().keys()
    assert () == observers.sends


def check_send(found: dict[str, ReadableSpan]) -> None:
    send = found["send shop.signals.spanned"]
    assert "ok" == attributes(send)["signalbox.outcome"]
    assert "shop.signals.spanned" == attributes(send)["signalbox.signal"]
    for name in (f"{__name__}.works", f"{__name__}.works_later"):
        received = found[f"receive {name}"]
        assert name == attributes(received)["signalbox.receiver"]
        assert received.parent is not None
        assert send.context is not None
        assert send.context.span_id == received.parent.span_id
    inside = found["inside"]
    assert inside.parent is not None
    around = found[f"receive {__name__}.works"].context
    assert around is not None
    assert around.span_id == inside.parent.span_id


@override_settings(SIGNALBOX={"SEND_SPANS": True})
def test_a_send_has_a_span_and_each_receiver_one_within_it() -> None:
    record_signal()
    SIGNAL.send(None)
    check_send(finished())
    EXPORTER.clear()
    async_to_sync(SIGNAL.asend)(None)
    check_send(finished())


async def waits_short(sender: Any, **kwargs: Any) -> None:
    with TRACER.start_as_current_span("short"):
        await asyncio.sleep(0.01)
    with TRACER.start_as_current_span("short, later"):
        pass


async def waits_long(sender: Any, **kwargs: Any) -> None:
    with TRACER.start_as_current_span("long"):
        await asyncio.sleep(0.03)
    with TRACER.start_as_current_span("long, later"):
        pass


@override_settings(SIGNALBOX={"SEND_SPANS": True})
@pytest.mark.parametrize("is_async", [True, False])
def test_concurrent_receivers_have_spans_of_their_own(is_async: bool) -> None:
    signal = Signal()
    signalbox.register_signal(signal, "shop.signals.concurrent")
    for receiver in (waits_long, waits_short):
        signal.connect(receiver)
    with TRACER.start_as_current_span("outer") as outer:
        if is_async:
            async_to_sync(signal.asend)(None)
        else:
            signal.send(None)
        assert trace.get_current_span() is outer
    names = {span.context.span_id: span.name for span in EXPORTER.get_finished_spans() if span.context}
    parents = {span.name: names[span.parent.span_id] for span in EXPORTER.get_finished_spans() if span.parent}
    long, short = f"receive {__name__}.waits_long", f"receive {__name__}.waits_short"
    assert {
        long: "send shop.signals.concurrent",
        "long": long,
        "long, later": long,
        short: "send shop.signals.concurrent",
        "short": short,
        "short, later": short,
        "send shop.signals.concurrent": "outer",
    } == parents


class SavingExporter(SpanExporter):
    """Saves an order for each span, as exporters do that keep spans in the database."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            Order.objects.create(number=f"span {span.name}"[:20])
        return SpanExportResult.SUCCESS


@override_settings(SIGNALBOX={"SEND_SPANS": True})
@pytest.mark.parametrize("processor", [SimpleSpanProcessor, BatchSpanProcessor])
def test_saves_of_a_span_exporter_have_no_spans(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(processor(SavingExporter()))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    post_save.connect(works, sender=Order)
    try:
        Order.objects.create(number="1")
        provider.force_flush()
    finally:
        post_save.disconnect(works, sender=Order)
        provider.shutdown()
    assert {"send post_save", f"receive {__name__}.works"} == {span.name for span in exporter.get_finished_spans()}
    assert 2 == Order.objects.filter(number__startswith="span").count()


@override_settings(SIGNALBOX={"SEND_SPANS": True})
def test_a_send_without_receivers_has_no_span() -> None:
    Order.objects.create(number="1")
    assert not finished()


@override_settings(SIGNALBOX={"SEND_SPANS": True})
def test_an_exception_of_a_receiver_is_recorded_without_secrets() -> None:
    post_save.connect(breaks, sender=Order)
    try:
        with pytest.raises(LookupError), TRACER.start_as_current_span("outer", record_exception=False):
            Order.objects.create(number="1")
    finally:
        post_save.disconnect(breaks, sender=Order)
    found = finished()
    received = found[f"receive {__name__}.breaks"]
    [event] = received.events
    assert "exception" == event.name
    assert "LookupError" == dict(event.attributes or {})["exception.type"]
    assert "password=[redacted]" == dict(event.attributes or {})["exception.message"]
    assert "in breaks" in str(dict(event.attributes or {})["exception.stacktrace"])
    assert StatusCode.ERROR == received.status.status_code
    send = found["send post_save"]
    assert ("failed", "shop.Order") == tuple(
        attributes(send)[name] for name in ("signalbox.outcome", "signalbox.sender")
    )
    assert "hunter2" not in received.to_json() + send.to_json()
    assert not trace.get_current_span().get_span_context().is_valid, "the span before is current again"


# ------------------------------------------------------------------ deliveries


def run_one() -> Any:
    [delivery] = DeliveryQueue("default").acquire(1, 1)
    result = execute(delivery)
    DeliveryQueue("default").complete(delivery, result)
    return delivery


@pytest.mark.every_database
def test_a_delivery_runs_in_a_consumer_span_with_a_link_to_its_cause() -> None:
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(works)
    with TRACER.start_as_current_span("request") as cause, signalbox.trace("work"), transaction.atomic():
        Order.objects.create(number="1")
    delivery = run_one()
    span = finished()[f"process {__name__}.works"]
    context = cause.get_span_context()
    assert SpanKind.CONSUMER == span.kind
    assert span.parent is None
    [link] = span.links
    assert (context.trace_id, context.span_id) == (link.context.trace_id, link.context.span_id)
    assert link.context.trace_flags.sampled
    found = attributes(span)
    assert ("signalbox", "process", "default") == tuple(
        found[f"messaging.{name}"] for name in ("system", "operation.type", "destination.name")
    )
    assert str(delivery.id) == found["messaging.message.id"]
    assert ("post_save", "shop.Order", f"{__name__}.works", "done", 1) == tuple(
        found[f"signalbox.{name}"] for name in ("signal", "sender", "receiver", "outcome", "attempt")
    )
    assert get_id(cause) == found["signalbox.trace_id"], "the trace on the pages of Signalbox"


def test_a_failed_attempt_has_its_exception_without_secrets() -> None:
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(breaks)
    Order.objects.create(number="1")
    run_one()
    span = finished()[f"process {__name__}.breaks"]
    [event] = span.events
    assert "LookupError" == dict(event.attributes or {})["exception.type"]
    assert "in breaks" in str(dict(event.attributes or {})["exception.stacktrace"])
    assert "retry" == attributes(span)["signalbox.outcome"]
    assert StatusCode.ERROR == span.status.status_code
    assert "hunter2" not in span.to_json()
    assert () == tuple(span.links), "its cause had no span"


@pytest.mark.every_database
def test_traceparent_and_tracestate_travel_with_the_delivery_unchanged() -> None:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"}
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(works)
    from opentelemetry import context

    token = context.attach(TraceContextTextMapPropagator().extract(headers))
    try:
        Order.objects.create(number="1")
    finally:
        context.detach(token)
    assert headers == Delivery.objects.get().payload["trace_context"]
    run_one()
    [link] = finished()[f"process {__name__}.works"].links
    assert "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE" == link.context.trace_state.to_header()


def test_a_tracestate_with_a_secret_is_not_stored() -> None:
    from opentelemetry import context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    secret = "ghp_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hJ6"
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": f"vendor={secret}"}
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(works)
    token = context.attach(TraceContextTextMapPropagator().extract(headers))
    try:
        Order.objects.create(number="1")
    finally:
        context.detach(token)
    assert {"traceparent": headers["traceparent"]} == Delivery.objects.get().payload["trace_context"]


def test_a_replay_keeps_the_link_to_the_first_cause() -> None:
    from signalbox.outbox import manual_changes

    signalbox.receiver(post_save, sender="shop.Order", durable=True)(works)
    with TRACER.start_as_current_span("request") as cause:
        Order.objects.create(number="1")
    run_one()
    manual_changes.replay(f"{__name__}.works", "default", since=0)
    contexts = [delivery.payload["trace_context"]["traceparent"] for delivery in Delivery.objects.all()]
    assert 2 == len(contexts)
    assert all(get_id(cause) in traceparent for traceparent in contexts)


def test_a_delivery_that_is_written_after_the_span_of_its_request_names_that_span() -> None:
    one = tracing.Trace("request", "GET /")
    with TRACER.start_as_current_span("request") as span:
        tracing.adopt_span_context(one)
    found = tracing.get_trace_context(one)
    assert found is not None
    assert get_id(span) in found["traceparent"]


def test_no_trace_context_is_stored_without_a_span() -> None:
    signalbox.receiver(post_save, sender="shop.Order", durable=True)(works)
    Order.objects.create(number="1")
    assert "trace_context" not in Delivery.objects.get().payload
    exporter.flush()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--processes", "2")])
def test_spans_of_deliveries_are_exported_before_a_worker_ends(tmp_path: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "tests.contrib.opentelemetry.site", str(tmp_path), "signalbox", "work", "--burst"]
    done = subprocess.run(
        [*command, *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr
    [line] = (tmp_path / "spans").read_text().splitlines()
    assert line.endswith(" process tests.contrib.opentelemetry.site.ship")
