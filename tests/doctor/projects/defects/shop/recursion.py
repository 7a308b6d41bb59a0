from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Note, Order


@receiver(post_save, sender=Note)
def asks_for_raw_alone(sender, instance, raw, **kwargs):
    if not raw:
        instance.save()  # D010


@receiver(post_save, sender=Note)
def leaves_for_raw_alone(sender, instance, **kwargs):
    if kwargs["raw"]:
        return
    instance.save()  # D010


@receiver(post_save, sender=Note)
def breaks_a_loop_before(sender, instance, **kwargs):
    for word in instance.text.split():
        if word == "end":
            break
    instance.save()  # D010


@receiver(post_save, sender=Note)
def saves_either_way(sender, instance, created, **kwargs):
    if created:
        instance.text = "new"
        instance.save()
    else:
        instance.save()  # D010


@receiver(post_save, sender=Note)
def asks_for_what_comes_back(sender, instance, created, **kwargs):
    if created is True:
        return
    instance.save()  # D010


@receiver(post_save, sender=Note)
@transaction.atomic
def in_a_transaction(sender, instance, **kwargs):
    instance.save()  # D010


@receiver(post_save, sender=Order)
def loads_it_again(sender, instance, **kwargs):
    order = sender.objects.get(pk=instance.pk)
    order.total = 1
    order.save()  # D010


@receiver(post_save, sender=Order)
def updates_or_creates(sender, instance, **kwargs):
    sender.objects.update_or_create(pk=instance.pk, defaults={"total": 1})  # D010


@receiver(post_save, sender=Note)
def by_another_function(sender, instance, raw, **kwargs):
    finish(instance)


def finish(note):
    note.text = "done"
    note.save()  # D010


@receiver(post_save, sender=Note)
def makes_one_for_each_new(sender, created, raw, **kwargs):
    if created and not raw:
        sender.objects.create(text="another")  # D010
