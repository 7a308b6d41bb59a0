"""The only reader behind pages, admin and commands: newest first, by key, never counting a table or skipping."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from signalbox.history.filters import Filter, FilterError, ObjectName
from signalbox.history.following import follow
from signalbox.history.listening import Listener, Listening, signals
from signalbox.history.reading import event, events, traces
from signalbox.history.records import event_record, trace_record
from signalbox.history.statistics import ReceiverTimes, SignalCounts, Statistics, stats
from signalbox.history.trees import Node, TraceTree, trace

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
    "trace_record",
    "traces",
]


class _Callable(ModuleType):
    """This package has the name of the public function ``signalbox.history(obj)``, and takes its place in ``signalbox``
    once it is imported: so it can be called as well."""

    def __call__(self, *args: Any, **named: Any) -> Any:
        return import_module("signalbox.objects").history(*args, **named)


sys.modules[__name__].__class__ = _Callable
