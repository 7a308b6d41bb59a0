"""Run the example site, send a visitor through it, and print every event as it is recorded.

    python demo.py [--once] [--port 8000] [--keep FOLDER] [--no-color]

The site keeps serving until Ctrl-C. With ``--once`` it stops after the visit, prints what was recorded of each signal,
and exits with 1 if one of them is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.cookiejar import CookieJar
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

if TYPE_CHECKING:
    from signalbox.models import Event

HERE = Path(__file__).resolve().parent
USER = "signalman"
# They protect nothing: the site is on loopback, its database is made anew on each start.
PASSWORD = "lever-frame-1889"
WRONG_PASSWORD = "lever-frame-1898"
NEW_PASSWORD = "tail-lamp-2706"
HOST = "127.0.0.1"
CUSTOM_SIGNAL = "post_published"

POLL_SECONDS = 0.3  # seconds between two looks at the table

RED, GREEN, YELLOW, CYAN, DIM, BOLD = "31", "32", "33", "36", "2", "1"
COLOURS = {"committed": GREEN, "rolled_back": YELLOW, "failed": RED, "sent": DIM}


class DemoError(Exception):
    """Something that the demo needs did not work."""


class Screen:
    """The terminal, in colour where that is wanted."""

    def __init__(self, *, colour: bool) -> None:
        self.colour = colour and sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour else text

    def write_line(self, text: str = "") -> None:
        print(text, flush=True)

    def heading(self, text: str) -> None:
        """Print what comes next, after the events of what came before."""
        time.sleep(2 * POLL_SECONDS)
        self.write_line(self.paint(f"\n# {text}", BOLD))

    def event(self, event: Event) -> None:
        """Print one event on one line."""
        runs = event.data.get("receivers", [])
        receivers = [run["name"].rpartition(".")[2] + (" FAILED" if run["error"] else "") for run in runs]
        if len(receivers) > 3:
            receivers[2:] = [f"{len(receivers) - 2} more"]
        self.write_line(
            " ".join(
                [
                    self.paint(f"{event.timestamp.astimezone():%H:%M:%S.%f}"[:-3], DIM),
                    self.paint(f"{event.signal.rpartition('.')[2]:<21}", CYAN),
                    f"{shorten_path(event.sender, 24):<24}",
                    f"{shorten(event.object_label or event.object_key, 24):<24}",
                    f"{shorten(event.actor_label, 10):<10}",
                    self.paint(f"{event.outcome:<11}", COLOURS[event.outcome]),
                    ", ".join(receivers),
                ]
            ).rstrip()
        )


def shorten(text: str, width: int) -> str:
    """Return the text in at most ``width`` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def shorten_path(path: str, width: int) -> str:
    """Return as many names from the end of a dotted path as fit into ``width`` characters, at least one."""
    while len(path) > width and "." in path:
        path = path.partition(".")[2]
    return path


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
        """Return the path of Signalbox's page, which logs the user in; without debug mode, the page's alone."""
        code = (
            "import django, sys; django.setup()\n"
            "from django.conf import settings\n"
            "from signalbox.dashboard.demo_login import build_login_url\n"
            f"sys.stdout.write(build_login_url({USER!r}) if settings.DEBUG else '/signalbox/')"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=False, cwd=HERE, env=self.environment(), capture_output=True, text=True)
        if done.returncode:
            raise DemoError(f"The way into Signalbox could not be found; it wrote:\n{done.stderr}")
        return done.stdout

    def read_log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve the site inside the block."""
        with self.log.open("a") as log:
            # In a session of its own, so that Ctrl-C reaches the demo alone, which then ends the server once.
            server = subprocess.Popen(
                [sys.executable, "manage.py", "runserver", "--noreload", f"{HOST}:{self.port}"],
                cwd=HERE,
                env=self.environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            self.wait_for(server)
            yield
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

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


class Visitor:
    """A browser in small: cookies, forms and redirects."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.cookies = CookieJar()
        # No proxy: what is on loopback stays there.
        self.opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(self.cookies))

    def get(self, path: str, *, expect: int = 200) -> str:
        """Fetch a page; return the path where the redirects led."""
        return self.fetch(path, None, expect)

    def post(self, path: str, fields: Mapping[str, str | list[str]], *, expect_refusal: bool = False) -> str:
        """Send a form. A form that Django accepts redirects; ``stays`` says that this one is to be refused."""
        token = next((cookie.value for cookie in self.cookies if cookie.name == "csrftoken"), "") or ""
        form = urlencode({"csrfmiddlewaretoken": token, **fields}, doseq=True)
        landed = self.fetch(path, form.encode(), 200)
        if (landed == path) != expect_refusal:
            raise DemoError(
                f"The form at {path} was {'accepted' if expect_refusal else 'refused'}: it led to {landed}."
            )
        return landed

    def fetch(self, path: str, form: bytes | None, expect: int) -> str:
        try:
            with self.opener.open(self.address + path, form, timeout=60) as answer:
                status, landed = answer.status, urlsplit(answer.url).path
                answer.read()
        except HTTPError as error:
            with error:
                status, landed = error.code, path
        except URLError as error:
            raise DemoError(f"The site did not answer at {path}: {error.reason}.") from error
        if status != expect:
            raise DemoError(f"{path} answered {status}; {expect} was expected.")
        return str(landed)


