import smtplib
import subprocess
import threading
import urllib.request

import httpx
import requests
from asgiref.sync import async_to_sync
from django.core.mail import EmailMessage, get_connection, send_mail
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_save
from django.dispatch import receiver
from django.shortcuts import get_object_or_404

from .models import Note, Order, Tag


@receiver(post_save, sender=Order)
def saves_again(sender, instance, **kwargs):
    instance.total += 1
    instance.save()  # D010


@receiver(pre_save, sender=Order)
def by_kwargs(sender, **kwargs):
    order = kwargs["instance"]
    order.save(update_fields=["total"])  # D010


@receiver(post_save, sender=Tag)
def makes_another(sender, instance, **kwargs):
    Tag.objects.create(name="another")  # D010 D012


@receiver(post_save, sender=Order)
def mails(sender, instance, **kwargs):
    send_mail("Order", "Saved.", None, [instance.owner.email])  # D011
    instance.owner.email_user("Order", "Saved.")  # D011


@receiver(post_delete, sender=Order)
def effects(sender, instance, **kwargs):
    message = EmailMessage("Order")
    message.send()  # D011
    urllib.request.urlopen("https://example.org")  # D011
    subprocess.run(["true"])  # D011


@receiver(m2m_changed, sender=Order.tags.through)
def queues(sender, instance, **kwargs):
    work.delay(instance.pk)  # D011
    work.enqueue(instance.pk)  # D011


class work:
    @classmethod
    def s(cls, *args):
        return cls


@receiver(post_save, sender=Order)
def writes(sender, instance, created, **kwargs):
    if created:
        Note.objects.create(order=instance, text="New")  # D012


@receiver(post_save, sender=Note)
def writes_related(sender, instance, **kwargs):
    instance.order.save()  # D012


@receiver(pre_save, sender=Note)
def reads(sender, instance, **kwargs):
    instance.text = str(Order.objects.filter(total=0).count())  # D012


@receiver(post_save, sender=Tag)
def makes_one_by_hand(sender, **kwargs):
    Tag(name="by hand").save()  # D010 D012


@receiver(post_save)
def writes_for_all(sender, instance, **kwargs):
    Note.objects.create(text=str(instance))  # D010 D012


@receiver(post_delete, sender=Order)
def tells(sender, instance, **kwargs):
    EmailMessage("Order").send()  # D011
    async_to_sync(layer.group_send)("orders", {})  # D011
    app.send_task("orders")  # D011


class layer:
    def group_send(self):
        pass


class app:
    pass


@receiver(pre_save, sender=Note)
def looks_up(sender, instance, **kwargs):
    get_object_or_404(Order, pk=1)  # D012


@receiver(post_save, sender=Order)
def tags(sender, instance, **kwargs):
    instance.tags.add(1)  # D012
    instance.notes.create(text="Second")


@receiver(post_delete, sender=Order)
def by_clients(sender, instance, **kwargs):
    requests.Session().post("https://example.org")  # D011
    session = requests.Session()
    session.get("https://example.org")  # D011
    with httpx.Client() as client:
        client.post("https://example.org")  # D011
    smtplib.SMTP("localhost").sendmail("a", "b", "c")  # D011
    threading.Thread(target=print).start()  # D011
    thread = threading.Thread(target=print)
    thread.start()  # D011
    with get_connection() as mail:
        mail.send_messages([])  # D011
    work.s(1).delay()  # D011
    tell(instance)


def tell(order):
    order.owner.email_user("Order", "Deleted.")  # D011
