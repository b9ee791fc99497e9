"""The worker: ``python manage.py natsbridge_worker``. It stops when nobody waits for its report any more."""

from __future__ import annotations

import json
import time
from typing import Iterator, List

from natsbridge import ClientOfflineError, ResponseSender, StreamError, StreamRequest
from natsbridge.contrib.django import stream_handler

DAYS = 365
SECONDS_PER_DAY = 0.005  # of work


@stream_handler("reports.progress", queue="reports", max_workers=2)
def with_progress(request: StreamRequest, sender: ResponseSender) -> None:
    """Rows as they are made, and how many there will be."""
    done = 0
    try:
        for row in rows(request):
            done += 1
            sender.send(json.dumps({"row": row, "done": done, "total": DAYS}).encode())
    except ClientOfflineError as gone:  # only to show it: a handler need not catch this
        print(f"stopped at day {done} of {DAYS}: {gone.reason}", flush=True)
        raise
    print(f"made a report of {DAYS} days", flush=True)


@stream_handler("reports.csv", queue="reports", max_workers=2)
def as_csv(request: StreamRequest) -> Iterator[bytes]:
    """The same as a generator: each ``yield`` is a chunk."""
    made = rows(request)  # a bad year fails here, while the answer can still be a "400 Bad Request"
    yield b"day,visits\r\n"
    for row in made:
        yield ",".join(row).encode() + b"\r\n"


def rows(request: StreamRequest) -> Iterator[List[str]]:
    try:
        year = int(request.data)
    except ValueError:
        raise StreamError(400, "the year must be a number") from None
    return (visits(year, day) for day in range(1, DAYS + 1))


def visits(year: int, day: int) -> List[str]:
    """Stands in for a query that takes its time."""
    time.sleep(SECONDS_PER_DAY)
    return [f"{year}-{day:03}", str(1000 + day * 7919 % 211)]
