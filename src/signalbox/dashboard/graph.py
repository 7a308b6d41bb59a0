"""The map: which receivers listen to which signals of which senders, how often they ran and how they are."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.dispatch import Signal

from signalbox.core import catalog, receivers
from signalbox.dashboard import formats
from signalbox.instrumentation.install import watched
from signalbox.models import Event
from signalbox.outbox import registry
from signalbox.serialization.signal_arguments import sender_label

EVENTS: Final = 5_000
"""How many of the latest events say how receivers did."""

SLOW: Final = 50_000
"""Microseconds from which a receiver's slowest tenth makes it slow."""

ANY: Final = "any sender"
"""What a receiver of every sender listens to."""

UNKNOWN: Final = "?"
"""A sender of which Django keeps nothing but an id."""

EXCERPT: Final = 12
"""Lines of source that are shown of a receiver."""


@dataclass(slots=True)
class Edge:
    """One receiver listening to one signal of one sender."""

    signal: str
    group: str
    sender: str
    receiver: str
    place: str
    app: str
    django: bool
    """Whether the receiver is Django's own."""
    is_async: bool
    health: str
    """``ok``, ``dead``, ``failing``, ``slow``, ``idle``, ``unmeasured`` or ``durable``."""
    calls: int = 0
    errors: int = 0
    p90: int | None = None
    """Microseconds that nine of ten runs took at most."""
    error: str = ""
    """What it raised last."""
    source: str = ""


@dataclass(slots=True)
class Runs:
    """How one receiver of one signal did, with one sender or with all."""

    calls: int = 0
    errors: int = 0
    error: str = ""
    times: list[int] = field(default_factory=list)

    def take(self, run: Mapping[str, Any]) -> None:
        """Count one run; the latest are given first."""
        self.calls += 1
        if run.get("us") is not None:
            self.times.append(run["us"])
        if run.get("error"):
            self.errors += 1
            self.error = self.error or run["error"]


Ran = Mapping[tuple[str, str, str], Runs]
"""How receivers did, by signal, sender and name; of all senders together under ``ANY``."""


def edges(*, source: bool = False) -> list[Edge]:
    """Return every connection of the process with what the latest events say of it, and every durable receiver.

    ``source`` adds excerpts.
    """
    ran = _runs(Event.objects.order_by("-id").values_list("signal", "sender", "data__receivers")[:EVENTS])
    found = [edge for name, signal in signals().items() for edge in edges_of(name, signal, ran, source=source)]
    found += durable_edges(source=source)
    return sorted(found, key=lambda edge: (edge.django, edge.group, edge.signal, edge.sender, edge.receiver))


def signals() -> dict[str, Signal]:
    """Return the signals of Django and those of the project that are recorded, by name."""
    found = {name: catalog.signal(entry) for name, entry in catalog.BUILTIN.items() if entry.path}
    return found | {name: signal for signal, name in watched().items() if name not in found}


def _runs(events: Iterable[tuple[str, str, Any]]) -> dict[tuple[str, str, str], Runs]:
    found: dict[tuple[str, str, str], Runs] = {}
    for signal, sender, ran in events:
        for run in ran or ():
            for heard in (sender, ANY):
                found.setdefault((signal, heard, run["name"]), Runs()).take(run)
    return found


def edges_of(name: str, signal: Signal, ran: Ran, *, source: bool) -> Iterator[Edge]:
    """Yield the connections of one signal; ``ran`` says how receivers did."""
    # pre_init and post_init are counted, not recorded; of others the setting may ask for none.
    measured = name in watched().values()
    for connected in receivers.connected(signal):
        receiver = connected.receiver
        called = "(collected)" if receiver is None else receivers.name(receiver)
        sender = ANY if connected.any_sender else sender_label(connected.sender) or UNKNOWN
        runs = ran.get((name, sender, called), Runs())
        times = sorted(runs.times)
        p90 = times[min(len(times) - 1, len(times) * 9 // 10)] if times else None
        yield Edge(
            signal=name,
            group=formats.group(name),
            sender=sender,
            receiver=called,
            place="" if receiver is None else receivers.place(receiver),
            app=_app(called),
            django=called.startswith("django."),
            is_async=connected.is_async,
            health=_health(receiver is None, measured, runs, p90),
            calls=runs.calls,
            errors=runs.errors,
            p90=p90,
            error=runs.error,
            source=excerpt(receiver) if source else "",
        )


def durable_edges(*, source: bool) -> Iterator[Edge]:
    """Yield what durable receivers wait for. They are not connected; their deliveries tell how they do."""
    for signal, sender, durable in registry.get_subscriptions():
        yield Edge(
            signal=signal,
            group=formats.group(signal),
            sender=ANY if sender is None else sender,
            receiver=durable.name,
            place=receivers.place(durable.function),
            app=_app(durable.name),
            django=False,
            is_async=iscoroutinefunction(durable.function),
            health="durable",
            source=excerpt(durable.function) if source else "",
        )


def _health(dead: bool, measured: bool, runs: Runs, p90: int | None) -> str:
    if dead:
        return "dead"
    if runs.errors:
        return "failing"
    if p90 is not None and p90 >= SLOW:
        return "slow"
    if runs.calls:
        return "ok"
    return "idle" if measured else "unmeasured"


def _app(dotted: str) -> str:
    """Return the label of the installed app that a dotted name belongs to, else its first part."""
    fitting = [config for config in apps.get_app_configs() if dotted.startswith(f"{config.name}.")]
    return max(fitting, key=lambda config: len(config.name)).label if fitting else dotted.partition(".")[0]


def excerpt(receiver: Any) -> str:
    """Return the first lines of a receiver's source without secrets; empty where it can't be read."""
    code = receivers.code_of(receiver)
    if code is None:
        return ""
    lines = (linecache.getline(code.co_filename, code.co_firstlineno + number) for number in range(EXCERPT))
    return registry.get_redactor().text("".join(lines).rstrip())


def as_json(found: Iterable[Edge]) -> list[dict[str, Any]]:
    """Return edges as plain values, each with the number of its row in the table; the source stands there alone."""
    return [asdict(edge) | {"row": row, "source": ""} for row, edge in enumerate(found)]
