"""Kills a process before each statement of an operation, and compares the row with its records."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, NoReturn

from django.db import connection

from benchmarks.comparison.models import Order
from benchmarks.comparison.records import Records


def count_crashes(save: Callable[[int], object], keys: Iterable[int]) -> dict[str, int]:
    """Return the number of ``crashes``, of rows without a record (``lost``) and of records without a row (``phantom``).

    Each process saves an order with the next of ``keys``, and is killed before a later statement than the one before,
    until one is not killed.
    """
    found = {"crashes": 0, "lost": 0, "phantom": 0}
    records = Records()
    for number, key in enumerate(keys, start=1):
        connection.close()
        child = os.fork()
        if child == 0:
            _run_child(lambda key=key: save(key), number)  # type: ignore[misc]
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status):
                raise RuntimeError("the save failed in the process that was to be killed")
            return found
        saved = Order.objects.filter(pk=key).exists()
        recorded = any(str(key) in text for _, text in records.read())
        found["crashes"] += 1
        found["lost"] += saved and not recorded
        found["phantom"] += recorded and not saved
    raise RuntimeError("the save did not end; more keys are needed")


def _run_child(work: Callable[[], object], number: int) -> NoReturn:
    """Kill this process before its statement ``number``, counted by the driver; exit if there are fewer."""
    connection.ensure_connection()
    statements = count(1)

    def at_statement(*_: object) -> None:
        if next(statements) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if connection.vendor == "sqlite":
        connection.connection.set_trace_callback(at_statement)
    else:
        import psycopg

        wait = psycopg.Connection.wait

        def wait_for(self: Any, *arguments: Any, **named: Any) -> Any:
            at_statement()
            return wait(self, *arguments, **named)

        psycopg.Connection.wait = wait_for  # type: ignore[method-assign]
    succeeded = False
    try:
        work()
        succeeded = True
    finally:
        os._exit(0 if succeeded else 1)  # this process shares the pipes of its parent
