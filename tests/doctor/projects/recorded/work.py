"""Work that is recorded: enough of it to speak of a percentile."""

from django.contrib.auth.models import Group
from django.core.management import call_command
from signalbox.models import Delivery

call_command("migrate", verbosity=0)
for number in range(20):
    Group.objects.create(name=f"group {number}")
try:
    Group.objects.get(name="group 0").delete()
except LookupError:
    pass


def add_delivery(receiver, **values):
    Delivery.objects.create(receiver=receiver, queue="default", span=1, run_at=1, created=1, payload={}, **values)


add_delivery("shop.receivers.never_succeeds", state="dead", error="ValueError: no stock")
add_delivery("shop.receivers.renamed", state="pending", deferred_since=1)  # no location: D022
