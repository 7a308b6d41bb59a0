"""A view for probes and monitoring: whether Signalbox is healthy in the process that answers."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from signalbox.core import clock, interrupts, loggers, tracing
from signalbox.pipeline import exporter
from signalbox.queries.status import get_status
from signalbox.queries.status_problems import find_problems

if TYPE_CHECKING:
    from django.http import HttpRequest

logger = loggers.get_logger("dashboard")

CACHE_SECONDS: Final = 5.0
"""Seconds for which one check answers all requests to this process."""

STALE_SECONDS: Final = 30.0
"""Seconds for which the last check answers while another thread checks again, such as if the database is slow."""

WAIT_SECONDS: Final = 2.0
"""Seconds that a request waits for the check of another thread if the last one is older."""

CHECK_FAILED: Final = "check_failed"
CHECK_TIMED_OUT: Final = "check_timed_out"


class _Check(NamedTuple):
    checked_at: float
    problems: tuple[str, ...]


_last_check: _Check | None = None
_lock = threading.Lock()


@transaction.non_atomic_requests
@never_cache
@login_not_required
@require_safe
def probe(request: HttpRequest) -> HttpResponse:
    """Respond with ``{"status": "ok", "problems": []}``, and status 503 and ``"unhealthy"`` if there is a problem.

    ``problems`` are the codes of ``manage.py signalbox status``, without warnings. No database, host or receiver is
    named. The request is not recorded. A check is repeated after ``CACHE_SECONDS``.
    """
    trace = tracing.get_current_trace()
    if trace.kind == "request":
        exporter.ignore_trace(trace)
    problems = _get_problems()
    content = {"status": "unhealthy" if problems else "ok", "problems": problems}
    return JsonResponse(content, status=503 if problems else 200)


def _get_problems() -> tuple[str, ...]:
    global _last_check
    age = _get_age(_last_check)
    if _last_check is not None and age < CACHE_SECONDS:
        return _last_check.problems
    # Only one thread of a process queries a slow database.
    if not _lock.acquire(timeout=0 if age < STALE_SECONDS else WAIT_SECONDS):
        return _last_check.problems if _last_check is not None and age < STALE_SECONDS else (CHECK_TIMED_OUT,)
    try:
        if _last_check is None or _get_age(_last_check) >= CACHE_SECONDS:
            _last_check = _Check(clock.monotonic(), _check())
        return _last_check.problems
    finally:
        _lock.release()


def _get_age(check: _Check | None) -> float:
    return float("inf") if check is None else clock.monotonic() - check.checked_at


def _check() -> tuple[str, ...]:
    try:
        found = find_problems(get_status(brief=True))
    except Exception as error:
        interrupts.raise_if_interrupt(error)
        logger.exception("The status could not be determined.")
        return (CHECK_FAILED,)
    return tuple(dict.fromkeys(problem.code.value for problem in found if not problem.is_warning))


def clear_cache() -> None:
    """Check again at the next request."""
    global _last_check
    _last_check = None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # the thread that held it does not exist here


os.register_at_fork(after_in_child=_after_fork)
