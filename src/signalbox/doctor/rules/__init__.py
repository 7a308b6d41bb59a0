"""The rules, one module each family; the table of them is the doctor's documentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What a rule says of one place."""

    path: str
    """Absolute path of the file; empty if unknown."""
    line: int
    """Line in the file; 0 if unknown."""
    signal: str
    """The signal by name."""
    receiver: str = ""
    """Dotted name of the receiver."""
    message: str
    """What happens at run time."""
    reason: str
    """Why it happens."""
    hint: str
    """What to write instead."""
    severity: Severity | None = None
    """How much it hurts, where that differs from the rule's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule."""

    id: str
    """Its id for Django's checks."""
    name: str
    """Its name on the command line."""
    severity: Severity
    """How much its findings hurt, as a rule."""
    include_packages: bool
    """Whether it speaks of installed packages unasked; else only when their app is named."""
    needs_recorded_events: bool
    """Whether it needs recorded events."""
    description: str
    """What it finds, in one line."""
    check: Callable[[Project], Iterator[Fault]]
    """Finds it."""


RULES: Final[dict[str, Rule]] = {}
"""Every rule by name, in the order of their ids."""


def rule(
    number: int,
    name: str,
    severity: Severity,
    description: str,
    *,
    include_packages: bool = False,
    needs_recorded_events: bool = False,
) -> Callable[[Callable[[Project], Iterator[Fault]]], Callable[[Project], Iterator[Fault]]]:
    """Register a function as the rule ``signalbox.D<number>``."""

    def register(check: Callable[[Project], Iterator[Fault]]) -> Callable[[Project], Iterator[Fault]]:
        RULES[name] = Rule(
            id=f"signalbox.D{number:03}",
            name=name,
            severity=severity,
            include_packages=include_packages,
            needs_recorded_events=needs_recorded_events,
            description=description,
            check=check,
        )
        return check

    return register


def _load_rules() -> None:
    from signalbox.doctor.rules import (  # noqa: F401
        asynchrony,
        connect_in_request,
        connections,
        effects,
        failures,
        fixtures,
        global_receivers,
        lifetime,
        recursion,
        secrets,
        senders,
        signatures,
        unused_signals,
    )

    ordered = sorted(RULES.values(), key=lambda rule: rule.id)
    RULES.clear()
    RULES.update({rule.name: rule for rule in ordered})


_load_rules()
