"""Public functions for a project's own code: start a trace, and set the actor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asgiref.sync import sync_to_async

from signalbox.core import actors, tracing
from signalbox.core.event import Actor
from signalbox.instrumentation import traces
from signalbox.pipeline import exporter

if TYPE_CHECKING:
    from types import TracebackType

    from django.contrib.auth.base_user import AbstractBaseUser


class trace:  # noqa: N801 - used as `with signalbox.trace(...)`
    """Record the events of a block as one trace::

        with signalbox.trace("import prices", actor="nightly job"):
            ...

    In a coroutine use ``async with``: with ``with``, the events are not written before synchronous code runs.
    One object can be used several times, also nested. An exception sets the status of the trace to ``failed`` and
    is raised again.

    Args:
        name: Name of the trace. Secrets in it are redacted, and 200 characters are stored.
        actor: User or name that performs the work; ``None`` keeps the actor unset.
        kind: Kind of the trace, such as ``"cron"``; 16 characters are stored.

    Raises:
        TypeError: ``name`` is not a string, or ``actor`` is not a string or an authenticated user.
    """

    def __init__(self, name: str, *, actor: AbstractBaseUser | Actor | str | None = None, kind: str = "custom") -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"trace() was given {type(name).__name__} as name; a text was expected: trace('import prices')."
            )
        self._name = name
        self._kind = kind
        self._actor = None if actor is None else _to_actor(actor)
        self._open_traces: list[tracing.Trace] = []

    def __enter__(self) -> tracing.Trace:
        found = traces.start_trace(self._kind, self._name)
        found.set_actor(self._actor)
        self._open_traces.append(found)
        return found

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended = self._open_traces.pop()
        try:
            traces.leave_trace(ended, error)
        finally:
            exporter.finish_trace(ended, "ok")

    async def __aenter__(self) -> tracing.Trace:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended = self._open_traces.pop()
        try:
            traces.leave_trace(ended, error)
        finally:
            await sync_to_async(exporter.finish_trace)(ended, "ok")


def set_actor(actor: AbstractBaseUser | Actor | str | None) -> None:
    """Set the actor of the current trace until the trace ends.

    Outside a trace it is set for the current thread or asynchronous task.

    Args:
        actor: User or name that performs the work; ``None`` removes it, and a request's user is the actor again.

    Raises:
        TypeError: ``actor`` is not a string or an authenticated user.
    """
    tracing.get_current_trace().set_actor(None if actor is None else _to_actor(actor))


def _to_actor(actor: AbstractBaseUser | Actor | str) -> Actor:
    found = actors.build_actor(actor.key, actor.label) if isinstance(actor, Actor) else actors.actor_from_user(actor)
    if found is None:
        raise TypeError(f"actor is a {type(actor).__name__}. Expected a user who has logged in, or a text.")
    return found


__all__ = ["set_actor", "trace"]
