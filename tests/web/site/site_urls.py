"""The views: streams of the worker behind the tests."""

from __future__ import annotations

import os
from typing import Any

from django.http import HttpRequest, JsonResponse
from django.urls import path

from natsbridge.contrib.django import get_pool, stream_bytes, stream_response

SUBJECT = os.environ.get("GATEWAY_SUBJECT", "web.work")


def events(request: HttpRequest) -> Any:
    return stream_response(request, SUBJECT, request.GET["order"].encode(), heartbeat=1000)


def chunks(request: HttpRequest) -> Any:
    return stream_bytes(request, SUBJECT, request.GET["order"].encode(), content_type="text/csv")


def nobody(request: HttpRequest) -> Any:
    return stream_bytes(request, "nobody")


def stats(request: HttpRequest) -> Any:
    return JsonResponse({"streams": get_pool().stats().streams})


urlpatterns = [path("events", events), path("bytes", chunks), path("nobody", nobody), path("stats", stats)]
