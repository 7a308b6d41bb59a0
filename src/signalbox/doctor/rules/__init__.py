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
    happens: str
    """What happens at run time."""
    why: str
    """Why it happens."""
    remedy: str
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
    packages: bool
    """Whether it speaks of installed packages unasked; else only when their app is named."""
    records: bool
    """Whether it needs recorded events."""
    finds: str
    """What it finds, in one line."""
    find: Callable[[Project], Iterator[Fault]]
    """Finds it."""


RULES: Final[dict[str, Rule]] = {}
"""Every rule by name, in the order of their ids."""


def rule(
    number: int, name: str, severity: Severity, finds: str, *, packages: bool = False, records: bool = False
) -> Callable[[Callable[[Project], Iterator[Fault]]], Callable[[Project], Iterator[Fault]]]:
    """Register a function as the rule ``signalbox.D<number>``."""

    def register(find: Callable[[Project], Iterator[Fault]]) -> Callable[[Project], Iterator[Fault]]:
        RULES[name] = Rule(
            id=f"signalbox.D{number:03}",
            name=name,
            severity=severity,
            packages=packages,
            records=records,
            finds=finds,
            find=find,
        )
        return find

    return register


def _load() -> None:
    from signalbox.doctor.rules import (
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


_load()
