"""One gunicorn worker with gevent serves a thousand browsers at once, and its hub is never held up."""

from __future__ import annotations

import json
import threading
import urllib.request
from contextlib import ExitStack
from typing import Any, Iterator, List

import pytest
from procs import LONG, WaitFor, posix_only

from benchmarks._browser import Browser
from benchmarks._webservers import WebServer
from natsbridge import OnlineRegistry, Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

from .orders import SUBJECT

pytestmark = [pytest.mark.process, pytest.mark.slow, posix_only]

STREAMS = 1000
ROUNDS = 20
DESCRIPTORS = STREAMS + 500  # for each of the two processes: its ends of the sockets, and whatever else it has open
PACE = 0.5  # seconds: a greenlet's turn among a thousand comes much sooner, on a busy machine too


@pytest.fixture
def _enough_descriptors() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= DESCRIPTORS:
        yield
        return
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        pytest.skip(f"this system allows {hard} open files, and {DESCRIPTORS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))  # which the server inherits
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Worker:
    """Keeps every stream open, and sends to all of them when it is told."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._lock = threading.Lock()  # guards senders
        self.senders: List[ResponseSender] = []
        subscriber.stream_subscribe_handler(SUBJECT, self._serve, max_queued=STREAMS)

    def _serve(self, request: StreamRequest, sender: ResponseSender) -> None:
        with self._lock:
            self.senders.append(sender.detach())

    def send(self, chunk: bytes) -> None:
        """To all that are there."""
        for sender in self.senders:
            if sender.is_online():
                sender.send(chunk)

    def gone(self) -> int:
        """How many clients have left."""
        return sum(not sender.is_online() for sender in self.senders)


@pytest.fixture
def worker(server: EmbeddedServer) -> Iterator[Worker]:
    with Pool(server.url, registry=OnlineRegistry()) as pool, Subscriber(pool, max_detached=STREAMS) as subscriber:
        subscriber.start_client_offline_listener()
        yield Worker(subscriber)


@pytest.fixture
def gateway(server: EmbeddedServer, _enough_descriptors: None) -> Iterator[WebServer]:
    env = {"NATS_URL": server.url, "GATEWAY_SUBJECT": SUBJECT}
    with WebServer("gunicorn gevent", env, app="tests.web.ticking:app") as running:
        yield running


def get(gateway: WebServer, path: str) -> Any:
    with urllib.request.urlopen(gateway.url + path, timeout=LONG) as answer:
        return json.load(answer)


def test_a_thousand_streams(gateway: WebServer, worker: Worker, wait_for: WaitFor) -> None:
    first = Browser(gateway.port, "/events")  # so that the pool is open
    first.read_until(b"event: connect\n")
    wait_for(lambda: worker.senders)  # or the handler, not yet started, never would be
    first.close()
    wait_for(lambda: worker.gone() == 1)
    before = get(gateway, "/stats")
    assert before["streams"] == 0
    get(gateway, "/gap")
    with ExitStack() as opened:
        browsers = [Browser(gateway.port, "/events") for _ in range(STREAMS)]
        for browser in browsers:
            opened.callback(browser.close)
        wait_for(lambda: len(worker.senders) == 1 + STREAMS, what="the requests to arrive")
        assert get(gateway, "/gap") < PACE
        for number in range(ROUNDS):
            worker.send(b"chunk %d" % number)
        for browser in browsers:
            browser.read_until(b"data: chunk %d\n" % (ROUNDS - 1))
            assert [browser.received.count(b"data: chunk %d\n" % number) for number in range(ROUNDS)] == [1] * ROUNDS
        assert get(gateway, "/stats")["streams"] == STREAMS  # and somebody else is served meanwhile
        assert get(gateway, "/gap") < PACE
    wait_for(lambda: worker.gone() == len(worker.senders), what="the worker to learn of it")
    wait_for(lambda: get(gateway, "/stats") == before, what="everything to be as before")
    assert get(gateway, "/gap") < PACE
