from time import sleep

from django.contrib.auth.models import Group
from django.db.models.signals import post_save, pre_delete, pre_save
from django.dispatch import receiver

import signalbox


@receiver(pre_delete, sender=Group)  # D016
def raises(sender, **kwargs):
    raise LookupError("no such group")


@receiver(post_save, sender=Group)  # D017
def waits(sender, **kwargs):
    sleep(0.11)


@receiver(pre_save, sender=Group)
def waits_once(sender, instance, **kwargs):
    if instance.name == "group 0":
        sleep(0.11)


@signalbox.receiver(post_save, sender="auth.Permission", durable=True)  # D023
def never_succeeds(sender, **kwargs):
    raise ValueError("no stock")
