"""The tutorial and the README work as they are written: their files and commands are executed in an empty project."""

from __future__ import annotations

import http.cookiejar
import os
import re
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
import venv
from dataclasses import dataclass
from pathlib import Path

import asgiref
import django
import pytest
import sqlparse

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PASSWORD = "gantry-lamp-41"

PREPARED = ("python -m venv", ". .venv/bin/activate", "python -m pip install")
"""Commands that the fixture does without a network: it makes an environment that contains only Django and Signalbox."""


@dataclass(frozen=True)
class Step:
    """A file to write, or a command to run with the output that the page shows."""

    kind: str
    name: str
    text: str


def read_steps(page: str, *, until: str = "") -> list[Step]:
    """Return the files and commands of a page, in their order."""
    text = page.partition(until)[0] if until else page
    steps = []
    for kind, block in re.findall(r"^```(python|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if kind == "python":
            heading, _, code = block.partition("\n")
            path, _, where = heading.removeprefix("# ").partition(", ")
            steps.append(Step("append" if where else "write", path, code))
        else:
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                command, _, output = part.partition("\n")
                steps.append(Step("run", command, output))
    return steps


def normalize(output: str) -> str:
    """Replace times, ids and durations, and join blanks."""
    output = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?(\+00:00)?", "TIME", output)
    output = re.sub(r"\b[0-9a-f]{8}$", "TRACE", output, flags=re.MULTILINE)
    output = re.sub(r"[\d.]+ (µs|ms|s)\b", "DURATION", output)
    output = re.sub(r"^ *\d+ ", "ID ", output, flags=re.MULTILINE)
    output = re.sub(r"-DURATION", "DURATION", output)
    return "\n".join(" ".join(line.split()) for line in output.strip().splitlines())


class Site:
    """An empty folder, with a Python that has only Django and Signalbox."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder = folder
        packages.mkdir()
        for package in (django, asgiref, sqlparse):
            source = Path(str(package.__file__)).parent
            (packages / source.name).symlink_to(source)
        environment = folder / "environment"
        venv.create(environment, with_pip=False)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "SIGNALBOX"))}
        self.environment = {
            **kept,
            "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{packages}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
            "NO_COLOR": "1",
        }
        self.pages: dict[str, str] = {}

    def execute(self, steps: list[Step]) -> None:
        for step in steps:
            path = self.folder / step.name
            if step.kind == "append":
                assert path.exists(), f"{step.name} does not exist"
                path.write_text(f"{path.read_text()}\n{step.text}")
            elif step.kind == "write":
                path.parent.mkdir(exist_ok=True)
                path.write_text(step.text)
            elif step.name.startswith("cd "):
                self.folder /= step.name.removeprefix("cd ")
            elif step.name == "python manage.py runserver":
                with self.serving() as address:
                    self.visit(address)
            elif not step.name.startswith(PREPARED):
                output = self.run(step.name)
                if step.text:
                    assert normalize(step.text) == normalize(output), step.name

    def run(self, command: str) -> str:
        if "createsuperuser" in command:
            user = "" if "--username" in command else " --username ann --email ann@example.com"
            command += f"{user} --noinput"
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serving(self) -> Server:
        return Server(self)

    def visit(self, address: str) -> None:
        """Do what the page asks the reader to do: log in, save, change, and open the dashboard."""
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

        def get(path: str) -> str:
            return str(opener.open(address + path, timeout=30).read().decode())

        def post(path: str, **values: str) -> str:
            [token, *_] = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', get(path))
            data = urllib.parse.urlencode({**values, "csrfmiddlewaretoken": token}).encode()
            return str(opener.open(address + path, data, timeout=30).read().decode())

        post("/admin/login/?next=/admin/", username="ann", password=PASSWORD)
        if (self.folder / "shop").exists():
            post("/admin/shop/order/add/", number="A-1", status="open")
            post("/admin/shop/order/1/change/", number="A-1", status="paid")
        else:
            post("/admin/auth/group/add/", name="Porters")
        self.pages["/signalbox/"] = get("/signalbox/")


class Server:
    """The development server, at a free port, while the block runs."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __enter__(self) -> str:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        command = ["python", "manage.py", "runserver", "--noreload", str(self.port)]
        self.process = subprocess.Popen(
            command,
            cwd=self.site.folder,
            env=self.site.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            assert self.process.poll() is None, "the server has ended"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.1)
        return f"http://127.0.0.1:{self.port}"

    def __exit__(self, *error: object) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "work"
    folder.mkdir()
    return Site(folder, tmp_path / "packages")


def test_the_tutorial_works_as_it_is_written(site: Site) -> None:
    steps = read_steps((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    assert len(steps) > 20
    site.execute(steps)
    assert "admin/shop/order" in site.pages["/signalbox/"]


def test_the_steps_of_the_readme_show_the_first_save(site: Site) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    guide = readme.partition("## Add it to your project")[2]
    site.run("python -m django startproject mysite .")
    site.execute(read_steps(guide, until="## See"))
    assert "admin/auth/group/add/" in site.pages["/signalbox/"]
    trust = readme.partition("## Trust")[2].partition("```python\n")[2].partition("```")[0]
    (site.folder / "trust.py").write_text(trust)
    assert "post_save" in site.run("python manage.py shell < trust.py")
    see = readme.partition("## See")[2].partition("```console\n")[2].partition("```")[0]
    commands = [line.removeprefix("$ ") for line in see.splitlines() if " tail " not in line]
    assert len(commands) >= 3
    for command in commands:
        if "--outcome rolled_back" not in command:  # exits with 1, as nothing was rolled back
            site.run(command)


def test_the_steps_of_the_uninstallation_leave_a_working_site(site: Site) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Add it to your project")[2]
    site.run("python -m django startproject mysite .")
    originals = {name: (site.folder / name).read_text() for name in ("mysite/settings.py", "mysite/urls.py")}
    site.execute([step for step in read_steps(readme, until="## See") if "runserver" not in step.name])
    guide = (ROOT / "docs" / "uninstall.md").read_text(encoding="utf-8")
    *drop, types, _ = re.findall(r"^ *\$ (.+)$", guide, re.MULTILINE)
    for command in drop:
        site.run(command)
    save = "from django.contrib.auth.models import User; User.objects.get().save()"
    site.run(f"python manage.py shell -c '{save}'")
    for name, text in originals.items():
        (site.folder / name).write_text(text)
    site.run(f"{types} --no-input")
    count = (
        "from django.contrib.contenttypes.models import ContentType as C; print(C.objects.filter(app_label=L).count())"
    )
    assert "0" == site.run(f"python manage.py shell -c 'L = \"signalbox\"; {count}'").split()[-1]
