"""Find modules that a setting switches off: imported by an app config under a condition, and not by this process."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from signalbox.doctor.import_graph import resolve_import_name
from signalbox.doctor.project import Project
from signalbox.doctor.source_model import Function


def find_switched_off_paths(project: Project) -> frozenset[str]:
    """Return the paths of these modules. Their receivers are connected on other sites, so they are not judged here."""
    names = {
        name
        for function in project.source.functions.values()
        if function.is_app_config_hook
        for name in _iter_conditional_imports(function)
    }
    return frozenset(
        path for name, path in project.source.files.items() if name in names and not project.is_loaded(name)
    )


def _iter_conditional_imports(function: Function) -> Iterator[str]:
    """Yield the dotted names that are imported inside an ``if`` of the function."""
    package = function.path.endswith("__init__.py")
    conditions = [node for node in ast.walk(function.node) if isinstance(node, ast.If)]
    for node in (inner for condition in conditions for inner in ast.walk(condition)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_import_name(node.module or "", node.level, function.module, package=package)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
