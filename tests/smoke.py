"""Use the installed wheel in a new project: run by `make smoke` in an environment with Django only."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

SETTINGS = """
INSTALLED_APPS = ["signalbox", *INSTALLED_APPS]
MIDDLEWARE = ["signalbox.middleware.TraceMiddleware", *MIDDLEWARE]
ALLOWED_HOSTS = ["testserver"]
"""

URLS = """
from django.urls import include

urlpatterns += [path("signalbox/", include("signalbox.urls"))]
"""

USE = """
import re
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
import signalbox
user = User.objects.create_superuser("ann", "ann@example.com", "gantry-lamp-41")
user.email = "ann@example.org"
user.save()
newest = next(iter(signalbox.history(user)))
assert ["ann@example.com", "ann@example.org"] == newest.data["changes"]["email"], newest.data
client = Client()
client.force_login(user)
assert 200 == client.get("/admin/auth/user/").status_code
page = client.get("/signalbox/").content.decode()
assert "/admin/auth/user/" in page
files = re.findall(r'(?:src|href)="/static/([^"?]+)', page)
assert len(files) > 1 and all(map(finders.find, files)), files
links = sorted(set(re.findall(r'href="(/signalbox/[^"?#]*)"', page)))
assert len(links) > 3, links
assert [] == [link for link in links if 200 != client.get(link).status_code], links
print("used")
"""


def run(*command: str, folder: Path, text: str = "") -> str:
    """Run a command of the project; it must succeed."""
    return subprocess.run(
        [sys.executable, *command], cwd=folder, check=True, input=text, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    """Create the project, use every part once, and print what was installed."""
    required = {"Django", "asgiref", "sqlparse", "django-signalbox", "pip", "setuptools"}
    others = {found.name for found in metadata.distributions()} - required
    assert not others, f"This environment has more than Django: {sorted(others)}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run("-m", "django", "startproject", "mysite", ".", folder=folder)
        for path, text in (("settings.py", SETTINGS), ("urls.py", URLS)):
            with (folder / "mysite" / path).open("a") as file:
                file.write(text)
        run("manage.py", "migrate", "-v", "0", folder=folder)
        run("manage.py", "check", "--fail-level", "WARNING", folder=folder)
        assert "used" in run("manage.py", "shell", folder=folder, text=USE)
        assert "post_save" in run("manage.py", "signalbox", "events", "--sender", "auth.User", folder=folder)
        run("manage.py", "signalbox", "doctor", folder=folder)
        run("manage.py", "signalbox", "work", "--burst", folder=folder)
        run("manage.py", "signalbox", "status", folder=folder)
        run("manage.py", "migrate", "signalbox", "zero", "-v", "0", folder=folder)
    version = ".".join(map(str, sys.version_info[:2]))
    print(f"Python {version}, Django {metadata.version('Django')}: {metadata.version('django-signalbox')} works")


if __name__ == "__main__":
    main()
