"""A view with the metrics, for one process or for all processes of a server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import REGISTRY, CollectorRegistry, multiprocess
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

from signalbox.contrib.prometheus.apps import MULTIPROCESS_VARIABLES
from signalbox.contrib.prometheus.metrics import COLLECTOR
from signalbox.core import tracing
from signalbox.pipeline import exporter


def get_registry() -> CollectorRegistry:
    """Return the default registry, or in the multiprocess mode one with the metrics of all processes."""
    folder = next((os.environ[variable] for variable in MULTIPROCESS_VARIABLES if variable in os.environ), None)
    if folder is None:
        return REGISTRY
    forget_ended_processes(Path(folder))
    registry = CollectorRegistry()
    collect_processes: Any = MultiProcessCollector  # it has no types
    collect_processes(registry)
    registry.register(COLLECTOR)
    return registry


def forget_ended_processes(folder: Path) -> None:
    """Remove the values of processes that have ended without reporting it, such as killed ones, from live gauges.

    Args:
        folder: The directory of the multiprocess mode. Its processes run on this machine.
    """
    mark_process_dead: Any = multiprocess.mark_process_dead  # it has no types
    pids = {path.stem.rpartition("_")[2] for path in folder.glob("gauge_live*_*.db")}
    for pid in pids:
        if pid.isdecimal() and not _is_running(int(pid)):
            mark_process_dead(int(pid), str(folder))


def _is_running(pid: int) -> bool:
    if os.name != "posix":  # on Windows, os.kill() ends the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _choose_encoder(accept: str) -> tuple[Any, str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is not a number
        return choose_encoder("")


@login_not_required
@never_cache
@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Respond with all metrics of the registry, in the format that the scraper accepts. The request has no events."""
    trace = tracing.get_current_trace()
    if trace.kind == "request":
        exporter.ignore_trace(trace)
    encode, content_type = _choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(get_registry()), content_type=content_type)


for _alias in connections:  # otherwise an unavailable database would be an error of the view
    transaction.non_atomic_requests(using=_alias)(metrics)


__all__ = ["metrics"]
