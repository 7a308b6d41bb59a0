"""Receivers that send their own signal again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

from signalbox.doctor import syntax
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project, Subscription
from signalbox.doctor.queryset_ownership import QuerysetOwnership
from signalbox.doctor.rules import Fault, rule
from signalbox.doctor.scopes import Frame

_SAVE_METHODS: Final = frozenset({"save", "asave"})
_CREATE_METHODS: Final = frozenset({"create", "acreate"})
_UPSERT_METHODS: Final = frozenset({"update_or_create", "aupdate_or_create"})


class _Resend(NamedTuple):
    """A call that sends the signal again."""

    text: str
    created: bool | None
    """The argument ``created`` of the new send; ``None`` if unknown."""


@rule(
    10, "recursive-save", Severity.ERROR, "a pre_save or post_save receiver that saves its own sender again, unguarded"
)
def recursive_save(project: Project) -> Iterator[Fault]:
    """Find receivers that send their own signal again, without a condition that ends the recursion."""
    for subscription in project.subscriptions:
        if subscription.signal in {"pre_save", "post_save"} and not subscription.function.has_unknown_decorator:
            fault = next(
                (
                    fault
                    for frame in project.get_frames(subscription)
                    for fault in _find_endless(project, subscription, frame)
                ),
                None,
            )
            if fault and not _disconnects_receiver(subscription):
                yield fault


def _disconnects_receiver(subscription: Subscription) -> bool:
    """Return True if the receiver calls ``disconnect()``."""
    return any(isinstance(n, ast.Attribute) and n.attr == "disconnect" for n in ast.walk(subscription.function.node))


def _find_endless(project: Project, subscription: Subscription, frame: Frame) -> Iterator[Fault]:
    ownership = QuerysetOwnership(project=project, subscription=subscription, frame=frame)
    for call, conditions in frame.function.calls:
        resend = _find_resend(ownership, call)
        if (
            resend
            and _is_reached_again(frame, conditions, resend)
            and _is_reached_again(frame.caller, frame.conditions, resend)
        ):
            yield Fault(
                path=frame.function.path,
                line=call.lineno,
                signal=subscription.signal,
                receiver=subscription.receiver,
                message="It ends in RecursionError, or creates rows endlessly.",
                reason=f"{resend.text} sends {subscription.signal} again, which runs this receiver again. No condition "
                "ends the recursion.",
                hint="Use sender.objects.filter(pk=instance.pk).update(...), which sends no signal, or check `created` "
                "or the changed fields first. A check of `raw` does not end the recursion.",
            )


def _is_reached_again(frame: Frame | None, conditions: syntax.Conditions, resend: _Resend) -> bool:
    """Return True if the new send always reaches the call again."""

    def evaluate(test: ast.expr) -> bool | None:
        if frame and frame.is_argument(test, "raw"):
            return False  # true only for fixtures
        return resend.created if frame and frame.is_argument(test, "created") else None

    return syntax.is_reached(conditions, evaluate) is True


def _find_resend(ownership: QuerysetOwnership, call: ast.Call) -> _Resend | None:
    if not isinstance(call.func, ast.Attribute):
        return None
    method, owner = call.func.attr, call.func.value
    if method in _SAVE_METHODS:
        if ownership.is_instance(owner):
            return _Resend(f"{ast.unparse(call.func)}()", False)
        value = ownership.frame.resolve_value(owner)
        if isinstance(value, ast.Call) and ownership.is_sender(value.func):
            return _Resend(f"{ast.unparse(value.func)}(...).save()", True)
        if value is not owner and ownership.fetches_own_row(value):
            return _Resend(f"{ast.unparse(call.func)}()", False)
    elif isinstance(owner, ast.Attribute) and ownership.is_sender(owner.value):
        if method in _CREATE_METHODS and ownership.subscription.signal == "post_save":
            return _Resend(f"{ast.unparse(call.func)}()", True)
        if method in _UPSERT_METHODS:
            return _Resend(f"{ast.unparse(call.func)}()", None)
    return None
