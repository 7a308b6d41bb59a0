from django.db.models.signals import post_save

import signalbox

from .models import Order


@signalbox.receiver(post_save, sender=Order, after_commit=True)  # D002
def twin(sender, **kwargs):
    pass


@signalbox.receiver(post_save, sender=Order, after_commit=True)
def twin(sender, **kwargs):
    pass
