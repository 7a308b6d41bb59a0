"""What a project's own code says to Signalbox: which work this is, and who does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async

from signalbox.core import tracing
from signalbox.core.event import Actor
from signalbox.instrumentation import traces
from signalbox.pipeline import exporter

if TYPE_CHECKING:
    from types import TracebackType


class trace:  # noqa: N801 - used as `with signalbox.trace(...)`
    """Make what happens in the block one trace, called ``name``::

        with signalbox.trace("import prices", actor="nightly job"):
            ...

    ``actor`` is a user or a text, ``kind`` a word of at most 16 letters. Within an event loop write
    ``async with``: a block ended there by ``with`` leaves its events waiting for work outside of the loop.
    An exception that leaves the block makes the trace's status ``failed``, and goes on.

    Raises ``TypeError`` if ``name`` is no text, or ``actor`` neither a user nor a text.
    """

    def __init__(self, name: str, *, actor: Any = None, kind: str = "custom") -> None:
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
        traces.leave_trace(ended, error)
        exporter.finish_trace(ended, "ok")

    async def __aenter__(self) -> tracing.Trace:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended = self._open_traces.pop()
        traces.leave_trace(ended, error)
        await sync_to_async(exporter.finish_trace)(ended, "ok")


def set_actor(actor: Any) -> None:
    """Name who does the current work: a user or a text; ``None`` takes it back.

    It holds until the current trace ends; outside of every trace, for the current thread or asynchronous task.
    Raises ``TypeError`` for anything else, as for a user who has not logged in.
    """
    tracing.get_current_trace().set_actor(None if actor is None else _to_actor(actor))


def _to_actor(actor: Any) -> Actor:
    found = tracing.build_actor(actor.key, actor.label) if isinstance(actor, Actor) else tracing.actor_from_user(actor)
    if found is None:
        raise TypeError(f"{type(actor).__name__} is no actor; a user who has logged in, or a text, was expected.")
    return found
