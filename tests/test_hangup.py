"""A client that is gone is noticed while nothing is sent; what it sent is untouched, and nobody else is taken for it."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from procs import LONG, WaitFor, posix_only

from natsbridge import Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge.contrib import _hangup
from natsbridge.contrib.sse import EventStream

pytestmark = posix_only

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="epoll, /proc")
LOOPS = [False, True] if find_spec("uvloop") else [False]


class Client:
    """Both ends of a TCP connection; ``environ`` shows the server's."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.socket = socket.create_connection(listener.getsockname())
            self.server, _ = listener.accept()
        self.environ: Dict[str, Any] = {"gunicorn.socket": self.server}

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        self.socket.close()
        self.server.close()


@pytest.fixture
def clients() -> Iterator[List[Client]]:
    made: List[Client] = []
    yield made
    for client in made:
        client.close()


def new(clients: List[Client]) -> Client:
    clients.append(Client())
    return clients[-1]


@pytest.fixture(params=LOOPS, ids=lambda uvloop: "uvloop" if uvloop else "asyncio")
def any_pool(server: Any, request: Any) -> Iterator[Pool]:
    with Pool(server.url, uvloop=request.param) as pool:
        yield pool


@pytest.fixture(params=[pytest.param("epoll", marks=linux_only), "peek"])
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "peek":
        monkeypatch.setattr(_hangup, "_original_epoll", lambda: None)
    return str(request.param)


def watch(pool: Pool, client: Client) -> Tuple[threading.Event, Any]:
    gone = threading.Event()
    unwatch = _hangup.watch(pool._loop(), client.environ, gone.set)
    assert unwatch is not None
    return gone, unwatch


def descriptors() -> List[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "leave",
    [
        lambda client: client.socket.close(),
        lambda client: client.reset(),
        lambda client: client.socket.shutdown(socket.SHUT_RDWR),
        lambda client: client.socket.shutdown(socket.SHUT_WR),  # counts as gone
    ],
    ids=["close", "reset", "shutdown", "half-close"],
)
def test_a_client_that_leaves_is_noticed(way: str, any_pool: Pool, clients: List[Client], leave: Any) -> None:
    here, there = new(clients), new(clients)
    gone, unwatch = watch(any_pool, here)
    other, unwatch_other = watch(any_pool, there)
    time.sleep(0.02)
    assert not gone.is_set()
    leave(here)
    assert gone.wait(LONG)
    assert not other.is_set()
    unwatch(), unwatch()
    unwatch_other()


def test_one_that_has_left_already_is_noticed(way: str, pool: Pool, clients: List[Client]) -> None:
    client = new(clients)
    client.socket.close()
    gone, unwatch = watch(pool, client)
    assert gone.wait(LONG)
    unwatch()


@linux_only
def test_it_is_noticed_at_once(any_pool: Pool, clients: List[Client]) -> None:
    took: List[float] = []
    for _ in range(50):
        client = new(clients)
        gone, unwatch = watch(any_pool, client)
        began = time.monotonic()
        client.socket.close()
        assert gone.wait(LONG)
        took.append(time.monotonic() - began)
        unwatch()
    assert sorted(took)[25] < 0.02


@linux_only
def test_pipelined_bytes_are_untouched_and_cost_nothing(any_pool: Pool, clients: List[Client]) -> None:
    """What waits to be read would keep a loop that watched the socket itself busy."""
    client = new(clients)
    client.socket.sendall(b"GET /next HTTP/1.1\r\n\r\n")
    gone, unwatch = watch(any_pool, client)
    began = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - began < 0.15
    assert not gone.is_set()
    client.socket.close()  # behind the bytes that wait
    assert gone.wait(LONG)
    assert client.server.recv(100) == b"GET /next HTTP/1.1\r\n\r\n"
    unwatch()


