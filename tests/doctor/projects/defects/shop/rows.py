from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import *


@receiver(post_save, sender=Order)
def writes_related(sender, instance, **kwargs):
    instance.notes.create(text="New")  # D012


@receiver(post_save, sender=Order)
def updates_related(sender, instance, **kwargs):
    instance.notes.filter(text="").update(text="Old")  # D012


@receiver(post_save, sender=Order)
def saves_each(sender, instance, **kwargs):
    for note in instance.notes.all():
        note.save()  # D012


@receiver(post_save, sender=Order)
def saves_what_it_made(sender, instance, created, **kwargs):
    if created:
        note = Note(order=instance)
        note.save()  # D012


@receiver(post_save, sender=Note)
def saves_what_it_belongs_to(sender, instance, **kwargs):
    order = instance.order
    order.save()  # D012


@receiver(post_save, sender=Order)
def by_another_manager(sender, instance, **kwargs):
    Tag.named.create(name="new")  # D012


@receiver(post_save, sender=Note)
@transaction.atomic
def in_a_transaction(sender, instance, **kwargs):
    Order.objects.filter(pk=instance.order_id).update(total=1)  # D012


@receiver(post_save, sender=Note)
def all_but_its_own(sender, instance, **kwargs):
    sender.objects.exclude(pk=instance.pk).update(text="")  # D012
