"""The guide to the architecture names files and layers that exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "signalbox"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE, LAYERS = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
PROSE = re.sub(r"```text\n.*?```", "", TEXT, flags=re.DOTALL)


def test_every_file_in_the_text_exists() -> None:
    paths = re.findall(r"`([\w/]+(?:/|\.py|\.toml))`", PROSE)
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


def test_every_package_has_a_purpose() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"migrations", "templatetags"}
    assert packages == set(re.findall(r"^\| `(\w+)/` \|", PROSE, re.MULTILINE))


def test_the_layers_are_those_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    contract = next(one for one in contracts if one["containers"] == ["signalbox"])
    assert [re.sub(r"[()]", "", layer) for layer in contract["layers"]] == LAYERS.split("\n")[:-1]
