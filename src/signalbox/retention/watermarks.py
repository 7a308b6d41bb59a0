"""What a purge stores in the database: watermarks of rules, horizons of senders, and the times of purges."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from django.db.models import Max, Q

from signalbox.core.clock import now_us
from signalbox.models import PurgeState

if TYPE_CHECKING:
    from django.db.models import QuerySet

FULL_SCAN_INTERVAL_US: Final = 7 * 86_400_000_000
"""Time between two scans of the whole table."""

LEASE_US: Final = 600_000_000
"""Time for which a worker that purges holds the lease. It is renewed while the purge runs."""

INTERVAL_US: Final = 3_600_000_000
"""Time between two purges of the workers."""

_WORKERS: Final = "workers"
_LAST_PURGE: Final = "last purge"


def _get_states(alias: str) -> QuerySet[PurgeState]:
    return PurgeState._base_manager.using(alias)


def _ensure(alias: str, *names: str) -> None:
    """Create the rows that do not exist. No signal is sent."""
    existing = set(_get_states(alias).filter(name__in=names).values_list("name", flat=True))
    if missing := [PurgeState(name=name) for name in names if name not in existing]:
        _get_states(alias).bulk_create(missing, ignore_conflicts=True)


def _get_rule_name(rule: str) -> str:
    return f"rule {rule}"


def get_position(alias: str, rule: str) -> int:
    """Return the last id that is not scanned again for a rule; 0 before its first purge."""
    found: int | None = _get_states(alias).filter(name=_get_rule_name(rule)).values_list("position", flat=True).first()
    return found or 0


class Watermark:
    """How far the scan of one rule has come. See ``scanning``."""

    def __init__(self, alias: str, rule: str, fingerprint: str) -> None:
        self._alias, self._name = alias, _get_rule_name(rule)
        # MariaDB compares names without case: a signal whose name differs in case has the same row.
        self._fingerprint = hashlib.sha256(f"{rule} {fingerprint}".encode()).hexdigest()
        _ensure(alias, self._name)
        state = self._rows.get()
        is_outdated = state.fingerprint != self._fingerprint
        # A time in the future was written by a process with a wrong clock.
        is_recent = 0 <= now_us() - state.full_scan_at <= FULL_SCAN_INTERVAL_US
        if is_outdated or not (is_recent or state.is_full_scan):
            started = {"fingerprint": self._fingerprint, "full_scan_at": now_us(), "is_full_scan": True}
            self._rows.update(**started, position=0, scanned_to=0)
            state = self._rows.get()
        self.position: int = state.position
        """Each row of the rule up to this id was deleted, or is kept until the next scan of the whole table."""
        self.scanned_to: int = state.scanned_to if state.is_full_scan else state.position
        """The scan continues after this id."""
        self.is_full_scan: bool = state.is_full_scan
        """Whether the whole table is scanned."""

    @property
    def _rows(self) -> QuerySet[PurgeState]:
        return _get_states(self._alias).filter(name=self._name)

    def save(self, *, completed: bool = False) -> None:
        """Store the progress, unless another purge uses another setting. ``completed`` ends a scan of the table."""
        rows = self._rows.filter(fingerprint=self._fingerprint)
        values = {"position": self.position, "scanned_to": self.scanned_to}
        rows.update(**values, **({"is_full_scan": False} if completed else {}))


# ------------------------------------------------------------------ purge horizons


def raise_horizons(alias: str, senders: Iterable[str], time: int) -> None:
    """Store that events of ``senders`` before ``time`` (µs) may have been deleted."""
    names = [f"sender {sender}" for sender in sorted(senders)]
    _ensure(alias, *names)
    _get_states(alias).filter(name__in=names, horizon__lt=time).update(horizon=time)


def get_horizon(alias: str, senders: Iterable[str]) -> int:
    """Return the time (µs) before which events of ``senders`` may have been deleted; 0 if none were."""
    names = [f"sender {sender}" for sender in senders]
    found: int | None = _get_states(alias).filter(name__in=names).aggregate(latest=Max("horizon"))["latest"]
    return found or 0


# ------------------------------------------------------------------ the lease of the workers


def take_lease(alias: str) -> bool:
    """Return whether the purge of the workers is due and this worker does it."""
    _ensure(alias, _WORKERS)
    now = now_us()
    # A time that is further in the future than any next purge was written by a process with a wrong clock.
    rows = _get_states(alias).filter(Q(run_at__lte=now) | Q(run_at__gt=now + 2 * INTERVAL_US), name=_WORKERS)
    return rows.exists() and rows.update(run_at=now + LEASE_US) == 1


def renew_lease(alias: str) -> None:
    """Hold the lease for longer."""
    _get_states(alias).filter(name=_WORKERS).update(run_at=now_us() + LEASE_US)


def end_lease(alias: str, started: int) -> None:
    """End the lease. The next purge is due one interval after ``started`` (µs)."""
    _get_states(alias).filter(name=_WORKERS).update(run_at=started + INTERVAL_US)


# ------------------------------------------------------------------ the times of purges


def set_last_purge(alias: str, started: int) -> None:
    """Store when the last complete purge by the rules has started (µs)."""
    _ensure(alias, _LAST_PURGE)
    _get_states(alias).filter(name=_LAST_PURGE).update(run_at=started)


def get_last_purge(alias: str) -> int | None:
    """Return when the last complete purge by the rules has started (µs); ``None`` without one."""
    return _get_states(alias).filter(name=_LAST_PURGE).values_list("run_at", flat=True).first()


def get_next_purge(alias: str) -> int | None:
    """Return when a worker purges next (µs); ``None`` if no worker has purged."""
    return _get_states(alias).filter(name=_WORKERS, run_at__gt=0).values_list("run_at", flat=True).first()
