"""What the demo prints."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signalbox.models import Event

POLL_SECONDS = 0.3  # seconds between two queries of the event table

FOLDED_FROM = 4  # further events of one signal in a row that are counted instead of printed

RED, GREEN, YELLOW, CYAN, DIM, BOLD = "31", "32", "33", "36", "2", "1"
COLOURS = {"committed": GREEN, "rolled_back": YELLOW, "failed": RED, "sent": DIM}


class Screen:
    """Writes to the terminal, in colour if ``colour`` is true and the terminal supports it."""

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour and sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour else text

    def write_line(self, text: str = "") -> None:
        print(text, flush=True)

    def heading(self, text: str) -> None:
        """Print the heading of the next step, after the events of the previous one."""
        time.sleep(2 * POLL_SECONDS)
        self.write_line(self.paint(f"\n# {text}", BOLD))

    def events(self, events: Sequence[Event]) -> None:
        """Print events. Of many of one signal and outcome in a row, print the first and the number of the others."""
        for _, group in groupby(events, key=lambda event: (event.signal, event.outcome)):
            first, *others = group
            self.event(first)
            if len(others) < FOLDED_FROM:
                for event in others:
                    self.event(event)
            else:
                self.write_line(self.paint(f"{'':12} {others[0].signal.rpartition('.')[2]}: {len(others)} more", DIM))

    def event(self, event: Event) -> None:
        """Print one event on one line."""
        runs = event.data.get("receivers", [])
        receivers = [run["name"].rpartition(".")[2] + (" FAILED" if run["error"] else "") for run in runs]
        if len(receivers) > 3:
            receivers[2:] = [f"{len(receivers) - 2} more"]
        self.write_line(
            " ".join(
                [
                    self.paint(f"{event.timestamp.astimezone():%H:%M:%S.%f}"[:-3], DIM),
                    self.paint(f"{event.signal.rpartition('.')[2]:<21}", CYAN),
                    f"{shorten_path(event.sender, 24):<24}",
                    f"{shorten(event.object_label or event.object_key, 24):<24}",
                    f"{shorten(event.actor_label, 10):<10}",
                    self.paint(f"{event.outcome:<11}", COLOURS[event.outcome]),
                    ", ".join(receivers),
                ]
            ).rstrip()
        )


def shorten(text: str, width: int) -> str:
    """Return the text in at most ``width`` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def shorten_path(path: str, width: int) -> str:
    """Return as many names from the end of a dotted path as fit into ``width`` characters, at least one."""
    while len(path) > width and "." in path:
        path = path.partition(".")[2]
    return path
