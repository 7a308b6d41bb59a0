"""Tracks the current trace, its actor and the currently running receiver's event."""

from __future__ import annotations

import os
import random
import re
import secrets
import sys
from collections import defaultdict
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from signalbox.core import clock
from signalbox.core.actors import RequestUser
from signalbox.core.event import Actor, PendingEvent, RunningReceiver, TransactionEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest

    from signalbox.core.event import Schema
    from signalbox.core.raised_error import RaisedError

TRACEPARENT_PATTERN: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, section 3.2: version, trace id, parent id, flags; later versions may append fields."""

SPAN_BITS: Final = 22
"""Events a trace can number without meeting another's numbers: 4 million, of 63 bits; the rest is random."""


SYSTEM_KINDS: Final = ("process", "test")
"""Kinds of traces that the first screen leaves out. Requests, tasks, commands, and shells and units of work of the
project are shown."""


class SpanContext(NamedTuple):
    """The identity of a span of a distributed trace, after W3C Trace Context."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    is_sampled: bool
    state: str = ""
    """The header ``tracestate``; empty if there is none."""

    @property
    def traceparent(self) -> str:
        """The header ``traceparent``."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"


get_span_context: Callable[[], SpanContext | None] | None = None
"""Return the current span of a distributed trace, or None. ``signalbox.contrib.opentelemetry`` sets the function."""


MAX_TRANSACTION_ENDS: Final = 200
"""Maximum number of ends of transactions that are stored with a trace."""


def _build_counter() -> dict[type | str, int]:
    return defaultdict(int)


