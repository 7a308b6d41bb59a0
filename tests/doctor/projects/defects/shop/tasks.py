from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Order


@receiver(post_save, sender=Order)  # D005
def in_the_worker_alone(sender, **kwargs):
    pass
