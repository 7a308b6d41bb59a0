"""How each kind of signal's sends become events: one capture a kind."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from django.apps import AppConfig, apps
from django.db import DatabaseError, connections

from signalbox import conf
from signalbox.core import tracing
from signalbox.core.event import PendingEvent, Outcome
from signalbox.instrumentation import m2m, model_metadata, model_writes, row_state
from signalbox.outbox import registry
from signalbox.pipeline import backends, exporter, unit_of_work
from signalbox.serialization import encoder, signal_arguments
from signalbox.serialization.redaction import REDACTED

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import Model

    from signalbox.instrumentation.signals import Capture


class Recorded:
    """A send that makes an event whether anybody listens or not."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event."""
        raise NotImplementedError

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Let it leave, or follow what has left."""
        raise NotImplementedError

    def unheard(self, sender: Any, named: dict[str, Any]) -> None:
        """Make the event and complete it at once."""
        draft = self.start(sender, named)
        if draft is not None:
            draft.duration = 0
            self.finish(draft, named, None)


class Awaited(Recorded):
    """A signal that the setting leaves out, of which durable receivers wait for some senders."""

    def __init__(self, name: str, inner: Capture) -> None:
        self.name = name
        self.inner = inner
        self.finish = inner.finish  # type: ignore[method-assign]

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, if it is one that is waited for."""
        return self.inner.start(sender, named) if self._wanted(sender) else None

    def unheard(self, sender: Any, named: dict[str, Any]) -> None:
        """Make the event, if it is one that is waited for."""
        if self._wanted(sender):
            self.inner.unheard(sender, named)

    def _wanted(self, sender: Any) -> bool:
        return registry.has_subscriber(self.name, signal_arguments.sender_label(sender))


class Sent(Recorded):
    """A signal without a change of its own: its events leave with their trace."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its sender is ignored."""
        if _ignored(sender):
            return None
        draft = _draft(
            self.name, signal_arguments.sender_label(sender), encoder.column(str(named.get("using") or ""), 64)
        )
        draft.args = signal_arguments.render(named)
        if registry.has_subscriber(self.name, draft.sender):
            draft.outbox_arguments = registry.serialize_arguments(self.name, draft.sender, named, draft.args)
        instance = named.get("instance", named.get("user"))
        if instance is not None:
            signal_arguments.about(draft, instance)
        return draft

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Let it leave."""
        draft.outcome = Outcome.SENT if error is None else Outcome.FAILED
        if draft.outbox_arguments is None:
            exporter.enqueue(draft)
        else:
            _deliver(draft)


class RequestException(Sent):
    """``got_request_exception`` tells of an exception without carrying it."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, with the exception that is being handled."""
        draft = super().start(sender, named)
        if draft is not None:
            draft.args = {**signal_arguments.render(named), **(signal_arguments.current_error() or {})}
        return draft


class TemplateRendered(Sent):
    """``template_rendered`` carries a whole context: the names in it are told, not the values."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event."""
        found: Any = named.get("context")
        flat = found.flatten() if hasattr(found, "flatten") else {}
        shown = {"template": getattr(named.get("template"), "name", None), "context": sorted(map(str, flat))[:50]}
        return super().start(sender, shown)


class SettingChanged(Sent):
    """A setting's value is hidden by the setting's name."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event."""
        setting = str(named.get("setting"))
        draft = super().start(sender, {**named, "value": None})
        if draft is not None:
            draft.key = encoder.column(setting, 200)
            shown = signal_arguments.render({setting: named.get("value")})
            draft.args = {**signal_arguments.render({**named, "value": None}), "value": shown[setting]}
        return draft


class PreSave:
    """``pre_save``: waits on the instance for the write that it announces.

    Where nobody listens, it makes no event of its own unless the write fails: the write's event says when it was sent.
    """

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its model is ignored."""
        plan = model_metadata.of(sender)
        if not plan.recorded:
            return None
        instance = named["instance"]
        draft = model_writes.announcement(plan, instance, named["using"], tracing.now())
        fields = named["update_fields"]
        if fields is None:
            draft.args = RAW if named["raw"] else PLAIN
        else:
            draft.args = {"raw": named["raw"], "update_fields": sorted(fields)}
        return draft

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Wait for the write; a receiver that raised ends the save before it."""
        if error is None:
            # Only now: a receiver may have saved the same instance.
            setattr(named["instance"]._state, model_writes.ANNOUNCED, draft)
        else:
            draft.outcome = Outcome.FAILED
            exporter.enqueue(draft)

    def unheard(self, sender: type[Model], named: dict[str, Any]) -> None:
        """Note when it was sent."""
        setattr(named["instance"]._state, model_writes.ANNOUNCED, tracing.now())