def parse_primary_key(path: str) -> str:
    """Return the primary key in the address of an admin page."""
    found = re.search(r"/(\d+)/change/$", path)
    if not found:
        raise DemoError(f"{path} is not the address of an object's page in the admin.")
    return found[1]


def build_comment_fields(*texts: str, post: str = "") -> dict[str, str]:
    """Return the fields of the comments below a post's form."""
    fields = {"comments-TOTAL_FORMS": str(len(texts)), "comments-INITIAL_FORMS": "0"}
    for number, text in enumerate(texts):
        fields |= {f"comments-{number}-text": text, f"comments-{number}-post": post, f"comments-{number}-id": ""}
    return fields


def visit(site: Site, announce: Callable[[str], None]) -> None:
    """Do what sends each signal, through the site's pages and commands."""
    visitor = Visitor(site.address)
    login = "/admin/login/"

    announce("A visitor fails to log in, and then succeeds.")
    visitor.get(login)
    visitor.post(login, {"username": USER, "password": WRONG_PASSWORD}, expect_refusal=True)
    visitor.post(f"{login}?next=/admin/", {"username": USER, "password": PASSWORD})

    announce("A user is created and edited.")
    users = "/admin/auth/user/"
    visitor.get(f"{users}add/")
    new = {"username": "porter", "usable_password": "true", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    page = visitor.post(f"{users}add/", new)
    user = parse_primary_key(page)
    joined = {"date_joined_0": "2020-02-02", "date_joined_1": "10:00:00"}
    visitor.post(page, {"username": "porter", "first_name": "Albert", "is_active": "on"} | joined)

    announce("Tags and a post are created; the post is edited, commented, published and deleted.")
    for tag in ("steam", "signals", "points"):
        visitor.post("/admin/blog/tag/add/", {"name": tag})
    posts = "/admin/blog/post/"
    about = {"title": "The box at the junction", "author": user}
    page = visitor.post(
        f"{posts}add/", {**about, "body": "Levers.", "tags": ["1", "2"], "_continue": "1", **build_comment_fields()}
    )
    post = parse_primary_key(page)
    remark = build_comment_fields("Lovely.", post=post)
    visitor.post(page, {**about, "body": "Levers and bells.", "tags": ["2", "3"], **remark})
    visitor.post(posts, {"action": "publish", "_selected_action": post}, expect_refusal=True)
    visitor.post(f"{page.removesuffix('change/')}delete/", {"post": "yes"})

    announce("Two more posts are deleted together, by the admin's action; then the user is deleted.")
    keys = [
        parse_primary_key(
            visitor.post(f"{posts}add/", {"title": title, "author": user, "_continue": "1", **build_comment_fields()})
        )
        for title in ("Up line", "Down line")
    ]
    visitor.post(posts, {"action": "delete_selected", "_selected_action": keys, "post": "yes"}, expect_refusal=True)
    visitor.post(f"{users}{user}/delete/", {"post": "yes"})

    announce("A page fails, and another one isn't there.")
    visitor.get("/home/", expect=500)
    visitor.get("/branch-line/", expect=404)

    announce("Commands run: migrate, flush (of another database), tour.")
    site.manage("migrate")
    scratch = site.folder / "scratch.sqlite3"
    site.manage("migrate", database=scratch)
    site.manage("flush", "--no-input", database=scratch)
    site.manage("tour")

    announce("The visitor logs out.")
    visitor.post("/admin/logout/", {}, expect_refusal=True)


def configure_reader(database: Path) -> None:
    """Make this process a reader of the site's tables, one that records nothing itself."""
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database, "OPTIONS": {"timeout": 20}}},
        INSTALLED_APPS=["signalbox"],
        SIGNALBOX={"RECORD": []},
        USE_TZ=True,
    )
    django.setup()


@contextmanager
def print_new_events(screen: Screen) -> Iterator[None]:
    """Print events as they are recorded, and at the end of the block those that are left."""
    from django.db import connection

    from signalbox.models import Event

    ended = threading.Event()

    def follow() -> None:
        last, ending = 0, False
        try:
            while not ending:
                ending = ended.wait(POLL_SECONDS)
                # One writer at a time, that is SQLite: keys appear in their order, and none is left behind.
                for event in Event.objects.filter(id__gt=last).order_by("id"):
                    screen.event(event)
                    last = event.id
        finally:
            connection.close()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def wait_for_last_event() -> None:
    """Give the visit's last request, the logout, the time to write its events: they leave after its answer."""
    from signalbox.models import Event

    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not Event.objects.filter(signal="user_logged_out").exists():
        time.sleep(POLL_SECONDS)


