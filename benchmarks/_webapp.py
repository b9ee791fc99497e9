"""A gateway in Flask, as the tests and benchmarks of web servers run it; ``_webservers.py`` starts it.

What a worker is to do comes as JSON in ``order``, and goes to it unchanged.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Dict

from flask import Flask, request

from natsbridge.contrib.flask import NatsBridge

SUBJECT = os.environ["GATEWAY_SUBJECT"]

app = Flask(__name__)
app.config["NATSBRIDGE_SERVERS"] = os.environ["NATS_URL"]
bridge = NatsBridge(app)

if os.environ.get("GATEWAY_OPEN_EARLY"):  # as a module does that uses its pool while it is imported: before the fork
    bridge.pool.flush()


@app.get("/events")
def events() -> Any:
    return bridge.stream_response(SUBJECT, order(), heartbeat=float(request.args.get("heartbeat", "1000")))


@app.get("/bytes")
def chunks() -> Any:
    return bridge.stream_bytes(SUBJECT, order())


@app.get("/stats")
def stats() -> Dict[str, Any]:
    """What the process has open."""
    descriptors = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    return {
        "pid": os.getpid(),
        "sockets": sum("socket:" in name for name in descriptors),
        "descriptors": len(descriptors),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "streams": bridge.pool.stats().streams,
        "online": len(bridge.pool.registry._online),
    }


def order() -> bytes:
    return request.args.get("order", "{}").encode()
