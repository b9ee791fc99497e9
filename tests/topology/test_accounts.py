"""A service of one account, asked for from another one: replies are mapped, and no 503 comes."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Iterator, List, Tuple

import pytest
from procs import wait_until

from natsbridge import (
    BusyError,
    ClientOfflineError,
    Message,
    Pool,
    ResponderLostError,
    ResponseSender,
    StreamError,
    StreamRequest,
    Subscriber,
)
from natsbridge.registry import OnlineRegistry
from natsbridge.server import EmbeddedServer

from .servers import ACCOUNTS, as_user, page, start
from .streams import GIVEN_UP, QUICK, SLACK, numbers, rest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with ExitStack() as stack:
        yield start(stack, ACCOUNTS)


@pytest.fixture
def pool(server: EmbeddedServer) -> Iterator[Pool]:
    """The requester's."""
    with Pool(as_user(server, "ASKING"), probe_interval=QUICK, registry=OnlineRegistry()) as pool:
        yield pool


@pytest.fixture
def worker_pool(server: EmbeddedServer) -> Iterator[Pool]:
    with Pool(as_user(server, "SERVING"), probe_interval=QUICK, registry=OnlineRegistry()) as pool:
        yield pool


def some(request: StreamRequest) -> Iterator[bytes]:
    yield from numbers(0, 300)


def test_the_handler_fails(pool: Pool, subscriber: Subscriber, unique: str) -> None:
    def refusing(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"0")
        raise StreamError(418, "short and stout")

    subscriber.stream_subscribe_handler(f"work.{unique}", refusing)
    with pool.stream(f"work.{unique}") as stream:
        chunks, error = rest(stream)
    assert chunks == [b"0"]
    assert (type(error), error.args) == (StreamError, StreamError(418, "short and stout").args)


def test_a_client_that_is_marked_offline_is_refused(pool: Pool, subscriber: Subscriber, unique: str) -> None:
    subscriber.stream_subscribe_handler(f"work.{unique}", some)
    subscriber.registry.mark_offline(unique)
    with pool.stream(f"work.{unique}", connect_id=unique) as stream:
        chunks, error = rest(stream)
    assert chunks == []
    assert type(error) is ClientOfflineError


def test_a_busy_worker_refuses(pool: Pool, worker_pool: Pool, unique: str) -> None:
    """The refused stream fails, and nothing else on the connection notices."""
    go_on = threading.Event()

    def held(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"0")
        go_on.wait(GIVEN_UP)
        sender.send(b"1")

    with Subscriber(worker_pool, max_workers=1, max_queued=0) as subscriber:
        subscriber.stream_subscribe_handler(f"work.{unique}", held)
        with pool.stream(f"work.{unique}") as first, pool.stream(f"work.{unique}") as second:
            try:
                assert next(first) == b"0"
                _, error = rest(second)
                assert type(error) is BusyError
            finally:
                go_on.set()
            assert list(first) == [b"1"]
    assert pool.stats().connections[0].reconnects == 0


def test_an_export_of_single_replies_fails_every_stream(pool: Pool, subscriber: Subscriber, unique: str) -> None:
    """Only the first message comes through: the stream is given up, rather than taken for complete."""
    subscriber.stream_subscribe_handler(f"single.{unique}", some)
    started = time.monotonic()
    with pool.stream(f"single.{unique}") as stream:
        chunks, error = rest(stream)
    assert chunks == []
    assert type(error) is ResponderLostError
    assert time.monotonic() - started < GIVEN_UP + SLACK


def kept_replies(server: EmbeddedServer) -> Tuple[int, int]:
    """How many mapped replies the server keeps for requesters, and for workers."""
    serving, asking = (page(server, f"accountz?acc={name}")["account_detail"] for name in ("SERVING", "ASKING"))
    return len(serving.get("responses", ())), len(asking.get("responses", ()))


def test_a_silent_stream_outlives_the_servers_patience(
    server: EmbeddedServer, pool: Pool, subscriber: Subscriber, unique: str
) -> None:
    """The server forgets replies that nothing came through for a time; probes keep them known, and add none."""

    def pausing(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"0")
        sender.wait_offline(2.5)  # the export's threshold is a second
        sender.send(b"1")

    subscriber.stream_subscribe_handler(f"brief.{unique}", pausing)
    _, before = kept_replies(server)
    with pool.stream(f"brief.{unique}") as stream:
        assert next(stream) == b"0"
        assert next(stream) == b"1"
        assert kept_replies(server)[1] <= before + 1
        assert list(stream) == []


def test_the_server_forgets_the_requesters_replies(
    server: EmbeddedServer, pool: Pool, subscriber: Subscriber, unique: str
) -> None:
    subscriber.stream_subscribe_handler(f"brief.{unique}", some)
    before, _ = kept_replies(server)
    for _ in range(10):
        assert list(pool.stream(f"brief.{unique}")) == numbers(0, 300)
    wait_until(lambda: kept_replies(server)[0] <= before, what="the export's threshold")


def test_the_server_forgets_the_workers_replies(
    server: EmbeddedServer, pool: Pool, subscriber: Subscriber, unique: str
) -> None:
    """Those have no threshold: they stay until the worker disconnects, or an empty message goes through."""
    subscriber.stream_subscribe_handler(f"brief.{unique}", some)
    _, before = kept_replies(server)
    for _ in range(10):
        assert list(pool.stream(f"brief.{unique}")) == numbers(0, 300)
    wait_until(lambda: kept_replies(server)[1] <= before, timeout=3.0, what="the end of the mapped replies")


def test_a_plain_requester(pool: Pool, subscriber: Subscriber, unique: str) -> None:
    """It gets the chunks, and the empty end."""
    subscriber.stream_subscribe_handler(f"work.{unique}", some)
    with pool.request_many(f"work.{unique}", sentinel=True) as replies:
        assert [reply.data for reply in replies] == numbers(0, 300)


def test_a_plain_responder(pool: Pool, worker_pool: Pool, unique: str) -> None:
    def respond(message: Message) -> None:
        for chunk in numbers(0, 300):
            message.respond(chunk)
        message.respond(b"")

    answered: List[bytes] = []
    with worker_pool.subscribe(f"work.{unique}", handler=respond):
        with pool.stream(f"work.{unique}") as stream:
            answered.extend(stream)
    assert answered == numbers(0, 300)
    assert stream.end_reason == "completed"
