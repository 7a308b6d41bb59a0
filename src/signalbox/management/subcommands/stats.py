"""``manage.py signalbox stats``: how often signals were sent, how long receivers ran."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Final

from django.utils import timezone

from signalbox.core.event import Outcome
from signalbox.management.output.events import style_of
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.output.text import took
from signalbox.management.subcommands import options as shared
from signalbox.queries.stats import WINDOW, ReceiverTimes, SignalCounts, Statistics
from signalbox.queries.stats import stats as sum_up

SIGNALS: Final = (
    Column(title="signal", width=50, least=14, end=True),
    Column(title="events", width=9, least=6, right=True),
    *(Column(title=outcome.value.replace("_", " "), width=11, least=4, right=True, rank=1) for outcome in Outcome),
    Column(title="errors", width=8, least=6, right=True, rank=2),
)

RECEIVERS: Final = (
    Column(title="receiver", width=60, least=16, end=True),
    Column(title="signal", width=30, least=10, rank=3, end=True),
    Column(title="runs", width=8, least=5, right=True),
    Column(title="errors", width=8, least=6, right=True, rank=1),
    Column(title="total", width=8, least=8, right=True, rank=2),
    Column(title="median", width=8, least=8, right=True, rank=5),
    Column(title="p95", width=8, least=8, right=True),
    Column(title="longest", width=8, least=8, right=True, rank=4),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output(parser)
    shared.add_filter(parser)
    shared.add_times(parser)
    parser.add_argument(
        "--limit",
        type=shared.number,
        default=WINDOW,
        metavar="N",
        help=f"look at the newest N events (default {WINDOW})",
    )


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write two tables: signals by outcome, receivers by time."""
    screen = Screen(stdout, options)
    found = sum_up(shared.wanted(options), limit=options["limit"], using=options["using"])
    if options["json"]:
        for signal in found.signals:
            screen.json(signal_record(signal))
        for receiver in found.receivers:
            screen.json(receiver_record(receiver))
        return 0
    screen.text(_summary(found))
    if found.signals:
        screen.line()
        screen.table(SIGNALS, map(_signal, found.signals))
    if found.receivers:
        screen.line()
        screen.table(RECEIVERS, map(_receiver, found.receivers))
    return 0


def signal_record(signal: SignalCounts) -> dict[str, Any]:
    """Return a signal's counts as a JSON-able dict."""
    outcomes = {outcome.value: signal.outcomes.get(outcome.value, 0) for outcome in Outcome}
    return {"signal": signal.signal, "events": signal.events, **outcomes, "errors": signal.errors}


def receiver_record(receiver: ReceiverTimes) -> dict[str, Any]:
    """Return a receiver's times as a JSON-able dict."""
    return {
        "receiver": receiver.receiver,
        "place": receiver.place,
        "signal": receiver.signal,
        "runs": receiver.runs,
        "errors": receiver.errors,
        "total_us": receiver.total,
        "median_us": receiver.median,
        "p95_us": receiver.p95,
        "longest_us": receiver.longest,
    }


def _summary(found: Statistics) -> str:
    if found.first is None or found.last is None:
        return "There are no such events."
    first, last = timezone.localtime(found.first), timezone.localtime(found.last)
    rest = "" if found.complete else "; older ones are left out"
    return f"{found.events} events from {first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S}{rest}"


def _signal(signal: SignalCounts) -> list[Cell]:
    return [
        Cell(signal.signal, "cyan"),
        Cell(str(signal.events)),
        *(_number(signal.outcomes.get(outcome.value, 0), style_of(outcome)) for outcome in Outcome),
        _number(signal.errors, "bold red"),
    ]


def _receiver(receiver: ReceiverTimes) -> list[Cell]:
    return [
        Cell(receiver.receiver),
        Cell(receiver.signal, "cyan"),
        Cell(str(receiver.runs)),
        _number(receiver.errors, "bold red"),
        *(Cell(took(time)) for time in (receiver.total, receiver.median, receiver.p95, receiver.longest)),
    ]


def _number(number: int, style: str) -> Cell:
    return Cell(str(number), style if number else "dim")
