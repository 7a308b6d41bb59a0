"""Event processors take part in recording: they require, change or drop events, and add rows to their transaction.

The outbox is one of them. A project names its own in ``SIGNALBOX["PROCESSORS"]``, and the testing tools install one for
the duration of a block.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.db import transaction

from signalbox.core import interrupts, loggers, query_guard
from signalbox.core.event import Outcome
from signalbox.pipeline import batches
from signalbox.serialization import encoder
from signalbox.serialization.configured_redactor import get_redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.dispatch import Signal

    from signalbox.core.event import PendingEvent
    from signalbox.core.tracing import Trace
    from signalbox.pipeline.batches import Batch, TableRow

logger = loggers.get_logger("processors")


@dataclass(slots=True, kw_only=True)
class EventBatch:
    """Events that are written together."""

    events: list[PendingEvent]
    deliveries: list[TableRow] = field(default_factory=list)
    """Rows of the delivery table, in the order of ``batches.DELIVERY_COLUMNS``."""
    using: str
    """Alias of the database that they are written to."""
    is_committed: bool = False
    """Whether their changes are already committed. An exception then can't undo them."""


class EventProcessor:
    """Base class of event processors. Every method has a default that changes nothing.

    The methods run in the process and thread of the application's work. Only ``on_commit()`` and ``before_read()`` can
    query the database. In the other methods a query raises ``QueryForbidden``. An exception of a project's processor
    is logged once per method, and the event is recorded. Events that a method causes itself are recorded without
    another call of this method.
    """

    def wants(self, signal: str, sender: str) -> bool:
        """Return True if sends of ``signal`` from ``sender`` must be recorded, even if ``RECORD`` excludes them.

        Args:
            signal: The signal's name: ``"post_save"``, ``"shop.signals.order_paid"``.
            sender: The sender's label: ``"shop.Order"`` for a model, a dotted name for another class.
        """
        return False

    def wants_sender(self, sender: str) -> bool:
        """Return True if ``sender``, a label, must be recorded although ``IGNORE`` or ``MODELS`` excludes it."""
        return False

    def get_wanted_signals(self) -> Collection[str] | None:
        """Return the names of the signals for which ``wants()`` can be true, or None if every signal can be wanted."""
        return () if type(self).wants is EventProcessor.wants else None

    def on_signal_named(self, signal: Signal, name: str) -> None:
        """Handle that ``signal`` is recorded under ``name`` from now on."""

    def on_send(self, event: PendingEvent, arguments: Mapping[str, Any]) -> None:
        """Handle a wanted send before its receivers run, with its arguments. They are the application's own objects."""

    def on_event(self, event: PendingEvent) -> PendingEvent | None:
        """Return ``event``, changed or not, to record it, or None to drop it.

        It is called before the event is buffered. The receivers of a saved row have not run by then. An event that
        another processor wants, such as one with deliveries, is not dropped. ``event.extra`` is a dict for data of the
        project. It is encoded, bounded and redacted when the method returns. The attributes that identify the event
        cannot be changed: trace, span, time, signal, sender, key and database.
        """
        return event

    def on_flush(self, batch: EventBatch) -> None:
        """Add deliveries to ``batch`` before it is written, in the transaction of its changes.

        Events cannot be added or removed here. Events with the outcome ``rolled_back`` are written after the end of
        their own transaction. The method is called again for an event whose write is repeated.
        """

    def on_commit(self, batch: EventBatch) -> None:
        """Handle the commit of ``batch``, without the events of changes that were rolled back.

        It is not called in a transaction that Django does not know of, such as after a raw BEGIN, and not for events
        that it causes itself. The events of a transaction are kept in memory until the call.
        """

    def on_rollback(self, events: Sequence[PendingEvent]) -> None:
        """Handle the rollback of ``events``, by a savepoint or with the whole transaction."""

    def on_trace_end(self, trace: Trace) -> bool:
        """Return False to drop the events of ``trace`` that are not written yet and belong to no transaction.

        Events of changes, committed or rolled back, and events with deliveries are kept.
        """
        return True

    def before_read(self) -> None:
        """Write pending data, because recorded events are about to be read."""


