"""Receivers with irreversible effects before commit."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.scopes import Frame

_TRANSACTIONAL_SIGNALS: Final = frozenset({"pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed"})
_MAIL_FUNCTIONS: Final = frozenset({"send_mail", "send_mass_mail", "mail_admins", "mail_managers"})
_HTTP_METHODS: Final = frozenset({"get", "post", "put", "patch", "delete", "head", "options", "request"})
_HTTP_CLIENTS: Final = frozenset(
    {"requests.Session", "requests.session", "httpx.Client", "httpx.AsyncClient", "aiohttp.ClientSession"}
)
_SUBPROCESS_FUNCTIONS: Final = frozenset({"run", "call", "check_call", "check_output", "Popen"})
_THREAD_CLASSES: Final = frozenset({"threading.Thread", "threading.Timer", "multiprocessing.Process"})
_TASK_SIGNATURE_METHODS: Final = frozenset({"s", "si", "signature", "subtask", "set", "clone"})


@rule(
    11,
    "effect-before-commit",
    Severity.WARNING,
    "mail, HTTP, `.delay()`, `.enqueue()` or another effect in a receiver that runs before commit",
)
def effect_before_commit(project: Project) -> Iterator[Fault]:
    """Find irreversible effects in a transaction that may still be rolled back."""
    reported: set[tuple[str, int]] = set()
    for subscription in project.subscriptions:
        if subscription.signal not in _TRANSACTIONAL_SIGNALS or subscription.after_commit:
            continue
        for frame in project.get_frames(subscription):
            path = frame.function.path
            for call, _ in frame.function.calls:
                effect = _describe_effect(frame, call)
                if effect and (path, call.lineno) not in reported:
                    reported.add((path, call.lineno))
                    yield Fault(
                        path=path,
                        line=call.lineno,
                        signal=subscription.signal,
                        receiver=subscription.receiver,
                        message=f"It {effect} for a change that may still be rolled back, and that other connections "
                        "do not see yet.",
                        reason="In an open transaction, as in the admin or under ATOMIC_REQUESTS, "
                        f"{subscription.signal} is sent before commit. A worker may look for the row before it is "
                        "committed, and a rollback removes the row but not the effect.",
                        hint="Use transaction.on_commit(...) or @receiver(..., after_commit=True). Use durable=True "
                        "if the effect must not be lost.",
                    )


def _describe_effect(frame: Frame, call: ast.Call) -> str:
    """Return a verb for the call's effect; empty if it has no external effect."""
    name = syntax.get_called_name(frame.function, call)
    owner, _, method = name.rpartition(".")
    return (
        _describe_mail(frame, call, name)
        or _describe_http_request(frame, call, name)
        or _describe_queueing(frame, call, name)
        or ("starts a program" if owner == "subprocess" and method in _SUBPROCESS_FUNCTIONS else "")
        or ("starts a thread" if method == "start" and _resolve_owner_factory(frame, call) in _THREAD_CLASSES else "")
    )


def _resolve_owner_factory(frame: Frame, call: ast.Call) -> str:
    """Return the dotted path of the class or factory of the method's object, such as ``requests.Session``."""
    owner = frame.resolve_value(call.func.value) if isinstance(call.func, ast.Attribute) else None
    return frame.function.resolve(owner.func) if isinstance(owner, ast.Call) else ""


def _describe_mail(frame: Frame, call: ast.Call, name: str) -> str:
    owner, _, method = name.rpartition(".")
    owner_factory = _resolve_owner_factory(frame, call)
    if (
        (name.startswith("django.core.mail.") and method in _MAIL_FUNCTIONS)
        or (method == "email_user" and owner)
        or (method == "send" and owner_factory.startswith("django.core.mail.Email"))
        or (method == "send_messages" and owner_factory == "django.core.mail.get_connection")
        or (method in {"sendmail", "send_message"} and owner_factory.startswith("smtplib."))
    ):
        return "sends mail"
    return ""


def _describe_http_request(frame: Frame, call: ast.Call, name: str) -> str:
    owner, _, method = name.rpartition(".")
    if method in _HTTP_METHODS and (
        owner in {"requests", "httpx"} or _resolve_owner_factory(frame, call) in _HTTP_CLIENTS
    ):
        return "calls another site"
    return "calls another site" if name in {"urllib.request.urlopen", "urllib3.request"} else ""


def _describe_queueing(frame: Frame, call: ast.Call, name: str) -> str:
    owner, _, method = name.rpartition(".")
    if method in {"delay", "apply_async"} and owner and _may_be_task(frame, call):
        return "queues a task"
    if method in {"enqueue", "aenqueue", "enqueue_in", "enqueue_at", "send_task"} and owner:
        return "queues a task"
    if name in {"django_q.tasks.async_task", "django_rq.enqueue"}:
        return "queues a task"
    if method in {"group_send", "group_add"} and owner:
        return "sends to a channel"
    if (
        isinstance(call.func, ast.Call)
        and call.func.args
        and syntax.get_dotted_name(call.func.args[0]).endswith("group_send")
    ):
        return "sends to a channel"
    return ""


def _may_be_task(frame: Frame, call: ast.Call) -> bool:
    """Return True if ``delay()`` is called on an object of a module or on its task signature."""
    node = frame.resolve_value(call.func.value) if isinstance(call.func, ast.Attribute) else None
    while node is not None:
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr in _TASK_SIGNATURE_METHODS:
                node = frame.resolve_value(node.func.value)
                continue
            return frame.function.resolve(node.func).startswith("celery.")
        return bool(frame.function.resolve(node)) or isinstance(node, ast.Subscript)
    return False
