"""Builds events from the sends of signals, with one handler class for each kind of signal.

The module is long because the handlers share how events are added and completed.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from django.apps import AppConfig, apps
from django.db import DatabaseError, connections

from signalbox import conf
from signalbox.core import clock, receivers, tracing
from signalbox.core.counted_errors import was_counted
from signalbox.core.event import Outcome, PendingEvent
from signalbox.core.text import fit_column
from signalbox.instrumentation import m2m, model_metadata, model_writes, related_labels, row_state, signal_arguments
from signalbox.instrumentation.row_state import PENDING_POST_SAVE, PENDING_PRE_DELETE, PENDING_PRE_SAVE
from signalbox.pipeline import backends, exporter, processors, routing, unit_of_work
from signalbox.pipeline.delivery_errors import EnqueueError
from signalbox.serialization.configured_redactor import get_redactor
from signalbox.serialization.error_description import describe_error
from signalbox.serialization.redaction import REDACTED

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model
    from django.dispatch import Signal

    from signalbox.instrumentation.signals import SignalHandler


class BaseHandler:
    """Builds an event for each send, with or without receivers."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event of a send that starts, None if it is not recorded."""
        raise NotImplementedError

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Export the finished event, or schedule an update if it is written. ``error`` is what the send raised."""
        raise NotImplementedError

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Build and finish the event of a send without receivers."""
        event = self.start(sender, named)
        if event is not None:
            event.duration = 0
            self.finish(event, named, None)


class SubscribedOnlyHandler(BaseHandler):
    """Records a signal outside of the RECORD setting, only for senders with durable receivers."""

    def __init__(self, name: str, inner: SignalHandler) -> None:
        self.name = name
        self.inner = inner
        self.finish = inner.finish  # type: ignore[method-assign]

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event if the sender has a durable receiver."""
        return self.inner.start(sender, named) if self._has_subscriber(sender) else None

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Record the send if the sender has a durable receiver."""
        if self._has_subscriber(sender):
            self.inner.handle_no_receivers(sender, named)

    def _has_subscriber(self, sender: Any) -> bool:
        return processors.wants(self.name, signal_arguments.get_sender_label(sender))


class PlainSignalHandler(BaseHandler):
    """Records a signal that belongs to no write. Its events are exported with their trace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, None if its sender is ignored."""
        if _is_ignored(sender):
            return None
        event = tracing.build_event(
            self.name, signal_arguments.get_sender_label(sender), fit_column(str(named.get("using") or ""), 64)
        )
        event.args = signal_arguments.encode_arguments(named)
        if processors.wants(self.name, event.sender):
            processors.on_send(event, named)
        instance = named.get("instance", named.get("user"))
        if instance is not None:
            signal_arguments.set_object_if_model(event, instance)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Export the event, or write it now if it has deliveries."""
        event.outcome = Outcome.SENT if error is None else Outcome.FAILED
        if event.outbox_arguments is None:
            exporter.enqueue(event)
        else:
            _add_with_deliveries(event)


class CountedHandler(BaseHandler):
    """Counts the sends of a signal by trace and sender. Records those that a receiver other than Django's own gets."""

    def __init__(self, name: str, signal: Signal, inner: SignalHandler) -> None:
        self.name = name
        self.signal = signal
        self.inner = inner
        self.finish = inner.finish  # type: ignore[method-assign]

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, None if the send is only counted or its sender is ignored."""
        if receivers.has_receiver_outside_django(self.signal, sender) or self._is_wanted(sender):
            return self.inner.start(sender, named)
        self._count(sender)
        return None

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Count the send, or record it if an event processor wants it."""
        if self._is_wanted(sender):
            self.inner.handle_no_receivers(sender, named)
        else:
            self._count(sender)

    def _is_wanted(self, sender: Any) -> bool:
        return processors.wants(self.name, signal_arguments.get_sender_label(sender))

    def _count(self, sender: Any) -> None:
        if not _is_ignored(sender):  # by its label, as a class would be kept in memory
            tracing.get_current_trace().send_counts[self.name][signal_arguments.get_sender_label(sender)] += 1


