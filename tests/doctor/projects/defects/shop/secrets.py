import logging

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.cache import cache
from django.core.signals import got_request_exception, request_started
from django.db.models.signals import post_save, pre_init
from django.dispatch import receiver
from django.forms.models import model_to_dict

from .models import Note

logger = logging.getLogger(__name__)


@receiver(user_logged_in)
def prints(sender, request, user, **kwargs):
    print("Hash:", user.password)  # D009
    print(f"Session {request.session.session_key} of {user}")  # D009
    print(request.COOKIES)  # D009
    logger.info("Form %s", request.POST)  # D009


@receiver(user_login_failed)
def logs(sender, credentials, request, **kwargs):
    logger.warning("Failed: %r", credentials)  # D009
    logger.warning("Failed: %s", credentials.get("password"))  # D009


@receiver(request_started)
def dumps(sender, environ, **kwargs):
    print(str(environ))  # D009
    print(environ["HTTP_COOKIE"])  # D009


@receiver(got_request_exception)
def stores(sender, request, **kwargs):
    Note.objects.create(text=str(request.META))  # D009


@receiver(pre_init, sender=get_user_model())
def values(sender, **kwargs):
    print(kwargs)  # D009


@receiver(got_request_exception)
def headers(sender, **kwargs):
    request = kwargs["request"]
    logger.error("%s", {"headers": dict(request.headers)})  # D009
    logger.error("Cookie " + request.META.get("HTTP_COOKIE"))  # D009


@receiver(request_started)
def dumps_all(sender, **kwargs):
    print(kwargs)  # D009


@receiver(user_login_failed)
def logs_all(sender, **kwargs):
    logger.warning("Failed: %s", kwargs)  # D009


@receiver(user_logged_in)
def dumps_user(sender, request, user, **kwargs):
    print(user.__dict__)  # D009
    print(vars(user))  # D009
    print(model_to_dict(user))  # D009
    print(request.user.__dict__)  # D009
    print(user.auth_token.key)  # D009
    print(getattr(user, "password"))  # D009
    print(request.COOKIES["basket"])  # D009
    print(request.COOKIES.get("basket"))  # D009


@receiver(user_logged_in)
def by_other_words(sender, request, user, **kwargs):
    word = user.password
    print(word)  # D009
    print(user.password or "")  # D009
    print(user.password if user else "")  # D009
    print(user.password[:4])  # D009
    print([value for value in request.META.values()])  # D009
    print({name: str(value) for name, value in request.META.items()})  # D009
    for name, value in request.META.items():
        print(name, value)  # D009
    token = make_token(user)
    print(token)  # D009
    tell(user)


def tell(user):
    print(user.password)  # D009


def make_token(user):
    return user.pk


@receiver(user_logged_in)
def stores_elsewhere(sender, user, **kwargs):
    cache.set("word", user.password)  # D009
    Note(text=user.password).save()  # D009
    note = Note(text=user.password)  # D009
    note.save()


@receiver(post_save, sender=get_user_model())
def dumps_instance(sender, instance, **kwargs):
    print(vars(instance))  # D009
