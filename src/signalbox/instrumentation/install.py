"""Recording: see every send and every row that is written, and disturb none."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.core.signals import request_finished, request_started, setting_changed
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.models.signals import m2m_changed, post_migrate
from django.dispatch import Signal

from signalbox import conf
from signalbox.core import catalog, naming
from signalbox.instrumentation import (
    boundaries,
    bulk,
    discovery,
    handlers,
    init_counter,
    m2m,
    model_metadata,
    model_writes,
    returning,
    row_state,
    signals,
    task_queues,
)
from signalbox.instrumentation.filter import Scope
from signalbox.outbox import registry
from signalbox.pipeline import unit_of_work, writer
from signalbox.serialization import encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalbox.instrumentation.signals import Capture


logger = logging.getLogger("signalbox")


class _State:
    """What is installed."""

    def __init__(self) -> None:
        self.scope: Scope | None = None
        self.watched: dict[Signal, str] = {}


_state = _State()


def installed() -> bool:
    """Tell whether recording is on."""
    return _state.scope is not None


def watched() -> dict[Signal, str]:
    """Return the signals whose sends are recorded, by name."""
    return dict(_state.watched)


def install() -> None:
    """Record what the setting asks for, from now on. Calling it again takes up a changed setting."""
    uninstall()
    scope = _state.scope = Scope(conf.get())
    for name, entry in catalog.BUILTIN_SIGNALS.items():
        if entry.path and name in scope and name not in init_counter.SIGNALS and (signal := _loaded(entry)) is not None:
            _watch(signal, name)
    for signal, hook in _BOUNDARIES.items():
        if signal not in _state.watched:
            signals.bound(signal, hook)
    init_counter.install(set(scope.names))
    model_writes.install(saves="post_save" in scope, deletes="post_delete" in scope)
    row_state.install()
    returning.install()
    awaited = registry.get_subscribed_signals()
    if "m2m_changed" in scope or "m2m_changed" in awaited:
        m2m.install(handlers.unsent_add)
    told = scope.names if conf.get().BULK != "off" else frozenset()
    if told or awaited:
        bulk.install(told | awaited, rows=conf.get().BULK == "rows")
    boundaries.install(find_custom_if_new)
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            unit_of_work.attach(connection)
    writer.record_unchanged = not scope.audit
    hear()
    if apps.ready:
        find_custom()


def hear() -> None:
    """Record what durable receivers wait for, whatever the setting says."""
    scope = _state.scope
    if scope is None:
        return
    model_metadata.forget()
    model_writes.install(saves="post_save" in scope, deletes="post_delete" in scope)
    for name in registry.get_subscribed_signals():
        entry = catalog.BUILTIN_SIGNALS.get(name)
        signal = registry.get_signal(name) if entry is None or entry.path else None
        if signal is not None and signal not in _state.watched:
            _watch(signal, name)
        if name == "m2m_changed":
            m2m.install(handlers.unsent_add)
        elif signal is None and name not in scope:
            bulk.install(scope.names | {name}, rows=conf.get().BULK == "rows")


registry.subscription_callbacks.append(hear)


def uninstall() -> None:
    """Record nothing any more: every class, signal and connection is as Django made it."""
    if _state.scope is None:
        return
    unit_of_work.flush_all()
    for signal in (*_state.watched, *_BOUNDARIES):
        signals.unwatch(signal)
    _state.watched.clear()
    init_counter.uninstall()
    model_writes.uninstall()
    row_state.uninstall()
    bulk.uninstall()
    m2m.uninstall()
    returning.uninstall()
    boundaries.uninstall()
    task_queues.uninstall()
    unit_of_work.detach_all()
    discovery.forget()
    model_metadata.forget()
    _state.scope = None


def find_custom() -> None:
    """Record the custom signals of modules that were imported since the last call, and give jobs their traces."""
    scope = _state.scope
    if scope is None:
        return
    if scope.everything or scope.names - catalog.BUILTIN_SIGNALS.keys():
        for signal, name in (*discovery.new_signals(), *naming.get_tracked_signals().items()):
            if signal not in _state.watched and scope.custom(name):
                _watch(signal, name)
    for name, entry in catalog.BUILTIN_SIGNALS.items():  # those whose modules are imported late, as django.test's
        if entry.path and name in scope and name not in init_counter.SIGNALS:
            late = _loaded(entry)
            if late is not None and late not in _state.watched:
                _watch(late, name)
    task_queues.install()


def track(signal: Signal, name: str) -> None:
    """Record ``signal`` under ``name``: for signals that no installed app's module holds.

    Raises ``TypeError`` if it is no signal.
    """
    if not isinstance(signal, Signal):
        raise TypeError(f"track() was given {type(signal).__name__}; a django.dispatch.Signal was expected.")
    name = encoder.column(name, 200)
    naming.track(signal, name)
    registry.register_signal_name(signal, name)
    if _state.scope is not None and _state.scope.custom(name):
        _watch(signal, name)


def _loaded(entry: catalog.SignalInfo) -> Signal | None:
    """Return the entry's signal if its module has been imported; nothing is imported for it."""
    return catalog.import_signal(entry) if entry.path.rpartition(".")[0] in sys.modules else None


