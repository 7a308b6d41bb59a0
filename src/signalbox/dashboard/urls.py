"""URL patterns of the dashboard."""

from __future__ import annotations

from django.urls import path

from signalbox.dashboard import (
    checklist,
    deliveries,
    delivery_actions,
    demo_login,
    errors,
    exports,
    histogram,
    receiver_page,
    signal_page,
    status,
    views,
)

app_name = "signalbox"
"""The namespace of the URLs."""

urlpatterns = [
    path("", views.timeline, name="timeline"),
    path("live/", views.live, name="live"),
    path("histogram/", histogram.histogram, name="histogram"),
    path("export/", exports.export, name="export"),
    path("suggestions/", views.suggestions, name="suggestions"),
    path("trace/<str:trace_id>/", views.trace, name="trace"),
    path("trace/<str:trace_id>/tree/", views.tree, name="tree"),
    path("event/<int:event_id>/", views.event, name="event"),
    path("event/<int:event_id>/revert/", views.revert, name="revert"),
    path("object/", views.object_history, name="object"),
    path("receiver/", receiver_page.receiver, name="receiver"),
    path("receiver/findings/", receiver_page.findings, name="receiver_findings"),
    path("signal/", signal_page.signal, name="signal"),
    path("map/", views.signal_map, name="map"),
    path("deliveries/", deliveries.deliveries, name="deliveries"),
    path("deliveries/<int:delivery_id>/", deliveries.delivery, name="delivery"),
    path("deliveries/replay/", deliveries.replay, name="replay"),
    path("deliveries/change/", deliveries.change, name="change"),
    path("errors/", errors.errors, name="errors"),
    path("errors/<str:fingerprint>/", errors.error, name="error"),
    path("errors/<str:fingerprint>/findings/", errors.findings, name="error_findings"),
    path("errors/<str:fingerprint>/change/", errors.change, name="error_change"),
    path("deliveries/confirm/", delivery_actions.confirm, name="confirm"),
    path("deliveries/apply/", delivery_actions.apply, name="apply"),
    path("doctor/", views.doctor, name="doctor"),
    path("doctor/findings/", views.findings, name="findings"),
    path("checklist/", checklist.checklist, name="checklist"),
    path("health/", status.status, name="status"),
    path("demo-login/", demo_login.demo_login, name="demo_login"),
]
