import logging

from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.signals import request_started
from django.db.models.signals import pre_init
from django.dispatch import receiver

from .models import Note, Order

logger = logging.getLogger(__name__)


@receiver(user_logged_in)
def prints(sender, request, user, **kwargs):
    print("Has password:", bool(user.password), user.has_usable_password())
    print(user.password_changed_at, request.session.get_expiry_age())
    print("token".upper(), "password")
    logger.info("Logged in: %s from %s", user.pk, request.META["REMOTE_ADDR"])


@receiver(user_login_failed)
def logs(sender, credentials, request, **kwargs):
    logger.warning("Failed: %s", credentials.get("username"))
    if len(credentials["password"]) < 4:
        logger.warning("Short one")


@receiver(request_started)
def path(sender, environ, **kwargs):
    print(environ["PATH_INFO"], environ.get("REMOTE_ADDR"))


@receiver(pre_init, sender=Order)
def values(sender, **kwargs):
    print(kwargs)


def elsewhere(user):
    """No receiver."""
    print(user.password)
