"""Senders that the signal never sends with."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from signalbox.core import catalog
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.runtime import Connection, Model, Sender
from signalbox.doctor.source_model import ConnectCall

_MODEL_SIGNALS = frozenset(
    {"pre_init", "post_init", "pre_save", "post_save", "pre_delete", "post_delete", "class_prepared", "m2m_changed"}
)


@rule(
    7,
    "wrong-sender",
    Severity.ERROR,
    "a sender that this signal never sends with: a swapped or abstract model, a model in place of its `through`, an "
    "instance, a string",
    include_packages=True,
)
def wrong_sender(project: Project) -> Iterator[Fault]:
    """Find connections that no send ever reaches."""
    reported: set[tuple[str, int, str]] = set()
    for connection in project.runtime.connections:
        if connection.signal not in catalog.BUILTIN_SIGNALS or connection.sender.kind in {"any", "unknown"}:
            continue
        mismatch = _find_mismatch(project, connection.signal, connection.sender)
        if mismatch and not (mismatch[2] is Severity.INFO and _receives_concrete_model(project, connection)):
            connect_call = project.find_connect_call(connection)
            fault = _build_fault(project, connection.signal, connection.receiver, connect_call, connection, mismatch)
            reported.add((fault.path, fault.line, fault.signal))
            yield fault
    for connect in project.source.connect_calls:
        for signal in connect.signals:
            if signal in catalog.BUILTIN_SIGNALS and (connect.path, connect.line, signal) not in reported:
                sender = _get_sender_from_source(project, connect, signal)
                mismatch = _find_mismatch(project, signal, sender) if sender else None
                if mismatch:
                    yield _build_fault(project, signal, connect.receiver_path, connect, None, mismatch)


def _receives_concrete_model(project: Project, connection: Connection) -> bool:
    """Whether the same code hears the model that a proxy stands for, too."""
    model = connection.sender.model
    connections = project.live_connections.get((connection.signal, connection.path, connection.line), ())
    return model is not None and any(
        other.sender.kind == "any" or other.sender.name == model.concrete_model for other in connections
    )


def _build_fault(
    project: Project,
    signal: str,
    receiver: str,
    connect_call: ConnectCall | None,
    connection: Connection | None,
    mismatch: tuple[str, str, Severity],
) -> Fault:
    reason, hint, severity = mismatch
    at = connect_call or connection
    return Fault(
        path=at.path if at else "",
        line=at.line if at else 0,
        signal=signal,
        receiver=receiver,
        message="The receiver never runs."
        if severity is Severity.ERROR
        else "The receiver runs for some of the objects only.",
        reason=reason,
        hint=hint,
        severity=severity,
    )


def _get_sender_from_source(project: Project, connect: ConnectCall, signal: str) -> Sender | None:
    """Return the sender as far as the source tells it surely, where the process doesn't know the connection's."""
    known_connections = [c for c in project.find_connections(connect, signal) if c.sender.kind != "unknown"]
    if connect.sender_node is None or known_connections:
        return None
    if isinstance(connect.sender_node, ast.Constant) and isinstance(connect.sender_node.value, str):
        named_model = project.runtime.models.get(connect.sender_node.value.lower()) if connect.is_signalbox else None
        if named_model:
            return Sender(kind="model", name=named_model.label, model=named_model)
        return Sender(kind="string", name=connect.sender_node.value)
    if isinstance(connect.sender_node, ast.Call):
        model = project.get_model(connect.sender_path)
        return Sender(kind="instance", name=model.path) if model else None
    if connect.sender_path.endswith("conf.settings.AUTH_USER_MODEL"):
        return Sender(kind="string", name=project.runtime.user_model)
    if connect.sender_path in {"self", "cls"} or not connect.sender_path:
        return None
    model = project.get_model(connect.sender_path)
    if model and model.path == connect.sender_path:
        return Sender(kind="model", name=model.label, model=model)
    # A field is reached by its descriptor, as Order.tags.field.
    owner, _, name = connect.sender_path.removesuffix(".field").removesuffix(".rel").rpartition(".")
    field = project.get_model(owner)
    if field and name in field.m2m_fields:
        return Sender(kind="instance", name=f"{field.label}.{name}")
    return None


def _find_mismatch(project: Project, signal: str, sender: Sender) -> tuple[str, str, Severity] | None:
    """Return why the signal never sends with the sender, and what to write; ``None`` if it may."""
    if signal in _MODEL_SIGNALS:
        return _check_model_sender(project, signal, sender)
    if signal in {"user_logged_in", "user_logged_out"}:
        return _check_login_sender(project, signal, sender)
    if signal == "got_request_exception":
        return (
            "got_request_exception is always sent with sender=None, which no other sender equals.",
            "Leave the sender out.",
            Severity.ERROR,
        )
    if signal in {"request_started", "request_finished"}:
        if sender.kind == "handler" or sender.name.endswith("ClientHandler"):
            return None
        return (
            (
                f"{signal} is sent with the class of the handler, as WSGIHandler or ASGIHandler; "
                f"{_describe_sender(sender)} is none."
            ),
            "Leave the sender out; look at the request in a middleware if it is about one view.",
            Severity.ERROR,
        )
    if signal in {"pre_migrate", "post_migrate"}:
        return _check_migrate_sender(signal, sender)
    if signal == "connection_created" and sender.kind in {"string", "instance", "module", "model"}:
        return (
            (
                "connection_created is sent with the DatabaseWrapper class of the backend; "
                f"{_describe_sender(sender)} is none."
            ),
            "Leave the sender out and compare connection.alias or connection.vendor.",
            Severity.ERROR,
        )
    if signal == "user_login_failed" and sender.kind != "string":
        return (
            f"user_login_failed is sent with the text 'django.contrib.auth'; {_describe_sender(sender)} is none.",
            "Leave the sender out.",
            Severity.ERROR,
        )
    return None


def _describe_sender(sender: Sender) -> str:
    return {
        "string": f"the text {sender.name!r}",
        "instance": f"an object ({sender.name})",
        "model": f"the model {sender.name}",
        "app_config": f"the app config of {sender.name}",
    }.get(sender.kind, sender.name)


def _check_model_sender(project: Project, signal: str, sender: Sender) -> tuple[str, str, Severity] | None:
    if sender.kind == "string":
        if sender.name.lower() in project.runtime.models and signal != "class_prepared":
            return None
        if signal == "class_prepared":
            return (
                "class_prepared compares senders as they are: a text is no class.",
                "Give it no sender.",
                Severity.ERROR,
            )
        return (
            f"There is no model {sender.name!r}: Django waits for it for ever, and connects nothing.",
            "Write the sender as 'app_label.ModelName' of an installed app.",
            Severity.ERROR,
        )
    expected = "the table's model, as Model.field.through" if signal == "m2m_changed" else "a model class"
    if sender.kind != "model" or sender.model is None:
        hint = (
            "Give it the table's model: sender=Model.field.through."
            if signal == "m2m_changed"
            else ("Give it the class, not an object." if sender.kind == "instance" else "Give it the model class.")
        )
        if sender.kind == "class":
            hint = "Give it a model class; for every model below a mixin, leave the sender out and look at the class."
        return (f"{signal} is sent with {expected}; {_describe_sender(sender)} is none.", hint, Severity.ERROR)
    model = sender.model
    if model.swapped:
        return (
            f"{model.label} is not in use: the settings put {model.swapped} in its place.",
            "Give it settings.AUTH_USER_MODEL, or get_user_model().",
            Severity.ERROR,
        )
    if model.abstract and signal != "class_prepared":
        return (
            (
                f"{model.label} is abstract: it has no objects, and a signal's sender is the class of the object "
                "itself, never a class that it inherits from."
            ),
            "Connect once for each model below it, or leave the sender out and ask issubclass(sender, ...).",
            Severity.ERROR,
        )
    if signal == "m2m_changed":
        return None if model.is_through else _build_through_mismatch(model)
    if model.proxy and signal not in {"class_prepared", "pre_init", "post_init"}:
        return (
            (
                f"{model.label} is a proxy of {model.concrete_model}: an object is sent with the class that it was "
                f"loaded as, and most are loaded as {model.concrete_model}, or deleted with what they belong to."
            ),
            f"Connect {model.concrete_model} as well.",
            Severity.INFO,
        )
    return None


def _build_through_mismatch(model: Model) -> tuple[str, str, Severity]:
    name = model.path.rpartition(".")[2]
    fields = ", ".join(f"sender={name}.{relation}.through" for relation in model.m2m_fields)
    return (
        f"m2m_changed is sent with the model of the many-to-many table, not with {model.label}.",
        f"Write {fields}." if fields else "Give it the table's model: sender=Model.field.through.",
        Severity.ERROR,
    )


def _check_login_sender(project: Project, signal: str, sender: Sender) -> tuple[str, str, Severity] | None:
    if sender.name == "builtins.NoneType" and signal == "user_logged_out":
        return None
    if sender.kind == "model" and sender.model and (sender.model.is_user or not project.runtime.user_model):
        return None
    hint = " Unlike the models' signals it takes no text for a model." if sender.kind == "string" else ""
    return (
        (
            f"{signal} is sent with the class of the user, {project.runtime.user_model or 'the user model'} here; "
            f"{_describe_sender(sender)} is another.{hint}"
        ),
        "Leave the sender out, or give it get_user_model() in ready().",
        Severity.ERROR,
    )


def _check_migrate_sender(signal: str, sender: Sender) -> tuple[str, str, Severity] | None:
    if sender.kind == "app_config":
        if sender.has_models:
            return None
        return (
            f"{signal} is sent for apps with models only, and {sender.name} has no models module.",
            "Listen to an app that has models, or give the app a models.py.",
            Severity.ERROR,
        )
    return (
        f"{signal} is sent with an app config, the object; {_describe_sender(sender)} is none.",
        "Connect it in ready() of the app config, with sender=self.",
        Severity.ERROR,
    )
