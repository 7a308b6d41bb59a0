# mypy: ignore-errors
import importlib.util
import sys

from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver

from .models import Note, Order, Tag


@receiver(post_save, sender=Order)
def again(sender, **kwargs):
    pass


post_save.connect(again, sender=Order)  # D004


def keyed(sender, **kwargs):
    pass


post_save.connect(keyed, sender=Note, dispatch_uid="one")
post_save.connect(keyed, sender=Note, dispatch_uid="two")  # D004


@receiver(post_save)
@receiver(post_save, sender=Tag)  # D004
def both(sender, **kwargs):
    pass


if __name__ == "shop.twice":
    spec = importlib.util.spec_from_file_location("shop_twice", __file__)
    module = importlib.util.module_from_spec(spec)
    sys.modules["shop_twice"] = module
    module.__package__ = "shop"
    spec.loader.exec_module(module)


@receiver(pre_delete, sender=Order)  # D004
def doubled(sender, **kwargs):
    pass
