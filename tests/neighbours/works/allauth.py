"""django-allauth: signing up, confirming an address, logging in and out, and new passwords."""

from __future__ import annotations

import re
from typing import Any

from allauth.account.models import EmailAddress
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from django.urls import include, path

from tests.neighbours.observing import Observer
from tests.neighbours.works import books


def paths() -> list[Any]:
    return [path("accounts/", include("allauth.urls"))]


def work(observe: Observer) -> None:
    """Do the work with books, and visit the pages of an account."""
    books.everything(observe)
    client = Client(raise_request_exception=False)
    name = observe.how
    address = f"{name}@example.com"
    account = {"username": name, "email": address, "password1": "Long-enough-1", "password2": "Long-enough-1"}
    login = {"login": name, "password": "Long-enough-1"}

    def post(where: str, **data: Any) -> Any:
        return client.post(f"/accounts/{where}/", data)

    def link() -> str:
        found = re.search(r"http://testserver(/\S+)", str(mail.outbox[-1].body))
        return found[1] if found else "/no-link/"

    def confirm() -> Any:
        client.post(link())
        return list(EmailAddress.objects.filter(email=address).values("email", "verified", "primary"))

    def reset() -> Any:
        post("password/reset", email=address)
        page = client.get(link(), follow=True)
        client.post(page.redirect_chain[-1][0], {"password1": "Other-enough-1", "password2": "Other-enough-1"})
        return User.objects.get(username=name).check_password("Other-enough-1")

    def mails() -> Any:
        return [(message.subject, message.to) for message in mail.outbox]

    observe("sign-up page", lambda: client.get("/accounts/signup/"))
    observe("sign up", lambda: post("signup", **account))
    observe("sign up again", lambda: Client().post("/accounts/signup/", account))
    observe("confirm", confirm)
    observe("log out", lambda: post("logout"))
    observe("log in wrongly", lambda: post("login", **{**login, "password": "wrong"}))
    observe("log in", lambda: post("login", **login))
    observe("another address", lambda: post("email", email=f"second.{address}", action_add="1"))
    observe("remove an address", lambda: post("email", email=f"second.{address}", action_remove="1"))
    observe("log out again", lambda: post("logout"))
    observe("reset", reset)
    observe("mails", mails)
    observe("delete of a user", lambda: User.objects.filter(username=name).delete())
