"""A worker for the benchmarks of gateways: it says how and when each of its streams ended. ``_peer`` starts it."""

from __future__ import annotations

import itertools
import json
import queue
import sys
import time
from typing import Any, Dict

from natsbridge import ClientOfflineError, Pool, ResponseSender, StreamRequest, Subscriber

from ._peer import serve

SUBJECT = "bench.gateway"


class Worker:
    """Streams as the order says: ``{"count": chunks, "size": bytes, "pause": seconds, "idle": whether to wait then}``."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._ends: queue.Queue[Dict[str, Any]] = queue.Queue()
        subscriber.stream_subscribe_handler(SUBJECT, self._serve, max_workers=64)

    def _serve(self, request: StreamRequest, sender: ResponseSender) -> None:
        order: Dict[str, Any] = json.loads(request.data)
        chunk = b"x" * order.get("size", 64)
        pause, count = order.get("pause", 0), order.get("count")
        try:
            for _ in itertools.count() if count is None else range(count):
                sender.send(chunk)
                if pause:
                    time.sleep(pause)
            if order.get("idle"):
                sender.wait_offline()
                sender.send(chunk)
        except ClientOfflineError as gone:
            self._ends.put({"reason": gone.reason, "at": time.monotonic()})
            raise
        self._ends.put({"reason": "ended", "at": time.monotonic()})

    def next_end(self, timeout: float = 60.0) -> Dict[str, Any]:
        """Why and when a stream ended, None if none did in time; the clock is the same in all processes of a machine."""
        try:
            return self._ends.get(timeout=timeout)
        except queue.Empty:
            return {"reason": None}


def main(server: str) -> None:
    with Pool(server) as pool, Subscriber(pool) as subscriber:
        serve(Worker(subscriber))


if __name__ == "__main__":
    main(*sys.argv[1:])
