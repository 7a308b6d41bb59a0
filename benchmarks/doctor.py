"""Time the doctor on a generated project: 100 apps, 1,000 sound receivers, and some in each app that aren't.

Run it with ``python benchmarks/doctor.py``; it prints the processor's seconds that one examination takes, the best
of three processes, and exits with 1 where that is more than two, or where the doctor finds less than there is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

APPS = 100
RECEIVERS = 1_000
LIMIT_SECONDS = 2.0

_SETTINGS = """
SECRET_KEY = "a benchmark's"
DEBUG = {debug}
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", *(f"app{{n}}" for n in range({apps}))]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
_CONFIG = """
from django.apps import AppConfig

class Config(AppConfig):
    name = "{app}"

    def ready(self):
        from . import faults, receivers
"""
_MODEL = """
class Model{number}(models.Model):
    name = models.CharField(max_length=100)
    parent = models.ForeignKey("self", models.CASCADE, null=True)
"""
_VIEWS = """
class View{number}:
    def get(self, request):
        rows = [row for row in request.rows if row.name]
        return {{"rows": rows, "count": len(rows)}}
"""
_RECEIVER = """
@receiver({signal}, sender=Model{model})
def on_{signal}_{number}(sender, instance, **kwargs):
    if kwargs.get("raw"):
        return
    try:
        names = [name for name in (instance.name, str(instance.pk)) if name]
        logger.info("%s: %s", sender, ", ".join(names))
    except ValueError:
        logger.exception("No name")
"""
_FAULTS = """
@receiver(post_save, sender=Model0)
def twice(sender, instance, **kwargs):
    instance.name = "saved"


@receiver(post_save, sender=Model1)
def twice(sender, instance, raw, **kwargs):
    try:
        instance.save()
    except Exception:
        pass


@receiver(post_delete)
def everywhere(sender, **kwargs):
    send_mail("Deleted", "", None, [])


post_save.connect(lambda sender, **kwargs: None, sender=Model2)
"""
FAULTS_PER_APP = 6
"""Findings in each app: D002, D003, D010, D011, D013 and D015."""
_EXAMINE_SCRIPT = """
import time
import django
django.setup()
start = time.process_time()
from signalbox.doctor import examine
findings = examine()
print(time.process_time() - start, len(findings))
"""


def generate_project(root: Path, *, debug: bool) -> None:
    """Write the project into ``root``."""
    (root / "settings.py").write_text(_SETTINGS.format(apps=APPS, debug=debug))
    signals = ["pre_save", "post_save", "pre_delete", "post_delete"]
    for n in range(APPS):
        app = root / f"app{n}"
        app.mkdir(exist_ok=True)
        (app / "__init__.py").touch()
        (app / "apps.py").write_text(_CONFIG.format(app=app.name))
        models = "".join(_MODEL.format(number=number) for number in range(5))
        (app / "models.py").write_text(f"from django.db import models\n{models}")
        views = "".join(_VIEWS.format(number=number) for number in range(40))
        for name in ("views", "forms", "serializers", "services"):
            (app / f"{name}.py").write_text(views)
        receivers = "".join(
            _RECEIVER.format(signal=signals[number % 4], model=number % 5, number=number)
            for number in range(RECEIVERS // APPS)
        )
        head = (
            "import logging\nfrom django.db.models.signals import post_delete, post_save, pre_delete, pre_save\n"
            "from django.dispatch import receiver\nfrom .models import Model0, Model1, Model2, Model3, Model4\n"
            "logger = logging.getLogger(__name__)\n"
        )
        (app / "receivers.py").write_text(head + receivers)
        (app / "faults.py").write_text(f"from django.core.mail import send_mail\n{head}{_FAULTS}")


def measure_examination(root: Path) -> tuple[float, int]:
    """Return the processor's seconds of one examination in a process of its own, and the number of its findings."""
    source = Path(__file__).parents[1] / "src"
    environment = {"PYTHONPATH": f"{root}:{source}", "DJANGO_SETTINGS_MODULE": "settings"}
    done = subprocess.run(  # our own interpreter and project
        [sys.executable, "-c", _EXAMINE_SCRIPT], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    seconds, findings = done.stdout.split()
    return float(seconds), int(findings)


def main() -> int:
    """Print the times; return the exit code."""
    worst, fewest = 0.0, APPS * FAULTS_PER_APP
    for debug in (False, True):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            generate_project(root, debug=debug)
            seconds, findings = min(measure_examination(root) for _ in range(3))
        worst, fewest = max(worst, seconds), min(fewest, findings)
        state = "on" if debug else "off"
        sys.stdout.write(f"{APPS} apps, {RECEIVERS} receivers, DEBUG {state}: {seconds:.2f} s, {findings} findings\n")
    return int(worst > LIMIT_SECONDS or fewest < APPS * FAULTS_PER_APP)


if __name__ == "__main__":
    sys.exit(main())
