"""Find deliveries whose receiver this version of the code does not have: it was renamed, moved or removed."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from django.db import connections

from signalbox.core.clock import now_us
from signalbox.outbox import registry
from signalbox.outbox.queue import SECOND_US, TABLE

MAX_COUNTED: Final = 10_000
"""Maximum number of waiting and of dead deliveries that are counted, because counting a long backlog is slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnknownReceiver:
    """A receiver that has deliveries in a database, and that this process does not know."""

    name: str
    """Its dotted name."""
    pending: int
    """Deliveries that wait for it."""
    dead: int
    """Its dead letters."""
    deferred_seconds: float
    """Seconds since the first of ``pending`` was deferred; 0 if none was."""
    similar_names: tuple[str, ...]
    """Names of durable receivers of this process that are similar, the most similar first."""

    def __str__(self) -> str:
        text = (
            f"{self.name} is not a durable receiver of this code: {self.pending} deliveries wait, {self.dead} are dead."
        )
        return f"{text} Similar: {', '.join(self.similar_names)}." if self.similar_names else text


def find_unknown_receivers(alias: str, *, import_modules: bool = False) -> list[UnknownReceiver]:
    """Return the unknown receivers with deliveries in the database ``alias``, by name.

    By default these are receivers that this process has not registered and that a worker could not find. With
    ``import_modules`` their modules are imported instead, as a worker does.

    Raises ``django.db.Error`` if the database is unavailable.
    """
    rows_in_state = f"SELECT receiver, state, deferred_since FROM {TABLE} WHERE state = %s LIMIT {MAX_COUNTED}"
    parts = [f"SELECT * FROM ({rows_in_state}) {name}" for name in ("waiting", "dead_letters")]
    sql = f"SELECT receiver, state, count(*), min(deferred_since) FROM ({' UNION ALL '.join(parts)}) found "
    with connections[alias].cursor() as cursor:
        cursor.execute(f"{sql} GROUP BY receiver, state", ["pending", "dead"])
        rows = cursor.fetchall()
    counts = {(receiver, state): count for receiver, state, count, _ in rows}
    deferred = {(receiver, state): since for receiver, state, _, since in rows if since is not None}
    known = registry.get_durable_receivers()
    found = []
    for name in sorted({row[0] for row in rows} - known.keys()):
        is_deferred = (name, "pending") in deferred or (name, "dead") in deferred
        if _can_import(name) if import_modules else not is_deferred:
            continue
        since = deferred.get((name, "pending"))
        found.append(
            UnknownReceiver(
                name=name,
                pending=counts.get((name, "pending"), 0),
                dead=counts.get((name, "dead"), 0),
                deferred_seconds=0.0 if since is None else max(0.0, (now_us() - since) / SECOND_US),
                similar_names=tuple(get_close_matches(name, known, n=2)),
            )
        )
    return found


def _can_import(name: str) -> bool:
    registry.import_receiver_module(name)
    return name in registry.get_durable_receivers()
