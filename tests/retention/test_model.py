"""Purges by random rules over random rows, compared with a plain evaluation of the rules."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from signalbox.core.attempt import AttemptOutcome
from signalbox.models import Attempt, Delivery, Error, Event, PurgeState, Trace
from signalbox.retention import pace, purging, scanning, watermarks
from signalbox.retention.purging import Purge
from signalbox.retention.rules import DAY_US, RetentionRules
from tests.retention.test_purging import NAMES, SENDERS, SIGNALS, is_deleted

pytestmark = [pytest.mark.django_db, pytest.mark.every_database, pytest.mark.slow]

START_US = 1_700_000_000_000_000
STATES = ("", "", "pending", "dead", "done", "discarded")
TABLES = ("traces", "deliveries", "dead_deliveries")
MODELS = (Event, Trace, Delivery, Attempt, Error, PurgeState)

Rules = dict[str, float | None]

AGES = st.one_of(st.integers(0, 12).map(lambda days: days + 0.5), st.sampled_from([0.01, -2.0, -0.01, 4000.0]))
RULES = st.dictionaries(
    st.sampled_from([*NAMES, *TABLES, *TABLES]), st.one_of(st.none(), st.integers(0, 9)), max_size=6
)
ADD = st.tuples(
    st.just("add"),
    st.tuples(st.sampled_from(SIGNALS), st.sampled_from(SENDERS), AGES),
    st.sampled_from(STATES),
    st.integers(0, 12),  # days since its delivery has finished
    st.integers(0, 4),  # its trace
    st.booleans(),  # whether it has a smaller id than an earlier row
)
ADD_TRACE = st.tuples(st.just("trace"), st.integers(0, 4), AGES, st.integers(0, 3))
FINISH = st.tuples(st.just("finish"))
WAIT = st.tuples(st.just("wait"), st.sampled_from([0.1, 1, 8, -1, -400, 400]))
PURGE = st.tuples(st.just("purge"), st.integers(0, 2), st.sampled_from(["", "", "stop", "kill"]), st.integers(0, 6))
STEPS = st.lists(st.one_of(ADD, ADD, ADD, ADD_TRACE, FINISH, WAIT, PURGE, PURGE), min_size=4, max_size=40)


class KilledError(BaseException):
    """Ends a purge where a killed process would end."""


@dataclass
class World:
    """The clock, and the ids of the next rows."""

    now: int = START_US
    ids: dict[type[Any], list[int]] = field(default_factory=dict)
    full_scans: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By rule: the digest of the setting and the time of the last scan of the whole table."""
    open_scans: dict[str, set[str]] = field(default_factory=dict)
    """By rule: the digests of settings whose scans were interrupted. It is not known whether they had begun."""

    def get_id(self, model: type[Any], *, is_late: bool = False) -> int:
        used = self.ids.setdefault(model, [0])
        new = used[-1] + 10
        if is_late and len(used) > 1:
            new = next(one for one in range(used[1] - 1, -1000, -1) if one not in used)
            used.insert(1, new)
        else:
            used.append(new)
        return new

    def at(self, days: float) -> int:
        return self.now - int(days * DAY_US)


def add(world: World, row: tuple[str, str, float], state: str, finished: int, trace: int, is_late: bool) -> None:
    signal, sender, age = row
    span = world.get_id(Event, is_late=is_late)
    trace_id = f"{trace:032x}"
    Event._base_manager.create(
        id=span + 100_000,
        time=world.at(age),
        trace_id=trace_id,
        span=span,
        signal=signal,
        sender=sender,
        object_key="1",
        object_label="",
        actor_key="",
        actor_label="",
        database="default",
        outcome="committed",
        errors=1,
        data={},
    )
    delivery_id = None
    if state:
        delivery_id = world.get_id(Delivery)
        Delivery._base_manager.create(
            id=delivery_id,
            receiver="r",
            queue="q",
            ordering_key="",
            trace_id=trace_id,
            span=span,
            signal=signal,
            sender=sender,
            object_key="1",
            database="default",
            state=state,
            run_at=0,
            created=0,
            finished=None if state == "pending" else world.at(finished),
            payload={},
        )
        Attempt.objects.create(
            delivery_id=delivery_id, fencing_token=1, number=1, started=1, ended=2, outcome=AttemptOutcome.FAILED
        )
    add_error(trace_id, span, world.at(age), delivery_id)


