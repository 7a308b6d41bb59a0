from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Note, Order, Tag


@receiver(post_save, sender=Order)
def again(sender, **kwargs):
    pass


post_save.connect(again, sender=Order)  # D004


def keyed(sender, **kwargs):
    pass


post_save.connect(keyed, sender=Note, dispatch_uid="one")
post_save.connect(keyed, sender=Note, dispatch_uid="two")  # D004


@receiver(post_save)
@receiver(post_save, sender=Tag)  # D004
def both(sender, **kwargs):
    pass