# ------------------------------------------------------------------ installed processors


class _Hook(NamedTuple):
    """A method of an installed processor that does something."""

    processor: EventProcessor
    name: str
    method: Callable[..., Any]
    is_own: bool
    """Whether the processor is part of Signalbox. Its exceptions are raised: a delivery must not be lost."""

    @property
    def key(self) -> tuple[int, str]:
        """Identifier of the method. See ``PendingEvent.caused_by``."""
        return id(self.processor), self.name


_HOOK_NAMES: Final = (
    "wants",
    "wants_sender",
    "on_signal_named",
    "on_send",
    "on_event",
    "on_flush",
    "on_commit",
    "on_rollback",
    "on_trace_end",
    "before_read",
)
_own_processors: list[EventProcessor] = []
_added_processors: list[EventProcessor] = []
_project_processors: list[EventProcessor] = []
_hooks: dict[str, tuple[_Hook, ...]] = dict.fromkeys(_HOOK_NAMES, ())
"""By name, the methods that a processor overrides, those of Signalbox first."""
_on_change: list[Callable[[], None]] = []


def install(processor: EventProcessor) -> None:
    """Install a processor of Signalbox. Exceptions of its methods are raised."""
    if processor not in _own_processors:
        _own_processors.append(processor)
        _update_hooks()


def install_isolated(processor: EventProcessor) -> None:
    """Install a processor of an optional part of Signalbox. Its exceptions are handled like those of a project's."""
    if processor not in _added_processors:
        _added_processors.append(processor)
        _update_hooks()


def uninstall(processor: EventProcessor) -> None:
    """Remove a processor, if it is installed."""
    for installed in (_own_processors, _added_processors):
        if processor in installed:
            installed.remove(processor)
            _update_hooks()


def set_project_processors(found: Iterable[EventProcessor]) -> None:
    """Install the processors of the project in place of the previous ones."""
    _project_processors[:] = found
    _logged.clear()
    _update_hooks()


def _update_hooks() -> None:
    isolated = (*_added_processors, *_project_processors)
    every = [*((one, True) for one in _own_processors), *((one, False) for one in isolated)]
    for name in _HOOK_NAMES:
        default = getattr(EventProcessor, name)
        _hooks[name] = tuple(
            _Hook(one, name, getattr(one, name), is_own)
            for one, is_own in every
            if getattr(type(one), name) is not default
        )


def on_change(callback: Callable[[], None]) -> None:
    """Call ``callback`` whenever a processor wants other signals or senders than before."""
    if callback not in _on_change:
        _on_change.append(callback)


def notify_changed() -> None:
    """Report that a processor wants other signals or senders than before."""
    for callback in _on_change:
        callback()


# ------------------------------------------------------------------ wanted sends


def get_wanted_signals() -> frozenset[str] | None:
    """Return the names of the signals that a processor may want, None if every signal may be wanted."""
    names: set[str] = set()
    for hook in _hooks["wants"]:
        found = _run(hook, _get_signal_names, hook.processor, default=())
        if found is None:
            return None
        names.update(found)
    return frozenset(names)


def _get_signal_names(processor: EventProcessor) -> frozenset[str] | None:
    found: Any = processor.get_wanted_signals()
    if found is None:
        return None
    if isinstance(found, str):
        raise TypeError(f"get_wanted_signals() returned {found!r}. Expected a collection of names, or None.")
    return frozenset(found)


def may_want(signal: str) -> bool:
    """Return True if a processor may want sends of ``signal``."""
    names = get_wanted_signals()
    return names is None or signal in names


def wants(signal: str, sender: str) -> bool:
    """Return True if a processor wants sends of ``signal`` from ``sender``, a label."""
    return any(_run(hook, hook.method, signal, sender, default=False) for hook in _hooks["wants"])


def wants_sender(sender: str) -> bool:
    """Return True if a processor wants ``sender``, a label, although the setting ignores it."""
    return any(_run(hook, hook.method, sender, default=False) for hook in _hooks["wants_sender"])


