"""How each kind of signal's sends become events: one capture a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from django.apps import AppConfig, apps
from django.db import DatabaseError, connections

from signalbox import conf
from signalbox.core import tracing
from signalbox.core.event import Outcome, PendingEvent
from signalbox.core.text import fit_column
from signalbox.instrumentation import m2m, model_metadata, model_writes, row_state, signal_arguments
from signalbox.pipeline import backends, deliveries, exporter, unit_of_work
from signalbox.pipeline.deliveries import EnqueueError
from signalbox.serialization.redaction import REDACTED

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.instrumentation.signals import SignalHandler


class BaseHandler:
    """A send that makes an event whether anybody listens or not."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event."""
        raise NotImplementedError

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Let it leave, or follow what has left."""
        raise NotImplementedError

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Make the event and complete it at once."""
        event = self.start(sender, named)
        if event is not None:
            event.duration = 0
            self.finish(event, named, None)


class SubscribedOnlyHandler(BaseHandler):
    """A signal that the setting leaves out, of which durable receivers wait for some senders."""

    def __init__(self, name: str, inner: SignalHandler) -> None:
        self.name = name
        self.inner = inner
        self.finish = inner.finish  # type: ignore[method-assign]

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, if it is one that is waited for."""
        return self.inner.start(sender, named) if self._has_subscriber(sender) else None

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Make the event, if it is one that is waited for."""
        if self._has_subscriber(sender):
            self.inner.handle_no_receivers(sender, named)

    def _has_subscriber(self, sender: Any) -> bool:
        return deliveries.get_source().has_subscriber(self.name, signal_arguments.get_sender_label(sender))


class PlainSignalHandler(BaseHandler):
    """A signal without a change of its own: its events leave with their trace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its sender is ignored."""
        if _is_ignored(sender):
            return None
        event = _build_event(
            self.name, signal_arguments.get_sender_label(sender), fit_column(str(named.get("using") or ""), 64)
        )
        event.args = signal_arguments.encode_arguments(named)
        if deliveries.get_source().has_subscriber(self.name, event.sender):
            event.outbox_arguments = deliveries.get_source().serialize_arguments(
                self.name, event.sender, named, event.args
            )
        instance = named.get("instance", named.get("user"))
        if instance is not None:
            signal_arguments.set_object_if_model(event, instance)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Let it leave."""
        event.outcome = Outcome.SENT if error is None else Outcome.FAILED
        if event.outbox_arguments is None:
            exporter.enqueue(event)
        else:
            _add_with_deliveries(event)


class RequestExceptionHandler(PlainSignalHandler):
    """``got_request_exception`` tells of an exception without carrying it."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, with the exception that is being handled."""
        event = super().start(sender, named)
        if event is not None:
            event.args = {
                **signal_arguments.encode_arguments(named),
                **(signal_arguments.get_current_exception() or {}),
            }
        return event


class TemplateRenderedHandler(PlainSignalHandler):
    """``template_rendered`` carries a whole context: the names in it are told, not the values."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event."""
        found: Any = named.get("context")
        flat = found.flatten() if hasattr(found, "flatten") else {}
        encoded = {"template": getattr(named.get("template"), "name", None), "context": sorted(map(str, flat))[:50]}
        return super().start(sender, encoded)


