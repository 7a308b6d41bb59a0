"""The line that shows the progress of long work."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest

from signalbox.core import clock
from signalbox.management.output.progress import CLEAR_LINE, Progress, format_seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Watch:
    """A clock that the test moves."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(clock, "monotonic", watch)
    return watch


def test_the_line_is_shown_only_on_a_terminal() -> None:
    terminal, pipe, hidden = Terminal(), io.StringIO(), Terminal()
    for progress in (Progress(terminal), Progress(pipe), Progress(hidden, is_shown=False)):
        progress.update("events", 0.5, "12 deleted")
        progress.clear()
    assert f"{CLEAR_LINE}events  [############------------]   50%  12 deleted{CLEAR_LINE}" == terminal.getvalue()
    assert ["", ""] == [pipe.getvalue(), hidden.getvalue()]


def test_it_is_stderr_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    Progress().update("events", 1.0)
    assert f"{CLEAR_LINE}events  [########################]  100%" == terminal.getvalue()


def test_the_time_that_is_left_is_estimated_from_the_work_so_far(watch: Watch) -> None:
    progress = Progress(terminal := Terminal())
    progress.update("events", 0.0)
    watch.now += 20
    progress.update("events", 0.25)
    assert terminal.getvalue().endswith(" 25%  about 60 s left")


def test_it_is_drawn_ten_times_a_second_and_at_the_end(watch: Watch) -> None:
    progress = Progress(terminal := Terminal())
    for percent in range(101):
        progress.update("events", percent / 100)
        watch.now += 0.01
    assert 11 == terminal.getvalue().count(CLEAR_LINE)
    assert terminal.getvalue().endswith("100%")


def test_another_work_begins_its_own_estimate(watch: Watch) -> None:
    progress = Progress(terminal := Terminal())
    progress.update("events", 0.5)
    watch.now += 50
    progress.update("traces", 0.5)
    assert "left" not in terminal.getvalue()


def test_an_unknown_fraction_shows_only_the_note() -> None:
    Progress(terminal := Terminal()).update("default", None, "20 rows erased")
    assert f"{CLEAR_LINE}default  20 rows erased" == terminal.getvalue()


def test_a_line_is_not_longer_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    Progress(terminal := Terminal()).update("events", 0.5, "a long note" * 9)
    assert 29 == len(terminal.getvalue().removeprefix(CLEAR_LINE))


def test_nothing_is_cleared_if_nothing_was_shown() -> None:
    Progress(terminal := Terminal()).clear()
    assert "" == terminal.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(4, "4 s"), (600, "10 min"), (9000, "2.5 h")])
def test_estimates_are_short(seconds: float, text: str) -> None:
    assert text == format_seconds(seconds)