PLAIN = '{"raw":false,"update_fields":null}'
RAW = '{"raw":true,"update_fields":null}'


class PostSave(Sent):
    """``post_save``: completes the event that was made where the row was written."""

    def start(self, sender: Any, named: dict[str, Any]) -> PendingEvent | None:
        """Return the event of the row; a send without a write, as some packages do, makes one of its own."""
        instance = named.get("instance")
        state = getattr(instance, "_state", None)
        draft: PendingEvent | None = None if state is None else row_state.take(state, model_writes.SAVED)
        return super().start(sender, named) if draft is None else draft

    def unheard(self, sender: Any, named: dict[str, Any]) -> None:
        """Leave the row's event as it is; a send without a write makes one of its own."""
        state = getattr(named.get("instance"), "_state", None)
        if state is None or row_state.take(state, model_writes.SAVED) is None:
            super().unheard(sender, named)

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Let what the receivers did follow the row's event, where that has been written already."""
        if draft.change is None:
            super().finish(draft, named, error)
        elif draft.written_to and draft.receiver_calls:
            exporter.enqueue_update(draft)


class PreDelete:
    """``pre_delete``, within the collector's transaction; unheard, it is told with the delete's own event."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its model is ignored."""
        plan = model_metadata.of(sender)
        if not plan.recorded:
            return None
        connection = connections[named["using"]]
        draft = _draft("pre_delete", plan.label, connection.alias)
        model_writes.name(draft, plan, named["instance"], connection)
        draft.args = _origin(named)
        _into(draft)
        return draft

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Note a receiver that raised; the collector's transaction decides on the rest."""
        _completed(draft, error)

    def unheard(self, sender: type[Model], named: dict[str, Any]) -> None:
        """Note when it was sent."""
        setattr(named["instance"]._state, model_writes.CONDEMNED, tracing.now())


class PostDelete(Recorded):
    """``post_delete``, within the collector's transaction."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless its model is ignored."""
        plan = model_metadata.of(sender)
        if not plan.recorded:
            return None
        draft = model_writes.deleted(named["instance"], plan, connections[named["using"]])
        draft.args = _origin(named)
        _into(draft)
        return draft

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Note a receiver that raised; the collector's transaction decides on the rest."""
        _completed(draft, error)


def _origin(named: dict[str, Any]) -> Any:
    """Return the arguments of a delete: what it began with, where that is another object."""
    origin = named.get("origin")
    return None if origin is None or origin is named["instance"] else signal_arguments.render({"origin": origin})


class ManyToMany(Recorded):
    """``m2m_changed``, within the manager's transaction; a ``pre_`` action that nobody heard makes no event."""

    def start(self, sender: type[Model], named: dict[str, Any]) -> PendingEvent | None:
        """Return the event, unless the model of the instance or of the table is ignored."""
        instance = named["instance"]
        through = model_metadata.of(sender)
        said = model_metadata.said_of_relation(sender)
        if not through.recorded or said == "exclude":
            return None
        plan = model_metadata.of(instance if isinstance(instance, type) else instance.__class__)
        if not plan.recorded:
            return None
        draft = _draft("m2m_changed", through.label, named["using"])
        if not isinstance(instance, type):
            model_writes.name(draft, plan, instance, connections[named["using"]])
        told = {name: value for name, value in named.items() if name not in ("instance", "using", "model", "pk_set")}
        asked = named["pk_set"]
        first, *others = _changed_keys(named["action"], m2m.current.get())
        shown = (
            asked
            if asked is None or said
            else signal_arguments.keys(asked, named["model"])[: signal_arguments.MOST_KEYS]
        )
        draft.args = {
            **signal_arguments.render(told),
            "pk_set": shown if shown is None or not said else REDACTED,
            **first,
            "object": plan.label,
            "model": signal_arguments.sender_label(named["model"]),
        }
        _into(draft)
        _into_parts(draft, others)
        return draft

    def finish(self, draft: PendingEvent, named: dict[str, Any], error: BaseException | None) -> None:
        """Note a receiver that raised."""
        _completed(draft, error)

    def unheard(self, sender: Any, named: dict[str, Any]) -> None:
        """Make the event of what was done; what was about to be done is no news."""
        if named["action"].startswith("post_"):
            super().unheard(sender, named)


