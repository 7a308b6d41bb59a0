"""Run the example site, send a visitor through it, and print every event as it is recorded.

    python demo.py [--once] [--port 8000] [--keep FOLDER] [--no-color]

The site keeps serving until Ctrl-C. With ``--once`` it stops after the visit, prints what was recorded of each signal,
and exits with 1 if one of them is missing.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simulation.links import find_links
from simulation.screen import BOLD, POLL_SECONDS, RED, Screen
from simulation.site import HERE, HOST, USER, DemoError, Site
from simulation.visitor import PASSWORD, visit, visit_broken

CUSTOM_SIGNAL = "post_published"


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
                events = list(Event.objects.filter(id__gt=last).order_by("id"))
                screen.events(events)
                last = events[-1].id if events else last
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
    """Wait until the last request has written its events, after its answer, and until no delivery is pending."""
    from signalbox.models import Delivery, Event

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pending = Delivery.objects.filter(state=Delivery.PENDING).exists()
        if not pending and Event.objects.filter(signal="user_logged_out").exists():
            return
        time.sleep(POLL_SECONDS)


def print_summary(screen: Screen) -> list[str]:
    """Print the number of events of each signal. Return the names of signals without events."""
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
        for name, counts in trace.data.get("send_counts", {}).items():
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


def print_links(site: Site, screen: Screen) -> None:
    """Print where to look, last of all."""
    login_link = site.address + site.get_login_path()
    time.sleep(2 * POLL_SECONDS)
    screen.write_line(
        f"\nThe site is at {site.address}/admin/ and {site.address}/shop/. Log in as {USER}; the password is in"
        f" simulation/visitor.py.\nWhat it records appears here, and is kept in {site.database}."
        f"\nWhat it prints goes to {site.log}. Ctrl-C ends it."
    )
    screen.write_line(f"\nSee it live, this link logs you in once: {screen.paint(login_link, BOLD)}")
    screen.write_line(screen.paint("\nThen these pages are worth opening:\n", BOLD))
    links = list(find_links())
    width = max(len(title) for title, _ in links)
    for title, path in links:
        screen.write_line(f"  {title:<{width}}  {site.address}{path}")
    screen.write_line()


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
        with print_new_events(screen), site.working():
            with site.serving():
                site.manage(
                    *("createsuperuser", "--no-input", "--username", USER, "--email", f"{USER}@example.org"),
                    DJANGO_SUPERUSER_PASSWORD=PASSWORD,
                )
                visit(site, screen.heading)
                wait_for_last_event()
            if not once:
                with suppress(KeyboardInterrupt), site.serving(BUILTINSIGNALS_BROKEN="1"):
                    visit_broken(site, screen.heading)
                    print_links(site, screen)
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
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job would ignore it, and its children
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
