"""Where each page is."""

from __future__ import annotations

from django.urls import path

from signalbox.dashboard import deliveries, demo_login, views

app_name = "signalbox"

urlpatterns = [
    path("", views.timeline, name="timeline"),
    path("live/", views.live, name="live"),
    path("histogram/", views.histogram, name="histogram"),
    path("suggestions/", views.suggestions, name="suggestions"),
    path("trace/<str:trace_id>/", views.trace, name="trace"),
    path("trace/<str:trace_id>/tree/", views.tree, name="tree"),
    path("event/<int:event_id>/", views.event, name="event"),
    path("event/<int:event_id>/revert/", views.revert, name="revert"),
    path("object/", views.object_history, name="object"),
    path("map/", views.signal_map, name="map"),
    path("deliveries/", deliveries.deliveries, name="deliveries"),
    path("deliveries/<int:delivery_id>/", deliveries.delivery, name="delivery"),
    path("deliveries/replay/", deliveries.replay, name="replay"),
    path("deliveries/change/", deliveries.change, name="change"),
    path("doctor/", views.doctor, name="doctor"),
    path("doctor/findings/", views.findings, name="findings"),
    path("demo-login/", demo_login.demo_login, name="demo_login"),
]
