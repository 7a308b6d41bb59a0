"""Each part of Signalbox has a logger, and its records name their trace, event and delivery."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db.models.signals import post_save

import signalbox
from signalbox.core import loggers, tracing
from signalbox.instrumentation import signals
from signalbox.logs import TraceFilter
from signalbox.models import Delivery, Event
from signalbox.outbox import registry
from signalbox.outbox.execution import execute
from signalbox.outbox.outbox_processor import OUTBOX
from signalbox.outbox.queue import DeliveryQueue
from signalbox.pipeline import processors
from tests.shop.models import Order, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent.parent


def make_record(name: str = "shop") -> Any:
    record = logging.LogRecord(name, logging.INFO, __file__, 1, "text", (), None)
    assert TraceFilter().filter(record)
    return record


def test_a_record_of_the_site_has_the_id_of_the_current_trace() -> None:
    with signalbox.trace("work") as trace:
        assert trace.id == make_record().signalbox_trace_id
        assert make_record().signalbox_span is None
    assert tracing.get_process_trace().id == make_record().signalbox_trace_id


def test_a_record_keeps_the_attributes_that_it_has() -> None:
    record = logging.makeLogRecord({"signalbox_trace_id": "1" * 32})
    assert TraceFilter().filter(record)
    assert ("1" * 32, None) == (record.__dict__["signalbox_trace_id"], record.__dict__["signalbox_span"])


def logs(sender: Any, **kwargs: Any) -> None:
    SEEN.append(make_record())
    raise LookupError("password=hunter2")


SEEN: list[Any] = []


@pytest.fixture
def _durable() -> Iterator[None]:
    SEEN.clear()
    yield
    for name in list(registry.get_durable_receivers()):
        registry.disconnect(name)
    processors.uninstall(OUTBOX)
    signalbox.start_recording()


@pytest.mark.django_db(transaction=True)
def test_a_record_within_a_receiver_has_the_span_of_its_event() -> None:
    post_save.connect(logs, sender=Order)
    SEEN.clear()
    try:
        with pytest.raises(LookupError):
            Order.objects.create(number="1")
    finally:
        post_save.disconnect(logs, sender=Order)
    event = Event.objects.get(signal="post_save")
    assert (event.trace_id, event.span) == (SEEN[0].signalbox_trace_id, SEEN[0].signalbox_span)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_durable")
def test_a_record_about_a_delivery_names_it_its_trace_and_its_event(caplog: pytest.LogCaptureFixture) -> None:
    signalbox.receiver(post_save, sender="shop.Order", durable=True, retries=0)(logs)
    Order.objects.create(number="1")
    [one] = DeliveryQueue("default").acquire(1, 1)
    execute(one)
    event, delivery = Event.objects.get(signal="post_save"), Delivery.objects.get()
    found: list[Any] = [record for record in caplog.records if record.name == "signalbox.worker"]
    assert [logging.WARNING, logging.ERROR] == [record.levelno for record in found]
    for record in found:
        assert (event.trace_id, event.span) == (record.signalbox_trace_id, record.signalbox_span)
        assert delivery.pk == record.signalbox_delivery_id
    assert (event.trace_id, event.span) == (SEEN[0].signalbox_trace_id, SEEN[0].signalbox_span)
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("name", loggers.NAMES)
def test_every_logger_redacts_and_adds_the_attributes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with signalbox.trace("work") as trace:
        logging.getLogger(name).warning("password=%s", "hunter2")
    [record] = caplog.records
    assert "password=[redacted]" == record.getMessage()
    assert trace.id == record.__dict__["signalbox_trace_id"]


class SavingHandler(logging.Handler):
    """Saves an object for each record, as handlers do that keep the log in the database."""

    def emit(self, record: logging.LogRecord) -> None:
        Tag.objects.create(name=record.getMessage())


class FailingHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise ZeroDivisionError


@pytest.fixture
def handle() -> Iterator[Callable[[logging.Handler], None]]:
    logger, added = logging.getLogger("signalbox"), []

    def add(handler: logging.Handler) -> None:
        added.append(handler)
        logger.addHandler(handler)

    yield add
    for handler in added:
        logger.removeHandler(handler)


class BrokenSignal:
    """Fails to record each send."""

    def start(self, *_: object) -> None:
        raise LookupError

    finish = handle_no_receivers = start


@pytest.fixture
def _broken_post_save() -> Iterator[None]:
    signals.record_sends(post_save, BrokenSignal())
    yield
    signalbox.start_recording()


@pytest.mark.django_db
@pytest.mark.usefixtures("_broken_post_save")
def test_a_handler_that_saves_objects_is_not_called_for_what_it_causes(
    handle: Callable[[logging.Handler], None],
) -> None:
    handle(SavingHandler())
    Order.objects.create(number="1")
    assert ["A send could not be recorded."] == list(Tag.objects.values_list("name", flat=True))
    Order.objects.create(number="2")
    assert 2 == Tag.objects.count()


@pytest.mark.django_db
@pytest.mark.usefixtures("_broken_post_save")
def test_a_handler_that_fails_changes_nothing_and_is_printed(
    handle: Callable[[logging.Handler], None], capsys: pytest.CaptureFixture[str]
) -> None:
    handle(FailingHandler())
    Order.objects.create(number="1")
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.django_db
@pytest.mark.usefixtures("_broken_post_save")
def test_a_factory_of_records_that_has_the_same_attributes_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    factory = logging.getLogRecordFactory()

    def build(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.signalbox_trace_id = "1" * 32
        return record

    logging.setLogRecordFactory(build)
    try:
        loggers.get_logger("recording").warning("text", extra={loggers.TRACE_ID: "2" * 32})
    finally:
        logging.setLogRecordFactory(factory)
    assert "Attempt to overwrite 'signalbox_trace_id' in LogRecord" in capsys.readouterr().err


def test_a_record_names_the_line_that_logged_it(caplog: pytest.LogCaptureFixture) -> None:
    loggers.get_logger("recording").error("text")
    try:
        raise LookupError
    except LookupError:
        loggers.get_logger("recording").exception("text")
    assert [("test_loggers.py", "test_a_record_names_the_line_that_logged_it")] * 2 == [
        (record.filename, record.funcName) for record in caplog.records
    ]


def test_every_record_is_logged_by_the_logger_of_a_part() -> None:
    used = set()
    for path in (ROOT / "src" / "signalbox").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        used |= set(re.findall(r"loggers\.get_logger\(\"(\w+)\"\)", text))
        if path.name not in ("loggers.py", "log_filter.py"):
            assert "getLogger(" not in text, path
    assert set(loggers.PARTS) == used
