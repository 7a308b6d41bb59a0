"""The guide to metrics, traces and logs is true, and its examples work."""

from __future__ import annotations

import io
import json
import logging
import logging.config
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

import signalbox
from signalbox.core import loggers, tracing
from signalbox.pipeline import dropped_events
from tests.contrib import packages

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")


def get_rows(mark: str) -> dict[str, list[str]]:
    """Return the cells of a table by the name in its first column."""
    table = TEXT.partition(f"<!-- {mark} -->")[2].partition(f"<!-- end of {mark} -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" |")] for line in table.splitlines() if line[:3] == "| `"]
    return {name.strip("`"): cells for name, *cells in rows}


def get_code(mark: str) -> str:
    return TEXT.partition(f"<!-- {mark} -->\n```python\n")[2].partition("```")[0]


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    packages.require("prometheus_client")
    from prometheus_client.metrics import MetricWrapperBase

    from signalbox.contrib.prometheus import metrics

    found: dict[str, list[str]] = {}
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            ending = "_total" if metric._type == "counter" else ""
            found[metric._name + ending] = [str(metric._type), ", ".join(f"`{name}`" for name in metric._labelnames)]
    for family in metrics.COLLECTOR.describe():
        labels = ("state", "receiver") if family.name == "signalbox_deliveries" else ()
        found[family.name] = [family.type, ", ".join(f"`{name}`" for name in labels)]
    assert found == {name: cells[:2] for name, cells in get_rows("metrics").items()}


def test_every_metric_in_an_alert_exists_and_every_reason_is_explained() -> None:
    known = get_rows("metrics")
    alerts = TEXT.partition("### Alerts")[2].partition("## Traces")[0]
    names = set(re.findall(r"signalbox_[a-z_]+", alerts))
    assert len(names) >= 6
    assert [] == sorted(name for name in names if name.removesuffix("_bucket") not in known)
    assert [] == [reason for reason in dropped_events.DropReason if f"`{reason}`" not in TEXT]


def test_the_table_of_loggers_is_that_of_the_code() -> None:
    assert set(loggers.NAMES) == get_rows("loggers").keys()


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Configure logging as the guide says, and return what the handler writes to."""
    module = ModuleType("shop.logs")
    exec(get_code("formatter"), module.__dict__)
    monkeypatch.setitem(sys.modules, "shop", ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.logs", module)
    sys.modules["shop"].logs = module  # type: ignore[attr-defined]
    namespace: dict[str, Any] = {}
    exec(get_code("setting"), namespace)
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logging.config.dictConfig(namespace["LOGGING"])
    yield written
    root.handlers[:], root.level = before
    logging.getLogger("signalbox.worker").setLevel(logging.NOTSET)


def test_the_example_of_logging_writes_json_with_the_trace(stream: io.StringIO) -> None:
    with signalbox.trace("work") as trace:
        logging.getLogger("shop.views").info("An order was placed.")
        loggers.get_logger("worker").info("This is below the level.")
    try:
        raise ValueError("token=hunter2")
    except ValueError:
        loggers.get_logger("worker").exception("It failed: %s", "password=hunter2")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert ("shop.views", "INFO", trace.id) == (first["logger"], first["level"], first["signalbox_trace_id"])
    assert "An order was placed." == first["message"]
    assert tracing.get_current_trace().id == second["signalbox_trace_id"]
    assert "It failed: password=[redacted]" == second["message"]
    assert "ValueError: token=[redacted]" in second["exception"]
