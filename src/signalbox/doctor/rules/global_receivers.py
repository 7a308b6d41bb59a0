"""Receivers of every sender, which have a hidden cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project, Subscription
from signalbox.doctor.rules import Fault, rule

_COSTLY_SIGNALS: Final = frozenset({"pre_delete", "post_delete", "pre_init", "post_init", "m2m_changed"})


@rule(
    13,
    "global-receiver",
    Severity.WARNING,
    "a senderless pre_delete or post_delete receiver (disables fast deletes on every model, and names them), a "
    "senderless pre_init, post_init or m2m_changed receiver",
    include_packages=True,
)
def global_receiver(project: Project) -> Iterator[Fault]:
    """Find receivers that slow down every model."""
    for connection in project.runtime.connections:
        if connection.signal not in _COSTLY_SIGNALS or connection.sender.kind != "any" or not connection.is_alive:
            continue
        connect_call = project.find_connect_call(connection)
        at = connect_call or connection
        app = project.runtime.find_app_by_path(at.path)
        message, reason, hint = _describe_cost(project, connection.signal)
        yield Fault(
            path=at.path,
            line=at.line,
            signal=connection.signal,
            receiver=connection.receiver,
            message=message,
            reason=reason,
            hint=hint,
            severity=None if app is None or app.is_project_app else Severity.INFO,
        )


def _describe_cost(project: Project, signal: str) -> tuple[str, str, str]:
    connect_hint = "Connect it once for each model that it handles, with sender=."
    if signal in {"pre_delete", "post_delete"}:
        models = project.runtime.fast_deletable_models
        model_list = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
        return (
            "Deleting many rows loads each of them first and then deletes them by key, in place of one statement"
            + (f": {model_list}." if models else "."),
            (
                f"Django deletes in one statement if {signal} has no receivers for the model. Without a sender this "
                "receiver is connected to every model."
            ),
            connect_hint,
        )
    if signal in {"pre_init", "post_init"}:
        return (
            "Each object of every model calls the receiver when it is created or loaded: once for each row of a query.",
            f"{signal} is sent in Model.__init__(). Without a sender the receiver is connected to every model.",
            f"{connect_hint} For old values override from_db().",
        )
    return (
        "Each add() to any many-to-many field first queries the existing rows.",
        (
            "Django skips that query if m2m_changed has no receivers for the field. Without a sender this receiver "
            "is connected to every field."
        ),
        "Connect it once for each field that it handles, with sender=Model.field.through.",
    )


@rule(
    14,
    "runs-once-per-app",
    Severity.INFO,
    "a pre_migrate or post_migrate receiver without sender that does not read the app",
)
def runs_once_per_app(project: Project) -> Iterator[Fault]:
    """Find receivers of migrate signals that run once for each app."""
    for subscription in project.subscriptions:
        if (
            subscription.signal in {"pre_migrate", "post_migrate"}
            and project.receives_every_sender(subscription)
            and not _reads_sender(subscription)
            and not subscription.after_commit
        ):
            at = subscription.connect or subscription.function
            count = len({model.label.partition(".")[0] for model in project.runtime.models.values()})
            yield Fault(
                path=at.path,
                line=at.line,
                signal=subscription.signal,
                receiver=subscription.receiver,
                message=f"One `manage.py migrate` runs it once for each app with models: {count} times here.",
                reason=f"{subscription.signal} is sent once for each app, and the receiver neither has a sender nor "
                "reads app_config.",
                hint="Connect it in ready() of the app config, with sender=self.",
                severity=Severity.WARNING if _writes_database(subscription) else Severity.INFO,
            )


def _reads_sender(subscription: Subscription) -> bool:
    return any(syntax.reads_argument(subscription.function, name) for name in ("sender", "app_config")) or bool(
        subscription.function.has_unknown_decorator
    )


def _writes_database(subscription: Subscription) -> bool:
    """Return True if the receiver writes to the database, so that its repetition may change data."""
    names = [syntax.get_dotted_name(call.func).split(".") for call, _ in subscription.function.calls]
    return any("objects" in name or name[-1] in {"save", "delete", "execute", "call_command"} for name in names)
