import importlib.util
import sys

from django.db.models.signals import pre_delete
from django.dispatch import receiver
from shop.models import Order


@receiver(pre_delete, sender=Order)  # D004
def doubled(sender, **kwargs):
    pass


if __name__ == "shop.doubled":  # as if the app's own folder were on sys.path
    spec = importlib.util.spec_from_file_location("doubled", __file__)
    sys.modules["doubled"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