class RequestExceptionHandler(PlainSignalHandler):
    """Records ``got_request_exception``, which does not pass the exception."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, with the exception that is being handled."""
        event = super().start(sender, named)
        if event is not None:
            event.args = {
                **signal_arguments.encode_arguments(named),
                **(signal_arguments.get_current_exception() or {}),
            }
            error = sys.exception()
            if error is not None:
                event.is_passed_through = was_counted(error, event.trace.started_monotonic)
                if not event.is_passed_through:
                    event.add_error(describe_error(error, redactor=get_redactor()))
        return event


class TemplateRenderedHandler(PlainSignalHandler):
    """Records ``template_rendered`` with the names in the context, without their values."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event."""
        found: Any = named.get("context")
        flat = found.flatten() if hasattr(found, "flatten") else {}
        encoded = {"template": getattr(named.get("template"), "name", None), "context": sorted(map(str, flat))[:50]}
        return super().start(sender, encoded)


class SettingChangedHandler(PlainSignalHandler):
    """Records ``setting_changed``. The name of the setting decides whether its value is secret."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event."""
        setting = str(named.get("setting"))
        event = super().start(sender, {**named, "value": None})
        if event is not None:
            event.key = fit_column(setting, 200)
            encoded = signal_arguments.encode_arguments({setting: named.get("value")})
            event.args = {**signal_arguments.encode_arguments({**named, "value": None}), "value": encoded[setting]}
        return event


class PreSaveHandler:
    """Records ``pre_save``. Its event stays on the instance until the row is written.

    Without receivers it has an event only if the write fails. The event of a write has the time of its ``pre_save``.
    """

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, None if its model is ignored."""
        metadata = model_metadata.get_metadata(sender)
        if not metadata.is_recorded:
            return None
        instance = named["instance"]
        event = model_writes.build_pre_save_event(metadata, instance, named["using"], clock.now())
        fields = named["update_fields"]
        if fields is None:
            event.args = RAW_PRE_SAVE_ARGS if named["raw"] else DEFAULT_PRE_SAVE_ARGS
        else:
            event.args = {"raw": named["raw"], "update_fields": sorted(fields)}
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Keep the event on the instance, or export it if a receiver raised: the row is then not written."""
        if error is None:
            # Not before: a receiver may have saved the same instance.
            setattr(named["instance"]._state, PENDING_PRE_SAVE, event)
        else:
            event.outcome = Outcome.FAILED
            exporter.enqueue(event)

    def handle_no_receivers(self, sender: type[Model], named: dict[str, Any]) -> None:
        """Keep the time of the send on the instance."""
        setattr(named["instance"]._state, PENDING_PRE_SAVE, clock.now())


DEFAULT_PRE_SAVE_ARGS = '{"raw":false,"update_fields":null}'
RAW_PRE_SAVE_ARGS = '{"raw":true,"update_fields":null}'


class PostSaveHandler(PlainSignalHandler):
    """Records ``post_save``: adds receivers to the event that was built when the row was written."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event of the row, or a new event if nothing was written. Some packages send without a write."""
        instance = named.get("instance")
        state = getattr(instance, "_state", None)
        event: PendingEvent | None = None if state is None else row_state.pop_attribute(state, PENDING_POST_SAVE)
        return super().start(sender, named) if event is None else event

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Build an event only if nothing was written."""
        state = getattr(named.get("instance"), "_state", None)
        if state is None or row_state.pop_attribute(state, PENDING_POST_SAVE) is None:
            super().handle_no_receivers(sender, named)

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Schedule an update with the receivers if the event is already written."""
        if event.change is None:
            super().finish(event, named, error)
        elif event.written_to and event.receiver_calls:
            exporter.enqueue_update(event)


