"""The worker behind the gateways: it does what the order says, and remembers how and when that ended."""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import Any, Dict, Tuple
from urllib.parse import quote

from natsbridge import ClientOfflineError, ResponseSender, StreamError, StreamRequest, Subscriber

SUBJECT = "web.work"
ENDED = "ended"


class Worker:
    """``started`` and ``ended``: by the key of the order; ``ended`` has the reason and the moment (``time.monotonic``)."""

    def __init__(self, subscriber: Subscriber) -> None:
        self.subscriber = subscriber
        self.requests: Dict[str, StreamRequest] = {}
        self.ended: Dict[str, Tuple[str, float]] = {}
        self.sent: Dict[str, int] = {}
        self.go_on = threading.Event()
        self._keys = itertools.count()
        subscriber.stream_subscribe_handler(SUBJECT, self._serve)

    def key(self) -> str:
        return f"k{next(self._keys)}"

    def running(self) -> int:
        return len(self.requests) - len(self.ended)

    def _serve(self, request: StreamRequest, sender: ResponseSender) -> None:
        order: Dict[str, Any] = json.loads(request.data)
        key = order.get("key", "")
        self.requests[key] = request
        try:
            getattr(self, order["do"])(order, sender)
        except ClientOfflineError as gone:
            self.ended[key] = gone.reason, time.monotonic()
            raise
        except Exception:
            self.ended[key] = "failed", time.monotonic()
            raise
        self.ended[key] = ENDED, time.monotonic()

    # -- orders -------------------------------------------------------------------------------------------------------

    def say(self, order: Dict[str, Any], sender: ResponseSender) -> None:
        for chunk in order["chunks"]:
            sender.send(chunk.encode("latin-1"))

    def count(self, order: Dict[str, Any], sender: ResponseSender) -> None:
        for number in itertools.count(1):
            sender.send(b"%d" % number)
            time.sleep(0.002)

    def idle(self, order: Dict[str, Any], sender: ResponseSender) -> None:
        """One chunk, then silence until the client is gone."""
        sender.send(b"one")
        self.silent(order, sender)

    def wait(self, order: Dict[str, Any], sender: ResponseSender) -> None:
        """A chunk, another one when the test says so, then silence."""
        sender.send(b"one")
        while not self.go_on.wait(0.05) and sender.is_online():
            pass
        sender.send(b"two")
        self.silent(order, sender)

    def silent(self, order: Dict[str, Any], sender: ResponseSender) -> None:
        if sender.wait_offline(30):
            sender.send(b"too late")

    def flood(self, order: Dict[str, Any], sender: ResponseSender) -> None:
        chunk = b"x" * 8192
        for number in itertools.count(1):
            sender.send(chunk)
            self.sent[order["key"]] = number

    def fail(self, order: Dict[str, Any], sender: ResponseSender) -> None:
        for chunk in order.get("chunks", ()):
            sender.send(chunk.encode("latin-1"))
        if "pause" in order:
            time.sleep(order["pause"])
        raise StreamError(order.get("code", 422), "no such report")


def order(do: str, key: str = "", **arguments: Any) -> bytes:
    """The JSON of an order."""
    return json.dumps({"do": do, "key": key, **arguments}).encode()


def query(do: str, key: str = "", **arguments: Any) -> str:
    """The same as a query string for the gateway of ``benchmarks/_webapp.py``."""
    return "order=" + quote(order(do, key, **arguments))