def _watch(signal: Signal, name: str) -> None:
    _state.watched[signal] = name
    capture = _capture(name)
    if name not in catalog.BUILTIN_SIGNALS:
        registry.register_signal_name(signal, name)
    scope = _state.scope
    if scope is not None and name not in scope and not scope.custom(name):
        capture = handlers.Awaited(name, capture)
    signals.watch(signal, capture)
    hook = _BOUNDARIES.get(signal) or task_queues.hook(signal)
    if signal is m2m_changed:
        hook = m2m.around_receivers
    if hook is not None:  # a boundary stands around what records its signal
        signals.bound(signal, hook)


def _capture(name: str) -> Capture:
    match name:
        case "pre_save":
            return handlers.PreSave()
        case "post_save":
            return handlers.PostSave(name)
        case "pre_delete":
            return handlers.PreDelete()
        case "post_delete":
            return handlers.PostDelete()
        case "m2m_changed":
            return handlers.ManyToMany()
        case "got_request_exception":
            return handlers.RequestException(name)
        case "setting_changed":
            return handlers.SettingChanged(name)
        case "template_rendered":
            return handlers.TemplateRendered(name)
    return handlers.Sent(name)


# ------------------------------------------------------------------ boundaries


@contextmanager
def _guarded() -> Iterator[None]:
    """Let nothing of Signalbox's own work at a boundary reach the application."""
    try:
        yield
    except Exception:
        logger.exception("A boundary of the application's work could not be noted.")


def _request_started(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        with _guarded():
            find_custom_if_new()
            boundaries.begin_request(named.get("environ"), named.get("scope"))
        return inner(sender, **named)

    return send


def _request_finished(inner: Any) -> Any:
    async def asend(sender: Any, **named: Any) -> Any:
        try:
            return await inner(sender, **named)
        finally:
            with _guarded():
                await boundaries.aend_request()

    def send(sender: Any, **named: Any) -> Any:
        with boundaries.closing_postponed():
            try:
                return inner(sender, **named)
            finally:
                with _guarded():
                    boundaries.end_request()

    return asend if iscoroutinefunction(inner) else send


def _connection_created(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        with _guarded():
            unit_of_work.attach(named["connection"])
        return inner(sender, **named)

    return send


def _post_migrate(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        writer.clear_table_cache()
        return inner(sender, **named)

    return send


def _setting_changed(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        try:
            return inner(sender, **named)
        finally:
            with _guarded():
                if named.get("setting") == "SIGNALBOX":
                    install()
                elif named.get("setting") == "DATABASES":
                    writer.clear_table_cache()

    return send


_BOUNDARIES: dict[Signal, Any] = {
    request_started: _request_started,
    request_finished: _request_finished,
    connection_created: _connection_created,
    post_migrate: _post_migrate,
    setting_changed: _setting_changed,
}


_modules: tuple[int, str] = (0, "")
"""How many modules there were when they were last looked through, and the newest."""


def find_custom_if_new() -> None:
    """Look for custom signals if something was imported since the last time."""
    global _modules
    now = (len(sys.modules), next(reversed(sys.modules), ""))
    if now != _modules:
        find_custom()
        _modules = now