def needs_delivery(signal: str, sender: str) -> bool:
    """Return True if sends of ``signal`` from ``sender`` have durable receivers, so that no event may be lost."""
    return any(hook.is_own and hook.method(signal, sender) for hook in _hooks["wants"])


# ------------------------------------------------------------------ recorded events


def on_signal_named(signal: Signal, name: str) -> None:
    """Call each processor. See ``EventProcessor.on_signal_named()``."""
    for hook in _hooks["on_signal_named"]:
        _run(hook, hook.method, signal, name, default=None)


def on_send(event: PendingEvent, arguments: Mapping[str, Any]) -> None:
    """Call each processor for a wanted send. See ``EventProcessor.on_send()``."""
    for hook in _hooks["on_send"]:
        _run(hook, hook.method, event, arguments, default=None)


def admits(event: PendingEvent) -> bool:
    """Call each processor once for ``event``, and return False if one drops it."""
    hooks = _hooks["on_event"]
    if _project_processors and _running.methods:
        event.caused_by = frozenset(_running.methods)
    if not hooks:
        return True
    if event.is_admitted is None:
        event.is_admitted = True  # a processor may cause events itself
        event.is_admitted = _call_on_event(hooks, event)
        if not event.is_admitted:
            event.trace.dropped += 1
    return event.is_admitted


_IDENTIFYING: Final = ("trace", "span", "time", "signal", "sender", "key", "using")
_get_identity: Final = attrgetter(*_IDENTIFYING)


def _call_on_event(hooks: Sequence[_Hook], event: PendingEvent) -> bool:
    identity = _get_identity(event)
    for hook in hooks:
        answer = _run(hook, hook.method, event, default=event)
        if _get_identity(event) != identity:
            _log_once(hook, f"changed an event in on_event(). It cannot change {', '.join(_IDENTIFYING)}.")
            for name, value in zip(_IDENTIFYING, identity, strict=True):
                setattr(event, name, value)
        if event.extra is not None:
            event.extra = _run(hook, _encode_extra, event.extra, default=None)
        if answer is None:
            if not wants(event.signal, event.sender):
                return False
        elif answer is not event:
            _log_once(hook, f"returned a {type(answer).__name__}. Expected the event or None.")
    return True


def _encode_extra(extra: object) -> Any:
    """Return ``extra`` as JSON data. Its values may change until the event is written, and hold memory."""
    if not isinstance(extra, Mapping):
        raise TypeError(f"The attribute extra is a {type(extra).__name__}. Expected a dict.")
    return encoder.encode(dict(extra), redactor=get_redactor())


def on_flush(batch: EventBatch) -> None:
    """Call each processor, and add only valid deliveries of a project's own. See ``EventProcessor.on_flush()``."""
    for hook in _hooks["on_flush"]:
        if hook.is_own:
            hook.method(batch)
            continue
        given = EventBatch(events=list(batch.events), using=batch.using, is_committed=batch.is_committed)
        if _run(hook, hook.method, given, default=_FAILED) is _FAILED:
            continue
        if _are_deliveries(given.deliveries):
            batch.deliveries += given.deliveries
        else:
            _log_once(hook, "added deliveries with other columns than batches.DELIVERY_COLUMNS.")


def _is_delivery_row(row: object) -> bool:
    return isinstance(row, tuple) and len(row) == len(batches.DELIVERY_COLUMNS)


def _are_deliveries(rows: object) -> bool:
    return isinstance(rows, list) and all(map(_is_delivery_row, rows))


def has_on_flush() -> bool:
    """Return True if a processor has to be called before a flush."""
    return bool(_hooks["on_flush"])


def has_on_commit() -> bool:
    """Return True if a processor has to be called after a commit."""
    return bool(_hooks["on_commit"])


