"""Work that is recorded: enough of it to speak of a percentile."""

from django.contrib.auth.models import Group
from django.core.management import call_command

call_command("migrate", verbosity=0)
for number in range(20):
    Group.objects.create(name=f"group {number}")
try:
    Group.objects.get(name="group 0").delete()
except LookupError:
    pass