class Trace:
    """A unit of work: a request, a command, a task, a test, a shell, a process.

    Events that belong to no transaction wait in ``pending`` until the trace ends, and leave together.
    """

    __slots__ = (
        "_actor",
        "_first_span",
        "chain_length",
        "data",
        "dropped",
        "duration",
        "errors",
        "events",
        "has_writes",
        "id",
        "is_id_fixed",
        "is_ignored",
        "is_row_omitted",
        "is_view_done",
        "kind",
        "must_persist",
        "name",
        "next_span",
        "path_info",
        "pending",
        "previous",
        "raised_error",
        "request_user",
        "rolled_back",
        "row_database",
        "row_schemas",
        "send_counts",
        "span_context",
        "started",
        "started_monotonic",
        "status",
        "transaction_end_count",
        "transaction_ends",
        "updates",
    )

    def __init__(self, kind: str, name: str, *, trace_id: str | None = None, previous: Trace | None = None) -> None:
        self.span_context = None if get_span_context is None or kind == "process" else get_span_context()
        """The span of a distributed trace that was current when it began."""
        self.id = trace_id or _get_shared_id(self.span_context) or generate_trace_id()
        self.is_id_fixed = False
        """Whether its id was written or sent to other work."""
        self.kind = kind
        self.name = name
        self.started = clock.now()
        """When it began, in nanoseconds since the epoch."""
        self.started_monotonic = clock.monotonic_ns()
        """The same moment of the monotonic clock, in nanoseconds."""
        self.duration: int | None = None
        """Nanoseconds; ``None`` while it runs."""
        self.status = ""
        self.previous = previous
        """The trace that was current before, and is again when this one ends."""
        self.request_user: RequestUser | None = None
        self.is_view_done = False
        """Whether the request's view has returned. Its response is then sent."""
        self.chain_length = 0
        """Number of deliveries that caused this one, each caused by the previous one; 0 outside of deliveries."""
        self.data: dict[str, Any] = {}
        self.send_counts: defaultdict[str, dict[type | str, int]] = defaultdict(_build_counter)
        """Number of sends without an event, by signal and sender: a model, or the label of the sender."""
        self.pending: list[PendingEvent] = []
        self.must_persist = False
        """Whether an event in ``pending`` is about a change or has deliveries, so that it must not be lost."""
        self.updates: list[PendingEvent] = []
        """Events that were written before their receivers finished."""
        self.path_info = ""
        """Path of its request without ``SCRIPT_NAME``; empty if it has no request."""
        self.is_ignored = False
        """Whether ``IGNORE_PATHS`` contains the path of its request. Only writes are recorded then."""
        self.is_row_omitted = False
        """Whether it finished without a row, because nothing is recorded of it."""
        self.row_database = ""
        """Name of the database that its row was written to before it finished."""
        self.row_schemas: dict[Schema, int] = {}
        """The schemas of its events, if several schemas have the tables, with the state of its row there: 0 not
        written, 1 written while it ran, 2 complete."""
        self.events = self.errors = self.rolled_back = 0
        self.raised_error: RaisedError | None = None
        """The exception that ended the work, unless it was counted before."""
        self.dropped = 0
        """Number of events that were dropped: by event processors, or because the request is ignored."""
        self.has_writes = False
        """Whether something was recorded in a transaction."""
        self.transaction_ends: list[TransactionEnd] = []
        """The first ``MAX_TRANSACTION_ENDS`` ends of transactions that began in this trace."""
        self.transaction_end_count = 0
        self._actor: Actor | None = None
        self.reset_span_counter()

    def reset_span_counter(self) -> None:
        """Number events from a new random start: on creation, and in a forked child which shares the trace's id."""
        self._first_span = random.getrandbits(62 - SPAN_BITS) << SPAN_BITS
        self.next_span: Callable[[], int] = count(self._first_span).__next__

    @property
    def first_span(self) -> int:
        """The span of its first event. The spans of its events have the same bits above ``SPAN_BITS``."""
        return self._first_span

    def add_transaction_end(self, end: TransactionEnd) -> None:
        """Record the end of a transaction. Beyond ``MAX_TRANSACTION_ENDS`` they are only counted."""
        self.transaction_end_count += 1
        if len(self.transaction_ends) < MAX_TRANSACTION_ENDS:
            self.transaction_ends.append(end)

    def add_error(self, error: RaisedError) -> None:
        """Count the exception that ended the work."""
        self.raised_error = error
        self.errors += 1

    def get_elapsed(self) -> int:
        """Return the nanoseconds since it began."""
        return clock.monotonic_ns() - self.started_monotonic

    def count_events(self) -> int:
        """Return the number of events. Each call takes a number, so call it once, at the end."""
        return self.next_span() - self._first_span

    def is_failed(self) -> bool:
        """Return True if the work failed: a request with status 500 or above, a task or command with an exception."""
        return self.status == "failed" or (len(self.status) == 3 and self.status.startswith("5"))

    def get_actor(self) -> Actor | None:
        """Return the actor that was set, or the request's user if it is already loaded."""
        if self._actor is not None:
            return self._actor
        if self.request_user is not None:
            return self.request_user.get_actor()
        return _process_actor.get() if is_process_trace(self) else None

    def freeze_actor(self) -> None:
        """Keep the actor for the trace's row and for late events: the request ends, or its user logs out."""
        last_actor = None if self.request_user is None else self.request_user.last_actor
        self._actor = self.get_actor() or last_actor

    def bind_request(self, request: HttpRequest) -> None:
        """Take the actor from ``request`` from now on, unless one was set."""
        self.request_user = RequestUser(request)

    def set_actor(self, actor: Actor | None) -> Actor | None:
        """Set the actor and return the previous one. ``None`` restores the request's user as the actor.

        The trace of the process is shared, so its actor is set only for the current thread or task.
        """
        if is_process_trace(self):
            before = _process_actor.get()
            _process_actor.set(actor)
            return before
        before, self._actor = self._actor, actor
        return before


def generate_trace_id() -> str:
    """Return a W3C trace id: 32 hexadecimal digits, not all zero."""
    return secrets.token_hex(16)


def parse_traceparent(header: str) -> tuple[str, str] | None:
    """Return ``(trace id, parent id)`` of a valid ``traceparent`` header, else ``None``."""
    match = TRACEPARENT_PATTERN.fullmatch(header.strip())
    if match is None:
        return None
    version, trace_id, parent_id, _, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(parent_id, 16):
        return None
    return trace_id, parent_id


def _get_shared_id(span_context: SpanContext | None) -> str | None:
    """Return the id of the distributed trace, None if there is none or a surrounding trace has that id.

    A trace within another one stays a separate trace.
    """
    if span_context is None or any(trace.id == span_context.trace_id for trace in iter_trace_stack()):
        return None
    return span_context.trace_id


def adopt_span_context(trace: Trace) -> None:
    """Give ``trace``, which has just begun, the id of the distributed trace whose span is current now.

    Middleware of OpenTelemetry starts the span of a request after ``request_started``. An id that was written or sent
    to other work is not changed.
    """
    span_context = None if get_span_context is None else get_span_context()
    if span_context is None:
        return
    trace.span_context = span_context
    if not trace.is_id_fixed and not trace.has_writes:
        trace.id = _get_shared_id(span_context) or trace.id


