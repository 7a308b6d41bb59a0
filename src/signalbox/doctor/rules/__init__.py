"""The registry of rules. Each module of the package has the rules on one subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from signalbox.doctor.findings import Severity
from signalbox.doctor.project import Project


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A defect that a rule found at one place."""

    path: str
    """Absolute path of the file; empty if unknown."""
    line: int
    """Line in the file; 0 if unknown."""
    signal: str
    """Name of the signal."""
    receiver: str = ""
    """Dotted name of the receiver."""
    message: str
    """What happens at run time."""
    reason: str
    """Why it happens."""
    hint: str
    """What to change."""
    severity: Severity | None = None
    """Its severity; ``None`` for that of the rule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One rule."""

    id: str
    """Its id in Django's system checks, such as ``signalbox.D001``."""
    name: str
    """Its name on the command line, such as ``dead-receiver``."""
    severity: Severity
    """The severity of its findings, unless a finding has another."""
    include_packages: bool
    """Whether it reports on installed packages by default; else only if their app is selected."""
    needs_recorded_events: bool
    """Whether it reads recorded events or deliveries."""
    description: str
    """Its row in the documentation."""
    check: Callable[[Project], Iterator[Fault]]
    """Yields the defects in a project."""


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
        deliveries,
        effects,
        failures,
        fixtures,
        global_receivers,
        lifetime,
        recursion,
        secrets,
        senders,
        short_lived_receivers,
        signatures,
        unused_signals,
    )

    ordered = sorted(RULES.values(), key=lambda rule: rule.id)
    RULES.clear()
    RULES.update({rule.name: rule for rule in ordered})


_load_rules()
