import logging
from contextlib import suppress

from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Order

logger = logging.getLogger(__name__)


@receiver(post_save, sender=Order)
def told(sender, instance, **kwargs):
    try:
        instance.total += 1
    except Exception:
        logger.exception("No total")


@receiver(post_save, sender=Order)
def narrow(sender, instance, **kwargs):
    try:
        instance.total += 1
    except TypeError:
        pass


@receiver(post_save, sender=Order)
def raises(sender, instance, **kwargs):
    try:
        instance.total += 1
    except:
        instance.total = 0
        raise


@receiver(post_save, sender=Order)
def suppresses_one(sender, instance, **kwargs):
    with suppress(TypeError, ValueError):
        instance.total += 1


@receiver(post_save, sender=Order)
def keeps_the_exception(sender, instance, **kwargs):
    try:
        instance.total += 1
    except (TypeError, Exception) as error:
        instance.failure = error
