"""When modules arrive: before any ready(), by way of one, or later."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from signalbox.doctor.import_graph import absolute
from signalbox.doctor.project import Project
from signalbox.doctor.runtime import App
from signalbox.doctor.source_model import Function


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrivals:
    """How the project's modules come to be imported."""

    project: Project
    """All that is known."""

    def reached(self, roots: Iterable[str]) -> set[str]:
        """Return the modules that are imported once the roots are."""
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

    def by_ready(self, name: str) -> tuple[int, int] | None:
        """Return app position and line of the ready() that imports the module; ``None`` if it may come before."""
        return self._by_ready.get(name) if self.project.loaded(name) and name not in self._before else None

    @cached_property
    def _by_ready(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for app, _, line, targets in sorted(self._imports_of_ready, key=lambda entry: (entry[0].position, entry[2])):
            for name in self.reached(targets):
                found.setdefault(name, (app.position, line))
        return found

    @cached_property
    def _before(self) -> set[str]:
        """The modules that may be imported before any ready() runs: with the apps, their configs and models."""
        imports = self.project.source.imports
        roots = {name for app in self.project.runtime.apps for name in (app.module, f"{app.module}.models")}
        for app in self.project.runtime.apps:
            config = app.config.rpartition(".")[0]
            within = {
                target for _, module, _, targets in self._imports_of_ready if module == config for target in targets
            }
            roots |= imports.get(config, frozenset()) - within
        return self.reached(roots)

    @cached_property
    def _imports_of_ready(self) -> list[tuple[App, str, int, list[str]]]:
        """App, module, line and what is imported, for each import in a ready()."""
        return [
            (app, function.module, line, targets)
            for function in self.project.source.functions.values()
            if function.ready and function.node_name == "ready" and (app := self.project.runtime.app_of(function.path))
            for line, targets in _imports(function)
        ]


def _imports(function: Function) -> Iterator[tuple[int, list[str]]]:
    """Yield line and modules of each import in a function."""
    package = function.path.endswith("__init__.py")
    for node in ast.walk(function.node):
        if isinstance(node, ast.Import):
            yield node.lineno, [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "", node.level, function.module, package=package)
            yield node.lineno, [base, *(f"{base}.{alias.name}" for alias in node.names)]
