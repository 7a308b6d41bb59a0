import logging

from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.signals import got_request_exception, request_started
from django.db.models.signals import post_save, pre_init
from django.dispatch import receiver

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
