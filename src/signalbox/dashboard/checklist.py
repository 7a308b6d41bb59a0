"""The checklist of a first run: what is left to set up. It is computed from existing checks, and stored nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from signalbox import checks, conf
from signalbox.core import clock
from signalbox.dashboard.access import dashboard_view
from signalbox.outbox import queue, registry
from signalbox.queries.status import get_workers

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCTOR_CACHE_SECONDS: Final = 60.0
"""Seconds for which the number of findings is kept, because an examination takes a moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing to set up."""

    title: str
    is_done: bool
    hint: str = ""
    """What is missing."""
    command: str = ""
    """The line to run or to add to the settings."""
    url_name: str = ""
    """The page that shows more."""


def get_steps() -> list[Step]:
    """Return the steps, those that do not apply to this site left out."""
    return [_check_middleware(), *_iter_worker_steps(), _check_retention(), _check_doctor()]


def _check_middleware() -> Step:
    messages = checks.check_installation_order()
    return Step(
        title=_("Signalbox is first in INSTALLED_APPS and MIDDLEWARE"),
        is_done=not messages,
        hint=" ".join(str(message.msg) for message in messages),
        command=" ".join(str(message.hint) for message in messages),
    )


def _iter_worker_steps() -> Iterator[Step]:
    if not registry.get_durable_receivers() or conf.get().DURABLE.DISPATCHER != "worker":
        return
    is_alive = any(worker.is_alive for alias in queue.get_delivery_databases() for worker in get_workers(alias) or ())
    yield Step(
        title=_("A worker runs the durable receivers"),
        is_done=is_alive,
        hint=_("No worker is alive."),
        command="manage.py signalbox work",
        url_name="signalbox:deliveries",
    )


def _check_retention() -> Step:
    return Step(
        title=_("Old events are deleted"),
        is_done=bool(conf.get().RETENTION),
        hint=_("Without RETENTION, events are never deleted."),
        command='SIGNALBOX = {"RETENTION": {"events": 90, "traces": 90, "deliveries": 7}}',
        url_name="signalbox:status",
    )


def _check_doctor() -> Step:
    count = _count_findings()
    return Step(
        title=_("The doctor finds nothing"),
        is_done=count == 0,
        hint=_("The doctor has findings: %(count)d.") % {"count": count},
        command="manage.py signalbox doctor",
        url_name="signalbox:doctor",
    )


_findings: tuple[float, int] | None = None
"""When the doctor has examined this process, and the number of its findings."""


def _count_findings() -> int:
    global _findings
    from signalbox.doctor import examine

    if _findings is None or clock.monotonic() - _findings[0] > DOCTOR_CACHE_SECONDS:
        _findings = clock.monotonic(), len(examine())
    return _findings[1]


def clear_cache() -> None:
    """Examine the process again at the next request."""
    global _findings
    _findings = None


@dashboard_view
@require_GET
def checklist(request: HttpRequest) -> HttpResponse:
    """Return the checklist for htmx. It is empty if everything is done."""
    steps = get_steps()
    context = {"steps": steps, "done_count": sum(step.is_done for step in steps)}
    return render(request, "signalbox/parts/checklist.html", context)
