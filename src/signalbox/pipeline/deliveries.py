"""The interface between recording and the outbox: what recording asks about durable receivers.

The outbox installs its own source when the first durable receiver is registered. Until then nothing is subscribed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import DatabaseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.dispatch import Signal

    from signalbox.core.event import PendingEvent
    from signalbox.pipeline.batches import TableRow


class DeliveryError(Exception):
    """Base of the errors that leave ``send()``: a delivery must not be lost without its sender knowing."""


class EnqueueError(DeliveryError, DatabaseError):
    """The deliveries of an event could not be written."""


class DeliverySource:
    """Answers for the durable receivers of this process. This base class has none."""

    def get_subscribed_signals(self) -> frozenset[str]:
        """Return the names of the signals with a durable receiver."""
        return frozenset()

    def has_subscriber(self, signal: str, sender: str) -> bool:
        """Return True if a durable receiver is subscribed to ``signal`` from ``sender``, a label."""
        return False

    def is_subscribed_sender(self, sender: str) -> bool:
        """Return True if a durable receiver names ``sender``. It is then recorded although the setting ignores it."""
        return False

    def get_signal(self, name: str) -> Signal | None:
        """Return the signal that a durable receiver was subscribed to under ``name``."""
        return None

    def register_signal_name(self, signal: Signal, name: str) -> None:
        """Remember the name under which ``signal`` is recorded."""

    def serialize_arguments(
        self, signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Return the arguments of a send as its durable receivers will be given them.

        Raises ``DeliveryError`` for an argument that a durable receiver takes and that cannot be stored.
        """
        return {}

    def build_delivery_rows(self, event: PendingEvent) -> Sequence[TableRow]:
        """Return the deliveries of a committed event, in the order of ``DELIVERY_COLUMNS``."""
        return ()

    def on_deliveries_written(self, connection: BaseDatabaseWrapper) -> None:
        """Handle that deliveries were written on ``connection``, in the open transaction if there is one."""


NO_DELIVERIES: Final = DeliverySource()

_source: DeliverySource = NO_DELIVERIES
_on_subscription: list[Callable[[], None]] = []


def get_source() -> DeliverySource:
    """Return the installed source."""
    return _source


def install_source(source: DeliverySource) -> None:
    """Make ``source`` answer from now on."""
    global _source
    _source = source


def notify_subscribed() -> None:
    """Report that a durable receiver was subscribed."""
    for callback in _on_subscription:
        callback()


def on_subscription(callback: Callable[[], None]) -> None:
    """Call ``callback`` whenever a durable receiver has been subscribed."""
    if callback not in _on_subscription:
        _on_subscription.append(callback)
