"""Read the imports of a file from its text, without parsing it."""

from __future__ import annotations

import re
from typing import Final

_IMPORT_STATEMENT: Final = re.compile(
    r"^([ \t]*)(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([^\n]+))", re.MULTILINE
)


def parse_imports(text: str, module: str, *, package: bool) -> frozenset[str]:
    """Return the dotted names that ``text`` imports, found by a regular expression."""
    imported: set[str] = set()
    for match in _IMPORT_STATEMENT.finditer(text):
        _, origin, names, module_list = match.groups()
        if module_list:
            imported.update(part.split(" as ")[0].strip() for part in module_list.partition("#")[0].split(","))
        else:
            source = resolve_import_name(
                origin.lstrip("."), len(origin) - len(origin.lstrip(".")), module, package=package
            )
            imported.add(source)
            name_list = re.sub(r"#[^\n]*", "", names).strip("() \t\n")
            imported.update(
                f"{source}.{part.split(' as ')[0].strip()}" for part in name_list.split(",") if part.strip()
            )
    return frozenset(imported)


def resolve_import_name(name: str, level: int, module: str, *, package: bool) -> str:
    """Return the absolute name of an import of ``name`` with ``level`` dots in ``module``."""
    if not level:
        return name
    parts = module.split(".")
    kept = parts[: len(parts) - level + (1 if package else 0)]
    return ".".join([*kept, name] if name else kept)
