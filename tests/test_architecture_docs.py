"""The guide to the architecture names files and layers that exist."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "signalbox"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE, LAYERS = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
PROSE = re.sub(r"```text\n.*?```", "", TEXT, flags=re.DOTALL)


def test_every_file_in_the_text_exists() -> None:
    others = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("exactness.md", "limits.md")]
    paths = re.findall(r"`([\w/]+(?:/|\.py|\.toml))`", "\n".join([PROSE, *others]))
    assert len(paths) > 20
    assert [] == [path for path in paths if not (PACKAGE / path).exists() and not (ROOT / path).exists()]


def test_every_file_in_the_picture_exists() -> None:
    grouped = re.findall(r"([\w/]+)/\{([\w,]+)\}(\.py)", PICTURE)
    paths = {f"{folder}/{name}{ending}" for folder, names, ending in grouped for name in names.split(",")}
    names = set(re.findall(r"(?<![\w/.,}])([\w/]+\.py)\b", PICTURE))
    folders = set(re.findall(r"(?<![\w/])([\w/]+)/(?=[\s,])", PICTURE))
    assert len(names) > 10
    existing = {path.name for path in PACKAGE.rglob("*.py")}
    assert [] == sorted(path for path in paths if not (PACKAGE / path).exists())
    assert [] == sorted(name for name in names if name not in existing)
    assert [] == sorted(folder for folder in folders if not (PACKAGE / folder).is_dir())


def find_missing_names(text: str) -> list[str]:
    """Return the names that follow a module in ``text`` and that the module does not define."""
    missing = []
    for module, names in re.findall(r"`([\w/]+\.py)` ((?:`[\w.]+`(?: and |, )?)+)", text):
        path = PACKAGE / module
        defined = set(iter_defined_names(ast.parse(path.read_text(encoding="utf-8")))) if path.exists() else set()
        missing += [f"{module} {name}" for name in re.findall(r"`([\w.]+)`", names) if name not in defined]
    return missing


def iter_defined_names(tree: ast.Module | ast.ClassDef) -> list[str]:
    """Return the names of functions and classes, and of methods with their class."""
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        if isinstance(node, ast.ClassDef):
            names += [f"{node.name}.{name}" for name in iter_defined_names(node)]
    return names


def get_section(mark: str, end: str) -> str:
    return TEXT.partition(f"<!-- {mark} -->")[2].partition(end)[0]


@pytest.mark.parametrize("name", ["save", "durable receiver"])
def test_every_hop_of_a_walk_names_a_function_of_its_module(name: str) -> None:
    hops = re.findall(r"^\d+\. (.*(?:\n   .*)*)", get_section(f"walk: {name}", "\n## "), re.MULTILINE)
    assert 10 <= len(hops) <= 15
    assert [] == [hop for hop in hops if not re.match(r"`[\w/]+\.py` `[\w.]+` ", hop)]
    assert [] == find_missing_names(get_section(f"walk: {name}", "\n## "))


def test_every_place_to_change_something_exists() -> None:
    table = get_section("places", "<!-- end of places -->")
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    assert [] == [row for row in rows if not re.match(r"\| [^|]+ \| `[\w/]+\.py` `\w+` \| [^|]+ \|$", row)]
    assert [] == find_missing_names(table)


def test_every_package_has_a_purpose() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"migrations", "templatetags"}
    assert packages == set(re.findall(r"^\| `(\w+)/` \|", PROSE, re.MULTILINE))


def test_the_layers_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(one for one in contracts if one["containers"] == ["signalbox"])
    assert [re.sub(r"[()]", "", layer) for layer in contract["layers"]] == LAYERS.split("\n")[:-1]


VENDOR_MODULES = ("pipeline/backends/", "outbox/")
"""Where the database may be asked for its vendor."""


def test_only_the_backends_and_the_outbox_ask_for_the_vendor_of_a_database() -> None:
    attributes = {"vendor", "mysql_is_mariadb"}
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in attributes)
        or (isinstance(node, ast.Constant) and node.value in {"ENGINE", "mysql_is_mariadb"})
    }
    assert {"instrumentation/signal_arguments.py"} == {name for name in found if not name.startswith(VENDOR_MODULES)}
    assert [] == [folder for folder in VENDOR_MODULES if not any(name.startswith(folder) for name in found)]
