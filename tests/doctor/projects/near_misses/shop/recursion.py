from contextlib import suppress

from django.db.models.signals import post_save
from django.dispatch import receiver

from .models import Note, Order, Tag


@receiver(post_save, sender=Note)
def asks_for_created_too(sender, instance, created, raw, **kwargs):
    if created and not raw:
        instance.save()


@receiver(post_save, sender=Note)
def leaves_a_loop_for_good(sender, instance, **kwargs):
    for word in instance.text.split():
        if word == "end":
            return
    instance.save()


@receiver(post_save, sender=Note)
def goes_on_to_the_next_turn(sender, instance, **kwargs):
    for word in instance.text.split():
        if word != "save":
            continue
        instance.save()


@receiver(post_save, sender=Note)
def leaves_within_a_block(sender, instance, **kwargs):
    with suppress(ValueError):
        if instance.text == "done":
            return
    instance.save()


@receiver(post_save, sender=Note)
def leaves_otherwise(sender, instance, created, **kwargs):
    if created:
        instance.text = "new"
    else:
        return
    instance.save()


@receiver(post_save, sender=Order)
def loads_another(sender, instance, raw, **kwargs):
    if raw:
        return
    order = sender.objects.get(pk=instance.total)
    order.save()


@receiver(post_save, sender=Note)
def by_another_function(sender, instance, created, raw, **kwargs):
    if created:
        finish(instance)
    touch(instance.order)


def finish(note):
    note.save()


def touch(order):
    order.save()


@receiver(post_save, sender=Tag)
def only_where_it_is_missing(sender, instance, raw, **kwargs):
    if not raw:
        sender.objects.get_or_create(name="any")


@receiver(post_save, sender=Note)
def once_for_each_that_is_missing(sender, instance, raw, **kwargs):
    for name in [name for name in ("slug", "title") if not hasattr(instance, name)]:
        setattr(instance, name, "")
        instance.save()


@receiver(post_save, sender=Note)
def once_for_each_that_was_missing(sender, instance, raw, **kwargs):
    missing = [name for name in ("slug", "title") if not hasattr(instance, name)]
    for name in missing:
        setattr(instance, name, "")
        instance.save()


@receiver(post_save, sender=Note)
def in_a_comprehension(sender, instance, raw, **kwargs):
    return [instance.save() for name in ("slug", "title") if not instance.__dict__.setdefault(name, "")]
