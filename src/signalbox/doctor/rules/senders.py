"""Connections to a sender that the signal never has."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from signalbox.core import catalog
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.runtime_model import Connection, Model, Sender
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
    """Find connections that match no send."""
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
    """Return True if the same code is also connected to the concrete model of a proxy."""
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
    """Return the sender from the source; ``None`` if that is uncertain or the process knows the sender."""
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
    """Return reason, hint and severity for a sender that the signal never has; ``None`` for a possible sender."""
    if signal in _MODEL_SIGNALS:
        return _check_model_sender(project, signal, sender)
    if signal in {"user_logged_in", "user_logged_out"}:
        return _check_login_sender(project, signal, sender)
    if signal == "got_request_exception":
        return (
            "got_request_exception is always sent with sender=None, which no other sender equals.",
            "Remove the sender.",
            Severity.ERROR,
        )
    if signal in {"request_started", "request_finished"}:
        if sender.kind == "handler" or sender.name.endswith("ClientHandler"):
            return None
        return (
            (
                f"{signal} is sent with the class of the handler, such as WSGIHandler or ASGIHandler, not with "
                f"{_describe_sender(sender)}."
            ),
            "Remove the sender. To handle one view, inspect the request in a middleware.",
            Severity.ERROR,
        )
    if signal in {"pre_migrate", "post_migrate"}:
        return _check_migrate_sender(signal, sender)
    if signal == "connection_created" and sender.kind in {"string", "instance", "module", "model"}:
        return (
            (
                "connection_created is sent with the DatabaseWrapper class of the backend, not with "
                f"{_describe_sender(sender)}."
            ),
            "Remove the sender, and compare connection.alias or connection.vendor.",
            Severity.ERROR,
        )
    if signal == "user_login_failed" and sender.kind != "string":
        return (
            f"user_login_failed is sent with the text 'django.contrib.auth', not with {_describe_sender(sender)}.",
            "Remove the sender.",
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
                "class_prepared is sent with the class, and a text is not resolved to a class.",
                "Remove the sender.",
                Severity.ERROR,
            )
        return (
            f"Unknown model {sender.name!r}: Django waits for the model before it connects the receiver.",
            "Write the sender as 'app_label.ModelName' of an installed app.",
            Severity.ERROR,
        )
    expected = "the through model, such as Model.field.through," if signal == "m2m_changed" else "a model class"
    if sender.kind != "model" or sender.model is None:
        hint = (
            "Use the through model: sender=Model.field.through."
            if signal == "m2m_changed"
            else ("Use the class, not an object." if sender.kind == "instance" else "Use the model class.")
        )
        if sender.kind == "class":
            hint = "Use a model class. For all subclasses of a mixin, remove the sender and check the class."
        return (f"{signal} is sent with {expected}, not with {_describe_sender(sender)}.", hint, Severity.ERROR)
    model = sender.model
    if model.swapped:
        return (
            f"{model.label} is not in use: the settings replace it by {model.swapped}.",
            "Use settings.AUTH_USER_MODEL or get_user_model().",
            Severity.ERROR,
        )
    if model.abstract and signal != "class_prepared":
        return (
            (
                f"{model.label} is abstract: it has no objects, and the sender of a signal is the class of the "
                "object, not a base class."
            ),
            "Connect it once for each subclass, or remove the sender and check issubclass(sender, ...).",
            Severity.ERROR,
        )
    if signal == "m2m_changed":
        return None if model.is_through else _build_through_mismatch(model)
    if model.proxy and signal not in {"class_prepared", "pre_init", "post_init"}:
        return (
            (
                f"{model.label} is a proxy of {model.concrete_model}. The sender is the class that an object was "
                f"loaded as, and most objects are loaded, or deleted by a cascade, as {model.concrete_model}."
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
        f"Write {fields}." if fields else "Use the through model: sender=Model.field.through.",
        Severity.ERROR,
    )


def _check_login_sender(project: Project, signal: str, sender: Sender) -> tuple[str, str, Severity] | None:
    if sender.name == "builtins.NoneType" and signal == "user_logged_out":
        return None
    if sender.kind == "model" and sender.model and (sender.model.is_user or not project.runtime.user_model):
        return None
    hint = " Unlike the signals of models it does not accept a model label." if sender.kind == "string" else ""
    return (
        (
            f"{signal} is sent with the class of the user, {project.runtime.user_model or 'the user model'} here, "
            f"not with {_describe_sender(sender)}.{hint}"
        ),
        "Remove the sender, or use get_user_model() in ready().",
        Severity.ERROR,
    )


def _check_migrate_sender(signal: str, sender: Sender) -> tuple[str, str, Severity] | None:
    if sender.kind == "app_config":
        if sender.has_models:
            return None
        return (
            f"{signal} is sent for apps with models only, and {sender.name} has no models module.",
            "Use an app that has models, or add a models.py to the app.",
            Severity.ERROR,
        )
    return (
        f"{signal} is sent with an AppConfig instance, not with {_describe_sender(sender)}.",
        "Connect it in ready() of the app config, with sender=self.",
        Severity.ERROR,
    )
