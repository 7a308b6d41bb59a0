"""What would be wrong with Django's own decorator, and is right with signalbox's."""

from django.contrib.auth.signals import user_logged_in
from django.core.mail import send_mail
from django.db.models.signals import post_save

import signalbox

from .models import Note, Order


@signalbox.receiver(user_logged_in, sender="accounts.Member")
def by_label(sender, **kwargs):
    pass


@signalbox.receiver("post_save", sender="shop.Order", after_commit=True)
def mails(sender, instance, **kwargs):
    send_mail("Order", "Saved.", None, [instance.owner.email])


@signalbox.receiver(post_save, sender=Order, durable=True)
def writes(sender, instance, **kwargs):
    Note.objects.create(order=instance, text="Saved")
