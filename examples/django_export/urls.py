"""The page, and the report in two ways: with its progress, and as a plain download."""

from __future__ import annotations

from django.urls import path
from reports import views

urlpatterns = [
    path("", views.page),
    path("report", views.report),
    path("report.csv", views.download),
]
