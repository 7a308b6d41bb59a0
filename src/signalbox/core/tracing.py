"""Tracks the current trace, its actor and the currently running receiver's event."""

from __future__ import annotations

import os
import random
import re
import secrets
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from django.utils.functional import empty

from signalbox.core.event import Actor, PendingEvent
from signalbox.core.text import fit_column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.http import HttpRequest

    from signalbox.core.event import Schema

TRACEPARENT_PATTERN: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
"""W3C Trace Context, section 3.2: version, trace id, parent id, flags; later versions may append fields."""

SPAN_BITS: Final = 22
"""Events a trace can number without meeting another's numbers: 4 million, of 63 bits; the rest is random."""

now: Callable[[], int] = time.time_ns
"""Nanoseconds since the epoch, UTC."""


class Trace:
    """A unit of work: a request, a command, a task, a test, a shell, a process.

    Events that belong to no transaction wait in ``pending`` until the trace ends, and leave together.
    """

    __slots__ = (
        "_actor",
        "_first_span",
        "_last_actor",
        "_seen_actor",
        "_seen_user",
        "data",
        "duration",
        "errors",
        "events",
        "id",
        "init_counts",
        "is_view_done",
        "kind",
        "must_persist",
        "name",
        "next_span",
        "pending",
        "previous",
        "request",
        "rolled_back",
        "row_database",
        "row_schemas",
        "started",
        "status",
        "suppressed",
        "updates",
    )

    def __init__(self, kind: str, name: str, *, trace_id: str | None = None, previous: Trace | None = None) -> None:
        self.id = trace_id or generate_trace_id()
        self.kind = kind
        self.name = name
        self.started = now()
        self.duration: int | None = None
        """Nanoseconds; ``None`` while it runs."""
        self.status = ""
        self.previous = previous
        """The trace that was current before, and is again when this one ends."""
        self.request: HttpRequest | None = None
        self.is_view_done = False
        """Whether the request's view has answered; what follows is the response being sent."""
        self.data: dict[str, Any] = {}
        self.init_counts: dict[str, dict[type, int]] = {"pre_init": defaultdict(int), "post_init": defaultdict(int)}
        self.pending: list[PendingEvent] = []
        self.must_persist = False
        """Whether an event in ``pending`` is about a change or has deliveries, so that it must not be lost."""
        self.updates: list[PendingEvent] = []
        """Events that were written before their receivers finished."""
        self.suppressed: int | None = None
        """Number of discarded events; ``None`` until ``suppress()`` is called."""
        self.row_database = ""
        """Name of the database that its row was written to before it finished."""
        self.row_schemas: dict[Schema, int] = {}
        """The schemas of its events, if several schemas have the tables, with the state of its row there: 0 not
        written, 1 written while it ran, 2 complete."""
        self.events = self.errors = self.rolled_back = 0
        self._actor: Actor | None = None
        self._seen_user: object = None
        self._seen_actor: Actor | None = None
        self._last_actor: Actor | None = None
        self.reset_span_counter()

    def reset_span_counter(self) -> None:
        """Number events from a new random start: on creation, and in a forked child which shares the trace's id."""
        self._first_span = random.getrandbits(62 - SPAN_BITS) << SPAN_BITS
        self.next_span: Callable[[], int] = count(self._first_span).__next__

    def count_events(self) -> int:
        """Return how many events have been numbered; asking takes a number, so ask once, at the end."""
        return self.next_span() - self._first_span

    def suppress(self) -> None:
        """Discard non-transactional events of this trace, because the user is only viewing the dashboard."""
        self.suppressed = (self.suppressed or 0) + len(self.pending)
        self.pending.clear()

    def get_actor(self) -> Actor | None:
        """Return who acts: what was set, else the request's user if something has already loaded it.

        A lazy user that nobody asked for stays unasked: finding the actor costs no query.
        """
        if self._actor is not None:
            return self._actor
        if self.request is None:
            return _process_actor.get() if self is _process_trace else None
        state = self.request.__dict__
        user: Any = state.get("user")
        if user is None:
            return None
        if user is self._seen_user:
            return self._seen_actor
        loaded = getattr(user, "_wrapped", user)
        if loaded is empty:  # request.auser() loads the user without telling request.user
            loaded = state.get("_cached_user") or state.get("_acached_user")
            return None if loaded is None else actor_from_user(loaded)
        self._seen_actor = actor_from_user(loaded)
        self._seen_user = user
        self._last_actor = self._seen_actor or self._last_actor
        return self._seen_actor

    def freeze_actor(self) -> None:
        """Keep the actor for the trace's row and for late events: the request ends, or its user logs out."""
        self._actor = self.get_actor() or self._last_actor

    def bind_request(self, request: HttpRequest) -> None:
        """Take the actor from ``request`` from now on, unless one was set."""
        self.request = request

    def set_actor(self, actor: Actor | None) -> Actor | None:
        """Set the actor and return the previous one. ``None`` restores the request's user as the actor.

        The trace of the process is shared, so its actor is set only for the current thread or task.
        """
        if self is _process_trace:
            before = _process_actor.get()
            _process_actor.set(actor)
            return before
        before, self._actor = self._actor, actor
        return before


