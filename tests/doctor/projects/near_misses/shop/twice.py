from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from .models import Note, Order, Tag


@receiver([post_save, post_delete], sender=Order)
def each(sender, **kwargs):
    pass


post_save.connect(each, sender=Note)
post_save.connect(each, sender=Tag, dispatch_uid="tag")


def switched(sender, **kwargs):
    pass


if Order:
    post_save.connect(switched, sender=Note)
else:
    post_save.connect(switched, sender=Note)


def restored(sender, **kwargs):
    pass


post_save.connect(restored, sender=Tag)
post_save.disconnect(restored, sender=Tag)
post_save.connect(restored, sender=Tag)
