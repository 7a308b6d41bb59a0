"""Every code block of the README and the documentation is checked: syntax, imports, settings and commands."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.core.management import CommandError, CommandParser, get_commands

from signalbox import conf
from signalbox.management.commands.signalbox import Command
from tests.test_tutorial import read_steps

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "RELEASING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "builtinsignals" / "README.md",
]

UNCHECKED_LANGUAGES = {
    "text": "output of programs, and pictures; the tests of their pages compare what a program prints",
    "yaml": "files of other programs",
    "ini": "files of systemd",
    "sql": "statements for an operator",
    "pycon": "executed by test_history_docs",
}
"""Languages whose blocks are not checked here, with the reason."""

OTHER_PROGRAMS = {
    ("make",): "targets are compared with the Makefile below",
    ("curl",): "shows an answer of the site",
    ("gunicorn",): "a server; its options are not ours",
    ("uvicorn",): "the same",
    ("celery",): "the same",
    ("git",): "a step of a release",
    ("django-admin",): "commands of Django, with the programs of GNU gettext",
    ("ruff",): "the same",
    ("pip",): "installs; make smoke installs the wheel",
    ("mkdir",): "executed by test_tutorial",
    ("cd",): "the same",
    (".",): "the same",
    ("python", "-m"): "Python's own modules, and Django's, executed by test_tutorial",
    ("python", "demo.py"): "executed by test_example",
}
"""Commands whose options are not parsed here, by their first words, with the reason."""

DJANGO_COMMANDS = {"createsuperuser", "runserver", "startapp", "makemigrations", "migrate", "test", "check", "shell"}
"""Commands of Django in the pages. Other commands of `manage.py` must be installed here."""


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks() -> list[Block]:
    """Return the fenced blocks of all pages, those of directives left out."""
    blocks = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^( *)```([^\n]*)\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
            if not match[2].startswith("{"):
                number = text.count("\n", 0, match.start()) + 1
                blocks.append(Block(page, number, match[2], textwrap.dedent(match[3])))
    return blocks


BLOCKS = read_blocks()


def select(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def read_commands() -> list[tuple[str, str]]:
    """Return each command of the console blocks, with its place."""
    commands = []
    for block in select("console"):
        text = block.text.replace("\\\n", " ")
        commands += [(line.removeprefix("$ "), str(block)) for line in text.splitlines() if line.startswith("$ ")]
    return commands


def test_every_block_has_a_language_that_is_checked_or_excepted() -> None:
    assert len(BLOCKS) > 60
    known = {"python", "console", *UNCHECKED_LANGUAGES}
    assert [] == [f"{block} {block.language!r}" for block in BLOCKS if block.language not in known]


def test_each_console_block_begins_with_a_prompt() -> None:
    """A command without one is not read by the tests below."""
    assert [] == [str(block) for block in select("console") if not block.text.startswith("$ ")]


@pytest.mark.parametrize("block", select("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", select("python"), ids=str)
def test_names_that_python_imports_from_signalbox_exist(block: Block) -> None:
    missing = []
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for name in [alias.name for alias in node.names if alias.name.partition(".")[0] == "signalbox"]:
                importlib.import_module(name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "signalbox":
            module = importlib.import_module(str(node.module))
            missing += [alias.name for alias in node.names if not hasattr(module, alias.name)]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "signalbox":
            import signalbox

            missing += [] if hasattr(signalbox, node.attr) else [f"signalbox.{node.attr}"]
    assert [] == missing


def parse(block: Block) -> ast.Module:
    """Return the syntax tree, an empty one of code that does not compile: another test reports it."""
    try:
        return ast.parse(block.text)
    except SyntaxError:
        return ast.Module([], [])


def find_settings() -> list[tuple[str, ast.expr]]:
    """Return each value that is assigned to SIGNALBOX, with its place."""
    return [
        (str(block), node.value)
        for block in select("python")
        for node in ast.walk(parse(block))
        if isinstance(node, ast.Assign) and any(isinstance(x, ast.Name) and x.id == "SIGNALBOX" for x in node.targets)
    ]


@pytest.mark.parametrize(("place", "value"), find_settings(), ids=lambda value: value if isinstance(value, str) else "")
def test_settings_are_valid(place: str, value: ast.expr) -> None:
    names = {name: getattr(conf, name) for name in ("DEFAULT_IGNORE_PATHS",)}
    setting = eval(compile(ast.Expression(value), place, "eval"), names)
    assert [] == conf.get_errors(setting)


def test_there_are_settings_to_check() -> None:
    assert len(find_settings()) >= 6


def get_signalbox_words(command: str) -> list[str] | None:
    """Return the words after ``manage.py signalbox``, up to a pipe; ``None`` for another command."""
    words = shlex.split(command, comments=True)
    starts = [
        at for at, word in enumerate(words) if word.endswith("manage.py") and words[at + 1 :][:1] == ["signalbox"]
    ]
    if not starts:
        return None
    words = words[starts[0] + 2 :]
    ends = [words.index(mark) for mark in ("|", ">", "<", "&&") if mark in words]
    return words[: min(ends, default=len(words))]


SIGNALBOX_COMMANDS = [
    pytest.param(words, id=f"{place} {' '.join(words)[:60]}")
    for command, place in read_commands()
    if (words := get_signalbox_words(command)) is not None
]


@pytest.mark.parametrize("words", SIGNALBOX_COMMANDS)
def test_commands_of_signalbox_parse(words: list[str]) -> None:
    parser: CommandParser = Command().create_parser("manage.py", "signalbox")
    try:
        parser.parse_args(words)
    except (CommandError, SystemExit) as error:  # argparse has printed the reason
        pytest.fail(f"signalbox {' '.join(words)}: {error}")


def test_there_are_commands_to_parse() -> None:
    assert len(SIGNALBOX_COMMANDS) > 30


EXAMPLE_COMMANDS = {path.stem for path in (ROOT / "examples").glob("*/*/management/commands/[a-z]*.py")}


def test_other_commands_exist_or_are_excepted() -> None:
    unknown = []
    for command, place in read_commands():
        if get_signalbox_words(command) is not None:
            continue
        words = [word for word in shlex.split(command, comments=True) if not re.fullmatch(r"[A-Z_]+=.*", word)]
        if words[:2] == ["python", "manage.py"]:
            if words[2] not in DJANGO_COMMANDS | EXAMPLE_COMMANDS | set(get_commands()):
                unknown.append(f"{place} {command}")
        elif tuple(words[:1]) not in OTHER_PROGRAMS and tuple(words[:2]) not in OTHER_PROGRAMS:
            unknown.append(f"{place} {command}")
    assert [] == unknown


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {target for names in targets for target in names.split()}
    used = {
        target
        for page in PAGES
        for names in re.findall(r"(?:`|\$ )make ([a-z- ]+)", page.read_text(encoding="utf-8"))
        for target in names.split("  ")[0].split()
    }
    assert len(used) > 10
    assert set() == used - known


def test_relative_links_lead_to_files() -> None:
    broken = []
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
        broken += [f"{page.relative_to(ROOT)}: {link}" for link in links if not (page.parent / link).exists()]
    assert [] == broken


def read_anchors(page: Path) -> set[str]:
    """Return the anchors of a page: of its headings, as GitHub and MyST make them, and the declared ones."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def test_anchors_of_links_exist() -> None:
    broken = []
    for page in PAGES:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", text):
            target = page.parent / link if link else page
            if target.suffix == ".md" and anchor not in read_anchors(target):
                broken.append(f"{page.relative_to(ROOT)}: {link}#{anchor}")
    assert [] == broken


