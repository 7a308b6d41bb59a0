"""Receivers that act before commit what can't be taken back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Heard, Project
from signalbox.doctor.rules import Fault, rule

_BEFORE_COMMIT: Final = frozenset({"pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed"})


@rule(
    11,
    "too-early",
    Severity.WARNING,
    "mail, HTTP, `.delay()`, `.enqueue()` or another effect in a receiver that runs before commit",
)
def too_early(project: Project) -> Iterator[Fault]:
    """Find effects that can't be taken back, done while the transaction still can."""
    told: set[tuple[str, int]] = set()
    for heard in project.heard:
        if heard.signal not in _BEFORE_COMMIT or heard.later:
            continue
        for call, _ in syntax.calls(heard.function):
            effect = _effect(heard, call)
            if effect and (heard.function.path, call.lineno) not in told:
                told.add((heard.function.path, call.lineno))
                yield Fault(
                    path=heard.function.path,
                    line=call.lineno,
                    signal=heard.signal,
                    receiver=heard.receiver,
                    happens=f"It {effect} for a change that may still be rolled back, and that nobody else can see "
                    "yet.",
                    why=f"Where a transaction is open, as in the admin or under ATOMIC_REQUESTS, {heard.signal} is "
                    "sent within it. A worker that is told of the row looks for it before it is committed; a "
                    "rollback takes the row back, and not the effect.",
                    remedy="Say transaction.on_commit(...), or let signalbox do it: @receiver(..., "
                    "after_commit=True), and durable=True if it has to be done surely.",
                )


def _effect(heard: Heard, call: ast.Call) -> str:
    name = syntax.called(heard.function, call)
    owner, _, last = name.rpartition(".")
    if name.startswith("django.core.mail.") and last in {"send_mail", "send_mass_mail", "mail_admins", "mail_managers"}:
        return "sends mail"
    if last == "email_user" and owner:
        return "sends mail"
    if last in {"send", "send_messages"} and _is_mail(heard, call):
        return "sends mail"
    if owner in {"requests", "httpx"} and last in {
        "get",
        "post",
        "put",
        "patch",
        "delete",
        "head",
        "options",
        "request",
    }:
        return "calls another site"
    if name in {"urllib.request.urlopen", "urllib3.request"}:
        return "calls another site"
    if last in {"delay", "apply_async"} and owner and not owner.startswith("self."):
        return "queues a task"
    if last in {"enqueue", "aenqueue", "enqueue_in", "enqueue_at", "send_task"} and owner:
        return "queues a task"
    if name in {"django_q.tasks.async_task", "django_rq.enqueue"}:
        return "queues a task"
    if owner == "subprocess" and last in {"run", "call", "check_call", "check_output", "Popen"}:
        return "starts a program"
    if last in {"group_send", "group_add"} and owner:
        return "sends to a channel"
    if isinstance(call.func, ast.Call) and call.func.args and syntax.dotted(call.func.args[0]).endswith("group_send"):
        return "sends to a channel"
    return ""


def _is_mail(heard: Heard, call: ast.Call) -> bool:
    """Whether it is ``send()`` of an ``EmailMessage`` made here."""
    value = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(value, ast.Name):
        name = value.id
        value = next(
            (
                step.node.value
                for step in heard.function.steps
                if isinstance(step.node, ast.Assign)
                and any(isinstance(target, ast.Name) and target.id == name for target in step.node.targets)
            ),
            None,
        )
    return isinstance(value, ast.Call) and heard.function.resolve(value.func).startswith("django.core.mail.Email")