def schedule_on_commit(connection: BaseDatabaseWrapper, batch: Batch, *, is_nested: bool) -> None:
    """Call each processor when the rows of ``batch``, which were written on ``connection``, are committed.

    ``is_nested`` says whether they were written in a transaction that is still open.
    """
    # Signalbox's own processor handles deliveries. A hook of on_commit() for every other write would be wasted.
    hooks = [hook for hook in _hooks["on_commit"] if batch.deliveries or not hook.is_own]
    if not hooks or not (batch.pending or batch.deliveries):
        return
    alias = connection.alias
    written, deliveries = batch.pending, list(batch.deliveries)  # not the rows, which would fill the memory

    def call_hooks() -> None:
        # A savepoint of a transaction without atomic() may have been rolled back since.
        changed = [event for event in written if event.outcome is not Outcome.ROLLED_BACK]
        for hook in hooks:
            events = changed if hook.is_own else [event for event in changed if hook.key not in event.caused_by]
            if not events and not (hook.is_own and deliveries):
                continue
            committed = EventBatch(events=list(events), deliveries=list(deliveries), using=alias, is_committed=True)
            try:
                _run(hook, hook.method, committed, default=None, is_isolated=False)
            except Exception as error:
                interrupts.raise_if_interrupt(error)
                logger.exception("The event processor %s failed after a commit.", type(hook.processor).__qualname__)

    # The hooks are not robust for Django, which would swallow an interrupt.
    if connection.in_atomic_block:
        transaction.on_commit(call_hooks, using=alias)
    elif not connection.get_autocommit():  # Django is committing, has left the block, and still runs hooks added now
        pending_hooks: list[Any] = connection.run_on_commit
        pending_hooks.append((set(), call_hooks, False))
    elif not is_nested:  # otherwise the end of a transaction that Django does not know of cannot be seen
        call_hooks()


def on_rollback(events: Sequence[PendingEvent]) -> None:
    """Call each processor. See ``EventProcessor.on_rollback()``."""
    for hook in _hooks["on_rollback"] if events else ():
        _run(hook, hook.method, tuple(events), default=None)


def keeps_trace(trace: Trace) -> bool:
    """Return False if a processor drops the events of a finished ``trace`` that belong to no transaction."""
    answers = [_run(hook, hook.method, trace, default=True) for hook in _hooks["on_trace_end"]]
    return not any(answer is False for answer in answers)


def before_read() -> None:
    """Call each processor before events are read. See ``EventProcessor.before_read()``."""
    for hook in _hooks["before_read"]:
        _run(hook, hook.method, default=None, is_isolated=False)


# ------------------------------------------------------------------ calls

_FAILED: Final = object()
_logged: set[tuple[str, str]] = set()
"""Processors and messages about them that were logged since the project's were set."""


class _Running(threading.local):
    """The methods of project processors that run in this thread."""

    def __init__(self) -> None:
        self.methods: set[tuple[int, str]] = set()


_running: Final = _Running()


def _run(hook: _Hook, method: Callable[..., Any], *args: Any, default: Any, is_isolated: bool = True) -> Any:
    """Call a method of a processor and return its result.

    Returns ``default`` if a project's processor raises, which is logged once, or if the method is already running in
    this thread and has caused this call.
    """
    if hook.is_own:
        return method(*args)
    is_running = hook.key in _running.methods
    if is_running and hook.name != "on_commit":  # this commit was not caused by the method, see ``caused_by``
        return default
    _running.methods.add(hook.key)
    try:
        return query_guard.call_isolated(method, *args) if is_isolated else method(*args)
    except Exception as error:  # noqa: BLE001 - the project's own code; it must not cost events
        interrupts.raise_if_interrupt(error)
        _log_once(hook, f"raised an exception in {hook.name}().", exc_info=True)
        return default
    finally:
        if not is_running:
            _running.methods.discard(hook.key)


def _log_once(hook: _Hook, message: str, *, exc_info: bool = False) -> None:
    """Log ``message`` once per processor, as one that fails usually fails for every event."""
    name = type(hook.processor).__qualname__
    if (name, message) not in _logged:
        _logged.add((name, message))
        logger.error("The event processor %s %s Events are recorded without it.", name, message, exc_info=exc_info)
