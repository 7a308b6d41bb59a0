from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_login_failed
from django.core.signals import got_request_exception, request_started
from django.db.backends.signals import connection_created
from django.db.models.signals import class_prepared, m2m_changed, post_save, pre_save
from django.dispatch import receiver

from .models import Dated, Express, Order, Tag
from .views_of import OrderView


@receiver(post_save, sender=User)  # D007
def swapped(sender, **kwargs):
    pass


@receiver(post_save, sender=Dated)  # D007
def abstract(sender, **kwargs):
    pass


@receiver(post_save, sender=Express)  # D007
def proxy(sender, **kwargs):
    pass


@receiver(m2m_changed, sender=Order)  # D007
def model_of_the_field(sender, **kwargs):
    pass


@receiver(m2m_changed, sender=Order.tags)  # D007
def descriptor(sender, **kwargs):
    pass


@receiver(pre_save, sender=Order())  # D007
def instance(sender, **kwargs):
    pass


@receiver(pre_save, sender="shop.Ordre")  # D007
def no_such_model(sender, **kwargs):
    pass


@receiver(pre_save, sender=OrderView)  # D007
def no_model(sender, **kwargs):
    pass


@receiver(user_logged_in, sender="accounts.Member")  # D007
def text(sender, **kwargs):
    pass


@receiver(user_logged_in, sender=Order)  # D007
def no_user(sender, **kwargs):
    pass


@receiver(user_login_failed, sender=Order)  # D007
def no_module(sender, **kwargs):
    pass


@receiver(request_started, sender=OrderView)  # D007
def no_handler(sender, **kwargs):
    pass


@receiver(got_request_exception, sender=OrderView)  # D007
def never_none(sender, **kwargs):
    pass


@receiver(connection_created, sender="default")  # D007
def alias(sender, **kwargs):
    pass


@receiver(m2m_changed, sender=Tag)  # D007
def the_far_side(sender, **kwargs):
    pass


def connect_later():
    """Not called: found in the source."""
    class_prepared.connect(alias, sender="shop.Order")  # D007
    post_save.connect(alias, sender=Order(total=1))  # D007
    m2m_changed.connect(alias, sender=Order.tags)  # D007
    post_save.connect(alias, sender=Dated)
    user_logged_in.connect(alias, sender=Tag)  # D007
    m2m_changed.connect(alias, sender=Order.tags.field)  # D007
    m2m_changed.connect(alias, sender=Order.tags.rel)  # D007
