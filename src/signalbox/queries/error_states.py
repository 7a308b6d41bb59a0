"""Decisions of operators about groups of errors: resolve, mute and reopen."""

from __future__ import annotations

from typing import Final

from django.db import IntegrityError, transaction

from signalbox.core.clock import now_us
from signalbox.core.event import Actor
from signalbox.models import ErrorState
from signalbox.queries.errors import STATES

ACTIONS: Final = {"resolve": ErrorState.RESOLVED, "mute": ErrorState.MUTED, "reopen": ErrorState.OPEN}
"""The state that each action sets."""


class StateConflictError(Exception):
    """Another operator has changed the state since it was read."""


def change_state(alias: str, fingerprint: str, state: str, actor: Actor, *, version: int | None = None) -> ErrorState:
    """Set the state of a group of errors.

    Args:
        alias: The alias of the database.
        fingerprint: The fingerprint of the group.
        state: One of ``STATES``.
        actor: Who decides.
        version: The time of the last decision that the operator has seen, 0 for none. None replaces any decision.

    Raises:
        StateConflictError: There is another decision than ``version``. Nothing was changed.
        ValueError: The state is unknown.
    """
    if state not in STATES:
        raise ValueError(f"The state is {state!r}, expected one of {', '.join(STATES)}.")
    decisions = ErrorState.objects.using(alias)
    # Two decisions within a microsecond, or after the clock was set back, must differ too.
    values = {
        "state": state,
        "changed": max(now_us(), (version or 0) + 1),
        "actor_key": actor.key,
        "actor_label": actor.label,
    }
    if version is None:
        return decisions.update_or_create(fingerprint=fingerprint, defaults=values)[0]
    if version and decisions.filter(fingerprint=fingerprint, changed=version).update(**values):
        return decisions.get(fingerprint=fingerprint)
    if not version:
        try:
            with transaction.atomic(using=alias):
                return decisions.create(fingerprint=fingerprint, **values)
        except IntegrityError:  # another operator was faster
            pass
    current = decisions.filter(fingerprint=fingerprint).first()
    raise StateConflictError(
        "The error was not changed, because its state has changed since the page was loaded."
        if current is None
        else f"The error was not changed: {current.actor_label or 'a user'} has already set it to {current.state}."
    )