def print_summary(screen: Screen) -> list[str]:
    """Print what was recorded of each signal; return the names of those of which nothing was."""
    from signalbox.core.catalog import BUILTIN_SIGNALS
    from signalbox.models import Event, Trace

    events: Counter[str] = Counter()
    receivers: Counter[str] = Counter()
    senders: dict[str, str] = {}
    for event in Event.objects.order_by("id"):
        name = event.signal.rpartition(".")[2]
        events[name] += 1
        receivers[name] += len(event.data.get("receivers", []))
        senders[name] = event.sender
    for trace in Trace.objects.order_by("id"):
        for name, counts in trace.data.get("init_counts", {}).items():
            events[name] += sum(counts.values())
            senders[name] = list(counts)[-1]

    # Tasks came after the document that this site is made from.
    groups: dict[str, str] = {name: entry.group for name, entry in BUILTIN_SIGNALS.items() if entry.group != "task"}
    groups[CUSTOM_SIGNAL] = "custom"
    rows = [("signal", "group", "events", "receivers run", "last sender")]
    for name, group in groups.items():
        counted = name in ("pre_init", "post_init")
        runs = "counted only" if counted else str(receivers[name])
        rows.append((name, group, str(events[name]), runs, senders.get(name, "")))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    screen.write_line()
    for number, (name, group, count, runs, sender) in enumerate(rows):
        line = (
            f"{name:<{widths[0]}}  {group:<{widths[1]}}  {count:>{widths[2]}}  {runs:>{widths[3]}}  {sender}".rstrip()
        )
        screen.write_line(
            screen.paint(line, BOLD) if number == 0 else screen.paint(line, RED) if count == "0" else line
        )
    return [name for name in groups if not events[name]]


def find_free_port(wanted: int) -> int:
    """Return ``wanted``, or any free port for 0."""
    with socket.socket() as listener:
        # As the server does: a port whose last user has just gone is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, wanted))
        except OSError as error:
            raise DemoError(
                f"Port {wanted} of {HOST} can't be used: {error.strerror}. Try --port 8001, or --port 0 for any."
            ) from error
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def prepare_folder(once: bool, keep: Path | None) -> Iterator[Path]:
    """A folder for the databases, new on each start: kept where one may want to look, otherwise gone at the end."""
    if once and keep is None:
        with tempfile.TemporaryDirectory(prefix="builtinsignals-") as folder:
            yield Path(folder)
        return
    place = keep or HERE / ".demo"
    place.mkdir(parents=True, exist_ok=True)
    for file in (*place.glob("*.sqlite3*"), *place.glob("site.log")):
        file.unlink()
    yield place


def run(once: bool, port: int, keep: Path | None, screen: Screen) -> int:
    """Run the demo; return the exit code."""
    site_port = find_free_port(port)  # first: another demo may be running in the same folder
    with prepare_folder(once, keep) as place:
        site = Site(place, site_port)
        screen.write_line(f"A new database is migrated: {site.database}")
        site.manage("migrate")
        configure_reader(site.database)
        with print_new_events(screen), site.serving():
            site.manage(
                *("createsuperuser", "--no-input", "--username", USER, "--email", f"{USER}@example.org"),
                DJANGO_SUPERUSER_PASSWORD=PASSWORD,
            )
            visit(site, screen.heading)
            wait_for_last_event()
            if not once:
                with suppress(KeyboardInterrupt):
                    screen.write_line(
                        f"\nThe site is at {site.address}/admin/. Log in as {USER}; the password is in demo.py."
                        f"\nWhat it records appears here, and is kept in {site.database}, in the tables"
                        f" signalbox_event and signalbox_trace.\nWhat it prints goes to {site.log}. Ctrl-C ends it."
                        f"\n\nSee it live: {screen.paint(site.address + site.get_login_path(), BOLD)}"
                        f"\nThe link logs {USER} in, once."
                    )
                    threading.Event().wait()
        if not once:
            return 0
        missing = print_summary(screen)
        if missing:
            screen.write_line(f"\nNot recorded: {', '.join(missing)}")
            return 1
        screen.write_line("\nEvery signal was recorded.")
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the example site and show every signal that it sends.")
    parser.add_argument("--once", action="store_true", help="stop after the visit and print what was recorded")
    parser.add_argument("--port", type=int, default=8000, help="where to serve; 0 takes any free port")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where to leave the databases and the site's log")
    parser.add_argument("--no-color", action="store_true", help="print without colour, as with NO_COLOR set")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        return run(options.once, options.port, options.keep, Screen(colour=not options.no_color))
    except DemoError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
