from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception, request_started
from django.db.backends.signals import connection_created
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.db.models.signals import m2m_changed, post_save, pre_save
from django.dispatch import receiver

from .models import Express, Order


@receiver(post_save, sender=get_user_model())
def user(sender, **kwargs):
    pass


@receiver(post_save, sender="accounts.Member")
def lazy(sender, **kwargs):
    pass


@receiver(post_save, sender=Order)
@receiver(post_save, sender=Express)
def both(sender, **kwargs):
    pass


@receiver(m2m_changed, sender=Order.tags.through)
def through(sender, **kwargs):
    pass


@receiver(pre_save, sender=Order)
def order(sender, **kwargs):
    pass


@receiver(user_logged_in, sender=get_user_model())
def logged_in(sender, **kwargs):
    pass


@receiver(user_logged_out, sender=type(None))
def nobody(sender, **kwargs):
    pass


@receiver(user_login_failed, sender="django.contrib.auth")
def failed(sender, **kwargs):
    pass


@receiver(request_started, sender=WSGIHandler)
def started(sender, **kwargs):
    pass


@receiver(got_request_exception, sender=None)
def raised(sender, **kwargs):
    pass


@receiver(connection_created, sender=DatabaseWrapper)
def created(sender, **kwargs):
    pass


def connect_later():
    """Not called: found in the source."""
    m2m_changed.connect(created, sender=Order.tags.field.remote_field.through)
