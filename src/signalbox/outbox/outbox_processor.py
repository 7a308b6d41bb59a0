"""The event processor that adds the deliveries of durable receivers to the transaction of their event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from django.utils.module_loading import import_string

from signalbox import conf
from signalbox.core import interrupts, loggers
from signalbox.outbox import payload, registry
from signalbox.pipeline.processors import EventProcessor

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from django.dispatch import Signal

    from signalbox.core.event import PendingEvent
    from signalbox.pipeline.processors import EventBatch

logger = loggers.get_logger("outbox")


class OutboxProcessor(EventProcessor):
    """The processor for the registered durable receivers."""

    def wants(self, signal: str, sender: str) -> bool:
        """Return True if a durable receiver is subscribed to ``signal`` from ``sender``."""
        return registry.has_subscriber(signal, sender)

    def wants_sender(self, sender: str) -> bool:
        """Return True if a durable receiver names ``sender``."""
        return registry.is_subscribed_sender(sender)

    def get_wanted_signals(self) -> Collection[str]:
        """Return the names of the signals with a durable receiver."""
        return registry.get_subscribed_signals()

    def on_signal_named(self, signal: Signal, name: str) -> None:
        """Move the subscriptions to ``signal`` to its name."""
        registry.register_signal_name(signal, name)

    def on_send(self, event: PendingEvent, arguments: Mapping[str, Any]) -> None:
        """Serialize the arguments for the durable receivers.

        Raises ``DeliveryError`` for an argument that a durable receiver takes and that cannot be stored.
        """
        if registry.has_subscriber(event.signal, event.sender):
            recorded: Any = event.args
            event.outbox_arguments = payload.serialize_arguments(event.signal, event.sender, arguments, recorded)

    def on_flush(self, batch: EventBatch) -> None:
        """Add the deliveries of the events.

        If the changes are committed already, an event whose deliveries can't be built is logged and written without
        them.
        """
        for event in batch.events:
            try:
                batch.deliveries += payload.build_delivery_rows(event)
            except Exception as error:
                interrupts.raise_if_interrupt(error)
                if not batch.is_committed:
                    raise
                logger.critical(
                    "No delivery can be created for %s from %s %s: %r",
                    event.signal,
                    event.sender,
                    event.key,
                    error,
                    extra=loggers.describe_event(event),
                )

    def on_commit(self, batch: EventBatch) -> None:
        """Run the deliveries in this process, if the dispatcher is ``"immediate"``."""
        if conf.get().DURABLE.DISPATCHER == "immediate":
            import_string("signalbox.outbox.dispatch.immediate.run_due")(batch.using)


OUTBOX: Final = OutboxProcessor()
