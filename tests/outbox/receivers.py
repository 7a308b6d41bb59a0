"""Durable receivers for tests. Workers import this module. Each call appends lines to a file."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asgiref.sync import sync_to_async
from django.db.models.signals import post_delete, post_save

import signalbox

if TYPE_CHECKING:
    from signalbox.models import Event


def write_line(*values: object) -> None:
    """Append a line to the file ``SIGNALBOX_TEST_NOTES``, in one write."""
    with open(os.environ["SIGNALBOX_TEST_NOTES"], "a", buffering=1) as file:
        file.write(" ".join(map(str, values)) + "\n")


def saves_with_number(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("number", instance.pk, getattr(instance, "number", ""), delivery.id, delivery.attempt)


def saved(sender: Any, instance: Any, created: bool, delivery: Any, **kwargs: Any) -> None:
    write_line("saved", instance.pk, delivery.id, delivery.attempt)


def saves_itself(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("saved", instance.pk, delivery.id, delivery.attempt)
    instance.save()


def saves_itself_in_a_trace(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("saved", instance.pk, delivery.id, delivery.attempt)
    with signalbox.trace("nested"):
        instance.save()


def get_saved_note(event: Event) -> str:
    """Return the recorded note of a saved order."""
    changes = event.data.get("changes")
    found: str = changes["note"][-1] if changes else event.data["row"]["note"]
    return found


def saves_with_times(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    """Write the time, process and thread at the start and the end of a call, with the note of the order."""
    text = get_saved_note(delivery.event)
    facts = (instance.pk, text, delivery.id, delivery.attempt, os.getpgrp(), os.getpid(), threading.get_ident())
    write_line("start", time.monotonic_ns(), *facts)
    time.sleep(random.uniform(0, 0.01))
    write_line("finish", time.monotonic_ns(), *facts)


def fails_once(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("attempted", instance.pk, delivery.id, delivery.attempt)
    if delivery.attempt == 1:
        raise ValueError("the first time never works")
    write_line("saved", instance.pk, delivery.id, delivery.attempt)


def never_works(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("attempted", instance.pk, delivery.id, delivery.attempt)
    raise ValueError("password=hunter2 is wrong")


def is_killed_once(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("attempted", instance.pk, delivery.id, delivery.attempt)
    if delivery.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def kills_process(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("attempted", instance.pk, delivery.id, delivery.attempt)
    os.kill(os.getpid(), signal.SIGKILL)


def slow(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("started", instance.pk, delivery.id, delivery.attempt)
    time.sleep(float(os.environ.get("SIGNALBOX_TEST_SLOW", "1")))
    write_line("saved", instance.pk, delivery.id, delivery.attempt)


def spins(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("started", instance.pk, delivery.id, delivery.attempt)
    while True:
        time.sleep(0.01)


def exits(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("attempted", instance.pk, delivery.id, delivery.attempt)
    sys.exit(3)


async def cancelled(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("attempted", instance.pk, delivery.id, delivery.attempt)
    other = asyncio.ensure_future(asyncio.sleep(10))
    await asyncio.sleep(0)
    other.cancel()
    await other


def interrupted(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


async def asynchronously_slow(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    await asyncio.sleep(10)


END_FDS: list[int] = []
"""A file descriptor that a test of this process makes readable, to end the stuck receivers."""


def _get_stuck_seconds() -> float:
    return float(os.environ.get("SIGNALBOX_TEST_STUCK", "60"))


def _be_stuck() -> None:
    """Wait in C code, in which no exception is raised."""
    select.select(END_FDS, [], [], _get_stuck_seconds())


def stuck(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("started", instance.pk, delivery.id, delivery.attempt)
    _be_stuck()


def stuck_in_a_pool(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    with ThreadPoolExecutor() as pool:  # the interpreter waits for its thread at exit
        pool.submit(_be_stuck).result()


async def blocks_event_loop(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    _be_stuck()  # it blocks the loop, which can't cancel it


async def blocks_pool_thread(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    await sync_to_async(_be_stuck)()


async def swallows_cancellation(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    end = time.monotonic() + _get_stuck_seconds()
    while time.monotonic() < end and not select.select(END_FDS, [], [], 0)[0]:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)


async def asynchronous(sender: Any, instance: Any, delivery: Any, **kwargs: Any) -> None:
    write_line("saved", instance.pk, delivery.id, delivery.attempt)


def register() -> None:
    """Register the receivers in SIGNALBOX_TEST_DURABLE: ``receiver:signal:sender:option=value:...``, by spaces."""
    signals = {"post_save": post_save, "post_delete": post_delete}
    for one in os.environ.get("SIGNALBOX_TEST_DURABLE", "").split():
        name, signal_name, sender, *options = one.split(":")
        chosen = {key: _parse_value(value) for key, value in (option.split("=") for option in options)}
        signalbox.receiver(signals[signal_name], sender=sender, durable=True, **chosen)(globals()[name])


def _parse_value(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return {"None": None}.get(text, text)


register()
