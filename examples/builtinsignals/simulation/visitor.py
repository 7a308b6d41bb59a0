"""The simulated visitor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http.cookiejar import CookieJar
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPCookieProcessor, ProxyHandler, build_opener

from simulation.site import HERE, USER, DemoError, Site

# They protect nothing: the site is on loopback, and its database is created on each start.
PASSWORD = "lever-frame-1889"
WRONG_PASSWORD = "lever-frame-1898"
NEW_PASSWORD = "tail-lamp-2706"


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

    def post(
        self, path: str, fields: Mapping[str, str | list[str]], *, expect_refusal: bool = False, expect: int = 200
    ) -> str:
        """Send a form. A form that Django accepts redirects; with ``expect_refusal`` this one must not."""
        token = next((cookie.value for cookie in self.cookies if cookie.name == "csrftoken"), "") or ""
        form = urlencode({"csrfmiddlewaretoken": token, **fields}, doseq=True)
        landed = self.fetch(path, form.encode(), expect)
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

    announce(
        "Products are imported, and imported again. The catalogue is printed by a durable receiver, which is slow."
    )
    for _ in range(2):
        site.manage("import_products", str(HERE / "products.csv"))

    announce("An order is placed. Durable receivers run after the commit: one is retried, one becomes a dead letter.")
    shop, checkout = "/shop/", "/shop/checkout/"
    visitor.get(shop)
    visitor.post(checkout, {"sku": ["S-001", "S-004", "S-012"], "card": "valid"})

    announce("Another order is rolled back, because the card is declined. No durable receiver runs.")
    visitor.post(checkout, {"sku": ["S-001", "S-002"], "card": "declined"}, expect=402, expect_refusal=True)

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


def visit_broken(site: Site, announce: Callable[[str], None]) -> None:
    """Do what the receivers of blog/broken.py are connected to."""
    announce("The site was started again with the mistakes of blog/broken.py, for the doctor.")
    visitor = Visitor(site.address)
    visitor.get("/admin/login/")
    visitor.post("/admin/login/?next=/admin/", {"username": USER, "password": PASSWORD})
    posts = "/admin/blog/post/"
    comments = build_comment_fields(*(f"Remark {number}" for number in range(25)))
    page = visitor.post(f"{posts}add/", {"title": "A broken lever", "author": "1", "_continue": "1", **comments})
    # A receiver of post_published raises an exception. send_robust() catches it, so the page shows nothing.
    post = parse_primary_key(page)
    visitor.post(posts, {"action": "publish", "_selected_action": post}, expect_refusal=True)
