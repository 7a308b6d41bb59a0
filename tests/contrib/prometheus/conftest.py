"""The metrics, installed for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Samples(Protocol):
    def __call__(self, name: str, **labels: str) -> float: ...


@pytest.fixture
def sample() -> Iterator[Samples]:
    """Install the metrics. Return a function that returns how much a sample has grown since then."""
    from prometheus_client import REGISTRY

    from signalbox.contrib.prometheus import metrics

    metrics.install()
    metrics.COLLECTOR.reset()
    before = {
        (found.name, *sorted(found.labels.items())): found.value
        for family in REGISTRY.collect()
        for found in family.samples
        if family.type != "gauge"
    }

    def get(name: str, **labels: str) -> float:
        now = REGISTRY.get_sample_value(name, labels)
        return (now or 0.0) - before.get((name, *sorted(labels.items())), 0.0)

    yield get
    metrics.uninstall()
