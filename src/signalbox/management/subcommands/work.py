"""``manage.py signalbox work``: run durable receivers, or dispatch them to a task queue."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from django.core.management import CommandError
from django.db import connections

from signalbox import conf
from signalbox.outbox import registry
from signalbox.outbox.supervisor import Supervisor
from signalbox.outbox.worker import EXIT_STUCK_RECEIVER, Worker, WorkerOptions
from signalbox.retention.background import purge_hourly

if TYPE_CHECKING:
    import argparse

    from django.core.management.base import OutputWrapper


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="number of deliveries that run at the same time (1)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="number of processes, each with --threads threads (1)"
    )
    parser.add_argument(
        "--queue", action="append", default=[], metavar="NAME", help="process only this queue; repeatable"
    )
    parser.add_argument(
        "--database",
        action="append",
        default=[],
        choices=tuple(connections),
        metavar="ALIAS",
        help=f"also work on this database, one of {', '.join(connections)}; repeatable",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=30,
        metavar="S",
        help="seconds after which running receivers are no longer waited for (30)",
    )
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument("--once", action="store_true", help="end after one delivery, or if none is due")
    ends.add_argument("--burst", action="store_true", help="end when no delivery is due")


def run(options: dict[str, Any], stdout: OutputWrapper) -> int:
    """Run the worker until it is stopped. Return its exit code."""
    for name in ("threads", "processes"):
        if options[name] < 1:
            raise CommandError(f"--{name} {options[name]}: a number of 1 or more was expected.", returncode=2)
    dispatcher = conf.get().DURABLE.DISPATCHER
    chosen = WorkerOptions(
        threads=options["threads"],
        queues=tuple(options["queue"]),
        databases=tuple(options["database"]),
        once=options["once"],
        burst=options["burst"],
        grace=options["grace"],
        upkeep=partial(purge_hourly, databases=tuple(options["database"])),
    )
    if dispatcher in ("celery", "tasks"):
        from signalbox.outbox.dispatch.relay import Relay

        worker: Worker | Supervisor | Relay = Relay(chosen, dispatcher)
    elif options["processes"] > 1 and not options["once"]:
        worker = Supervisor(options["processes"], chosen)
    else:
        worker = Worker(chosen)
    if stdout.isatty():
        stdout.write(f"{_describe_receivers()} Ctrl-C stops the worker.")
        stdout.flush()
    status = worker.run()
    if worker.reload:
        stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the same program, with new code
    if status == EXIT_STUCK_RECEIVER:  # the interpreter would wait for the threads of stuck receivers
        stdout.flush()
        logging.shutdown()
        os._exit(status)
    return status


def _describe_receivers() -> str:
    number = len(registry.get_durable_receivers())
    if not number:
        return "No durable receiver is connected: import its module in ready() of its app."
    return "1 durable receiver is connected." if number == 1 else f"{number} durable receivers are connected."
