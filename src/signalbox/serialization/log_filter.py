"""Removes secrets from the log lines of Signalbox."""

from __future__ import annotations

import logging
from traceback import format_exception
from typing import Final

from signalbox.core import interrupts, loggers
from signalbox.core.loggers import TraceFilter
from signalbox.serialization.configured_redactor import get_redactor


class RedactingFilter(logging.Filter):
    """Removes secrets from a record's message and from the text of its exception.

    A record without secrets is not changed. With secrets it has text instead of arguments and of the exception.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact ``record`` and return ``True``. A text that can't be read is removed."""
        try:
            redact = get_redactor().redact_text
            message = record.getMessage()
            if (clean := redact(message)) != message:
                record.msg, record.args = clean, ()
            if record.exc_info and record.exc_info[0] is not None:
                text = "".join(format_exception(*record.exc_info)).rstrip("\n")
                if (clean := redact(text)) != text:
                    record.exc_text, record.exc_info = clean, None
        except Exception as error:  # noqa: BLE001 - the application's own __str__ may raise anything
            interrupts.raise_if_interrupt(error)
            record.msg, record.args = "A log line is left out: its text could not be read.", ()
            record.exc_info = record.exc_text = None
        return True


_FILTERS: Final = (TraceFilter(), RedactingFilter())


def install() -> None:
    """Redact the log records of Signalbox, and add the attributes of ``TraceFilter``.

    A logger's filters do not apply to the records of the loggers below it, so each logger has them.
    """
    for name in loggers.NAMES:
        for found in _FILTERS:
            logging.getLogger(name).addFilter(found)
