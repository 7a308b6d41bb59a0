"""The instance's own row, in every spelling, and values that are not rows."""

from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver

from .models import *


@receiver(pre_save, sender=Order)
def by_its_type(sender, instance, **kwargs):
    type(instance).objects.get(pk=instance.pk)
    instance.__class__.objects.get(id=instance.id)


@receiver(pre_save, sender=Order)
def by_kwargs(sender, **kwargs):
    Order.objects.filter(pk=kwargs["instance"].pk).first()


@receiver(pre_save, sender=Order)
def by_a_name_for_its_key(sender, instance, **kwargs):
    key = instance.pk
    Order.objects.get(pk=key)


@receiver(pre_save, sender=Order)
def by_other_lookups(sender, instance, using, **kwargs):
    Order.objects.get(pk__exact=instance.pk)
    Order.objects.filter(pk__in=[instance.pk]).first()
    Order.objects.values_list("total", flat=True).get(pk=instance.pk)
    sender._base_manager.using(using).only("total").get(pk=instance.pk)


@receiver(post_save, sender=Order)
def in_bulk(sender, instance, **kwargs):
    sender.objects.bulk_update([instance], ["total"])


@receiver(pre_save, sender=Note)
def reads_related(sender, instance, **kwargs):
    instance.text = instance.order.total
    instance.attachment.save()


@receiver(pre_save, sender=Note)
def never(sender, instance, **kwargs):
    Order.objects.get(pk=1) if False else None