class PreDeleteHandler:
    """Records ``pre_delete`` in the transaction of the collector.

    Without receivers it has no event: the event of the delete has its time.
    """

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, None if its model is ignored."""
        metadata = model_metadata.get_metadata(sender)
        if not metadata.is_recorded:
            return None
        connection = connections[named["using"]]
        event = tracing.build_event("pre_delete", metadata.label, connection.alias)
        model_writes.set_object(event, metadata, named["instance"], connection)
        event.args = _encode_origin(named)
        _add_to_transaction(event, connection)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Record that a receiver raised. The outcome is that of the collector's transaction."""
        _complete(event, error)

    def handle_no_receivers(self, sender: type[Model], named: dict[str, Any]) -> None:
        """Keep the time of the send on the instance."""
        setattr(named["instance"]._state, PENDING_PRE_DELETE, clock.now())


class PostDeleteHandler(BaseHandler):
    """Records ``post_delete`` in the transaction of the collector."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, None if its model is ignored."""
        metadata = model_metadata.get_metadata(sender)
        if not metadata.is_recorded:
            return None
        connection = connections[named["using"]]
        event = model_writes.build_delete_event(named["instance"], metadata, connection)
        event.args = _encode_origin(named)
        _add_to_transaction(event, connection)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Record that a receiver raised. The outcome is that of the collector's transaction."""
        _complete(event, error)


def _encode_origin(named: dict[str, Any]) -> Any:
    """Return the arguments of a delete: its origin, None if that is the deleted instance."""
    origin = named.get("origin")
    return (
        None if origin is None or origin is named["instance"] else signal_arguments.encode_arguments({"origin": origin})
    )


class M2MChangedHandler(BaseHandler):
    """Records ``m2m_changed`` in the transaction of the manager. A ``pre_`` action has an event only with receivers."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, None if the model of the instance or of the table is ignored."""
        instance = named["instance"]
        through = model_metadata.get_metadata(sender)
        policy = model_metadata.get_m2m_policy(sender)
        if not through.is_recorded or policy == "exclude":
            return None
        metadata = model_metadata.get_metadata(instance if isinstance(instance, type) else instance.__class__)
        if not metadata.is_recorded:
            return None
        connection = connections[named["using"]]
        event = tracing.build_event("m2m_changed", through.label, connection.alias)
        if not isinstance(instance, type):
            model_writes.set_object(event, metadata, instance, connection)
        encoded_args = {
            name: value for name, value in named.items() if name not in ("instance", "using", "model", "pk_set")
        }
        pk_set = named["pk_set"]
        first, *remaining_args = _get_changed_keys(named["action"], m2m.current_operation.get())
        encoded = (
            pk_set
            if pk_set is None or policy
            else signal_arguments.encode_keys(pk_set, named["model"])[: signal_arguments.MAX_KEYS_PER_EVENT]
        )
        event.args = {
            **signal_arguments.encode_arguments(encoded_args),
            "pk_set": encoded if encoded is None or not policy else REDACTED,
            **first,
            "object": metadata.label,
            "model": signal_arguments.get_sender_label(named["model"]),
        }
        _add_to_transaction(event, connection)
        _add_split_events(event, remaining_args, connection)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Record that a receiver raised."""
        _complete(event, error)

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Record a ``post_`` action. A ``pre_`` action is not recorded."""
        if named["action"].startswith("post_"):
            super().handle_no_receivers(sender, named)


def _get_changed_keys(action: str, operation: m2m.M2MOperation | None) -> list[dict[str, Any]]:
    """Return the keys that a ``post_`` action added or removed according to its statements."""
    if operation is None or not action.startswith("post_"):
        return [{}]
    return _encode_changed_keys("added" if action == "post_add" else "removed", operation, operation.get_changed_keys())


def _encode_changed_keys(argument: str, operation: m2m.M2MOperation, keys: list[Any] | None) -> list[dict[str, Any]]:
    """Return ``keys`` as arguments, one dict for each event.

    For redacted keys the arguments are their number, for unknown keys (None) the number of rows and the reason.
    """
    manager = operation.manager
    if keys is None:
        return [{argument: None, **operation.get_unknown_arguments()}]
    if model_metadata.get_m2m_policy(manager.through) == "redact":
        return [{argument: REDACTED, "count": len(keys)}]
    model: type[Model] = manager.model
    encoded_args, max_keys = signal_arguments.encode_keys(keys, model), signal_arguments.MAX_KEYS_PER_EVENT
    if len(encoded_args) <= max_keys:
        return [{argument: encoded_args, **related_labels.encode_m2m_labels(operation, encoded_args)}]
    parts = [encoded_args[start : start + max_keys] for start in range(0, len(encoded_args), max_keys)]
    return [
        {argument: part, "part": number, "parts": len(parts), **related_labels.encode_m2m_labels(operation, part)}
        for number, part in enumerate(parts, 1)
    ]


