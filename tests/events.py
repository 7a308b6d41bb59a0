"""Reading what was recorded, for tests: each reading sees what the open transaction has recorded so far.

What was rolled back is left out: its events follow when their transaction, or their trace, has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from signalbox.core import object_keys
from signalbox.models import Event

if TYPE_CHECKING:
    from django.db.models import Model


def recorded(sender: type[Model] | None = None, *signals: str, using: str = "default", **filters: Any) -> list[Event]:
    """Return the events of a sender, oldest first; ``signals`` leaves only these."""
    if sender is not None:
        filters["sender"] = sender._meta.label
    if signals:
        filters["signal__in"] = signals
    filters.setdefault("outcome__in", ["committed", "sent", "failed"])
    return list(Event.objects.using(using).filter(**filters).order_by("id"))


def newest(sender: type[Model] | None = None, *signals: str, using: str = "default", **filters: Any) -> Event:
    """Return the newest of these events."""
    found = recorded(sender, *signals, using=using, **filters)
    assert found, f"no event of {sender} {signals} {filters}"
    return found[-1]


def of(instance: Model, signal: str = "post_save", using: str = "default") -> Event:
    """Return the newest event of an object."""
    return newest(type(instance), signal, using=using, object_key=object_keys.key_to_text(instance.pk))


def changes(instance: Model, using: str = "default") -> dict[str, Any]:
    """Return what the newest save of an object changed."""
    found: dict[str, Any] = of(instance, using=using).data["changes"]
    return found


def args(sender: type[Model], signal: str, using: str = "default") -> dict[str, Any]:
    """Return the arguments of the newest event of a sender."""
    found: dict[str, Any] = newest(sender, signal, using=using).data["args"]
    return found
