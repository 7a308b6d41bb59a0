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