def test_every_page_is_in_the_index_once() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = [name for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL) for name in block.split()]
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    assert [] == sorted(name for name in pages if listed.count(name) != 1)


def test_the_address_of_the_repository_is_written_in_one_place() -> None:
    """The build makes the README's links absolute with it."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert [] == [page.name for page in PAGES if address in page.read_text(encoding="utf-8")]


def test_no_address_of_a_package_index_is_written() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    address = re.compile(rb"(?i)pypi\.org|pythonhosted\.org")
    paths = [ROOT / name for name in done.stdout.splitlines() if not name.endswith((".png", ".woff2"))]
    assert [] == [path.name for path in paths if path.is_file() and address.search(path.read_bytes())]


def test_code_of_the_tutorial_names_its_file() -> None:
    steps = read_steps((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    assert [] == [step.name for step in steps if step.kind != "run" and not re.fullmatch(r"[\w/]+\.py", step.name)]


def test_the_permissions_of_the_pages_are_listed() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src" / "signalbox" / "dashboard").glob("*.py")]
    used = set(re.findall(r'"(signalbox\.[a-z]+_[a-z]+)"', "".join(sources)))
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8").partition("## Permissions")[2]
    assert len(used) > 2
    assert used == set(re.findall(r"^\| `(signalbox\.\w+)`", page, re.MULTILINE))


def test_the_app_of_celery_finds_the_settings_of_the_site(tmp_path: Path) -> None:
    pytest.importorskip("celery")
    page = (ROOT / "docs" / "celery.md").read_text(encoding="utf-8").partition("## Durable receivers on Django")[0]
    for step in read_steps(page):
        if step.kind != "run":
            path = tmp_path / step.name
            path.parent.mkdir(exist_ok=True)
            path.write_text(step.text)
    code = (
        "from django.conf import settings\nfrom mysite import app\n"
        "assert app.conf.broker_url == settings.CELERY_BROKER_URL, app.conf.broker_url"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "CELERY"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=kept, capture_output=True, text=True, check=False
    )
    assert (0, "") == (done.returncode, done.stderr)
