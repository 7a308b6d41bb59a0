"""Take the pictures in docs/images of the demo: ``make screenshots``.

It runs the demo of examples/builtinsignals, follows the link that it prints, and photographs the pages in both schemes.
SIGNALBOX_TEST_CHROMIUM names the browser where it isn't found by itself.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs/images"
sys.path[:0] = [str(ROOT)]

from tests.dashboard import browsing  # noqa: E402 - it is found from the root

WIDE = {"width": 1360, "height": 850}
PHONE = {"width": 390, "height": 780}
OPENED_TRACE = "POST /admin/blog/post/"
SHOWN_TRACE = "/shop/checkout/"
CHANGED_FIELD = "body"


@contextmanager
def run_demo() -> Iterator[str]:
    """Run the demo; yield the link that it ends with."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-u", "demo.py", "--port", "0", "--keep", folder, "--no-color"]
        site = ROOT / "examples/builtinsignals"
        with subprocess.Popen(command, cwd=site, stdout=subprocess.PIPE, text=True) as demo:
            assert demo.stdout
            try:
                link = next((line.split()[-1] for line in demo.stdout if "See it live" in line), None)
                if link is None:
                    raise SystemExit("The demo ended without a link; what it printed says why.")
                yield link
            finally:
                demo.send_signal(signal.SIGINT)
                demo.communicate()


def take_screenshots(page: Any, address: str, name: str, window: dict[str, int], *schemes: str) -> None:
    """Take the pictures of one page."""
    page.set_viewport_size(window)
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.goto(address)
        waits = any(part in address for part in ("signalbox/map", "signalbox/doctor"))
        page.wait_for_load_state("networkidle") if waits else page.wait_for_timeout(900)
        if name == "timeline":
            line = page.locator("[data-line]", has=page.locator(f".name:text-is('{OPENED_TRACE}')")).first
            line.locator("[data-expand]").click()
            line.locator(".leaf").first.wait_for()
            page.evaluate("scrollTo(0, 0)")
            page.mouse.move(0, 0)
        page.screenshot(path=IMAGES / f"{name}-{scheme}.png")


def main() -> int:
    """Return the exit code."""
    if reason := browsing.get_unavailable_reason():
        sys.stderr.write(f"The pictures cannot be taken: {reason}.\n")
        return 1
    shutil.rmtree(IMAGES, ignore_errors=True)
    IMAGES.mkdir(parents=True)
    with run_demo() as link, browsing.launch_chromium() as browser:
        page = browser.new_context(device_scale_factor=1.5).new_page()
        page.goto(link)
        root = page.url
        page.goto(f"{root}?kind=request&text={SHOWN_TRACE}")
        trace = page.locator("a.trace-link", has_text=SHOWN_TRACE).first.get_attribute("href")
        life = f"{root}object/?sender=blog.Post&key=1"
        page.goto(life)
        version = page.locator(".version", has_text=CHANGED_FIELD).first
        change, key = version.locator(".version-event").get_attribute("href"), version.get_attribute("data-version")
        host = root.removesuffix("/signalbox/")
        take_screenshots(page, root, "timeline", WIDE, "light", "dark")
        take_screenshots(page, f"{host}{trace}", "trace", WIDE, "light", "dark")
        take_screenshots(page, f"{host}{change}", "event", WIDE, "light")
        take_screenshots(page, f"{life}&event={key}", "object", WIDE, "dark")
        take_screenshots(page, f"{root}map/", "map", WIDE, "light")
        take_screenshots(page, f"{root}deliveries/", "deliveries", WIDE, "light")
        take_screenshots(page, f"{root}doctor/", "doctor", WIDE, "dark")
        take_screenshots(page, f"{root}health/", "status", WIDE, "light")
        take_screenshots(page, root, "phone", PHONE, "dark")
    sys.stdout.write("".join(f"{path.relative_to(ROOT)}\n" for path in sorted(IMAGES.iterdir())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
