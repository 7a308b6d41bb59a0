"""The processes of the example site."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
HOST = "127.0.0.1"
USER = "signalman"


class DemoError(Exception):
    """A step of the demo failed."""


class Site:
    """The example site, run as its users run it: as processes of their own that share a database file."""

    def __init__(self, place: Path, port: int) -> None:
        self.folder = place
        self.port = port
        self.database = place / "site.sqlite3"
        self.log = place / "site.log"

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def environment(self, database: Path | None = None) -> dict[str, str]:
        return {
            **os.environ,
            "BUILTINSIGNALS_DB": str(database or self.database),
            "DJANGO_SETTINGS_MODULE": "builtinsignals.settings",
        }

    def manage(self, *words: str, database: Path | None = None, **more: str) -> None:
        """Run a management command to its end."""
        with self.log.open("a") as log:
            done = subprocess.run(
                [sys.executable, "manage.py", *words],
                check=False,
                cwd=HERE,
                env=self.environment(database) | more,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if done.returncode:
            raise DemoError(
                f"`manage.py {' '.join(words)}` exited with {done.returncode}; it wrote:\n{self.read_log_tail()}"
            )

    def get_login_path(self) -> str:
        """Return the path of the dashboard. In debug mode it logs the user in."""
        code = (
            "import django, sys; django.setup()\n"
            "from django.conf import settings\n"
            "from signalbox.dashboard.demo_login import build_login_url\n"
            f"sys.stdout.write(build_login_url({USER!r}) if settings.DEBUG else '/signalbox/')"
        )
        command = [sys.executable, "-c", code]
        # It is part of the demo and not of the site, so it is not recorded.
        environment = self.environment() | {"SIGNALBOX_DISABLED": "1"}
        done = subprocess.run(command, check=False, cwd=HERE, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise DemoError(f"The way into Signalbox could not be found; it wrote:\n{done.stderr}")
        return done.stdout

    def read_log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    @contextmanager
    def serving(self, **more: str) -> Iterator[None]:
        """Serve the site inside the block."""
        with self.running("runserver", "--noreload", f"{HOST}:{self.port}", **more) as server:
            self.wait_for(server)
            yield

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run the durable receivers inside the block."""
        with self.running("signalbox", "work", "--threads", "2"):
            yield

    @contextmanager
    def running(self, *words: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command that does not end by itself inside the block."""
        with self.log.open("a") as log:
            # In its own session, so that Ctrl-C reaches only the demo, which then ends the process once.
            process = subprocess.Popen(
                [sys.executable, "manage.py", *words],
                cwd=HERE,
                env=self.environment() | more,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait_for(self, server: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if server.poll() is not None:
                raise DemoError(f"The site did not start; it wrote:\n{self.read_log_tail()}")
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise DemoError(f"The site did not answer at {self.address} within a minute; it wrote:\n{self.read_log_tail()}")
