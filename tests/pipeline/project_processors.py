"""Event processors of a project, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.test import override_settings

from signalbox.core.event import PendingEvent
from signalbox.pipeline.processors import EventBatch, EventProcessor


@contextmanager
def configured(*entries: Any, **settings: Any) -> Iterator[None]:
    """Use the entries as the setting ``PROCESSORS`` in the block."""
    with override_settings(SIGNALBOX={"PROCESSORS": list(entries), **settings}):
        yield


class NoTags(EventProcessor):
    """Drops the events of tags."""

    def on_event(self, event: PendingEvent) -> PendingEvent | None:
        return None if event.sender == "shop.Tag" else event


class OnEvent(EventProcessor):
    """Calls a function for each event of a saved tag."""

    def __init__(self, function: Callable[[PendingEvent], Any]) -> None:
        self.function = function

    def on_event(self, event: PendingEvent) -> Any:
        if event.sender == "shop.Tag" and event.signal == "post_save":
            return self.function(event)
        return event


class Notes(EventProcessor):
    """Notes its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_flush(self, batch: EventBatch) -> None:
        self.calls.append(("flush", [event.sender for event in batch.events]))

    def on_commit(self, batch: EventBatch) -> None:
        self.calls.append(("commit", [event.sender for event in batch.events]))

    def on_rollback(self, events: Sequence[PendingEvent]) -> None:
        self.calls.append(("rollback", [event.sender for event in events]))
