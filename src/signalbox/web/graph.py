"""The map: which receivers listen to which signals of which senders, how often they ran and how they are."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from django.apps import apps
from django.dispatch import Signal

from signalbox import catalog, receivers
from signalbox.models import Event
from signalbox.recording import watched
from signalbox.recording.arguments import sender_label
from signalbox.web import formats

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
    """``ok``, ``dead``, ``failing``, ``slow`` or ``idle``."""
    calls: int = 0
    errors: int = 0
    p90: int | None = None
    """Microseconds that nine of ten runs took at most."""
    error: str = ""
    """What it raised last."""
    source: str = ""


@dataclass(slots=True)
class Runs:
    """How one receiver of one signal did."""

    calls: int = 0
    errors: int = 0
    error: str = ""
    times: list[int] = field(default_factory=list)
    senders: dict[str, int] = field(default_factory=dict)


def edges(*, source: bool = False) -> list[Edge]:
    """Return every connection of the process with what the latest events say of it; ``source`` adds excerpts."""
    ran = _runs(Event.objects.order_by("-id").values_list("signal", "sender", "data")[:EVENTS])
    found = [edge for name, signal in signals().items() for edge in edges_of(name, signal, ran, source=source)]
    return sorted(found, key=lambda edge: (edge.django, edge.group, edge.signal, edge.sender, edge.receiver))


def signals() -> dict[str, Signal]:
    """Return the signals of Django and those of the project that are recorded, by name."""
    found = {name: catalog.signal(entry) for name, entry in catalog.BUILTIN.items() if entry.path}
    return found | {name: signal for signal, name in watched().items() if name not in found}


def _runs(events: Iterable[tuple[str, str, Any]]) -> dict[tuple[str, str], Runs]:
    found: dict[tuple[str, str], Runs] = {}
    for signal, sender, data in events:
        for run in (data.get("receivers") if isinstance(data, Mapping) else None) or ():
            runs = found.setdefault((signal, run["name"]), Runs())
            runs.calls += 1
            runs.senders[sender] = runs.senders.get(sender, 0) + 1
            if run.get("us") is not None:
                runs.times.append(run["us"])
            if run.get("error"):
                runs.errors += 1
                runs.error = runs.error or run["error"]
    return found


def edges_of(name: str, signal: Signal, ran: Mapping[tuple[str, str], Runs], *, source: bool) -> Iterator[Edge]:
    """Yield the connections of one signal; ``ran`` says how receivers did, by signal and name."""
    for connected in receivers.connected(signal):
        receiver = connected.receiver
        called = "(collected)" if receiver is None else receivers.name(receiver)
        runs = ran.get((name, called), Runs())
        sender = ANY if connected.any_sender else sender_label(connected.sender) or UNKNOWN
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
            health=_health(receiver is None, runs, p90),
            calls=runs.calls if connected.any_sender else runs.senders.get(sender, runs.calls),
            errors=runs.errors,
            p90=p90,
            error=runs.error,
            source=excerpt(receiver) if source else "",
        )


def _health(dead: bool, runs: Runs, p90: int | None) -> str:
    if dead:
        return "dead"
    if runs.errors:
        return "failing"
    if p90 is not None and p90 >= SLOW:
        return "slow"
    return "ok" if runs.calls else "idle"


def _app(dotted: str) -> str:
    """Return the label of the installed app that a dotted name belongs to, else its first part."""
    fitting = [config for config in apps.get_app_configs() if dotted.startswith(f"{config.name}.")]
    return max(fitting, key=lambda config: len(config.name)).label if fitting else dotted.partition(".")[0]


def excerpt(receiver: Any) -> str:
    """Return the first lines of a receiver's source; empty where it can't be read."""
    code = receivers.code_of(receiver)
    if code is None:
        return ""
    lines = (linecache.getline(code.co_filename, code.co_firstlineno + number) for number in range(EXCERPT))
    return "".join(lines).rstrip()


def as_json(found: Iterable[Edge]) -> list[dict[str, Any]]:
    """Return edges as plain values."""
    return [asdict(edge) for edge in found]
