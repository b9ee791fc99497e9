"""The gateway of ``benchmarks/_webapp.py`` with a greenlet that wants to run all the time; for gunicorn's gevent worker."""

from __future__ import annotations

import json
import time
from typing import Any, Iterable

import gevent

from benchmarks._webapp import app as gateway

_longest = 0.0


def _tick() -> None:
    global _longest
    before = time.monotonic()
    while True:
        time.sleep(0.002)
        now = time.monotonic()
        _longest = max(_longest, now - before)
        before = now


gevent.spawn(_tick)


def app(environ: Any, start_response: Any) -> Iterable[bytes]:
    """``/gap``: the longest pause, in seconds, that the greenlet had since this was asked last."""
    global _longest
    if environ["PATH_INFO"] != "/gap":
        answer: Iterable[bytes] = gateway(environ, start_response)
        return answer
    longest, _longest = _longest, 0.0
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(longest).encode()]
