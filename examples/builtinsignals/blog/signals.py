"""One receiver for each signal, some connected by decorator and some by ``connect()``; never both.

``class_prepared`` and ``connection_created`` have theirs in ``early.py``. Each receiver has
its own name: a second ``def`` with the same name would leave the first without a reference, and Django removes it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from django.apps import apps as installed
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.signals import got_request_exception, request_finished, request_started, setting_changed
from django.db.models import Model
from django.db.models.signals import (
    m2m_changed,
    post_delete,
    post_init,
    post_migrate,
    post_save,
    pre_delete,
    pre_init,
    pre_migrate,
    pre_save,
)
from django.dispatch import receiver
from django.http import HttpRequest

from blog.banner import banner
from blog.models import Post
from blog.own_signals import post_published

if TYPE_CHECKING:
    from django.apps import AppConfig

User = get_user_model()
BLOG = installed.get_app_config("blog")

# Login and logout


@receiver(user_logged_in, sender=User)
def login_success(sender: type[Model], request: HttpRequest, user: AbstractBaseUser, **kwargs: Any) -> None:
    banner("user_logged_in", sender, f"{user} at {request.path}")


def log_out(sender: type[Model], request: HttpRequest, user: AbstractBaseUser, **kwargs: Any) -> None:
    banner("user_logged_out", sender, f"{user} at {request.path}")


user_logged_out.connect(log_out, sender=User)


@receiver(user_login_failed)
def login_failed(sender: str, credentials: dict[str, Any], request: HttpRequest | None = None, **kwargs: Any) -> None:
    banner("user_login_failed", sender, f"as {credentials.get(User.USERNAME_FIELD)!r}")


# Models


def at_beginning_init(sender: type[Model], args: tuple[Any, ...], kwargs: dict[str, Any], **named: Any) -> None:
    banner("pre_init", sender, f"{len(args)} values by position, {len(kwargs)} by name")


pre_init.connect(at_beginning_init, sender=User)


@receiver(post_init, sender=User)
def at_ending_init(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    # The key and no more: str() of an object with deferred fields would load it again, and so send this again.
    banner("post_init", sender, f"key {instance.pk}")


@receiver(pre_save, sender=User)
def at_beginning_save(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    banner("pre_save", sender, f"{instance}")


@receiver(post_save, sender=User)
def at_ending_save(sender: type[Model], instance: Model, created: bool, **kwargs: Any) -> None:
    banner("post_save", sender, f"{instance} {'created' if created else 'updated'}")


def at_beginning_delete(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    banner("pre_delete", sender, f"{instance}")


pre_delete.connect(at_beginning_delete, sender=User)


def at_ending_delete(sender: type[Model], instance: Model, **kwargs: Any) -> None:
    banner("post_delete", sender, f"{instance}")


post_delete.connect(at_ending_delete, sender=User)


@receiver(m2m_changed, sender=Post.tags.through)
def at_tags_changed(
    sender: type[Model], instance: Model, action: str, pk_set: set[int] | None = None, **kwargs: Any
) -> None:
    banner("m2m_changed", sender, f"{action} {sorted(pk_set or [])} of {instance}")


# Requests


@receiver(request_started)
def at_beginning_request(
    sender: type, environ: dict[str, Any] | None = None, scope: dict[str, Any] | None = None, **kwargs: Any
) -> None:
    # WSGI gives the environ, ASGI the scope; both hold cookies and more that isn't to be shown.
    news = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}" if environ else ""
    banner("request_started", sender, f"{scope['method']} {scope['path']}" if scope else news)


def at_ending_request(sender: type, **kwargs: Any) -> None:
    banner("request_finished", sender)


request_finished.connect(at_ending_request)


@receiver(got_request_exception)
def at_req_exception(sender: None, request: HttpRequest, **kwargs: Any) -> None:
    kind = sys.exc_info()[0]
    banner("got_request_exception", sender, f"{kind.__name__ if kind else 'unknown'} at {request.path}")


# Management: with a sender, once per command; without, once per app.


@receiver(pre_migrate, sender=BLOG)
def before_install_app(sender: AppConfig, using: str, **kwargs: Any) -> None:
    banner("pre_migrate", sender, f"database {using}")


def at_end_migrate_flush(sender: AppConfig, using: str, plan: list[Any] | None = None, **kwargs: Any) -> None:
    # flush sends neither plan nor apps.
    steps = "flush" if plan is None else f"{len(plan)} migrations"
    banner("post_migrate", sender, f"database {using}, {steps}")


post_migrate.connect(at_end_migrate_flush, sender=BLOG)


# Tests


@receiver(setting_changed)
def at_setting_changed(sender: type, setting: str, enter: bool, **kwargs: Any) -> None:
    banner("setting_changed", sender, f"{setting} {'set' if enter else 'restored'}")


# This app's own


@receiver(post_published, sender=Post)
def at_post_published(sender: type[Post], post: Post, **kwargs: Any) -> None:
    banner("post_published", sender, f"{post} by {post.author}")
