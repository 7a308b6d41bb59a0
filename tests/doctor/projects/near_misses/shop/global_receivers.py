from django.db.models.signals import m2m_changed, post_delete, post_init, post_save
from django.dispatch import receiver

from .models import Note, Order


@receiver(post_save)
def cheap(sender, **kwargs):
    pass


@receiver(post_delete, sender=Note)
@receiver(post_init, sender=Note)
@receiver(m2m_changed, sender=Order.tags.through)
def some(sender, **kwargs):
    pass


class Some:
    def __call__(self, sender, **kwargs):
        pass


third = Some()
fourth = Some()
post_delete.connect(third, sender=Order)
post_delete.connect(fourth, sender=Order)
