"""The shop's pages."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from shop.checkout import place_order
from shop.models import Product
from shop.payments import CardDeclined


@login_required
def products(request: HttpRequest) -> HttpResponse:
    return render(request, "shop/products.html", {"products": Product.objects.order_by("sku")[:20]})


@login_required
@require_POST
def checkout(request: HttpRequest) -> HttpResponse:
    try:
        place_order(request.user, request.POST.getlist("sku"), request.POST["card"])
    except CardDeclined as error:
        return HttpResponse(str(error), status=402)
    return redirect("products")
