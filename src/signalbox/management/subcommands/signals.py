"""``manage.py signalbox signals``: every signal and its receivers."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from signalbox import conf
from signalbox.instrumentation import recording_state
from signalbox.instrumentation.recording_filter import RecordingFilter
from signalbox.management.output.screen import Output, Screen
from signalbox.management.output.table import Cell, Column
from signalbox.management.subcommands import options as shared
from signalbox.outbox import registry
from signalbox.queries.signal_listeners import Listener, SignalListeners, get_signal_listeners
from signalbox.queries.stats import DEFAULT_LIMIT

COLUMNS: Final = (
    Column(title="signal", width=40, min_width=14, keep_end=True),
    Column(title="events", width=7, min_width=6, drop_order=1, align_right=True),
    Column(title="receiver", width=60, min_width=16, keep_end=True),
    Column(title="sender", width=30, min_width=10, drop_order=2, keep_end=True),
    Column(title="reference", width=12, min_width=6, drop_order=3),
    Column(title="location", width=50, min_width=14, drop_order=4, keep_end=True),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add its options."""
    shared.add_output_options(parser)
    shared.add_filter_options(parser)
    shared.add_time_options(parser)
    shared.add_limit_option(parser, "count the newest N events", DEFAULT_LIMIT)


def run(options: Mapping[str, Any], stdout: Output) -> int:
    """Write the signals in the order of Django's groups, those of the project last. Return 1 without any."""
    screen = Screen(stdout, options)
    recorded_signals = recording_state.get_recorded_signals()
    found = get_signal_listeners(
        recorded_signals,
        set() if conf.is_disabled() else RecordingFilter(conf.get()).signal_names | set(recorded_signals.values()),
        shared.parse_filter(options),
        durable_receivers=[(signal, sender, one.function) for signal, sender, one in registry.get_subscriptions()],
        limit=options["limit"],
        using=options["using"],
    )
    if options["json"]:
        for one in found:
            screen.write_json(signal_to_dict(one))
    else:
        screen.write_table(COLUMNS, [row for one in found for row in _build_rows(one)])
        screen.write_text(f"Counted over the newest {options['limit']} events that were asked for.", "dim")
    return 0 if found else 1


def signal_to_dict(listeners: SignalListeners) -> dict[str, Any]:
    """Return a signal as a JSON-able dict."""
    entry = listeners.info
    return {
        "signal": listeners.name,
        "group": listeners.group,
        "path": listeners.name if entry is None else entry.path,
        "counterpart": None if entry is None else entry.counterpart,
        "recorded": listeners.is_recorded,
        "events": listeners.event_count,
        "receivers": [asdict(listener) for listener in listeners.listeners],
    }


def _build_rows(listeners: SignalListeners) -> Iterator[list[Cell]]:
    counted = str(listeners.event_count) if listeners.is_recorded else "off"
    named = [Cell(listeners.name, "cyan"), Cell(counted, "" if listeners.event_count else "dim")]
    for listener in listeners.listeners or (None,):
        yield [*named, *_listener_cells(listener)]
        named = [Cell(""), Cell("")]


def _listener_cells(listener: Listener | None) -> list[Cell]:
    if listener is None:
        return [Cell("-", "dim"), Cell(""), Cell(""), Cell("")]
    flags = ["dead" if listener.dead else "durable" if listener.durable else "weak" if listener.weak else "strong"]
    if listener.is_async:
        flags.append("async")
    uid = f" uid={listener.dispatch_uid}" if listener.dispatch_uid else ""
    return [
        Cell((listener.name or "(collected)") + uid, "red" if listener.dead else ""),
        Cell("any" if listener.sender is None else listener.sender),
        Cell(" ".join(flags), "red" if listener.dead else "dim"),
        Cell(listener.location, "dim"),
    ]