class SettingChangedHandler(PlainSignalHandler):
    """A setting's value is hidden by the setting's name."""

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
    """``pre_save``: waits on the instance for the write that it announces.

    Where nobody listens, it makes no event of its own unless the write fails: the write's event says when it was sent.
    """

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its model is ignored."""
        metadata = model_metadata.get_metadata(sender)
        if not metadata.is_recorded:
            return None
        instance = named["instance"]
        event = model_writes.build_pre_save_event(metadata, instance, named["using"], tracing.now())
        fields = named["update_fields"]
        if fields is None:
            event.args = RAW_PRE_SAVE_ARGS if named["raw"] else DEFAULT_PRE_SAVE_ARGS
        else:
            event.args = {"raw": named["raw"], "update_fields": sorted(fields)}
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Wait for the write; a receiver that raised ends the save before it."""
        if error is None:
            # Only now: a receiver may have saved the same instance.
            setattr(named["instance"]._state, model_writes.PENDING_PRE_SAVE, event)
        else:
            event.outcome = Outcome.FAILED
            exporter.enqueue(event)

    def handle_no_receivers(self, sender: type[Model], named: dict[str, Any]) -> None:
        """Note when it was sent."""
        setattr(named["instance"]._state, model_writes.PENDING_PRE_SAVE, tracing.now())


DEFAULT_PRE_SAVE_ARGS = '{"raw":false,"update_fields":null}'
RAW_PRE_SAVE_ARGS = '{"raw":true,"update_fields":null}'


class PostSaveHandler(PlainSignalHandler):
    """``post_save``: completes the event that was made where the row was written."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event of the row; a send without a write, as some packages do, makes one of its own."""
        instance = named.get("instance")
        state = getattr(instance, "_state", None)
        event: PendingEvent | None = (
            None if state is None else row_state.pop_attribute(state, model_writes.PENDING_POST_SAVE)
        )
        return super().start(sender, named) if event is None else event

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Leave the row's event as it is; a send without a write makes one of its own."""
        state = getattr(named.get("instance"), "_state", None)
        if state is None or row_state.pop_attribute(state, model_writes.PENDING_POST_SAVE) is None:
            super().handle_no_receivers(sender, named)

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Let what the receivers did follow the row's event, where that has been written already."""
        if event.change is None:
            super().finish(event, named, error)
        elif event.written_to and event.receiver_calls:
            exporter.enqueue_update(event)


class PreDeleteHandler:
    """``pre_delete``, within the collector's transaction; unheard, it is told with the delete's own event."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its model is ignored."""
        metadata = model_metadata.get_metadata(sender)
        if not metadata.is_recorded:
            return None
        connection = connections[named["using"]]
        event = _build_event("pre_delete", metadata.label, connection.alias)
        model_writes.set_object(event, metadata, named["instance"], connection)
        event.args = _encode_origin(named)
        _add_to_transaction(event)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Note a receiver that raised; the collector's transaction decides on the rest."""
        _complete(event, error)

    def handle_no_receivers(self, sender: type[Model], named: dict[str, Any]) -> None:
        """Note when it was sent."""
        setattr(named["instance"]._state, model_writes.PENDING_PRE_DELETE, tracing.now())


class PostDeleteHandler(BaseHandler):
    """``post_delete``, within the collector's transaction."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its model is ignored."""
        metadata = model_metadata.get_metadata(sender)
        if not metadata.is_recorded:
            return None
        event = model_writes.build_delete_event(named["instance"], metadata, connections[named["using"]])
        event.args = _encode_origin(named)
        _add_to_transaction(event)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Note a receiver that raised; the collector's transaction decides on the rest."""
        _complete(event, error)


def _encode_origin(named: dict[str, Any]) -> Any:
    """Return the arguments of a delete: what it began with, where that is another object."""
    origin = named.get("origin")
    return (
        None if origin is None or origin is named["instance"] else signal_arguments.encode_arguments({"origin": origin})
    )


