"""The public function that erases a person's data from the event log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import connections, router

from signalbox.core import actors, tracing
from signalbox.core.event import Actor
from signalbox.core.system_user import get_system_actor
from signalbox.erasure.database import DatabaseEraser, ErasureError, Progress
from signalbox.erasure.selection import ObjectSelector, Selection, build_selection
from signalbox.models import Event
from signalbox.pipeline import exporter, missing_tables

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser


@dataclass(frozen=True, kw_only=True, slots=True)
class Erasure:
    """The result of ``erase()``."""

    dry_run: bool
    """Whether the rows were only counted."""
    events: int = 0
    """Number of erased events."""
    traces: int = 0
    """Number of erased traces."""
    deliveries: int = 0
    """Number of erased deliveries."""
    pending_deliveries: int = 0
    """Deliveries that have still to run. They and their events stay as they are. Erase again afterwards."""
    places: Mapping[str, int] = field(default_factory=dict)
    """Number of rows by erased place, such as ``object_label`` or ``values``."""
    databases: tuple[str, ...] = ()
    """Aliases of the databases whose tables were searched."""
    records: Mapping[str, int] = field(default_factory=dict)
    """By alias, the id of the event that records the erasure."""

    @property
    def is_complete(self) -> bool:
        """Whether no pending delivery was left out."""
        return not self.pending_deliveries


def erase(
    *,
    actor: AbstractBaseUser | str | int | None = None,
    objects: Iterable[ObjectSelector] = (),
    keys: bool = False,
    by: AbstractBaseUser | Actor | str | None = None,
    dry_run: bool = False,
    using: str | None = None,
) -> Erasure:
    """Erase a person's labels, values and request data from the event log. What happened remains.

    The places are listed in the documentation. Rows are written in short transactions of their own, so it can't be
    called within one. It can be repeated, also after an interruption.

    Args:
        actor: The person's user, or its primary key.
        objects: The objects with the person's data: instances, ``("shop.Customer", 17)`` or ``"shop.Customer:17"``.
        keys: Whether to erase the primary keys too.
        by: User or name that asks for the erasure. By default the actor of the current trace, or the user of the
            operating system.
        dry_run: Count the rows, and change nothing.
        using: Alias of a database with the tables; None for all of them.

    Raises:
        TypeError: an argument has another type.
        ValueError: nothing is selected, a model, key or database does not exist.
        ErasureError: an actor or an object matches nothing, or a role may not update the tables.
        RuntimeError: a transaction is open.
    """
    selection = build_selection(actor, objects, keys)
    return erase_selection(selection, by=by, dry_run=dry_run, using=using)


def erase_selection(
    selection: Selection,
    *,
    by: AbstractBaseUser | Actor | str | None = None,
    dry_run: bool = False,
    using: str | None = None,
    progress: Progress | None = None,
) -> Erasure:
    """Do what ``erase()`` does, for a selection, and report the progress after each batch."""
    actor = _get_operator(by)
    exporter.flush()
    aliases = _get_databases(using)
    erasers = [DatabaseEraser(alias, selection, actor, dry_run, progress) for alias in aliases]
    _check_matches(selection, erasers)
    if not dry_run:
        for eraser in erasers:
            eraser.check_grants()
    for eraser in erasers:
        eraser.run()
    places: Counter[str] = sum((eraser.places for eraser in erasers), Counter())
    rows: Counter[str] = sum((eraser.rows for eraser in erasers), Counter())
    return Erasure(
        dry_run=dry_run,
        events=rows["events"],
        traces=rows["traces"],
        deliveries=rows["deliveries"],
        pending_deliveries=sum(len(eraser.pending) for eraser in erasers),
        places=dict(sorted(places.items())),
        databases=tuple(aliases),
        records={eraser.alias: eraser.record_id for eraser in erasers if eraser.record_id is not None},
    )


def _get_operator(by: Any) -> Actor:
    if by is not None:
        actor = actors.build_actor(by.key, by.label) if isinstance(by, Actor) else actors.actor_from_user(by)
        if actor is None:
            raise TypeError(f"by is a {type(by).__name__}. Expected a user who has logged in, or a text.")
        return actor
    current: Actor | None = tracing.get_current_trace().get_actor()
    if current is not None:
        return current
    return get_system_actor()


def _get_databases(using: str | None) -> list[str]:
    """Return the aliases of the databases whose tables are searched."""
    if using is not None and using not in connections:
        raise ValueError(f"Unknown database {using!r}. One of {', '.join(connections)} was expected.")
    aliases = [using] if using is not None else [alias for alias in connections if _may_have_tables(alias)]
    found = [alias for alias in aliases if missing_tables.has_tables(connections[alias])]
    if not found:
        raise ErasureError(f"No table of Signalbox was found in {', '.join(aliases)}: run manage.py migrate.")
    return found


def _may_have_tables(alias: str) -> bool:
    return not connections[alias].settings_dict["TEST"].get("MIRROR") and router.allow_migrate_model(alias, Event)


def _check_matches(selection: Selection, erasers: Sequence[DatabaseEraser]) -> None:
    """Raise ``ErasureError`` if the actor or an object matches nothing in any database."""
    for part in (
        *([Selection(actor=selection.actor)] if selection.actor else []),
        *(Selection(objects=(one,)) for one in selection.objects),
    ):
        if not any(eraser.has_match(part) for eraser in erasers):
            name = f"the actor {part.actor!r}" if part.actor else f"the object {part.objects[0]}"
            aliases = ", ".join(eraser.alias for eraser in erasers)
            raise ErasureError(
                f"Nothing is recorded of {name} in {aliases}. The primary key of a recorded user or object was "
                "expected. Nothing was erased."
            )


__all__ = ["Erasure", "ErasureError", "erase"]
