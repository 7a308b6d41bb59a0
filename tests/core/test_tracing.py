from __future__ import annotations

import contextvars
import os
import threading

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from hypothesis import given
from hypothesis import strategies as st

import signalbox
from signalbox.core import tracing
from signalbox.core.tracing import Trace
from signalbox.pipeline import batches, serializer

PARENT = "00f067aa0ba902b7"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


# ------------------------------------------------------------------ traceparent


def test_a_traceparent_is_read_as_the_specification_says() -> None:
    assert (TRACE_ID, PARENT) == tracing.parse_traceparent(f"00-{TRACE_ID}-{PARENT}-01")
    assert (TRACE_ID, PARENT) == tracing.parse_traceparent(f" 00-{TRACE_ID}-{PARENT}-00 ")


def test_a_later_version_may_append_fields() -> None:
    assert (TRACE_ID, PARENT) == tracing.parse_traceparent(f"01-{TRACE_ID}-{PARENT}-01-what-comes")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        f"00-{TRACE_ID}-{PARENT}",
        f"00-{TRACE_ID}-{PARENT}-01-more",
        f"ff-{TRACE_ID}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT}-01",
        f"00-{TRACE_ID[:-1]}-{PARENT}-01",
        f"00-{TRACE_ID[:-1]}٣-{PARENT}-01",
        f"00-{TRACE_ID}-{PARENT}-01\n00-{TRACE_ID}-{PARENT}-01",
    ],
)
def test_an_invalid_traceparent_is_none(header: str) -> None:
    assert tracing.parse_traceparent(header) is None


@given(st.text())
def test_no_header_raises(header: str) -> None:
    tracing.parse_traceparent(header)


def test_a_trace_is_carried_on_by_a_valid_traceparent() -> None:
    trace = Trace("custom", "export")
    found = tracing.parse_traceparent(tracing.build_traceparent(trace))

    assert found is not None
    assert trace.id == found[0]


# ------------------------------------------------------------------ spans


def test_events_are_numbered_in_order_within_a_trace() -> None:
    trace = Trace("custom", "count")
    spans = [trace.next_span() for _ in range(3)]

    assert [spans[0], spans[0] + 1, spans[0] + 2] == spans
    assert 3 == trace.count_events()


def test_two_processes_of_one_trace_do_not_number_alike() -> None:
    first, second = (Trace("task", "t", trace_id=TRACE_ID) for _ in range(2))

    assert first.next_span() >> tracing.SPAN_BITS != second.next_span() >> tracing.SPAN_BITS


def test_a_span_fits_a_bigint() -> None:
    assert all(0 <= Trace("custom", "w").next_span() < 2**63 for _ in range(1000))


# ------------------------------------------------------------------ which trace is current


def test_traces_nest_and_each_is_current_until_it_is_left() -> None:
    before = tracing.get_current_trace()
    with signalbox.trace("outer") as outer:
        with signalbox.trace("inner") as inner:
            assert tracing.get_current_trace() is inner
        assert tracing.get_current_trace() is outer
    assert tracing.get_current_trace() is before


def test_a_trace_that_fails_is_left_as_well() -> None:
    before = tracing.get_current_trace()
    with pytest.raises(ValueError, match="no coal"), signalbox.trace("outer") as trace:
        raise ValueError("no coal")

    assert tracing.get_current_trace() is before
    assert "failed" == trace.status


def test_leaving_an_outer_trace_leaves_the_inner_ones() -> None:
    before = tracing.get_current_trace()
    outer, inner = Trace("custom", "outer"), Trace("custom", "inner")
    tracing.activate(outer)
    tracing.activate(inner)

    assert tracing.deactivate(outer)
    assert tracing.get_current_trace() is before
    assert not tracing.deactivate(inner)
    assert tracing.get_current_trace() is before


def test_a_new_thread_belongs_to_no_trace() -> None:
    seen = []
    with signalbox.trace("main", actor="ann"):
        thread = threading.Thread(
            target=lambda: seen.append((tracing.get_current_trace(), tracing.get_current_trace().get_actor()))
        )
        thread.start()
        thread.join()

    assert [(tracing.get_process_trace(), None)] == seen


def test_work_of_an_event_loop_and_its_threads_belongs_to_the_current_trace() -> None:
    async def work() -> list[Trace]:
        return [tracing.get_current_trace(), await sync_to_async(tracing.get_current_trace)()]

    with signalbox.trace("around") as trace:
        assert [trace, trace] == async_to_sync(work)()


def test_outside_of_every_trace_it_is_the_process_s() -> None:
    current = contextvars.Context().run(tracing.get_current_trace)

    assert tracing.get_process_trace() is current
    assert tracing.is_process_trace(current)
    assert "process" == current.kind


def test_the_process_s_trace_is_written_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing.release_process_trace(tracing.get_process_trace())
    monkeypatch.setattr("sys.argv", ["/srv/import.py", "--password=hunter2", "x"])
    row = serializer.build_trace_row(tracing.get_process_trace())
    tracing.release_process_trace(tracing.get_process_trace())
    assert "import.py --password=[redacted]" == row[[name for name, _ in batches.TRACE_COLUMNS].index("name")]


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_has_a_trace_of_its_own_and_leaves_the_parent_s_events_to_it() -> None:
    with signalbox.trace("parent") as trace:
        trace.pending.append(None)  # type: ignore[arg-type]
        before, process = trace.next_span(), tracing.get_process_trace()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            ok = trace.pending == [] and trace.next_span() >> tracing.SPAN_BITS != before >> tracing.SPAN_BITS
            ok = ok and tracing.get_process_trace() is not process
            os.write(writing, b"1" if ok else b"0")
            os._exit(0)
        os.waitpid(child, 0)
        answer = os.read(reading, 1)
        os.close(reading)
        os.close(writing)
        assert 1 == len(trace.pending)
        trace.pending.clear()
    assert b"1" == answer
