"""The senders of one signal: in its recent sends, or in the counts of recent traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from signalbox.models import Trace
from signalbox.queries.recent_sends import RecentSend
from signalbox.queries.stats import MAX_TRACES


@dataclass(slots=True)
class SenderSummary:
    """The sends of one sender."""

    sender: str
    sends: int = 0
    errors: int = 0
    """Exceptions that receivers raised."""
    newest: int | None = None
    """Time of the newest send in microseconds; ``None`` for counted sends."""


def summarize_senders(sends: Iterable[RecentSend]) -> list[SenderSummary]:
    """Return the senders of ``sends``, given newest first; the most frequent sender first."""
    found: dict[str, SenderSummary] = {}
    for send in sends:
        summary = found.setdefault(send.sender, SenderSummary(send.sender, newest=send.time))
        summary.sends += 1
        summary.errors += send.errors
    return sorted(found.values(), key=lambda summary: (-summary.sends, summary.sender))


def count_senders_in_traces(signal: str) -> list[SenderSummary]:
    """Return the senders of a counted signal in the newest ``MAX_TRACES`` traces, the most frequent first."""
    counted: Counter[str] = Counter()
    for counts in Trace.objects.order_by("-id").values_list("data__send_counts", flat=True)[:MAX_TRACES]:
        counted.update((counts or {}).get(signal) or {})
    return [SenderSummary(sender, sends=number) for sender, number in counted.most_common()]