def actor_from_user(user: Any) -> Actor | None:
    """Return ``user`` as an actor, ``None`` for an anonymous one. It reads what is loaded and runs no query."""
    if isinstance(user, str):
        return build_actor("", user)
    if not getattr(user, "is_authenticated", False):
        return None
    user = getattr(user, "_wrapped", user)  # a lazy user, which the line above has loaded
    state = getattr(user, "__dict__", {})
    name = state.get(getattr(type(user), "USERNAME_FIELD", "username"), "")
    key = getattr(user, "pk", None)
    return build_actor("" if key is None else str(key), str(name))


def build_actor(key: str, label: str) -> Actor:
    """Return an actor as the columns take it."""
    return Actor(key=fit_column(key, 64), label=fit_column(label, 150))


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


def build_traceparent(trace: Trace) -> str:
    """Return the ``traceparent`` header that carries ``trace`` on to other work."""
    return f"00-{trace.id}-{secrets.token_hex(8)}-01"


_current_trace: ContextVar[Trace | None] = ContextVar("signalbox_trace", default=None)
_process_actor: ContextVar[Actor | None] = ContextVar("signalbox_actor", default=None)
"""Who acts outside of every trace."""
running_span: ContextVar[int | None] = ContextVar("signalbox_running_span", default=None)
"""The span of the event whose receiver is running here."""

_process_trace: Trace | None = None


def get_process_trace() -> Trace:
    """Return the trace of what happens outside of every other: imports, start-up, plain scripts."""
    global _process_trace
    if _process_trace is None:  # or forked, see below
        name = " ".join([os.path.basename(sys.argv[0] or "python"), *sys.argv[1:2]])
        _process_trace = Trace("process", name)
    return _process_trace


def get_current_trace() -> Trace:
    """Return the trace of the current work; the process's own where there is no other."""
    return _current_trace.get() or get_process_trace()


def iter_trace_stack() -> Iterator[Trace]:
    """Return the current trace and those around it, the innermost first."""
    trace = _current_trace.get()
    while trace is not None:
        yield trace
        trace = trace.previous


def is_process_trace(trace: Trace) -> bool:
    """Tell whether ``trace`` is the process's own, which never ends: its events do not wait for an end."""
    return trace is _process_trace


def activate(trace: Trace) -> None:
    """Make ``trace`` the current one."""
    trace.previous = _current_trace.get()
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


@contextmanager
def override_actor(actor: Actor | None) -> Iterator[None]:
    """Set the current trace's actor within the block."""
    trace = get_current_trace()
    before = trace.set_actor(actor)
    try:
        yield
    finally:
        trace.set_actor(before)


def _after_fork() -> None:
    """Discard pending events in a forked child, and number its own events from a new start."""
    global _process_trace
    _process_trace = None
    for trace in iter_trace_stack():
        trace.reset_span_counter()
        trace.pending = []
        trace.updates = []
        for counts in trace.init_counts.values():
            counts.clear()


os.register_at_fork(after_in_child=_after_fork)
