"""The interpreter ends without ``close``: promptly, quietly, and with what was published last written out."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import socket
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Iterator, List

import pytest
from procs import LONG, Child, StartProgram, posix_only, stopped, wait_until

from natsbridge import (
    ClientOfflineError,
    ClosedError,
    Pool,
    RequestTimeoutError,
    ResponderLostError,
    ResponseSender,
    StreamRequest,
    Subscriber,
    Subscription,
)
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from natsbridge.testing import ServerFactory

pytestmark = [pytest.mark.process, posix_only]

QUICKLY = 5.0


class Service:
    """What the programs ask for, served in the test's process; ``reasons``: why its streams ended."""

    def __init__(self, subscriber: Subscriber, subject: str) -> None:
        self.reasons: List[str] = []
        self.silent = threading.Event()
        subscriber.stream_subscribe_handler(f"{subject}.endless", self._endless)
        subscriber.stream_subscribe_handler(f"{subject}.silent-stream", self._silent)

    def _endless(self, request: StreamRequest, sender: ResponseSender) -> None:
        self._until_offline(sender, itertools.repeat(b"chunk"))

    def _silent(self, request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        sender.wait_offline(LONG)
        self._until_offline(sender, iter([b"too late"]))

    def _until_offline(self, sender: ResponseSender, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                sender.send(chunk)
        except ClientOfflineError as error:
            self.reasons.append(error.reason)


@pytest.fixture
def worker_pool(server: EmbeddedServer) -> Iterator[Pool]:
    """A worker that soon notices a silent requester's end."""
    with Pool(server.url, probe_interval=0.3) as pool:
        yield pool


@pytest.fixture
def service(subscriber: Subscriber, unique: str) -> Service:
    return Service(subscriber, unique)


@pytest.fixture
def last(pool: Pool, unique: str) -> Iterator[Subscription]:
    """What the programs published last."""
    with pool.subscribe(f"{unique}.last") as subscription:
        yield subscription


def assert_published(last: Subscription, count: int = 1000) -> None:
    for number in range(count):
        assert last.next_msg(LONG).data == b"%d" % number


def assert_ended(child: Child, code: int, since: float, *errors: str) -> None:
    """It ended with that code, soon; on stderr there is the one traceback that belongs there, or nothing."""
    assert child.wait() == code
    assert time.monotonic() - since < QUICKLY
    text = child.errors()
    if not errors:
        assert text == ""
    else:
        assert text.startswith("Traceback (most recent call last):\n")
        assert text.count("Traceback") == 1, text
        assert "\nException" not in text, text
        assert text.rstrip().splitlines()[-1] in errors, text


def interrupt(child: Child) -> float:
    """Ctrl-C, once the program waits inside its call."""
    child.hear("calling")
    return child.send(signal.SIGINT)


@pytest.mark.parametrize(
    ("way", "code", "errors"),
    [
        ("falls_off_the_end", 0, []),
        ("sys_exit", 3, []),
        ("exception", 1, ["RuntimeError: as expected"]),
        ("exit_inside_a_stream", 3, []),
        ("exception_inside_a_stream", 1, ["RuntimeError: as expected"]),
        ("exit_with_everything_open", 3, []),
    ],
)
def test_ending_without_closing(
    server: EmbeddedServer,
    start_program: StartProgram,
    unique: str,
    service: Service,
    last: Subscription,
    way: str,
    code: int,
    errors: List[str],
) -> None:
    since = time.monotonic()
    child = start_program("exits", url=server.url, subject=unique, way=way)
    assert_ended(child, code, since, *errors)
    assert_published(last)
    if "inside" in way:
        wait_until(lambda: service.reasons, what="the end of the stream at the worker")
        assert service.reasons[0] in ("cancelled", "no_interest")


def test_a_worker_ends_while_it_serves(
    server: EmbeddedServer, start_program: StartProgram, unique: str, pool: Pool
) -> None:
    child = start_program("exits", url=server.url, subject=unique, way="exit_while_served")
    child.hear("ready")
    with pool.stream(f"{unique}.served") as stream:
        assert next(stream) == b"one"
        since = time.monotonic()
        child.order("go")
        with pytest.raises(ResponderLostError, match="shutting down"):
            next(stream)
    assert_ended(child, 3, since)


def test_the_exit_does_not_wait_for_a_server_that_is_gone(
    make_nats_server: ServerFactory, start_program: StartProgram, unique: str
) -> None:
    server = make_nats_server()
    child = start_program("exits", url=server.url, subject=unique, way="flush_without_server")
    child.hear("open")
    server.kill()
    child.order("go")
    since = interrupt(child)
    assert_ended(child, -signal.SIGINT, since, "KeyboardInterrupt", "KeyboardInterrupt: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_terminated(
    server: EmbeddedServer,
    start_program: StartProgram,
    unique: str,
    service: Service,
    last: Subscription,
    number: int,
) -> None:
    """Nothing of Python runs any more: what was flushed is there, and the worker notices by itself."""
    child = start_program("exits", url=server.url, subject=unique, way="terminated")
    child.hear("calling")
    since = child.send(number)
    assert_ended(child, -number, since)
    assert_published(last)
    wait_until(lambda: service.reasons, what="the end of the stream at the worker")
    assert service.reasons == ["no_interest"]


@pytest.mark.parametrize("way", ["request", "next_chunk", "next_msg"])
def test_an_interrupt_during_a_call(
    server: EmbeddedServer,
    start_program: StartProgram,
    unique: str,
    pool: Pool,
    service: Service,
    last: Subscription,
    way: str,
) -> None:
    with pool.subscribe(f"{unique}.silent") as requests:
        child = start_program("exits", url=server.url, subject=unique, way=way)
        if way == "request":
            requests.next_msg(LONG)
        since = interrupt(child)
        assert_ended(child, -signal.SIGINT, since, "KeyboardInterrupt", "KeyboardInterrupt: ")
        assert_published(last)
    if way == "next_chunk":
        wait_until(lambda: service.reasons, what="the end of the stream at the worker")
        assert service.reasons[0] in ("cancelled", "no_interest")


@pytest.mark.parametrize("way", ["flush", "close"])
def test_an_interrupt_while_the_server_stands_still(
    make_nats_server: ServerFactory, start_program: StartProgram, unique: str, way: str
) -> None:
    server = make_nats_server()
    child = start_program("exits", url=server.url, subject=unique, way=way)
    child.hear("open")
    with stopped(server.pid):
        child.order("go")
        since = interrupt(child)
        assert_ended(child, -signal.SIGINT, since, "KeyboardInterrupt", "KeyboardInterrupt: ")


def test_an_interrupt_while_connecting(start_program: StartProgram, unique: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONG)
        url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        child = start_program("exits", url=url, subject=unique, way="connect")
        connection, _ = listener.accept()  # and never a word
        with contextlib.closing(connection):
            since = interrupt(child)
            assert_ended(child, -signal.SIGINT, since, "KeyboardInterrupt", "KeyboardInterrupt: ")


def test_an_interrupt_during_a_blocked_send(
    server: EmbeddedServer, start_program: StartProgram, unique: str, pool: Pool, last: Subscription
) -> None:
    child = start_program("exits", url=server.url, subject=unique, way="send")
    child.hear("ready")
    with pool.stream(f"{unique}.served", window=8) as stream:
        since = interrupt(child)
        assert_ended(child, -signal.SIGINT, since, "KeyboardInterrupt", "KeyboardInterrupt: ")
        with pytest.raises(ResponderLostError):
            for chunk in stream:
                assert chunk == b"x" * 1000
    assert_published(last)


def test_run_takes_the_interrupt(
    server: EmbeddedServer, start_program: StartProgram, unique: str, last: Subscription
) -> None:
    child = start_program("exits", url=server.url, subject=unique, way="run")
    assert_published(last)
    since = interrupt(child)
    assert_ended(child, 0, since)
    assert child.find("returned") is not None


# -- close ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", ["endless", "silent-stream"])
def test_closing_with_open_streams(
    server: EmbeddedServer, unique: str, service: Service, last: Subscription, stream: str
) -> None:
    """It says goodbye to the worker, writes everything out, and does not wait for its time to pass."""
    with Pool(server.url) as pool:
        streams = [pool.stream(f"{unique}.{stream}") for _ in range(3)]
        for one in streams:
            next(one)
        for number in range(1000):
            pool.publish(f"{unique}.last", b"%d" % number)
        since = time.monotonic()
        pool.close()
        assert time.monotonic() - since < 1.0
    for one in streams:
        with pytest.raises(ClosedError):
            list(one)
    wait_until(lambda: len(service.reasons) == 3, what="the end of the streams at the worker")
    assert service.reasons == ["cancelled"] * 3
    assert_published(last)


def fill(pool: Pool) -> None:
    """Publish until no more is taken, as must be the case soon after ``outbox_bytes`` and what sockets hold."""
    with pytest.raises(RequestTimeoutError, match="the outbox was full"):
        for _ in range(500):
            pool.publish("subject", bytes(100_000), timeout=0.1)


def test_a_server_that_stands_still_holds_publishers_back(make_nats_server: ServerFactory) -> None:
    server = make_nats_server()
    with Pool(server.url) as pool, stopped(server.pid):
        fill(pool)
        pool.close(0.1)


@pytest.mark.parametrize(("timeout", "backlog"), [(0.0, False), (0.3, False), (0.3, True), (5.0, False)])
def test_closing_while_the_server_stands_still(make_nats_server: ServerFactory, timeout: float, backlog: bool) -> None:
    """The time that it was given is enough to let go of the socket, even of one that takes no more."""
    server = make_nats_server(http=True)
    pool = Pool(server.url).open()
    with stopped(server.pid):
        pool.publish("subject", b"data")
        if backlog:
            fill(pool)
        since = time.monotonic()
        pool.close(timeout)
        assert time.monotonic() - since < min(timeout, 2.0) + 1.0
    with Pool(server.url) as other:
        other.flush()  # the server goes on
        assert server.monitor_url is not None
        varz = f"{server.monitor_url}/varz"
        wait_until(lambda: json.load(urllib.request.urlopen(varz))["connections"] == 1, what="the end of the connection")
    assert "closed" in repr(pool)
