"""The outbox's implementation of the interface between recording and deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.db import transaction
from django.utils.module_loading import import_string

from signalbox import conf
from signalbox.outbox import payload, registry
from signalbox.pipeline.deliveries import DeliverySource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.dispatch import Signal

    from signalbox.core.event import PendingEvent
    from signalbox.pipeline.batches import TableRow


class OutboxSource(DeliverySource):
    """The source for the registered durable receivers."""

    def get_subscribed_signals(self) -> frozenset[str]:
        """See the base class."""
        return registry.get_subscribed_signals()

    def has_subscriber(self, signal: str, sender: str) -> bool:
        """See the base class."""
        return registry.has_subscriber(signal, sender)

    def is_subscribed_sender(self, sender: str) -> bool:
        """See the base class."""
        return registry.is_subscribed_sender(sender)

    def get_signal(self, name: str) -> Signal | None:
        """See the base class."""
        return registry.get_signal(name)

    def register_signal_name(self, signal: Signal, name: str) -> None:
        """See the base class."""
        registry.register_signal_name(signal, name)

    def serialize_arguments(
        self, signal: str, sender: str, arguments: Mapping[str, Any], recorded_arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """See the base class."""
        return payload.serialize_arguments(signal, sender, arguments, recorded_arguments)

    def build_delivery_rows(self, event: PendingEvent) -> Sequence[TableRow]:
        """See the base class."""
        return payload.build_delivery_rows(event)

    def on_deliveries_written(self, connection: BaseDatabaseWrapper) -> None:
        """Run the deliveries in this process after the commit, if the dispatcher is ``"immediate"``."""
        if conf.get().DURABLE.DISPATCHER != "immediate":
            return

        def run_due() -> None:
            import_string("signalbox.outbox.dispatch.immediate.run_due")(connection.alias)

        if connection.in_atomic_block:
            transaction.on_commit(run_due, using=connection.alias, robust=True)
        elif connection.get_autocommit():
            run_due()
        else:  # Django is committing and has left the block already, but still runs hooks that are added now
            hooks: list[Any] = connection.run_on_commit
            hooks.append((set(), run_due, True))


OUTBOX: Final = OutboxSource()
