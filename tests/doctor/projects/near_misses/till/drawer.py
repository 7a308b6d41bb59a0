from shop import handed


def shut():
    handed.sent_outside.send(sender=None)