def record_unsent_add(
    manager: Any, operation: m2m.M2MOperation, keys: list[Any] | None, connection: BaseDatabaseWrapper
) -> None:
    """Record an ``add()`` in the open transaction, if Django has sent nothing as the table has no receivers."""
    metadata = model_metadata.get_metadata(type(manager.instance))
    event = tracing.build_event("m2m_changed", model_metadata.get_metadata(manager.through).label, connection.alias)
    model_writes.set_object(event, metadata, manager.instance, connection)
    first, *remaining_args = _encode_changed_keys("added", operation, keys)
    event.args = {
        "action": "post_add",
        "reverse": manager.reverse,
        **first,
        "object": metadata.label,
        "model": manager.model._meta.label,
        "unsent": True,
    }
    event.duration = 0
    unit_of_work.get_or_attach(connection).add(event)
    _add_split_events(event, remaining_args, connection)


def _add_split_events(
    first_event: PendingEvent, remaining_args: list[dict[str, Any]], connection: BaseDatabaseWrapper
) -> None:
    """Add further events for the keys of a large change that ``first_event`` does not contain."""
    if not remaining_args:
        return
    encoded_args: dict[str, Any] = {
        name: value for name, value in cast("Any", first_event.args).items() if name not in ("pk_set", "labels")
    }
    for part in remaining_args:
        event = tracing.build_event(first_event.signal, first_event.sender, first_event.using)
        event.key, event.label = first_event.key, first_event.label
        event.args = {**encoded_args, **part}
        event.duration = 0
        _add_to_transaction(event, connection)
        _complete(event, None)


def _add_with_deliveries(event: PendingEvent) -> None:
    """Add an event with deliveries to the open transaction, or write it now.

    Raises ``EnqueueError`` if it can't be written.
    """
    if exporter.in_event_loop():
        exporter.enqueue(event)
        return
    connection = connections[event.using or routing.get_events_database()]
    if backends.in_transaction(connection):
        unit_of_work.get_or_attach(connection).add(event)
        return
    try:
        exporter.write_now(event)
    except DatabaseError as error:
        raise EnqueueError(
            f"{event.signal} was sent, but its durable receivers will not run, as their rows could not be written: "
            f"{error}"
        ) from error


def _add_to_transaction(event: PendingEvent, connection: BaseDatabaseWrapper) -> None:
    """Add ``event`` to the open transaction. Without one it is exported when it is complete."""
    if backends.in_transaction(connection):
        unit_of_work.get_or_attach(connection).add(event)
    else:
        event.outcome = Outcome.COMMITTED


def _complete(event: PendingEvent, error: BaseException | None) -> None:
    is_without_transaction = event.outcome is Outcome.COMMITTED
    if error is not None:
        event.outcome = Outcome.FAILED
    if is_without_transaction:
        exporter.enqueue(event)
    elif event.written_to and event.receiver_calls:
        exporter.enqueue_update(event)


def _is_ignored(sender: Any) -> bool:
    model = signal_arguments.get_sender_model(sender)
    config = conf.get()
    if model is not None:
        is_migration_model = model.__module__ == "__fake__" and "migrations" in config.IGNORE
        return is_migration_model or model_metadata.is_ignored(model, config)
    app = sender if isinstance(sender, AppConfig) else _get_app(sender) if isinstance(sender, type) else None
    return app is not None and (app.label == "signalbox" or app.label in config.IGNORE)


def _get_app(sender: type) -> AppConfig | None:
    """Return the app of a class, such as the static files handler of the development server; None without an app."""
    return apps.get_containing_app_config(sender.__module__) if apps.apps_ready else None
