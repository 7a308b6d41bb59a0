"""In a package that is not an installed app."""

import till.drawer


def count():
    from shop import handed

    handed.sent_by_its_module.send(sender=None)
