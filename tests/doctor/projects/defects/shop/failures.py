from contextlib import suppress

from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Order


@receiver(post_save, sender=Order)
def bare(sender, instance, **kwargs):
    try:
        instance.total += 1
    except:  # D015
        print("Oh")


@receiver(post_save, sender=Order)
def silent(sender, instance, **kwargs):
    try:
        instance.total += 1
    except Exception:  # D015
        pass


@receiver(post_save, sender=Order)
def silent_and_bare(sender, instance, **kwargs):
    try:
        instance.total += 1
    except:  # D015
        pass


@receiver(post_save, sender=Order)
def silent_among_others(sender, instance, **kwargs):
    try:
        instance.total += 1
    except (TypeError, Exception):  # D015
        pass


@receiver(post_save, sender=Order)
def silent_with_a_value(sender, instance, **kwargs):
    try:
        total = instance.total + 1
    except Exception:  # D015
        total = 0
    instance.total = total


@receiver(post_save, sender=Order)
def suppresses(sender, instance, **kwargs):
    with suppress(Exception):  # D015
        instance.total += 1
