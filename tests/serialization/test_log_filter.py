"""What Signalbox logs has no secrets, and is unchanged otherwise."""

from __future__ import annotations

import logging
import sys
from typing import Any

from signalbox.serialization.log_filter import RedactingFilter


class Unreadable:
    def __str__(self) -> str:
        raise ValueError("no text")


def make_record(message: str, *args: Any, error: ValueError | None = None) -> logging.LogRecord:
    info = None
    if error is not None:
        try:
            raise error
        except ValueError:
            info = sys.exc_info()
    record = logging.LogRecord("signalbox", logging.ERROR, __file__, 1, message, args, info)
    assert RedactingFilter().filter(record)
    return record


def test_a_line_without_secrets_keeps_its_parts() -> None:
    error = ValueError("no secret")
    record = make_record("%s of %d", "one", 2, error=error)
    assert ("%s of %d", ("one", 2)) == (record.msg, record.args)
    assert record.exc_info
    assert error is record.exc_info[1]


def test_secrets_of_a_message_and_of_its_exception_are_hidden() -> None:
    record = make_record("It was %s.", "password=hunter2", error=ValueError("token=hunter2"))
    text = logging.Formatter().format(record)
    assert "hunter2" not in text
    assert "password=[redacted]" in text
    assert "ValueError: token=[redacted]" in text
    assert record.exc_info is None


def test_a_line_that_cannot_be_read_is_replaced() -> None:
    record = make_record("It is %s.", Unreadable())
    assert "A log line is left out: its text could not be read." == record.getMessage()


def test_the_logger_has_the_filter() -> None:
    assert any(isinstance(found, RedactingFilter) for found in logging.getLogger("signalbox").filters)
