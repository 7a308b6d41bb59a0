"""A real browser and a real server for it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any, TypeAlias

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler, StaticFilesHandler
from django.core.asgi import get_asgi_application
from django.core.servers.basehttp import ThreadedWSGIServer
from django.http import HttpRequest, HttpResponse
from django.test.testcases import LiveServerThread

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from signalbox.models import Delivery, Error, Event, Trace

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
"""Names of the executables in Debian. The first is headless only, and twice as fast."""
CHROMIUM = os.environ.get("SIGNALBOX_TEST_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), "")

CHROMIUM_ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]

CONTENT_SECURITY_POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

FIRST_TRACE_ID = "1" * 32
SECOND_TRACE_ID = "2" * 32
"""Traces of the tests."""
ERROR_FINGERPRINT = "a" * 32
"""Fingerprint of the errors of the tests."""

AXE_SCRIPT = (Path(__file__).parent / "vendor/axe-core/axe.min.js").read_text()


def get_unavailable_reason() -> str | None:
    """Return why no browser is available and what to install; ``None`` if one is."""
    if find_spec("playwright") is None:
        return "no playwright: install the dependency group `test`"
    if not CHROMIUM:
        return "no Chromium: install the package chromium-headless-shell, or set SIGNALBOX_TEST_CHROMIUM to its path"
    return None


class StrictPolicy:
    """Middleware that forbids inline scripts, inline styles and everything that is not the site's own."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response


@dataclass(frozen=True)
class Site:
    """A served site: its URL, and a function that returns True if it has no open connections."""

    address: str
    is_idle: Callable[[], bool]

    def wait_until_idle(self, seconds: float = 20) -> None:
        """Wait until the site has answered the requests of closed windows."""
        until = time.monotonic() + seconds
        while not self.is_idle():
            assert time.monotonic() < until, f"{self.address} is still asked something after {seconds} s"
            time.sleep(0.01)


class Server(ThreadedWSGIServer):
    """Django's server, which records whether its threads have ended."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.request_threads: list[Thread] = []

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self.request_threads.append(current_thread())
        super().process_request_thread(request, client_address)

    def is_idle(self) -> bool:
        """Return True if no thread serves a connection."""
        return not any(thread.is_alive() for thread in self.request_threads)


class ServerThread(LiveServerThread):
    """Django's server of live tests."""

    server_class = Server
    httpd: Server


@contextmanager
def serve_wsgi() -> Iterator[Site]:
    """Serve the test site to other threads."""
    thread = ServerThread("127.0.0.1", StaticFilesHandler, connections_override={})
    thread.daemon = True
    thread.start()
    thread.is_ready.wait()
    try:
        if thread.error:
            raise thread.error
        yield Site(f"http://127.0.0.1:{thread.port}", thread.httpd.is_idle)
    finally:
        thread.terminate()


@contextmanager
def serve_asgi() -> Iterator[Site]:
    """Serve the test site under ASGI to other threads."""
    import uvicorn

    application = ASGIStaticFilesHandler(get_asgi_application())
    # Uvicorn starts its own event loop, as the browser's driver may run one in this thread.
    server = uvicorn.Server(uvicorn.Config(application, port=0, lifespan="off", log_config=None, ws="none"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(400):
        if server.started or not thread.is_alive():
            break
        time.sleep(0.025)
    try:
        assert server.started, "uvicorn did not start"
        [socket] = server.servers[0].sockets
        state = server.server_state
        yield Site(f"http://127.0.0.1:{socket.getsockname()[1]}", lambda: not (state.connections or state.tasks))
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def launch_chromium() -> Iterator[Browser]:
    """Start the browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class BrowserWindow:
    """One window of the browser, with its console errors."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.address = address
        self.errors: list[str] = []
        # htmx complains of a poll that was under way when the page was left.
        self.ignored_messages: tuple[str, ...] = ("htmx:afterRequest", "htmx:sendError", "htmx:sendAbort")
        page.on(
            "console", lambda message: self._add_error(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self._add_error(str(error)))
        page.on("dialog", lambda dialog: self._add_error(f"dialog: {dialog.message}"))

    def _add_error(self, text: str) -> None:
        if not text.startswith(self.ignored_messages):
            self.errors.append(text)

    def ignore_request_errors(self) -> None:
        """Ignore console errors about responses with these status codes."""
        self.ignored_messages += ("Failed to load resource", "Response Status Error Code", "htmx:timeout")

    def open(self, path: str) -> None:
        """Open a page of the site, and wait until its requests have finished."""
        answer = self.page.goto(self.address + path)
        assert answer is not None
        assert 200 == answer.status, f"{path} answered {answer.status}"
        # The doctor reads every file of the project: on a busy machine that takes its time.
        self.page.wait_for_selector("[aria-busy=true]", state="detached", timeout=60_000)

    def find_accessibility_violations(self) -> list[str]:
        """Return the violations that axe finds on the page."""
        self.page.evaluate(AXE_SCRIPT)
        found: list[dict[str, Any]] = self.page.evaluate("axe.run().then((result) => result.violations)")
        return [f"{one['id']}: {json.dumps([node['html'] for node in one['nodes']])[:600]}" for one in found]

    def get_overflow_pixels(self) -> int:
        """Return the number of pixels by which the page is wider than the window."""
        wider: int = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        return wider


OpenWindow = Callable[..., BrowserWindow]
AddEvent: TypeAlias = "Callable[..., Event]"
AddTrace: TypeAlias = "Callable[..., Trace]"
AddDelivery: TypeAlias = "Callable[..., Delivery]"
AddError: TypeAlias = "Callable[..., Error]"