def test_a_peek_leaves_the_bytes_and_the_sockets_mode(
    pool: Pool, clients: List[Client], monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    monkeypatch.setattr(_hangup, "_original_epoll", lambda: None)
    client = new(clients)
    gone, unwatch = watch(pool, client)
    client.socket.sendall(b"x")
    time.sleep(3 * _hangup.TICK)
    assert not gone.is_set()
    assert os.get_blocking(client.server.fileno())
    assert client.server.recv(1) == b"x"
    client.socket.close()
    assert gone.wait(LONG)
    unwatch()


def test_a_watch_that_was_ended_says_nothing(way: str, pool: Pool, clients: List[Client]) -> None:
    client, later = new(clients), new(clients)
    gone, unwatch = watch(pool, client)
    unwatch()
    client.socket.close()
    later_gone, unwatch_later = watch(pool, later)
    later.socket.close()
    assert later_gone.wait(LONG)
    time.sleep(2 * _hangup.TICK)
    assert not gone.is_set()
    unwatch_later()


def test_two_watches_of_one_client(way: str, pool: Pool, clients: List[Client]) -> None:
    client = new(clients)
    first, unwatch_first = watch(pool, client)
    second, unwatch_second = watch(pool, client)
    third, unwatch_third = watch(pool, client)
    unwatch_first()
    client.socket.close()
    assert second.wait(LONG)
    assert third.wait(LONG)
    assert not first.is_set()
    unwatch_second(), unwatch_third()


def test_a_descriptor_that_is_used_again(way: str, pool: Pool, clients: List[Client]) -> None:
    """The next client's socket has the number of the last one's; nobody is taken for the other."""
    spare = new(clients)
    for round_ in range(60):
        client = new(clients)
        _, unwatch = watch(pool, client)
        number = client.server.fileno()
        client.socket.close()  # noticed, or about to be, when the next one comes
        if round_ % 2:
            unwatch()
        client.server.close()
        os.dup2(spare.server.fileno(), number)
        try:
            spare_gone = threading.Event()
            environ = {"gunicorn.socket": socket.socket(fileno=number)}
            unwatch_spare = _hangup.watch(pool._loop(), environ, spare_gone.set)
            assert unwatch_spare is not None
            unwatch()
            assert not spare_gone.wait(0.002)
            unwatch_spare()
        finally:
            environ["gunicorn.socket"].close()


@linux_only
def test_nothing_is_left(server: Any, clients: List[Client], wait_for: WaitFor) -> None:
    for _ in range(20):
        new(clients)
    before: List[str] = []
    for _ in range(2):  # the first time may leave what is made once and for all
        before = descriptors()
        with Pool(server.url) as pool:
            for number, client in enumerate(clients):
                _, unwatch = watch(pool, client)
                if number % 2:
                    unwatch()
    wait_for(lambda: descriptors() == before, what="the descriptors to be closed")


def test_after_the_pool_is_closed_nothing_happens(way: str, server: Any, clients: List[Client]) -> None:
    client = new(clients)
    with Pool(server.url) as pool:
        gone, unwatch = watch(pool, client)
    unwatch()
    client.socket.close()
    assert not gone.is_set()


def test_nothing_to_watch(pool: Pool, clients: List[Client]) -> None:
    client = new(clients)
    client.server.close()
    assert _hangup.watch(pool._loop(), {}, print) is None
    assert _hangup.watch(pool._loop(), client.environ, print) is None


def test_the_waitress_way(pool: Pool, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    class Settings:
        channel_request_lookahead = 1

    class Channel:
        adj = Settings()
        gone = False
        asked = 0

        def check_client_disconnected(self) -> bool:
            self.asked += 1
            return self.gone

    channel, told = Channel(), threading.Event()
    environ = {"waitress.client_disconnected": channel.check_client_disconnected}
    unwatch = _hangup.watch(pool._loop(), environ, told.set)
    assert unwatch is not None
    began = time.monotonic()
    wait_for(lambda: channel.asked >= 5)
    assert time.monotonic() - began >= 3 * _hangup.TICK
    assert not told.is_set()
    channel.gone = True
    assert told.wait(LONG)
    asked = channel.asked
    time.sleep(3 * _hangup.TICK)
    assert channel.asked == asked  # and the ticker has nothing to do any more
    unwatch()

    monkeypatch.setattr(_hangup, "_warned", False)
    channel.adj.channel_request_lookahead = 0
    for _ in range(3):
        assert _hangup.watch(pool._loop(), environ, told.set) is None
    assert caplog.text.count("channel_request_lookahead=1") == 1


# -- with a stream ----------------------------------------------------------------------------------------------------


@contextmanager
def idle_stream(pool: Pool, subscriber: Subscriber, subject: str, environ: Any) -> Iterator[Tuple[EventStream, List[str]]]:
    reasons: List[str] = []

    def handler(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        sender.wait_offline(LONG)
        reasons.append(str(sender.offline_reason))

    subscriber.stream_subscribe_handler(subject, handler)
    with EventStream(pool, subject, environ=environ) as events:
        yield events, reasons


def test_the_worker_stops_when_the_browser_is_gone(
    way: str, pool: Pool, subscriber: Subscriber, unique: str, clients: List[Client], wait_for: WaitFor
) -> None:
    """While the server's thread waits for the next chunk; and that thread is free again."""
    client = new(clients)
    with idle_stream(pool, subscriber, unique, client.environ) as (events, reasons):
        next(events), next(events)
        rest: List[bytes] = []
        reader = threading.Thread(target=lambda: rest.extend(events))
        reader.start()
        client.socket.close()
        wait_for(lambda: reasons == ["cancelled"], what="the worker to stop")
        reader.join(LONG)
        assert not reader.is_alive()
        assert rest == []


@linux_only
@pytest.mark.process
def test_a_forked_child_leaves_the_parents_watch_alone(server: Any, pool: Pool, clients: List[Client]) -> None:
    here, there = new(clients), new(clients)
    gone, unwatch = watch(pool, here)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            gone_in_child, unwatch_in_child = watch(pool, there)
            there.socket.shutdown(socket.SHUT_RDWR)
            if gone_in_child.wait(LONG):
                unwatch_in_child()
                pool.close()
                code = 0
        finally:
            os._exit(code)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0
    assert not gone.is_set()
    here.socket.shutdown(socket.SHUT_RDWR)
    assert gone.wait(LONG)
    unwatch()
