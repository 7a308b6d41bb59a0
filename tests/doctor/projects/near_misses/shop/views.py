from django.core.signals import request_finished
from django.http import HttpResponse


def done(sender, **kwargs):
    pass


def buy(request):
    def finished(sender, **kwargs):
        pass

    request_finished.connect(finished, weak=False)
    try:
        return HttpResponse("Bought")
    finally:
        request_finished.disconnect(finished)


def sell(required):
    request_finished.connect(done, weak=False)


class OnceMiddleware:
    def __init__(self, get_response):
        request_finished.connect(self.done, weak=False)

    def done(self, sender, **kwargs):
        pass
