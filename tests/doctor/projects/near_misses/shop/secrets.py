import logging

from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.cache import cache
from django.core.signals import request_started
from django.db.models.signals import pre_init
from django.dispatch import receiver
from django.forms.models import model_to_dict

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


@receiver(request_started)
def keeps_the_environ(sender, environ=None, **kwargs):
    print(kwargs)


@receiver(user_login_failed)
def keeps_the_credentials(sender, credentials, **kwargs):
    print(kwargs)


@receiver(user_logged_in)
def by_name_alone(sender, request, user, **kwargs):
    for token in user.get_username().split("."):
        print(token)
    next_token = 1
    print(next_token, f"{next_token=}")
    password = len(user.password)
    print(password)
    print(user.password and "set", user.password == "", "unset" if user.password else "set")
    print(request.COOKIES["django_language"], request.COOKIES.get("theme"))
    print(model_to_dict(user, fields=["username"]), vars(Order), getattr(user, "username"))
    print([name for name in request.META], [name for name, value in request.META.items()])
    print([value for name, value in request.META.items() if name.startswith("HTTP_ACCEPT")])
    for name, value in request.META.items():
        if name == "REMOTE_ADDR":
            print(name, value)
    count(user)


def count(user):
    print(len(user.password))


@receiver(user_logged_in)
def stores_where_it_belongs(sender, user, **kwargs):
    Order.objects.create(owner=user, password=user.password)
    cache.set("token", user.auth_token)
    Note(text=str(user.pk)).save()
