"""Reading what was recorded, for tests: each reading sees what the open transaction has recorded so far.

What was rolled back is left out: its events follow when their transaction, or their trace, has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from signalbox.core import object_keys
from signalbox.models import Event

if TYPE_CHECKING:
    from django.db.models import Model


def get_events(sender: type[Model] | None = None, *signals: str, using: str = "default", **filters: Any) -> list[Event]:
    """Return the events of a sender, oldest first; ``signals`` leaves only these."""
    if sender is not None:
        filters["sender"] = sender._meta.label
    if signals:
        filters["signal__in"] = signals
    filters.setdefault("outcome__in", ["committed", "sent", "failed"])
    return list(Event.objects.using(using).filter(**filters).order_by("id"))


def get_newest_event(sender: type[Model] | None = None, *signals: str, using: str = "default", **filters: Any) -> Event:
    """Return the newest of these events."""
    found = get_events(sender, *signals, using=using, **filters)
    assert found, f"no event of {sender} {signals} {filters}"
    return found[-1]


def get_object_event(instance: Model, signal: str = "post_save", using: str = "default") -> Event:
    """Return the newest event of an object."""
    return get_newest_event(type(instance), signal, using=using, object_key=object_keys.key_to_text(instance.pk))


def get_changes(instance: Model, using: str = "default") -> dict[str, Any]:
    """Return what the newest save of an object changed."""
    found: dict[str, Any] = get_object_event(instance, using=using).data["changes"]
    return found


def get_args(sender: type[Model], signal: str, using: str = "default") -> dict[str, Any]:
    """Return the arguments of the newest event of a sender."""
    found: dict[str, Any] = get_newest_event(sender, signal, using=using).data["args"]
    return found
