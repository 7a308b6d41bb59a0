"""Receivers that save again, act before commit, or touch other rows while a fixture is loaded."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Heard, Project
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.runtime import Model

_BEFORE_COMMIT: Final = frozenset({"pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed"})
_QUERYING: Final = frozenset(
    """all filter exclude get first last earliest latest count exists aggregate create get_or_create update_or_create
    bulk_create bulk_update update delete iterator in_bulk values values_list""".split()
)
_QUERYING_ASYNC: Final = frozenset(f"a{name}" for name in _QUERYING)
_RELATED_WRITES: Final = frozenset({"add", "create", "get_or_create", "update_or_create", "clear", "bulk_create"})


# Recursion


@rule(10, "recursion", Severity.ERROR, "a pre_save or post_save receiver that saves its own sender again, unguarded")
def recursion(project: Project) -> Iterator[Fault]:
    """Find receivers that bring about the very send that they answer, without end."""
    for heard in project.heard:
        if heard.signal not in {"pre_save", "post_save"} or heard.function.decorators or _mutes(heard):
            continue
        for call, guarded in syntax.calls(heard.function):
            again = None if guarded else _saves_again(project, heard, call)
            if again:
                yield Fault(
                    path=heard.function.path,
                    line=call.lineno,
                    signal=heard.signal,
                    receiver=heard.receiver,
                    happens="RecursionError, or rows without end.",
                    why=f"{again} sends {heard.signal} again, which runs this receiver again; no condition ends it.",
                    remedy="Use sender.objects.filter(pk=instance.pk).update(...), which sends nothing; or ask for "
                    "`created`, or for what changed, first.",
                )
                break


def _mutes(heard: Heard) -> bool:
    """Whether it disconnects something while it works."""
    return any(isinstance(n, ast.Attribute) and n.attr == "disconnect" for n in ast.walk(heard.function.node))


def _saves_again(project: Project, heard: Heard, call: ast.Call) -> str:
    if not isinstance(call.func, ast.Attribute):
        return ""
    instance = syntax.standing_for(heard.function, "instance")
    if call.func.attr in {"save", "asave"}:
        if syntax.is_argument(heard.function, call.func.value, "instance", instance):
            return f"{ast.unparse(call.func)}()"
        if isinstance(call.func.value, ast.Call) and _is_sender(project, heard, call.func.value.func):
            return f"{ast.unparse(call.func.value.func)}(...).save()"
    if heard.signal == "post_save" and call.func.attr in {"create", "acreate"}:
        manager = call.func.value
        if isinstance(manager, ast.Attribute) and _is_sender(project, heard, manager.value):
            return f"{ast.unparse(call.func)}()"
    return ""


def _is_sender(project: Project, heard: Heard, node: ast.expr) -> bool:
    """Whether ``node`` is the class that the receiver listens to; any model's class, if it listens to all."""
    if isinstance(node, ast.Name) and node.id in syntax.standing_for(heard.function, "sender"):
        return True
    model = project.model(heard.function.resolve(node))
    if model is None:
        return False
    return project.senderless(heard) or model.label in {sender.label for sender in project.sender_models(heard)}


# Too early


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


# Unguarded fixture


@rule(
    12,
    "unguarded-fixture",
    Severity.WARNING,
    "a pre_save or post_save receiver that reads or writes other rows without looking at `raw`",
)
def unguarded_fixture(project: Project) -> Iterator[Fault]:
    """Find receivers that get in the way of ``loaddata``."""
    for heard in project.heard:
        function = heard.function
        if (
            heard.signal not in {"pre_save", "post_save"}
            or function.decorators
            or heard.later
            or syntax.reads(function, "raw")
            or not (project.sender_models(heard) or project.senderless(heard))
        ):
            continue
        touching = next(filter(None, (_touches(project, heard, call) for call, _ in syntax.calls(function))), None)
        if touching:
            line, what = touching
            yield Fault(
                path=function.path,
                line=line,
                signal=heard.signal,
                receiver=heard.receiver,
                happens=f"manage.py loaddata {what} while it loads its own rows: rows are missing that come later in "
                "the fixture, and those that it makes collide with those that the fixture brings.",
                why="Fixtures are saved with raw=True, in any order, and send the same signals.",
                remedy="Begin with `if raw: return`, and take `raw` into the signature.",
            )


def _touches(project: Project, heard: Heard, call: ast.Call) -> tuple[int, str] | None:
    """Return line and deed of a call that reads or writes another row than the instance's."""
    if not isinstance(call.func, ast.Attribute):
        name = syntax.called(heard.function, call)
        if name in {"django.shortcuts.get_object_or_404", "django.shortcuts.get_list_or_404"}:
            return call.lineno, "reads other rows"
        return None
    method, value = call.func.attr, call.func.value
    instance = syntax.standing_for(heard.function, "instance")
    chain = syntax.dotted(value).split(".")
    if method in {"save", "asave"}:
        other = chain[0] in instance and len(chain) > 1
        made = isinstance(value, ast.Call) and project.model(heard.function.resolve(value.func)) is not None
        return (call.lineno, "writes other rows") if other or made else None
    if method in _RELATED_WRITES and chain[0] in instance and len(chain) == 2 and _related(project, heard, chain[1]):
        return call.lineno, "writes other rows"
    if method in _QUERYING | _QUERYING_ASYNC and len(chain) > 1:
        manager = next((part for part in chain[1:] if part in {"objects", "_default_manager", "_base_manager"}), None)
        if manager and not _own_row(project, heard, call):
            writes = method.removeprefix("a").endswith(("create", "update", "delete"))
            return call.lineno, "writes other rows" if writes else "reads other rows"
    return None


def _related(project: Project, heard: Heard, name: str) -> bool:
    """Whether the name looks like a manager of related objects of the sender."""
    models: tuple[Model, ...] = project.sender_models(heard)
    return name.endswith("_set") or any(name in model.relations for model in models)


def _own_row(project: Project, heard: Heard, call: ast.Call) -> bool:
    """Whether it looks for the instance's own row: by its key, in the sender's table."""
    instance = syntax.standing_for(heard.function, "instance")
    node: ast.expr = call
    keyed = False
    while isinstance(node, ast.Call | ast.Attribute):
        if isinstance(node, ast.Call):
            keyed = keyed or any(
                keyword.arg in {"pk", "id", "pk__in"} and syntax.dotted(keyword.value).split(".")[0] in instance
                for keyword in node.keywords
            )
            node = node.func
        else:
            node = node.value
    if not keyed:
        return False
    if isinstance(node, ast.Name) and node.id in instance:
        return True
    base = node.id if isinstance(node, ast.Name) else ""
    return _is_sender(project, heard, node) or base in {"sender", "cls"}
