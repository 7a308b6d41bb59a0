from django.http import HttpResponse


def home(request):
    _ = 10 / 0
    return HttpResponse("Hello")