class M2MChangedHandler(BaseHandler):
    """``m2m_changed``, within the manager's transaction; a ``pre_`` action that nobody heard makes no event."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless the model of the instance or of the table is ignored."""
        instance = named["instance"]
        through = model_metadata.get_metadata(sender)
        policy = model_metadata.get_m2m_policy(sender)
        if not through.is_recorded or policy == "exclude":
            return None
        metadata = model_metadata.get_metadata(instance if isinstance(instance, type) else instance.__class__)
        if not metadata.is_recorded:
            return None
        event = _build_event("m2m_changed", through.label, named["using"])
        if not isinstance(instance, type):
            model_writes.set_object(event, metadata, instance, connections[named["using"]])
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
        _add_to_transaction(event)
        _add_split_events(event, remaining_args)
        return event

    def finish(self, event: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Note a receiver that raised."""
        _complete(event, error)

    def handle_no_receivers(self, sender: Any, named: dict[str, Any]) -> None:
        """Make the event of what was done; what was about to be done is no news."""
        if named["action"].startswith("post_"):
            super().handle_no_receivers(sender, named)


def _get_changed_keys(action: str, operation: m2m.M2MOperation | None) -> list[dict[str, Any]]:
    """Return the keys that a ``post_`` action really added or removed, as its statements told."""
    if operation is None or not action.startswith("post_"):
        return [{}]
    return _encode_changed_keys("added" if action == "post_add" else "removed", operation, operation.get_changed_keys())


def _encode_changed_keys(argument: str, operation: m2m.M2MOperation, keys: list[Any] | None) -> list[dict[str, Any]]:
    """Return what is recorded of ``keys``: all of them, in as many parts as events are needed.

    Of hidden keys it is their number, of unknown ones the number of rows and the reason.
    """
    manager = operation.manager
    if keys is None:
        return [{argument: None, **operation.get_unknown_arguments()}]
    if model_metadata.get_m2m_policy(manager.through) == "redact":
        return [{argument: REDACTED, "count": len(keys)}]
    model: type[Model] = manager.model
    encoded_args, max_keys = signal_arguments.encode_keys(keys, model), signal_arguments.MAX_KEYS_PER_EVENT
    if len(encoded_args) <= max_keys:
        return [{argument: encoded_args}]
    parts = [encoded_args[start : start + max_keys] for start in range(0, len(encoded_args), max_keys)]
    return [{argument: part, "part": number, "parts": len(parts)} for number, part in enumerate(parts, 1)]


def record_unsent_add(
    manager: Any, operation: m2m.M2MOperation, keys: list[Any] | None, connection: BaseDatabaseWrapper
) -> None:
    """Make the event of an ``add()`` for which Django sent nothing, as nobody listens, in the open transaction."""
    metadata = model_metadata.get_metadata(type(manager.instance))
    event = _build_event("m2m_changed", model_metadata.get_metadata(manager.through).label, connection.alias)
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
    _add_split_events(event, remaining_args)


def _add_split_events(first_event: PendingEvent, remaining_args: list[dict[str, Any]]) -> None:
    """Let the keys of a large change that ``first`` does not tell be told by events of their own."""
    if not remaining_args:
        return
    encoded_args: dict[str, Any] = {
        name: value for name, value in cast("Any", first_event.args).items() if name != "pk_set"
    }
    for part in remaining_args:
        event = _build_event(first_event.signal, first_event.sender, first_event.using)
        event.key, event.label = first_event.key, first_event.label
        event.args = {**encoded_args, **part}
        event.duration = 0
        _add_to_transaction(event)
        _complete(event, None)


def _add_with_deliveries(event: PendingEvent) -> None:
    """Add an event with deliveries to the open transaction, or write it now.

    Raises ``EnqueueError`` if it can't be written.
    """
    if exporter.in_event_loop():
        exporter.enqueue(event)
        return
    connection = connections[event.using or exporter.get_events_database()]
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


def _build_event(name: str, sender: str, using: str) -> PendingEvent:
    return PendingEvent(tracing.now(), tracing.get_current_trace(), tracing.running_span.get(), name, sender, using)


def _add_to_transaction(event: PendingEvent) -> None:
    """Add ``event`` to the open transaction. Without one it is exported when it is complete."""
    connection = connections[event.using]
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
    """Return the app that a class belongs to, as the handler of the development server's static files does."""
    return apps.get_containing_app_config(sender.__module__) if apps.apps_ready else None
