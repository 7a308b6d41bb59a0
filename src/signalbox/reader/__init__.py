"""The only reader behind pages, admin and commands: newest first, by key, never counting a table or skipping."""

from __future__ import annotations

from signalbox.reader.filters import Filter, FilterError, ObjectName
from signalbox.reader.following import follow
from signalbox.reader.listening import Listener, Listening, signals
from signalbox.reader.reading import event, events, traces
from signalbox.reader.records import event_record, trace_record
from signalbox.reader.statistics import ReceiverTimes, SignalCounts, Statistics, stats
from signalbox.reader.trees import Node, TraceTree, trace, trace_ids

__all__ = [
    "Filter",
    "FilterError",
    "Listener",
    "Listening",
    "Node",
    "ObjectName",
    "ReceiverTimes",
    "SignalCounts",
    "Statistics",
    "TraceTree",
    "event",
    "event_record",
    "events",
    "follow",
    "signals",
    "stats",
    "trace",
    "trace_ids",
    "trace_record",
    "traces",
]
