"""A trace as a tree: the parent of an event is the event whose receiver caused it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from signalbox.core.tracing import SPAN_BITS
from signalbox.models import Event, Trace
from signalbox.queries.filter_conditions import trace_id_prefix_q
from signalbox.queries.trace_rows import select_trace_rows

MAX_EVENTS: Final = 1000
"""Default number of events of a trace that are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """An event, with the events that its receivers caused."""

    event: Event
    children: tuple[Node, ...]
    """In the order in which they were sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceTree:
    """The events of one trace."""

    trace_id: str
    traces: tuple[Trace, ...]
    """Rows with this id, by start: none if the trace has not ended, several if a ``traceparent`` was continued."""
    roots: tuple[Node, ...]
    """Events without a parent, or whose parent was not read."""
    is_complete: bool
    """Whether these are all its events."""

    def walk(self) -> Iterator[tuple[int, Event]]:
        """Yield each event with its depth, in the order in which they were sent."""
        stack = [(0, node) for node in reversed(self.roots)]
        while stack:
            depth, node = stack.pop()
            yield depth, node.event
            stack.extend((depth + 1, child) for child in reversed(node.children))


def get_trace_tree(trace_id: str, *, limit: int = MAX_EVENTS, using: str | None = None) -> TraceTree | None:
    """Return a trace with its first ``limit`` events; ``None`` if it has neither a row nor an event.

    ``trace_id`` has 32 hexadecimal digits.
    """
    rows = tuple(Trace.objects.using(using).filter(trace_id=trace_id).order_by("time", "id")[:limit])
    events = list(select_trace_rows(Event.objects.using(using), trace_id)[: limit + 1])
    if not rows and not events:
        return None
    return TraceTree(
        trace_id=trace_id, traces=rows, roots=build_trees(events[:limit]), is_complete=len(events) <= limit
    )


def find_trace_ids(prefix: str, *, using: str | None = None) -> list[str]:
    """Return the trace ids that begin with ``prefix``; the first and the last if there are several."""
    found: set[str] = set()
    for table in (Event, Trace):
        ids = table.objects.using(using).filter(trace_id_prefix_q([prefix]))
        for order in ("trace_id", "-trace_id"):  # both use an index
            found.update(ids.order_by(order).values_list("trace_id", flat=True)[:1])
    return sorted({min(found), max(found)}) if found else []


def build_trees(events: Iterable[Event]) -> tuple[Node, ...]:
    """Return one trace's events as trees, in the order in which they were sent."""
    ordered = sort_by_send_order(events)
    positions: dict[int, int] = {}
    for position, event in enumerate(ordered):
        positions.setdefault(event.span, position)
    children: defaultdict[int | None, list[int]] = defaultdict(list)
    for position, event in enumerate(ordered):
        parent = None if event.parent is None else positions.get(event.parent)
        # A parent is sent before its children. This also excludes cycles.
        children[parent if parent is not None and parent < position else None].append(position)
    nodes: dict[int, Node] = {}
    for position in range(len(ordered) - 1, -1, -1):  # children are built before their parent
        nodes[position] = Node(event=ordered[position], children=tuple(nodes[child] for child in children[position]))
    return tuple(nodes[position] for position in children[None])


def sort_by_send_order(events: Iterable[Event]) -> list[Event]:
    """Return events in the order in which they were sent: by span, within the numbers of one process; those by time."""
    found = list(events)
    series_start: dict[int, int] = {}
    for event in found:
        series = event.span >> SPAN_BITS
        series_start[series] = min(event.time, series_start.get(series, event.time))
    return sorted(found, key=lambda event: (series_start[event.span >> SPAN_BITS], event.span))
