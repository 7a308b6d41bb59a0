from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db.models.signals import post_save

from signalbox.core import observers
from signalbox.core.observers import Observer
from signalbox.models import Event
from tests.shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from signalbox.core.event import PendingEvent


class Notes(Observer):
    """Keeps its calls."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_write(self, batch: Any, seconds: float) -> None:
        self.lines.append(f"write {len(batch.events)}")

    def start_send(self, event: PendingEvent) -> str:
        self.lines.append(f"start {event.signal}")
        return event.signal

    def finish_send(self, started: str, event: PendingEvent, error: BaseException | None) -> None:
        self.lines.append(f"finish {started} {error!r}")

    def start_receiver(self, event: PendingEvent, receiver: Any) -> str:
        self.lines.append(f"start {receiver.__name__}")
        return str(receiver.__name__)

    def finish_receiver(self, started: str, error: BaseException | None) -> None:
        self.lines.append(f"finish {started} {error!r}")


class Broken(Observer):
    def start_send(self, event: PendingEvent) -> object:
        raise RuntimeError("start_send fails")

    def on_write(self, batch: Any, seconds: float) -> None:
        raise RuntimeError("on_write fails")


@pytest.fixture
def install() -> Iterator[Callable[[Observer], None]]:
    installed: list[Observer] = []

    def run(observer: Observer) -> None:
        installed.append(observer)
        observers.install(observer)

    yield run
    for observer in installed:
        observers.uninstall(observer)
    assert () == (*observers.writes, *observers.sends, *observers.receivers, *observers.attempts)


def works(sender: Any, **kwargs: Any) -> str:
    return "result"


def breaks(sender: Any, **kwargs: Any) -> None:
    raise LookupError


@pytest.fixture
def _receivers() -> Iterator[None]:
    for receiver in (works, breaks):
        post_save.connect(receiver, sender=Order)
    yield
    for receiver in (works, breaks):
        post_save.disconnect(receiver, sender=Order)


@pytest.mark.django_db
@pytest.mark.usefixtures("_receivers")
def test_an_observer_sees_sends_receivers_and_writes(install: Callable[[Observer], None]) -> None:
    notes = Notes()
    install(notes)
    with pytest.raises(LookupError):
        Order.objects.create(number="1")
    expected = ["start post_save", "start works", "finish works None", "start breaks"]
    expected += ["finish breaks LookupError()", "finish post_save LookupError()"]
    assert expected == [line for line in notes.lines if not line.startswith("write")]


@pytest.mark.django_db(transaction=True)
def test_an_observer_that_fails_changes_nothing_and_is_logged_once(
    install: Callable[[Observer], None], caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    install(Broken())
    install(notes)
    post_save.connect(works, sender=Order)
    try:
        for number in range(3):
            Order.objects.create(number=str(number))
    finally:
        post_save.disconnect(works, sender=Order)
    assert 3 == notes.lines.count("finish post_save None")
    assert "write 1" in notes.lines
    logged = [record for record in caplog.records if record.name == "signalbox.telemetry"]
    assert 2 == len(logged) == len({record.getMessage() for record in logged})
    assert 3 == Event.objects.filter(signal="post_save").count()


def test_an_observer_is_called_only_for_what_it_overrides(install: Callable[[Observer], None]) -> None:
    notes = Notes()
    install(notes)
    install(notes)
    assert (notes,) == observers.writes == observers.sends == observers.receivers
    assert () == observers.attempts


class Saving(Notes):
    """Saves an object in each of its methods, as an exporter does that keeps spans in the database."""

    def start_send(self, event: PendingEvent) -> str:
        Order.objects.create(number=f"start {len(self.lines)}")
        return super().start_send(event)

    def finish_send(self, started: str, event: PendingEvent, error: BaseException | None) -> None:
        Order.objects.create(number=f"finish {len(self.lines)}")
        super().finish_send(started, event, error)

    def on_write(self, batch: Any, seconds: float) -> None:
        Order.objects.create(number=f"write {len(self.lines)}")
        super().on_write(batch, seconds)


@pytest.mark.django_db(transaction=True)
def test_an_observer_is_not_called_for_what_it_causes_itself(
    install: Callable[[Observer], None], caplog: pytest.LogCaptureFixture
) -> None:
    saving, notes = Saving(), Notes()
    install(saving)
    install(notes)
    post_save.connect(works, sender=Order)
    try:
        Order.objects.create(number="1")
    finally:
        post_save.disconnect(works, sender=Order)
    assert ["start post_save", "finish post_save None"] == [line for line in saving.lines if "post_save" in line]
    assert notes.lines.count("finish post_save None") == Order.objects.count() > 3
    assert Event.objects.filter(signal="post_save").count() == Order.objects.count()
    assert [] == caplog.records
