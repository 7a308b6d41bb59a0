"""Select the rules to run and the findings to report."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from signalbox.doctor.rules import RULES, Rule
from signalbox.doctor.runtime_model import App


def select_rules(names: Collection[str] | None) -> list[Rule]:
    """Return the rules with these names or ids; all rules for ``None``.

    Raises:
        ValueError: A name is unknown. The message lists the known ones.
    """
    rules_by_key = {key: rule for rule in RULES.values() for key in (rule.name, rule.id, rule.id.partition(".")[2])}
    if unknown := [name for name in names or () if name not in rules_by_key]:
        raise ValueError(f"Unknown rule {unknown[0]!r}. Known rules: {', '.join(RULES)}.")
    if names is None:
        return list(RULES.values())
    return list({rules_by_key[name].id: rules_by_key[name] for name in names}.values())


def check_app_labels(labels: Iterable[str], apps: Iterable[App]) -> None:
    """Raise ``ValueError`` if a label belongs to none of ``apps``."""
    known = sorted(app.label for app in apps)
    if unknown := sorted(set(labels).difference(known)):
        raise ValueError(f"Unknown app {', '.join(unknown)!r}. Known apps: {', '.join(known)}.")


def is_reported(rule: Rule, app: App | None, labels: Collection[str] | None) -> bool:
    """Return True if the findings of a rule on an app are reported.

    Args:
        rule: The rule.
        app: The app of the finding; ``None`` if its place is in no known app.
        labels: Labels of the selected apps; ``None`` if no apps were selected.
    """
    if app is None:
        return rule.include_packages
    if labels is not None:
        return app.label in labels
    return rule.include_packages or app.is_project_app
