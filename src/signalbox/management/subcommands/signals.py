"""``manage.py signalbox signals``: every signal, and what listens to it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from signalbox import conf
from signalbox.instrumentation import process
from signalbox.instrumentation.filter import Scope
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.subcommands import options as shared
from signalbox.outbox import registry
from signalbox.queries.signal_listeners import Listener, Listening
from signalbox.queries.signal_listeners import signals as known_signals
from signalbox.queries.stats import WINDOW

COLUMNS: Final = (
    Column(title="signal", width=40, least=14, end=True),
    Column(title="events", width=7, least=6, rank=1, right=True),
    Column(title="receiver", width=60, least=16, end=True),
    Column(title="sender", width=30, least=10, rank=2, end=True),
    Column(title="held", width=12, least=6, rank=3),
    Column(title="place", width=50, least=14, rank=4, end=True),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output(parser)
    shared.add_filter(parser)
    shared.add_times(parser)
    parser.add_argument(
        "--limit", type=shared.number, default=WINDOW, metavar="N", help=f"count the newest N events (default {WINDOW})"
    )


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the signals in the order of Django's groups, those of the project last."""
    screen = Screen(stdout, options)
    watched = process.watched()
    found = known_signals(
        watched,
        Scope(conf.get()).names | set(watched.values()),
        shared.wanted(options),
        durable=[(signal, sender, one.function) for signal, sender, one in registry.get_subscriptions()],
        limit=options["limit"],
        using=options["using"],
    )
    if options["json"]:
        for one in found:
            screen.json(record(one))
    else:
        screen.table(COLUMNS, [row for one in found for row in _rows(one)])
        screen.text(f"Counted over the newest {options['limit']} events that were asked for.", "dim")
    return 0


def record(one: Listening) -> dict[str, Any]:
    """Return a signal as a JSON-able dict."""
    entry = one.entry
    return {
        "signal": one.name,
        "group": one.group,
        "path": one.name if entry is None else entry.path,
        "partner": None if entry is None else entry.partner,
        "recorded": one.recorded,
        "events": one.events,
        "receivers": [asdict(listener) for listener in one.listeners],
    }


def _rows(one: Listening) -> Iterator[list[Cell]]:
    counted = str(one.events) if one.recorded else "off"
    named = [Cell(one.name, "cyan"), Cell(counted, "" if one.events else "dim")]
    for listener in one.listeners or (None,):
        yield [*named, *_listener(listener)]
        named = [Cell(""), Cell("")]


def _listener(listener: Listener | None) -> list[Cell]:
    if listener is None:
        return [Cell("-", "dim"), Cell(""), Cell(""), Cell("")]
    words = ["dead" if listener.dead else "durable" if listener.durable else "weak" if listener.weak else "strong"]
    if listener.is_async:
        words.append("async")
    uid = f" uid={listener.dispatch_uid}" if listener.dispatch_uid else ""
    return [
        Cell((listener.name or "(collected)") + uid, "red" if listener.dead else ""),
        Cell("any" if listener.sender is None else listener.sender),
        Cell(" ".join(words), "red" if listener.dead else "dim"),
        Cell(listener.place, "dim"),
    ]
