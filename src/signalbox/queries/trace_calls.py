"""The receivers of a trace's events, as nodes between an event and the events that they caused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from signalbox.queries.trace_tree import Node, build_trees

if TYPE_CHECKING:
    from signalbox.models import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedCall:
    """The call of a receiver, as it is stored with its event."""

    event: Event
    index: int
    """Position among the receivers of its send."""
    name: str
    location: str
    start_us: int | None
    """Microseconds from the time of its event; ``None`` if it was not recorded."""
    duration_us: int | None
    error: str

    @property
    def started(self) -> int | None:
        """When it began, in microseconds since the epoch."""
        return None if self.start_us is None else self.event.time + self.start_us


def get_calls(event: Event) -> list[RecordedCall]:
    """Return the calls of the receivers of ``event``, in the order in which they were called."""
    data: Any = event.data
    stored = data.get("receivers") if isinstance(data, Mapping) else None
    calls = [
        RecordedCall(
            event=event,
            index=call.get("index", position),
            name=call["name"],
            location=call.get("location") or "",
            start_us=call.get("start_us"),
            duration_us=call.get("duration_us"),
            error=call.get("error") or "",
        )
        for position, call in enumerate(stored or ())
    ]
    return sorted(calls, key=lambda call: call.index)


def get_parent_receiver(event: Event) -> int | None:
    """Return the position of the receiver that has caused ``event``; ``None`` if it was not recorded."""
    data: Any = event.data
    index = data.get("parent_receiver") if isinstance(data, Mapping) else None
    return index if isinstance(index, int) else None


def get_end(event: Event) -> int:
    """Return the end of ``event``, in microseconds since the epoch: of its send, and of its last receiver."""
    ends = [call.started + (call.duration_us or 0) for call in get_calls(event) if call.started is not None]
    return max([event.time + (event.duration or 0), *ends])


def walk_with_calls(events: Iterable[Event]) -> Iterator[tuple[int, Event | RecordedCall]]:
    """Yield each event and each call of a receiver with its depth, in the order in which they were sent.

    The events that a receiver has caused follow its call. If only the parent of an event is recorded, the event
    follows the calls of the parent.
    """
    stack: list[tuple[int, Node | RecordedCall]] = [(0, node) for node in reversed(build_trees(events))]
    while stack:
        depth, item = stack.pop()
        if isinstance(item, RecordedCall):
            yield depth, item
            continue
        yield depth, item.event
        stack.extend(reversed(list(_iter_below(depth, item))))


def _iter_below(depth: int, node: Node) -> Iterator[tuple[int, Node | RecordedCall]]:
    children: defaultdict[int | None, list[Node]] = defaultdict(list)
    calls = get_calls(node.event)
    indexes = {call.index for call in calls}
    for child in node.children:
        index = get_parent_receiver(child.event)
        children[index if index in indexes else None].append(child)
    for call in calls:
        yield depth + 1, call
        for child in children[call.index]:
            yield depth + 2, child
    for child in children[None]:
        yield depth + 1, child