def _changed_keys(action: str, work: m2m.Work | None) -> list[dict[str, Any]]:
    """Return the keys that a ``post_`` action really added or removed, as its statements told."""
    if work is None or not action.startswith("post_"):
        return [{}]
    return _told_keys("added" if action == "post_add" else "removed", work.keys(), work.manager)


def _told_keys(what: str, keys: list[Any], manager: Any) -> list[dict[str, Any]]:
    """Return what is told of ``keys``: all of them, in as many parts as events are needed; hidden, their number."""
    if model_metadata.said_of_relation(manager.through) == "redact":
        return [{what: REDACTED, "count": len(keys)}]
    model: type[Model] = manager.model
    told, most = signal_arguments.keys(keys, model), signal_arguments.MOST_KEYS
    if len(told) <= most:
        return [{what: told}]
    parts = [told[start : start + most] for start in range(0, len(told), most)]
    return [{what: part, "part": number, "parts": len(parts)} for number, part in enumerate(parts, 1)]


def unsent_add(manager: Any, keys: list[Any], connection: BaseDatabaseWrapper) -> None:
    """Make the event of an ``add()`` for which Django sent nothing, as nobody listens, in the open transaction."""
    plan = model_metadata.of(type(manager.instance))
    draft = _draft("m2m_changed", model_metadata.of(manager.through).label, connection.alias)
    model_writes.name(draft, plan, manager.instance, connection)
    first, *others = _told_keys("added", keys, manager)
    draft.args = {
        "action": "post_add",
        "reverse": manager.reverse,
        **first,
        "object": plan.label,
        "model": manager.model._meta.label,
        "unsent": True,
    }
    draft.duration = 0
    unit_of_work.get_or_attach(connection).add(draft)
    _into_parts(draft, others)


def _into_parts(first: PendingEvent, others: list[dict[str, Any]]) -> None:
    """Let the keys of a large change that ``first`` does not tell be told by events of their own."""
    if not others:
        return
    told: dict[str, Any] = {name: value for name, value in cast("Any", first.args).items() if name != "pk_set"}
    for part in others:
        draft = _draft(first.signal, first.sender, first.using)
        draft.key, draft.label = first.key, first.label
        draft.args = {**told, **part}
        draft.duration = 0
        _into(draft)
        _completed(draft, None)


def _deliver(draft: PendingEvent) -> None:
    """Let a draft with deliveries be written with the transaction that is open, or now.

    Raises ``registry.NotDelivered`` if it can't be written.
    """
    if exporter.in_event_loop():
        exporter.enqueue(draft)
        return
    connection = connections[draft.using or exporter.get_events_database()]
    if backends.in_transaction(connection):
        unit_of_work.get_or_attach(connection).add(draft)
        return
    try:
        exporter.write_now(draft)
    except DatabaseError as error:
        raise registry.EnqueueError(
            f"{draft.signal} was sent, but its durable receivers will not run, as their rows could not be written: "
            f"{error}"
        ) from error


def _draft(name: str, sender: str, using: str) -> PendingEvent:
    return PendingEvent(tracing.now(), tracing.get_current_trace(), tracing.running_span.get(), name, sender, using)


def _into(draft: PendingEvent) -> None:
    """Put ``draft`` into the open transaction; one of no transaction leaves when it is complete."""
    connection = connections[draft.using]
    if backends.in_transaction(connection):
        unit_of_work.get_or_attach(connection).add(draft)
    else:
        draft.outcome = Outcome.COMMITTED


def _completed(draft: PendingEvent, error: BaseException | None) -> None:
    alone = draft.outcome is Outcome.COMMITTED
    if error is not None:
        draft.outcome = Outcome.FAILED
    if alone:
        exporter.enqueue(draft)
    elif draft.written_to and draft.receiver_calls:
        exporter.enqueue_update(draft)


def _ignored(sender: Any) -> bool:
    model = signal_arguments.model_of(sender)
    config = conf.get()
    if model is not None:
        of_migration = model.__module__ == "__fake__" and "migrations" in config.IGNORE
        return of_migration or model_metadata.ignored(model, config)
    app = sender if isinstance(sender, AppConfig) else _app_of(sender) if isinstance(sender, type) else None
    return app is not None and (app.label == "signalbox" or app.label in config.IGNORE)


@cache
def _app_of(sender: type) -> AppConfig | None:
    """Return the app that a class belongs to, as the handler of the development server's static files does."""
    return apps.get_containing_app_config(sender.__module__) if apps.apps_ready else None
