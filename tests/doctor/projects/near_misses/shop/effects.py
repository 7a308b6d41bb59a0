from functools import partial

from django.core.mail import send_mail
from django.db import transaction
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver

from .models import Note, Order, Tag


@receiver(post_save, sender=Order)
def once(sender, instance, created, **kwargs):
    if created:
        instance.save()


@receiver(post_save, sender=Order)
def leaves(sender, instance, created, **kwargs):
    if not created:
        return
    instance.total = 1
    instance.save()


@receiver(post_save, sender=Order)
def updates(sender, instance, **kwargs):
    sender.objects.filter(pk=instance.pk).update(total=1)


@receiver(pre_save, sender=Order)
def compares(sender, instance, **kwargs):
    old = Order.objects.filter(pk=instance.pk).first()
    instance.total = old.total if old else 0


@receiver(post_save, sender=Order)
def after_commit(sender, instance, **kwargs):
    transaction.on_commit(lambda: send_mail("Order", "Saved.", None, [instance.owner.email]))
    transaction.on_commit(partial(work.delay, instance.pk))


@receiver(pre_save, sender=Tag)
def cleans(sender, instance, **kwargs):
    instance.name = instance.name.strip()
    cache.delete(instance.name)


class work:
    @staticmethod
    def delay(key):
        pass


class cache:
    @staticmethod
    def delete(key):
        pass


@receiver(post_save, sender=Order)
def guarded(sender, instance, created, raw, **kwargs):
    if created and not raw:
        Note.objects.create(order=instance, text="New")


@receiver(post_save, sender=Note)
def guarded_by_kwargs(sender, instance, **kwargs):
    if kwargs.get("raw"):
        return
    instance.order.save()


@receiver(post_save, sender=Note)
def guarded_by_a_pattern(sender, instance, **kwargs):
    match kwargs:
        case {"raw": True}:
            return
    instance.order.save()


@receiver(post_save, sender=Order)
def decides(sender, instance, created, **kwargs):
    match created:
        case True:
            instance.save()
    while instance.total > 1:
        instance.save()
        break
    created and instance.save()
    instance.save() if created else None


@receiver(post_save, sender=Order)
def gives_up(sender, instance, **kwargs):
    try:
        total = int(instance.total)
    except ValueError:
        return
    with transaction.atomic():
        for _ in range(total):
            instance.save()


@receiver(post_save, sender=Order)
def is_quiet_meanwhile(sender, instance, **kwargs):
    post_save.disconnect(is_quiet_meanwhile, sender=Order)
    instance.save()
    post_save.connect(is_quiet_meanwhile, sender=Order)


@receiver(post_save, sender=Order)
def later_in_a_function(sender, instance, **kwargs):
    def save():
        instance.save()

    instance.again = save


class Timer:
    def __init__(self, name):
        self.name = name

    def delay(self, seconds):
        pass

    def start(self):
        pass

    def post(self, text):
        pass


@receiver(post_save, sender=Order)
def by_other_objects(sender, instance, **kwargs):
    Timer("order").delay(3)
    timer = Timer("order")
    timer.delay(3)
    timer.start()
    timer.post("text")
    transaction.on_commit(partial(tell, instance))
    transaction.on_commit(lambda: tell(instance))


def tell(order):
    order.owner.email_user("Order", "Saved.")