def get_trace_context(trace: Trace) -> dict[str, str] | None:
    """Return the headers that name the cause of a delivery: the current span, or the span in which ``trace`` began."""
    span_context = (None if get_span_context is None else get_span_context()) or trace.span_context
    if span_context is None:
        return None
    headers = {"traceparent": span_context.traceparent}
    return {**headers, "tracestate": span_context.state} if span_context.state else headers


def build_traceparent(trace: Trace) -> str:
    """Return the ``traceparent`` header that carries ``trace`` on to other work."""
    trace.is_id_fixed = True
    span_context = None if get_span_context is None else get_span_context()
    if span_context is not None and span_context.trace_id == trace.id:
        return span_context.traceparent
    return f"00-{trace.id}-{secrets.token_hex(8)}-01"


_current_trace: ContextVar[Trace | None] = ContextVar("signalbox_trace", default=None)
_process_actor: ContextVar[Actor | None] = ContextVar("signalbox_actor", default=None)
"""The actor outside of traces."""
running_receiver: ContextVar[RunningReceiver | None] = ContextVar("signalbox_running_receiver", default=None)
"""The receiver that is running here."""

_process_trace: Trace | None = None


def get_process_trace() -> Trace:
    """Return the trace of the process, for work outside of other traces: imports, start-up, plain scripts."""
    global _process_trace
    if _process_trace is None:  # or forked, see below
        name = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:2]])
        _process_trace = Trace("process", name)
    return _process_trace


def build_event(signal: str, sender: str, using: str, time: int | None = None) -> PendingEvent:
    """Return an event in the current trace, with the event of the running receiver as its parent.

    Args:
        signal: The name of the signal or the operation.
        sender: The label of the sender.
        using: The alias of the database.
        time: Nanoseconds since the epoch. None is now.
    """
    return PendingEvent(
        clock.now() if time is None else time, get_current_trace(), running_receiver.get(), signal, sender, using
    )


def get_current_trace() -> Trace:
    """Return the trace of the current work, or the trace of the process."""
    return _current_trace.get() or get_process_trace()


def iter_trace_stack() -> Iterator[Trace]:
    """Return the current trace and those around it, the innermost first."""
    trace = _current_trace.get()
    while trace is not None:
        yield trace
        trace = trace.previous


def is_process_trace(trace: Trace) -> bool:
    """Return whether ``trace`` is that of the process, and of no command. Its events are written before its end."""
    return trace is _process_trace and trace.kind == "process"


def activate_process_trace(kind: str, name: str) -> Trace:
    """Make the trace of the process that of the command which the process runs, and the current one.

    Threads without a trace use it as well, until ``release_process_trace()`` is called.
    """
    trace = get_process_trace()
    trace._actor = trace._actor or _process_actor.get()
    trace.kind, trace.name = kind, name
    activate(trace)
    return trace


def release_process_trace(trace: Trace) -> None:
    """Give the process another trace if ``trace`` is its own, because the command has ended."""
    global _process_trace
    if trace is _process_trace:
        _process_trace = None


def activate(trace: Trace) -> None:
    """Make ``trace`` the current one. It continues the chain of deliveries of the trace before."""
    trace.previous = _current_trace.get()
    if trace.previous is not None:
        trace.chain_length = max(trace.chain_length, trace.previous.chain_length)
    _current_trace.set(trace)


def deactivate(trace: Trace) -> bool:
    """Make the trace before ``trace`` current again, and say whether ``trace`` was among the current ones.

    Work may end in another context than it began in (a response closed by the server's thread): a token of
    ``ContextVar.set`` could not be reset there.
    """
    if not any(found is trace for found in iter_trace_stack()):
        return False
    _current_trace.set(trace.previous)
    return True


def _after_fork() -> None:
    """Discard pending events in a forked child, and number its own events from a new start."""
    global _process_trace
    _process_trace = None
    for trace in iter_trace_stack():
        trace.reset_span_counter()
        trace.pending = []
        trace.updates = []
        trace.transaction_ends = []
        trace.transaction_end_count = 0
        trace.send_counts.clear()


os.register_at_fork(after_in_child=_after_fork)
