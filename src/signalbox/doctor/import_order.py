"""Find when modules are imported: before any ``ready()``, by one of them, or later."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from signalbox.doctor.import_graph import resolve_import_name
from signalbox.doctor.project import Project
from signalbox.doctor.runtime_model import App
from signalbox.doctor.source_model import Function


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportOrder:
    """The order in which the modules of the project are imported."""

    project: Project
    """The examined project."""

    def find_reachable(self, roots: Iterable[str]) -> set[str]:
        """Return the modules that the roots import, directly or indirectly, and the roots."""
        imports = self.project.source.imports
        seen: set[str] = set()
        queue = [name for name in roots if name in imports]
        while queue:
            name = queue.pop()
            if name not in seen:
                seen.add(name)
                for target in imports[name]:
                    # `from shop import signals` imports shop, and shop.signals if that is a module.
                    queue.extend(part for part in (target, target.rpartition(".")[0]) if part in imports)
        return seen

    def get_ready_position(self, name: str) -> tuple[int, int] | None:
        """Return app position and line of the ``ready()`` that imports the module.

        ``None`` if the module is not loaded or may be imported before any ``ready()``.
        """
        return (
            self._ready_positions.get(name)
            if self.project.is_loaded(name) and name not in self._imported_before_ready
            else None
        )

    @cached_property
    def _ready_positions(self) -> dict[str, tuple[int, int]]:
        positions: dict[str, tuple[int, int]] = {}
        for app, _, line, targets in sorted(self._ready_imports, key=lambda entry: (entry[0].position, entry[2])):
            for name in self.find_reachable(targets):
                positions.setdefault(name, (app.position, line))
        return positions

    @cached_property
    def _imported_before_ready(self) -> set[str]:
        """The modules that may be imported before any ready() runs: with the apps, their configs and models."""
        imports = self.project.source.imports
        roots = {name for app in self.project.runtime.apps for name in (app.module, f"{app.module}.models")}
        for app in self.project.runtime.apps:
            config = app.config_path.rpartition(".")[0]
            ready_targets = {
                target for _, module, _, targets in self._ready_imports if module == config for target in targets
            }
            roots |= imports.get(config, frozenset()) - ready_targets
        return self.find_reachable(roots)

    @cached_property
    def _ready_imports(self) -> list[tuple[App, str, int, list[str]]]:
        """App, module, line and imported names of each import in a ``ready()``."""
        return [
            (app, function.module, line, targets)
            for function in self.project.source.functions.values()
            if function.is_app_config_hook
            and function.name == "ready"
            and (app := self.project.runtime.find_app_by_path(function.path))
            for line, targets in _iter_imports(function)
        ]


def _iter_imports(function: Function) -> Iterator[tuple[int, list[str]]]:
    """Yield line and modules of each import in a function."""
    package = function.path.endswith("__init__.py")
    for node in ast.walk(function.node):
        if isinstance(node, ast.Import):
            yield node.lineno, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_import_name(node.module or "", node.level, function.module, package=package)
            yield node.lineno, [base, *(f"{base}.{alias.name}" for alias in node.names)]