def add_error(trace_id: str, span: int | None, time: int, delivery_id: int | None = None) -> None:
    Error._base_manager.create(
        trace_id=trace_id,
        span=span,
        position=0,
        delivery_id=delivery_id,
        fingerprint="f",
        time=time,
        exception="E",
        message="",
        file="",
        function="",
        receiver="",
        data={},
    )


def add_trace(world: World, trace: int, age: float, hours: int) -> None:
    trace_id = f"{trace:032x}"
    if Trace._base_manager.filter(trace_id=trace_id).exists():
        return
    time, duration = world.at(age), hours * 3_600_000_000
    Trace._base_manager.create(
        id=world.get_id(Trace),
        trace_id=trace_id,
        kind="request",
        name="",
        actor_key="",
        actor_label="",
        time=time,
        duration=duration or None,
        status="",
        events=0,
        errors=1,
        rolled_back=0,
        data={},
    )
    add_error(trace_id, None, time + duration)


def read(model: type[Any], *columns: str) -> dict[int, tuple[Any, ...]]:
    return {row[0]: row[1:] for row in model._base_manager.values_list("id", *columns)}


def read_all() -> dict[type[Any], dict[int, tuple[Any, ...]]]:
    return {
        Event: read(Event, "time", "signal", "sender", "trace_id", "span"),
        Trace: read(Trace, "time", "duration", "trace_id"),
        Delivery: read(Delivery, "state", "finished", "trace_id", "span"),
        Attempt: read(Attempt, "delivery_id"),
        Error: read(Error, "trace_id", "span", "time"),
    }


@dataclass
class Expected:
    """The ids that a purge may delete."""

    deliveries: set[int]
    events: set[int]
    traces: set[int]
    errors: set[int]


def evaluate(raw: Rules, rows: dict[type[Any], dict[int, tuple[Any, ...]]], now: int) -> Expected:
    """Evaluate the rules as the documentation describes them."""

    def is_old(name: str, time: int) -> bool:
        days = raw.get(name)
        return days is not None and now - time > days * DAY_US

    rules_of_states = {"done": "deliveries", "discarded": "deliveries", "dead": "dead_deliveries"}
    deliveries = {
        id_
        for id_, (state, finished, *_) in rows[Delivery].items()
        if state in rules_of_states and is_old(rules_of_states[state], finished)
    }
    unfinished = {
        (trace_id, span)
        for id_, (state, _, trace_id, span) in rows[Delivery].items()
        if state in ("pending", "dead") and id_ not in deliveries
    }
    days = {name: value for name, value in raw.items() if name not in TABLES}
    events = {
        id_
        for id_, (time, signal, sender, trace_id, span) in rows[Event].items()
        if is_deleted(days, (signal, sender, (now - time) / DAY_US)) and (trace_id, span) not in unfinished
    }
    kept_traces = {row[3] for id_, row in rows[Event].items() if id_ not in events}
    traces = {
        id_
        for id_, (time, duration, trace_id) in rows[Trace].items()
        if is_old("traces", time + (duration or 0)) and trace_id not in kept_traces
    }
    spans = {rows[Event][id_][3:] for id_ in events}
    trace_ids = {rows[Trace][id_][2] for id_ in traces}
    errors = {
        id_
        for id_, (trace_id, span, time) in rows[Error].items()
        if (trace_id, span) in spans or (trace_id in trace_ids and is_old("traces", time))
    }
    return Expected(deliveries, events, traces, errors)


def find_whole_scans(world: World, raw: Rules) -> set[str]:
    """Return the rules whose table a purge scans from the beginning to the end."""
    fingerprint = RetentionRules(raw).fingerprint
    names = {name for name, days in raw.items() if days is not None and name not in TABLES[1:]}
    return {
        name
        for name in names
        if fingerprint not in world.open_scans.get(name, ())
        and (
            name not in world.full_scans
            or world.full_scans[name][0] != fingerprint
            or not 0 <= world.now - world.full_scans[name][1] <= 7 * DAY_US
        )
    }


