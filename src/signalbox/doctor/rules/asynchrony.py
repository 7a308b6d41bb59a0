"""Async receivers of synchronous sends, and the reverse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from signalbox.core import catalog
from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project, Subscription
from signalbox.doctor.rules import Fault, rule

_FREQUENT_SIGNALS: Final = frozenset(
    {"pre_init", "post_init", "pre_save", "post_save", "pre_delete", "post_delete", "m2m_changed"}
)


@rule(
    19,
    "async-mismatch",
    Severity.WARNING,
    "an async receiver on a signal that is sent synchronously in hot code, and the other way round; an object whose "
    "`__call__()` is never awaited",
)
def async_mismatch(project: Project) -> Iterator[Fault]:
    """Find sends that switch between sync and async code each time."""
    for subscription in project.subscriptions:
        if subscription.after_commit:
            continue
        is_coroutine = (
            subscription.connection.is_async if subscription.connection else subscription.function.is_coroutine
        )
        mismatch = _check_never_awaited(subscription) or (
            _check_async_receiver(project, subscription)
            if is_coroutine
            else _check_sync_receiver(project, subscription)
        )
        if mismatch:
            message, reason, hint, severity = mismatch
            yield Fault(
                path=subscription.function.path,
                line=subscription.function.line,
                signal=subscription.signal,
                receiver=subscription.receiver,
                message=message,
                reason=reason,
                hint=hint,
                severity=severity,
            )


def _check_never_awaited(subscription: Subscription) -> tuple[str, str, str, Severity] | None:
    """Check an object with an async ``__call__()``, which Django does not recognize as async."""
    function = subscription.function
    is_not_marked_async = subscription.connection is not None and not subscription.connection.is_async
    if not (is_not_marked_async and function.is_coroutine and function.is_method and function.name == "__call__"):
        return None
    if function.decorators:
        return None
    return (
        "It never runs: each send creates a coroutine and discards it.",
        (
            "Django checks whether the object is a coroutine function, not its __call__(). It calls the object as a "
            "plain function, and does not await the result."
        ),
        "Connect an async function, or call asgiref.sync.markcoroutinefunction(self) in __init__().",
        Severity.ERROR,
    )


def _check_async_receiver(project: Project, subscription: Subscription) -> tuple[str, str, str, Severity] | None:
    is_frequent = subscription.signal in _FREQUENT_SIGNALS or (
        subscription.signal in {"request_started", "request_finished"} and not project.runtime.asgi
    )
    if is_frequent:
        return (
            "Each send starts and closes an event loop for it, which takes far longer than the call itself.",
            (
                f"{subscription.signal} is sent by send(), also in asave(). Django then runs async receivers by "
                "async_to_sync()."
            ),
            "Write it as a plain function, and move slow work to a task.",
            Severity.WARNING,
        )
    if subscription.signal in catalog.BUILTIN_SIGNALS:
        return None
    for send in project.source.send_calls:
        if (
            send.signal == subscription.signal
            and send.method in {"send", "send_robust"}
            and send.enclosing_function
            and send.enclosing_function.is_coroutine
        ):
            return (
                'The send raises RuntimeError: "You cannot use AsyncToSync in the same thread as an async event loop".',
                (
                    f"{send.enclosing_function.name}() of {send.module} is async and sends by {send.method}() "
                    f"(line {send.line})."
                ),
                f"Write `await signal.a{send.method}(...)` there.",
                Severity.ERROR,
            )
    return None


def _check_sync_receiver(project: Project, subscription: Subscription) -> tuple[str, str, str, Severity] | None:
    if subscription.signal in catalog.BUILTIN_SIGNALS or project.escapes(subscription.signal):
        return None
    sends = [send for send in project.source.send_calls if send.signal == subscription.signal]
    if not sends or any(send.method in {"send", "send_robust"} for send in sends):
        return None
    return (
        "Each send runs it in a thread and waits for it.",
        (
            f"{subscription.signal} is sent by {sends[0].method}() only: Django then runs plain receivers by "
            "sync_to_async()."
        ),
        "Write it with `async def`, if the functions that it calls can be awaited.",
        Severity.INFO,
    )
