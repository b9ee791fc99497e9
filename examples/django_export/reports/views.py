"""Views that pass on what the worker makes."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render

from natsbridge.contrib.django import stream_bytes, stream_response


def page(request: HttpRequest) -> HttpResponse:
    return render(request, "export.html")


def report(request: HttpRequest) -> HttpResponseBase:
    return stream_response(request, "reports.progress", year(request), timeout=600)


def download(request: HttpRequest) -> HttpResponseBase:
    response = stream_bytes(request, "reports.csv", year(request), content_type="text/csv", timeout=600)
    response["Content-Disposition"] = 'attachment; filename="report.csv"'
    return response


def year(request: HttpRequest) -> bytes:
    return str(request.GET.get("year", "2026")).encode()
