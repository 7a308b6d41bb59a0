"""Receivers as they are often written at first, each with a mistake. Don't copy them: the doctor says what is wrong.

They are connected only with ``BUILTINSIGNALS_BROKEN=1``.
"""

from __future__ import annotations

import time

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.mail import send_mail
from django.core.signals import request_started
from django.db.models.signals import (
    class_prepared,
    m2m_changed,
    post_init,
    post_migrate,
    post_save,
    pre_delete,
    pre_init,
    pre_migrate,
)
from django.dispatch import receiver

from blog.models import Comment, Post
from blog.own_signals import post_published

User = get_user_model()


# It prints the hash of a password, and is connected twice.
@receiver(user_logged_in, sender=User)
def login_success(sender, request, user, **kwargs):
    print("User Password:", user.password)


user_logged_in.connect(login_success, sender=User)


# It never runs, as the next function has its name, and Django has only a weak reference to this one.
@receiver(user_logged_out, sender=User)
def log_out(sender, request, user, **kwargs):
    print("User:", user)


# It prints the credentials.
@receiver(user_login_failed)
def log_out(sender, credentials, request, **kwargs):  # noqa: F811
    print("Credentials:", credentials)


# They print all values of a user, also the hash of the password.
@receiver(pre_init, sender=User)
def at_beginning_init(sender, *args, **kwargs):
    print("Args:", args, "kwargs:", kwargs)


@receiver(post_init, sender=User)
def at_ending_init(sender, instance, **kwargs):
    print("Instance:", instance.__dict__)


# It prints the cookies, and fails under ASGI, which sends a scope and not an environ.
@receiver(request_started)
def at_beginning_request(sender, environ, **kwargs):
    print("Cookies:", environ.get("HTTP_COOKIE"))


# Without a sender they run once for each app.
@receiver(pre_migrate)
def before_install_app(sender, using, **kwargs):
    print("Using:", using)


# `flush` sends neither plan nor apps, so it fails.
@receiver(post_migrate)
def at_end_migrate_flush(sender, using, plan, apps, **kwargs):
    print("Plan:", plan)


# Models are prepared before ready(), so this one never runs.
def at_class_prepared(sender, **kwargs):
    print("Prepared:", sender)


class_prepared.connect(at_class_prepared)


# The sender of m2m_changed is Post.tags.through.
@receiver(m2m_changed, sender=Post)
def at_tags_changed(sender, instance, action, **kwargs):
    print("Tags:", instance, action)


# Django drops it at once: nothing else refers to the lambda.
post_save.connect(lambda sender, instance, **kwargs: print("Saved:", instance), sender=Comment)


# Without a sender it makes Django load every object before a delete, of every model.
@receiver(pre_delete)
def at_beginning_delete(sender, instance, **kwargs):
    print("Delete:", instance)


# The mail is sent even if the transaction is rolled back.
@receiver(post_save, sender=Post)
def mail_author(sender, instance, **kwargs):
    send_mail("Your post", f"{instance} was saved.", None, [instance.author.email])


# It delays each save of a comment.
@receiver(post_save, sender=Comment)
def check_for_spam(sender, instance, **kwargs):
    time.sleep(0.15)


# A post has no slug.
@receiver(post_published, sender=Post)
def announce(sender, post, **kwargs):
    print("Published:", post.slug)
