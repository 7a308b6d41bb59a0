from django import forms
from django.core.signals import request_finished
from django.db.models.signals import post_save, pre_migrate
from django.dispatch import receiver
from django.http import HttpResponse

from .models import Order


@receiver(post_save, sender=Order)  # D005
def with_the_urls(sender, **kwargs):
    pass


@receiver(pre_migrate)  # D006 D014
def too_late(sender, **kwargs):
    pass


def done(sender, **kwargs):
    pass


def buy(request):
    def finished(sender, **kwargs):
        pass

    request_finished.connect(finished, weak=False)  # D018
    request_finished.connect(done, dispatch_uid=f"buy {request.path}")  # D018
    post_save.connect(done, sender=Order)  # D018
    return HttpResponse("Bought")


def sell(req):
    def finished(sender, **kwargs):
        pass

    request_finished.connect(finished, weak=False)  # D018


class OrderForm(forms.Form):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        post_save.connect(self.on_save, sender=Order, weak=False)  # D018

    def on_save(self, sender, **kwargs):
        pass
