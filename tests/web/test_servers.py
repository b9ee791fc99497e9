"""Real web servers: the worker behind them stops when the browser is gone, and nothing is left in the server's process."""

from __future__ import annotations

import json
import os
import socket
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, Iterator

import pytest
from event_stream import Event, parse
from procs import LONG, WaitFor

from benchmarks._browser import Browser
from benchmarks._webservers import SERVERS, THREADS, WebServer
from natsbridge.server import EmbeddedServer

from .orders import SUBJECT, Worker, query

pytestmark = [pytest.mark.process, pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc")]

# Long after a hang-up must have been noticed, long before a heartbeat would show it (1,000 s here).
SOON = 10.0
GONE = ("cancelled", "offline", "no_interest")  # whichever of the signals is the first


@pytest.fixture(scope="module", params=[kind for kind in SERVERS if kind != "wsgiref"])
def gateway(request: Any, nats_server: EmbeddedServer) -> Iterator[WebServer]:
    """Each server once, for all tests; with --preload its pool is used before the fork."""
    env = {"NATS_URL": nats_server.url, "GATEWAY_SUBJECT": SUBJECT}
    if "--preload" in request.param:
        env["GATEWAY_OPEN_EARLY"] = "1"
    with WebServer(request.param, env) as running:
        yield running


def stats(gateway: WebServer) -> Dict[str, Any]:
    with urllib.request.urlopen(gateway.url + "/stats", timeout=LONG) as answer:
        found: Dict[str, Any] = json.load(answer)
        return found


def one_at_a_time(gateway: WebServer) -> bool:
    return "sync" in gateway.kind


def ended(worker: Worker, key: str, wait_for: WaitFor) -> str:
    wait_for(lambda: key in worker.ended, SOON, what="the worker to stop")
    return worker.ended[key][0]


def test_an_answer_from_its_beginning_to_its_end(gateway: WebServer, worker: Worker) -> None:
    status, body, complete = Browser(gateway.port, "/events?" + query("say", chunks=["one", "two\nlines"])).read_all()
    assert (status, complete) == (200, True)
    hello, *rest = parse(body)
    assert hello.type == "connect"
    assert rest == [Event("message", "one", "1"), Event("message", "two\nlines", "2"), Event("end", '{"chunks": 2}', "2")]


def test_gone_while_chunks_flow(gateway: WebServer, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    browser = Browser(gateway.port, "/events?" + query("count", key))
    browser.read_until(b"data: 20\n")
    browser.close()
    assert ended(worker, key, wait_for) in GONE


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_gone_while_idle(gateway: WebServer, worker: Worker, wait_for: WaitFor, leave: str) -> None:
    key = worker.key()
    browser = Browser(gateway.port, "/events?" + query("idle", key))
    browser.read_until(b"data: one\n")
    getattr(browser, leave)()
    assert ended(worker, key, wait_for) in GONE


def test_gone_before_the_first_chunk(gateway: WebServer, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    browser = Browser(gateway.port, "/events?" + query("silent", key))
    wait_for(lambda: key in worker.requests, what="the request to arrive")
    browser.close()
    assert ended(worker, key, wait_for) in GONE


def test_gone_while_plain_bytes_are_waited_for(gateway: WebServer, worker: Worker, wait_for: WaitFor) -> None:
    key = worker.key()
    browser = Browser(gateway.port, "/bytes?" + query("silent", key))
    wait_for(lambda: key in worker.requests, what="the request to arrive")
    browser.close()
    assert ended(worker, key, wait_for) in GONE


def test_a_pipelined_request_is_neither_lost_nor_in_the_way(gateway: WebServer, worker: Worker, wait_for: WaitFor) -> None:
    """More bytes from the client while its stream is idle are not its end; its end behind them is."""
    if gateway.kind == "waitress":
        pytest.skip("it reads one request ahead here, and then no further, so that it does not see what is behind")
    key = worker.key()
    browser = Browser(gateway.port, "/events?" + query("wait", key))
    browser.read_until(b"data: one\n")
    browser.socket.sendall(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n\r\n")
    worker.go_on.set()  # the worker's next chunk comes through, so it was not stopped
    browser.read_until(b"data: two\n")
    assert key not in worker.ended
    browser.close()
    assert ended(worker, key, wait_for) in GONE


def test_errors_before_the_first_chunk_are_statuses(gateway: WebServer, worker: Worker) -> None:
    status, body, _ = Browser(gateway.port, "/bytes?" + query("fail", code=404)).read_all()
    assert status == 404
    assert b"no such report" in body


def test_an_answer_that_is_broken_off_looks_broken(gateway: WebServer, worker: Worker) -> None:
    if gateway.kind == "uWSGI":
        pytest.skip("uWSGI's plain HTTP socket sends neither a length nor chunks, so HTTP cannot tell")
    browser = Browser(gateway.port, "/bytes?" + query("fail", chunks=["a;b\n"], pause=0.1))
    status, body, complete = browser.read_all()
    assert (status, body) == (200, b"a;b\n")
    assert not complete


def test_200_clients_come_and_go(gateway: WebServer, worker: Worker, wait_for: WaitFor) -> None:
    at_once = 1 if one_at_a_time(gateway) else THREADS

    def visit(number: int) -> None:
        key = worker.key()
        kind = ("say", "idle", "count", "silent")[number % 4]
        browser = Browser(gateway.port, "/events?" + query(kind, key, chunks=["one"]))
        try:
            if kind == "say":
                browser.read_until(b"event: end\n")
            elif kind == "silent":
                wait_for(lambda: key in worker.requests, what="the request to arrive")
            else:
                browser.read_until(b"data: 3\n" if kind == "count" else b"data: one\n")
        finally:
            browser.reset() if number % 8 == 5 else browser.close()
        wait_for(lambda: key in worker.ended, SOON, what=f"the worker of client {number} to stop")

    with ThreadPoolExecutor(at_once) as visitors:
        list(visitors.map(visit, range(4 * at_once)))  # so that threads which a server keeps are there
        before = stats(gateway)
        list(visitors.map(visit, range(200)))
    assert worker.running() == 0

    def now() -> Dict[str, Any]:
        found = stats(gateway)
        # Threads that serve connections come and go as their server likes; those of the bridge do not.
        return {**found, "threads": [name for name in found["threads"] if name.startswith("natsbridge")]}

    expected = {**before, "threads": [name for name in before["threads"] if name.startswith("natsbridge")]}
    wait_for(lambda: now() == expected, what="everything to be as before")
    assert expected["streams"] == 0
    assert expected["online"] == 0
    wait_for(lambda: len(stats(gateway)["threads"]) <= max(len(before["threads"]), THREADS + 8), what="the threads to end")


# -- bad clients ------------------------------------------------------------------------------------------------------


@pytest.fixture
def threaded(gateway: WebServer) -> WebServer:
    if one_at_a_time(gateway):
        pytest.skip("a server with one thread is busy with its client, whoever that is")
    if "--preload" in gateway.kind:
        pytest.skip("as without it")
    return gateway


def answers(gateway: WebServer) -> bool:
    """Whether another client is served as usual."""
    status, body, _ = Browser(gateway.port, "/events?" + query("say", chunks=["fine"])).read_all()
    return status == 200 and [event.data for event in parse(body)][1:2] == ["fine"]


@pytest.mark.parametrize(
    "said",
    [
        b"\x00\x01\x02\xff" * 1000 + b"\r\n\r\n",
        b"GET /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n",
        b"GET /events?order={} HTTP/1.1\r\nHo",  # and no more
        b"POST /events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf",
    ],
    ids=["garbage", "bad header", "half a head", "half a body"],
)
def test_a_client_that_talks_nonsense(threaded: WebServer, worker: Worker, said: bytes, wait_for: WaitFor) -> None:
    key = worker.key()
    neighbour = Browser(threaded.port, "/events?" + query("idle", key))
    neighbour.read_until(b"data: one\n")
    rude = [socket.create_connection(("127.0.0.1", threaded.port), timeout=LONG) for _ in range(2)]
    for client in rude:
        client.sendall(said)
    assert answers(threaded)
    for client in rude:
        client.close()
    assert answers(threaded)
    assert key not in worker.ended
    neighbour.close()
    assert ended(worker, key, wait_for) in GONE
    wait_for(lambda: stats(threaded)["streams"] == 0)


def test_a_client_that_never_reads(threaded: WebServer, worker: Worker, wait_for: WaitFor) -> None:
    """The worker is held back, and stopped when nothing moves for its stall timeout; nobody else notices."""
    key, other = worker.key(), worker.key()
    neighbour = Browser(threaded.port, "/events?" + query("count", other))
    deaf = Browser(threaded.port, "/events?" + query("flood", key), receive_buffer=4096)
    wait_for(lambda: worker.sent.get(key), what="the flood to begin")
    wait_for(lambda: key in worker.ended, what="the worker to be stopped")
    assert worker.ended[key][0] == "stalled"
    # What it sent is in the windows and buffers on the way, and those have bounds.
    assert worker.sent[key] * 8192 < 40 * 1024 * 1024
    assert answers(threaded)
    neighbour.read_until(b"data: 500\n")
    assert other not in worker.ended
    deaf.close()
    neighbour.close()
    assert ended(worker, other, wait_for) in GONE
    wait_for(lambda: stats(threaded)["streams"] == 0)
