"""Addresses of the example site."""

from __future__ import annotations

from blog import views
from django.contrib import admin
from django.urls import include, path
from shop.views import checkout, products

urlpatterns = [
    path("admin/", admin.site.urls),
    path("home/", views.home),
    path("shop/", products, name="products"),
    path("shop/checkout/", checkout, name="checkout"),
    path("signalbox/", include("signalbox.urls")),
]
