"""What ``manage.py natsbridge_worker`` serves."""

from __future__ import annotations

from typing import Iterator

from django.db import connection

from natsbridge import ResponseSender, StreamRequest
from natsbridge.contrib.django import stream_handler

GREETING = "hello"


@stream_handler("site.greet", queue="workers")
def greet(request: StreamRequest, sender: ResponseSender) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 6 * 7")
        (number,) = cursor.fetchone()
    sender.send(f"{GREETING} {number}".encode())


@stream_handler("site.spell")
def spell(request: StreamRequest) -> Iterator[bytes]:
    for letter in request.data.decode():
        yield letter.encode()
