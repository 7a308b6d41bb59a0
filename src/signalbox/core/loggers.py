"""The loggers of Signalbox, one for each part, and the attributes that its log records have."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from signalbox.core import interrupts, tracing

if TYPE_CHECKING:
    from signalbox.core.event import PendingEvent
    from signalbox.outbox.deliveries import LeasedDelivery

Part: TypeAlias = Literal["recording", "processors", "telemetry", "outbox", "worker", "queries", "dashboard", "doctor"]

PARENT: Final = "signalbox"
"""Name of the logger above all others."""
PARTS: Final[tuple[Part, ...]] = get_args(Part)
NAMES: Final = (PARENT, *(f"{PARENT}.{part}" for part in PARTS))
"""Names of all loggers."""

TRACE_ID: Final = "signalbox_trace_id"
"""Attribute of a log record: the id of the trace, 32 hexadecimal digits."""
SPAN: Final = "signalbox_span"
"""Attribute of a log record: the span of the event, None if the record is not about an event."""
DELIVERY_ID: Final = "signalbox_delivery_id"
"""Attribute of a log record about one delivery: its id."""


class PartLogger(logging.LoggerAdapter[logging.Logger]):
    """The logger of a part. A handler of the site that fails or saves objects does not disturb the work.

    An exception of a handler is printed, as the handlers of Python's logging do. What a handler causes to be logged by
    Signalbox is left out, as it could cause the same again.
    """

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a record, unless this thread is handling another one."""
        if _handling.is_active or not self.isEnabledFor(level):
            return
        _handling.is_active = True
        try:
            self.logger.log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})
        except Exception as error:  # noqa: BLE001 - the site's handlers may raise anything
            interrupts.raise_if_interrupt(error)
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exception(error)
        finally:
            _handling.is_active = False


class _Handling(threading.local):
    """Whether a record is being handled in this thread."""

    is_active = False


_handling = _Handling()


def get_logger(part: Part) -> PartLogger:
    """Return the logger of a part of Signalbox."""
    return PartLogger(logging.getLogger(f"{PARENT}.{part}"))


def describe_event(event: PendingEvent) -> dict[str, Any]:
    """Return the attributes of a log record about ``event``, for ``extra``."""
    return {TRACE_ID: event.trace.id, SPAN: event.span}


def describe_delivery(delivery: LeasedDelivery) -> dict[str, Any]:
    """Return the attributes of a log record about ``delivery``, for ``extra``. The span is that of its event."""
    return {TRACE_ID: delivery.trace_id, SPAN: delivery.span, DELIVERY_ID: delivery.id}


class TraceFilter(logging.Filter):
    """Add ``signalbox_trace_id`` and ``signalbox_span`` to every log record. It drops none.

    Put it on a handler in ``LOGGING``. The first attribute is the id of the current trace. The second is the span of
    the event whose receiver is running, otherwise None. A record that has the attributes keeps them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes to ``record`` and return True."""
        attributes = record.__dict__
        if TRACE_ID not in attributes:
            attributes[TRACE_ID] = tracing.get_current_trace().id
            running = tracing.running_receiver.get()
            attributes.setdefault(SPAN, None if running is None else running[0])
        attributes.setdefault(SPAN, None)
        return True
