"""Starts and stops recording in a process."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import iscoroutinefunction
from django.apps import AppConfig, apps
from django.core.signals import request_finished, request_started, setting_changed
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.models.signals import m2m_changed, post_migrate
from django.dispatch import Signal
from django.urls import get_urlconf

from signalbox import conf
from signalbox.core import catalog, interrupts, loggers, naming
from signalbox.core.instance_layer import InstanceLayer
from signalbox.core.text import fit_column
from signalbox.instrumentation import (
    bulk,
    commands,
    discovery,
    handlers,
    init_counter,
    m2m,
    model_metadata,
    model_writes,
    patching,
    requests,
    returning,
    returning_inserts,
    row_state,
    signals,
    task_queues,
)
from signalbox.instrumentation.recording_filter import RecordingFilter
from signalbox.pipeline import configured_processors, exporter, missing_tables, processors, serializer, unit_of_work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from signalbox.instrumentation.signals import SignalHandler


logger = loggers.get_logger("recording")


DISPATCH_UID: Final = "signalbox"


class _State:
    """The state of recording in this process."""

    def __init__(self) -> None:
        self.recording_filter: RecordingFilter | None = None
        self.recorded_signals: dict[Signal, str] = {}
        self.setting_handler: SignalHandler | None = None
        """Records ``setting_changed``, if that signal is recorded."""


_state = _State()


def is_recording() -> bool:
    """Return True if recording is on."""
    return _state.recording_filter is not None


def get_recorded_signals() -> dict[Signal, str]:
    """Return the signals whose sends are recorded, by name."""
    return dict(_state.recorded_signals)


def start_recording() -> None:
    """Start recording in this process, as the setting ``SIGNALBOX`` says.

    The app does so on start. Call it after ``stop_recording()``, or again to apply a changed setting. It does nothing
    if the environment variable ``SIGNALBOX_DISABLED`` switches recording off.
    """
    stop_recording()
    if conf.is_disabled():
        return
    if not patching.has_connection_methods():
        logger.error(
            "Nothing is recorded: database connections have other methods in this version of Django. "
            "Use a version that Signalbox supports."
        )
        return
    recording_filter = _state.recording_filter = RecordingFilter(conf.get())
    if apps.ready:  # a project's processors may need its models
        configured_processors.configure()
    _record_builtin_signals(recording_filter)
    for signal, wrapper in _SIGNAL_WRAPPERS.items():
        if signal not in _state.recorded_signals:
            signals.wrap_sends(signal, wrapper)
    setting_changed.connect(_on_setting_changed, dispatch_uid=DISPATCH_UID)
    init_counter.install(set(recording_filter.signal_names))
    model_writes.install(saves="post_save" in recording_filter, deletes="post_delete" in recording_filter)
    row_state.install()
    returning.install()
    returning_inserts.install()
    if "m2m_changed" in recording_filter or processors.may_want("m2m_changed"):
        m2m.install(handlers.record_unsent_add)
    commands.install(discover_signals_if_imported)
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            unit_of_work.attach(connection)
    serializer.record_unchanged = not recording_filter.is_audit
    update_subscriptions()
    if apps.ready:
        discover_signals()


def update_subscriptions() -> None:
    """Record the signals that event processors need, regardless of the RECORD setting."""
    recording_filter = _state.recording_filter
    if recording_filter is None:
        return
    model_metadata.clear_cache()
    model_writes.install(saves="post_save" in recording_filter, deletes="post_delete" in recording_filter)
    wanted_signals = _get_wanted_signals()
    for name in wanted_signals:
        entry = catalog.BUILTIN_SIGNALS.get(name)
        signal = naming.find_signal(name) if entry is None or entry.path else None
        if signal is not None and signal not in _state.recorded_signals:
            _record_signal(signal, name)
        if name == "m2m_changed":
            m2m.install(handlers.record_unsent_add)
    recorded = recording_filter.signal_names
    if conf.get().BULK == "off":  # only what a durable receiver or another processor names
        recorded, wanted_signals = frozenset(), processors.get_wanted_signals() or frozenset()
    bulk.install(recorded | wanted_signals, subscribed_only=wanted_signals - recorded, rows=conf.get().BULK == "rows")


def _get_wanted_signals() -> frozenset[str]:
    """Return the names of the signals that event processors may want."""
    names = processors.get_wanted_signals()
    if names is not None:
        return names
    loaded = {name for name, entry in catalog.BUILTIN_SIGNALS.items() if not entry.path or _get_loaded_signal(entry)}
    return frozenset(loaded - set(init_counter.INIT_SIGNALS))


processors.on_change(update_subscriptions)


def stop_recording() -> None:
    """Stop recording in this process, and remove every patch from Django's classes, signals and connections.

    Pending events of open transactions are written first. Tables and recorded events stay.
    """
    if _state.recording_filter is None:
        return
    unit_of_work.flush_all()
    for signal in (*_state.recorded_signals, *_SIGNAL_WRAPPERS):
        signals.restore_sends(signal)
    setting_changed.disconnect(dispatch_uid=DISPATCH_UID)
    _state.setting_handler = None
    _state.recorded_signals.clear()
    init_counter.uninstall()
    model_writes.uninstall()
    row_state.uninstall()
    bulk.uninstall()
    m2m.uninstall()
    returning_inserts.uninstall()
    returning.uninstall()
    commands.uninstall()
    task_queues.uninstall()
    unit_of_work.detach_all()
    discovery.reset()
    model_metadata.clear_cache()
    _state.recording_filter = None


def discover_signals() -> None:
    """Record custom signals, and trace task queues, of modules that were imported since the last call."""
    recording_filter = _state.recording_filter
    if recording_filter is None:
        return
    wanted = processors.get_wanted_signals()
    if wanted is None or recording_filter.records_all or recording_filter.signal_names - catalog.BUILTIN_SIGNALS.keys():
        for signal, name in (*discovery.find_new_signals(), *naming.get_tracked_signals().items()):
            if signal not in _state.recorded_signals and (wanted is None or recording_filter.includes_custom(name)):
                _record_signal(signal, name)
    _record_builtin_signals(recording_filter)  # modules such as django.test are imported late
    task_queues.install()


def discover_signals_after(last_app: AppConfig) -> None:
    """Search for custom signals again, once, when ``last_app`` is ready.

    Apps import modules in their ``ready()``, and the ``ready()`` of Signalbox runs before that of later apps.

    Args:
        last_app: The last of the installed apps, whose own ``ready`` is replaced until it has run.
    """
    if not patching.is_applicable(patching.get_patch(AppConfig, "ready"), type(last_app).ready):
        return
    layer = InstanceLayer(last_app)
    original = layer.get_original("ready")

    def ready() -> None:
        layer.remove()
        original()
        with _log_errors():
            discover_signals()

    layer.replace("ready", ready)


def register_signal(signal: Signal, name: str) -> None:
    """Record the sends of a signal under a name. Signals in modules of installed apps need no registration.

    Args:
        signal: The signal.
        name: Name in the event log, such as ``"shop.signals.order_paid"``; 200 characters are stored.

    Raises:
        TypeError: ``signal`` is not a ``django.dispatch.Signal``.
    """
    if not isinstance(signal, Signal):
        raise TypeError(f"register_signal() was given {type(signal).__name__}; a django.dispatch.Signal was expected.")
    name = fit_column(name, 200)
    naming.track(signal, name)
    processors.on_signal_named(signal, name)
    if _state.recording_filter is not None and _state.recording_filter.includes_custom(name):
        _record_signal(signal, name)


def _record_builtin_signals(recording_filter: RecordingFilter) -> None:
    """Record the signals of Django whose modules have been imported, and that are not recorded yet."""
    for name, entry in catalog.BUILTIN_SIGNALS.items():
        if entry.path and name in recording_filter and name not in init_counter.INIT_SIGNALS:
            signal = _get_loaded_signal(entry)
            if signal is not None and signal not in _state.recorded_signals:
                _record_signal(signal, name)


def _get_loaded_signal(entry: catalog.SignalInfo) -> Signal | None:
    """Return the signal of ``entry``, None if its module has not been imported."""
    return catalog.import_signal(entry) if entry.path.rpartition(".")[0] in sys.modules else None


def _record_signal(signal: Signal, name: str) -> None:
    _state.recorded_signals[signal] = name
    handler = _build_handler(name)
    if name in catalog.START_UP_SIGNALS:
        handler = handlers.CountedHandler(name, signal, handler)
    if name not in catalog.BUILTIN_SIGNALS:
        processors.on_signal_named(signal, name)
    recording_filter = _state.recording_filter
    if recording_filter is not None and name not in recording_filter and not recording_filter.includes_custom(name):
        handler = handlers.SubscribedOnlyHandler(name, handler)
    if signal is setting_changed:
        _state.setting_handler = handler
        return
    signals.record_sends(signal, handler)
    wrapper = _SIGNAL_WRAPPERS.get(signal) or task_queues.get_signal_wrapper(signal)
    if signal is m2m_changed:
        wrapper = m2m.wrap_m2m_changed
    if wrapper is not None:  # outside of the method that records the signal
        signals.wrap_sends(signal, wrapper)


def _build_handler(name: str) -> SignalHandler:
    match name:
        case "pre_save":
            return handlers.PreSaveHandler()
        case "post_save":
            return handlers.PostSaveHandler(name)
        case "pre_delete":
            return handlers.PreDeleteHandler()
        case "post_delete":
            return handlers.PostDeleteHandler()
        case "m2m_changed":
            return handlers.M2MChangedHandler()
        case "got_request_exception":
            return handlers.RequestExceptionHandler(name)
        case "setting_changed":
            return handlers.SettingChangedHandler(name)
        case "template_rendered":
            return handlers.TemplateRenderedHandler(name)
    return handlers.PlainSignalHandler(name)


# ------------------------------------------------------------------ traces and connections


@contextmanager
def _log_errors() -> Iterator[None]:
    """Log exceptions of the block, so that the application does not get them."""
    try:
        yield
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("A trace could not be started or finished, or a setting could not be applied.")


def _wrap_request_started(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        with _log_errors():
            discover_signals_if_imported()
            requests.start_request(named.get("environ"), named.get("scope"))
        return inner(sender, **named)

    return send


def _wrap_request_finished(inner: Any) -> Any:
    async def asend(sender: Any, **named: Any) -> Any:
        urlconf = get_urlconf()  # a receiver of Django resets it
        try:
            return await inner(sender, **named)
        finally:
            with _log_errors():
                await requests.afinish_request(urlconf=urlconf)

    def send(sender: Any, **named: Any) -> Any:
        urlconf = get_urlconf()
        with requests.postpone_connection_close():
            try:
                return inner(sender, **named)
            finally:
                with _log_errors():
                    requests.finish_request(urlconf=urlconf)

    return asend if iscoroutinefunction(inner) else send


def _wrap_connection_created(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        with _log_errors():
            unit_of_work.attach(named["connection"])
        result = inner(sender, **named)
        with _log_errors():
            exporter.flush()  # events that waited for a connection, before the query that needed it
        return result

    return send


def _wrap_post_migrate(inner: Any) -> Any:
    def send(sender: Any, **named: Any) -> Any:
        missing_tables.clear_table_cache()
        return inner(sender, **named)

    return send


def _on_setting_changed(sender: Any, signal: Any, **named: Any) -> None:
    """Record a changed setting, and apply it.

    This is a receiver, as Django's own receiver counts the frames between itself and the code that changes a setting.
    """
    with _log_errors():
        if _state.setting_handler is not None:
            _state.setting_handler.handle_no_receivers(sender, named)
        if named.get("setting") == "SIGNALBOX":
            start_recording()
        elif named.get("setting") == "DATABASES":
            missing_tables.clear_table_cache()


_SIGNAL_WRAPPERS: dict[Signal, Any] = {
    request_started: _wrap_request_started,
    request_finished: _wrap_request_finished,
    connection_created: _wrap_connection_created,
    post_migrate: _wrap_post_migrate,
}


_last_modules: tuple[int, str] = (0, "")
"""The number of modules at the last search for signals, and the name of the newest."""


def discover_signals_if_imported() -> None:
    """Search for custom signals if a module was imported since the last search."""
    global _last_modules
    now = (len(sys.modules), next(reversed(sys.modules), ""))
    if now != _last_modules:
        discover_signals()
        _last_modules = now
