"""What a project's own code says to Signalbox: which work this is, and who does it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from signalbox import context
from signalbox.event import Actor
from signalbox.recording import traces

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def trace(name: str, *, actor: Any = None, kind: str = "work") -> Iterator[context.Trace]:
    """Make what happens in the block one trace, called ``name``::

        with signalbox.trace("import prices", actor="nightly job"):
            ...

    ``actor`` is a user or a text. Raises ``TypeError`` if ``name`` is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"trace() was given {type(name).__name__} as name; a text was expected: trace('import prices').")
    with traces.tracing(kind, name) as found:
        if actor is not None:
            found.set_actor(_actor(actor))
        yield found


def set_actor(actor: Any) -> None:
    """Name who does the current work: a user or a text; ``None`` takes it back.

    It holds until the current trace ends. Raises ``TypeError`` for anything else.
    """
    context.current().set_actor(None if actor is None else _actor(actor))


def _actor(actor: Any) -> Actor:
    found = actor if isinstance(actor, Actor) else context.actor_of(actor)
    if found is None:
        raise TypeError(f"{type(actor).__name__} is no actor; a user who has logged in, or a text, was expected.")
    return found