def purge(world: World, raw: Rules, mode: str = "", limit: int = 0) -> None:
    before = read_all()
    expected = evaluate(raw, before, world.now)
    whole = find_whole_scans(world, raw)
    rules = RetentionRules(raw)
    dry = Purge("default", dry_run=True)
    dry.apply_rules(rules)
    assert before == read_all()
    counted = {
        "deliveries": len(expected.deliveries),
        "events": len(expected.events),
        "traces": len(expected.traces),
    }
    assert counted == sum_up(dry.deleted)

    calls = iter(range(limit))
    found = Purge("default", should_stop=lambda: mode == "stop" and next(calls, None) is None)

    run = found.pace.run

    def run_or_end(delete: Callable[[], Any]) -> Any:
        if mode == "kill" and next(calls, None) is None:
            raise KilledError
        return run(delete)

    found.pace.run = run_or_end  # type: ignore[method-assign]
    has_ended = False
    try:
        found.apply_rules(rules)
    except KilledError:
        has_ended = True
    has_ended = has_ended or (mode == "stop" and next(calls, None) is None)
    after = read_all()
    deleted = {model: before[model].keys() - after[model].keys() for model in before}
    assert deleted[Delivery] <= expected.deliveries
    assert deleted[Event] <= expected.events
    assert deleted[Trace] <= expected.traces
    assert deleted[Error] <= expected.errors
    check_dependent_rows(before, after, deleted)
    if has_ended:
        for name in find_names(raw):
            world.open_scans.setdefault(name, set()).add(rules.fingerprint)
            world.full_scans.pop(name, None)
        return
    for name in whole:
        world.open_scans.pop(name, None)
        world.full_scans[name] = (rules.fingerprint, world.now)
    assert expected.deliveries == deleted[Delivery]
    if whole == find_names(raw):
        assert expected.events == deleted[Event]
        assert expected.traces == deleted[Trace]
        assert expected.errors == deleted[Error]


def find_names(raw: Rules) -> set[str]:
    return {name for name, days in raw.items() if days is not None and name not in TABLES[1:]}


def sum_up(counts: dict[str, int]) -> dict[str, int]:
    found = dict.fromkeys(("deliveries", "events", "traces"), 0)
    for name, count in counts.items():
        found["deliveries" if "deliveries" in name else "traces" if name == "traces" else "events"] += count
    return found


def check_dependent_rows(before: Any, after: Any, deleted: Mapping[type[Any], set[int]]) -> None:
    assert {row[0] for row in after[Attempt].values()} == after[Delivery].keys()
    spans = {before[Event][id_][3:] for id_ in deleted[Event]}
    assert not [row for row in after[Error].values() if row[:2] in spans]
    for id_ in deleted[Event]:
        time, signal, sender, *_ = before[Event][id_]
        if signal in purging.STATE_SIGNALS:
            assert time < watermarks.get_horizon("default", [sender])


@hypothesis_settings(
    max_examples=int(os.environ.get("SIGNALBOX_TEST_EXAMPLES", "40")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
@given(steps=STEPS, settings=st.lists(RULES, min_size=3, max_size=3), window=st.sampled_from([1, 2, 3, 900]))
def test_a_purge_deletes_what_a_plain_evaluation_of_the_rules_deletes(
    steps: list[tuple[Any, ...]], settings: list[Rules], window: int
) -> None:
    for model in MODELS:
        model._base_manager.all().delete()
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PAUSE", "MIN_PAUSE_SECONDS"):
            patch.setattr(pace, name, 0.0)
        patch.setattr(scanning, "WINDOW_ROWS", window)
        for module in (purging, watermarks):
            patch.setattr(module, "now_us", lambda: world.now)
        last = settings[0]
        for kind, *values in steps:
            if kind == "add":
                add(world, *values)
            elif kind == "trace":
                add_trace(world, *values)
            elif kind == "finish":
                Delivery._base_manager.filter(state="pending").update(state="done", finished=world.now)
            elif kind == "wait":
                world.now += int(values[0] * DAY_US)
            else:
                last = settings[values[0]]
                purge(world, last, *values[1:])
        # A purge after more than seven days deletes every row that is due, after any history.
        world.now += 8 * DAY_US
        purge(world, last)
        world.now += 8 * DAY_US
        purge(world, last)
        left = evaluate(last, read_all(), world.now)
        assert Expected(set(), set(), set(), set()) == left
