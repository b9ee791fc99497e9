"""``Pool``: opening and closing, publishing, requests, reconnects and permissions."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

import nats
import pytest
from procs import LONG, WaitFor, posix_only, stop

from natsbridge import (
    ClosedError,
    ConnectError,
    DisconnectedError,
    Error,
    MaxPayloadError,
    Message,
    NoRespondersError,
    PermissionDeniedError,
    Pool,
    RequestTimeoutError,
    ResponseSender,
    StreamRequest,
    Subscriber,
)
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from conftest import Monitor

SHORT = 3.0  # how long something may take that should be immediate, on a busy machine


def threads(name: str) -> List[str]:
    """Threads of the pool with that name."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(f"natsbridge-{name}-"))


def in_threads(count: int, call: Callable[[int], object]) -> List[BaseException]:
    """Run ``call(n)`` in so many threads at once, wait for all, and return what they raised."""
    errors: List[BaseException] = []
    start = threading.Barrier(count)

    def run(n: int) -> None:
        start.wait(LONG)
        try:
            call(n)
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in running), "a thread hangs"
    return errors


def in_thread(call: Callable[[], object]) -> Tuple[threading.Thread, List[object]]:
    """Run ``call`` in a thread; what it returns or raises is in the list once it has ended."""
    outcome: List[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


@contextmanager
def responder(server: EmbeddedServer, subject: str, answer: Callable[[Message], Any]) -> Iterator[Pool]:
    """A pool of its own whose handler calls ``answer``."""
    with Pool(server.url) as other:
        other.subscribe(subject, handler=answer)
        yield other


def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A server that accepts connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"nats://127.0.0.1:{listening.getsockname()[1]}"


# -- opening ----------------------------------------------------------------------------------------------------------


def test_the_constructor_does_nothing(server: EmbeddedServer, unique: str, monitor: Monitor) -> None:
    pool = Pool(server.url, name=unique)
    assert threads(unique) == []
    assert monitor.connections(unique) == []
    assert pool.stats().state == "new"
    assert pool.stats().connections == ()
    pool.close()
    assert pool.stats().state == "closed"


def test_it_opens_on_first_use(server: EmbeddedServer, unique: str, monitor: Monitor) -> None:
    pool = Pool(server.url, name=unique)
    try:
        pool.publish(unique, b"x")
        assert f"natsbridge-{unique}-loop" in threads(unique)
        assert len(monitor.connections(unique)) == 1
        assert pool.stats().state == "open"
    finally:
        pool.close()
    assert threads(unique) == []


def test_first_use_in_many_threads_connects_once(server: EmbeddedServer, unique: str, monitor: Monitor) -> None:
    pool = Pool(server.url, name=unique)
    try:
        assert in_threads(16, lambda n: pool.publish(unique, b"%d" % n)) == []
        pool.flush()
        assert len(monitor.connections(unique)) == 1
        assert monitor.get("connz?state=closed&limit=10000")["connections"] is not None
        closed = monitor.get("connz?state=closed&limit=10000")["connections"]
        assert [connection for connection in closed if connection.get("name") == unique] == []
        assert len([name for name in threads(unique) if name.endswith("-loop")]) == 1
    finally:
        pool.close()


def test_size_is_the_number_of_connections(server: EmbeddedServer, unique: str, monitor: Monitor) -> None:
    with Pool(server.url, name=unique, size=3) as pool:
        assert len(monitor.connections(unique)) == 3
        assert pool.stats().connected == 3
        assert len(monitor.subscriptions(unique)) == 3
        with pool.subscribe(unique) as sub:
            for n in range(9):
                pool.publish(unique, b"%d" % n)
            pool.flush()
            assert sorted(int(sub.next_msg(LONG).data) for _ in range(9)) == list(range(9))
        assert all(link.out_messages >= 3 for link in pool.stats().connections)


def test_as_a_context_manager(server: EmbeddedServer, unique: str, wait_for: WaitFor, monitor: Monitor) -> None:
    with Pool(server.url, name=unique) as pool:
        assert len(monitor.connections(unique)) == 1
        assert pool.open() is pool  # idempotent
        assert len(monitor.connections(unique)) == 1
    wait_for(lambda: monitor.connections(unique) == [])
    assert threads(unique) == []


# -- closing ----------------------------------------------------------------------------------------------------------


def test_closing_again_and_from_many_threads(server: EmbeddedServer, unique: str) -> None:
    pool = Pool(server.url, name=unique).open()
    assert in_threads(8, lambda n: pool.close()) == []
    assert threads(unique) == []
    pool.close()
    assert pool.stats().state == "closed"


def test_closing_what_was_never_opened(unique: str) -> None:
    pool = Pool("nats://127.0.0.1:1", name=unique)
    pool.close()
    with pytest.raises(ClosedError):
        pool.open()


def test_after_closing_everything_raises_closed_error(server: EmbeddedServer, unique: str) -> None:
    pool = Pool(server.url, name=unique).open()
    sub = pool.subscribe(f"{unique}.sub")
    asked = pool.subscribe(unique)  # the stream's request is heard, and never answered
    stream = pool.stream(unique)
    pool.close()
    assert not asked.active
    calls: Dict[str, Callable[[], object]] = {
        "open": pool.open,
        "publish": lambda: pool.publish(unique, b"x"),
        "flush": pool.flush,
        "request": lambda: pool.request(unique, b"x"),
        "request_many": lambda: pool.request_many(unique, b"x"),
        "subscribe": lambda: pool.subscribe(unique),
        "stream": lambda: pool.stream(unique),
        "stream_request": lambda: pool.stream_request(unique, b"", print),
        "stream_request_with_client": lambda: pool.stream_request_with_client(unique, b"", unique, print),
        "mark_client_online": lambda: pool.mark_client_online(unique),
        "mark_client_offline": lambda: pool.mark_client_offline(unique),
        "client": lambda: pool.client(unique).__enter__(),
        "with": pool.__enter__,
        "next_msg": lambda: sub.next_msg(LONG),
        "iterating": lambda: next(sub),
        "reading": lambda: next(stream),
    }
    for name, call in calls.items():
        began = time.monotonic()
        with pytest.raises(ClosedError):
            call()
        assert time.monotonic() - began < SHORT, name
    pool.drain()  # nothing left to do
    pool.registry.forget_offline(unique)


def test_closing_wakes_everyone_who_waits(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    with responder(server, unique, lambda message: None):  # never answers
        pool = Pool(server.url, timeout=10 * LONG).open()
        sub = pool.subscribe(f"{unique}.sub")
        stream = pool.stream(unique)
        waiting: Dict[str, Tuple[threading.Thread, List[object]]] = {
            "request": in_thread(lambda: pool.request(unique)),
            "many": in_thread(lambda: list(pool.request_many(unique))),
            "next_msg": in_thread(lambda: sub.next_msg(None)),
            "iterating": in_thread(lambda: list(sub)),
            "stream": in_thread(lambda: list(stream)),
            "stream_request": in_thread(lambda: pool.stream_request(unique, b"", print)),
        }
        wait_for(lambda: pool.stats().streams == 2 and pool.stats().connections[0].out_messages >= 4)
        began = time.monotonic()
        pool.close()
        for name, (thread, outcome) in waiting.items():
            thread.join(LONG)
            assert not thread.is_alive(), name
            assert [type(result) for result in outcome] == [ClosedError], name
        assert time.monotonic() - began < SHORT


@contextmanager
def frozen(server: EmbeddedServer) -> Iterator[None]:
    """The server stands still: connections stay, nothing is answered."""
    pid = server.pid
    stop(pid)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # the test may have killed it
            os.kill(pid, signal.SIGCONT)


@posix_only
def test_closing_wakes_who_waits_for_a_server_that_is_silent(unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as own:
        pool = Pool(own.url, timeout=10 * LONG).open()
        with frozen(own):
            flushing = in_thread(pool.flush)
            subscribing = in_thread(lambda: pool.subscribe(unique))
            asking = in_thread(lambda: pool.request(unique))
            wait_for(lambda: pool.stats().subscriptions == 2 and pool.stats().connections[0].outbox_messages == 0)
            began = time.monotonic()
            pool.close(1.0)
            assert time.monotonic() - began < 5.0
            for thread, outcome in (flushing, subscribing, asking):
                thread.join(LONG)
                assert [type(result) for result in outcome] == [ClosedError]


@posix_only
def test_closing_wakes_whose_flush_the_writer_had_in_hand(unique: str, wait_for: WaitFor) -> None:
    """The socket takes no more: the writer stands in the middle of a piece, with a flush behind each message of it."""
    with EmbeddedServer() as own:
        pool = Pool(own.url, timeout=10 * LONG).open()

        def publish_and_flush() -> None:
            pool.publish(unique, bytes(100_000))
            pool.flush()

        with frozen(own):
            flushing = [in_thread(publish_and_flush) for _ in range(100)]
            wait_for(lambda: pool.stats().connections[0].outbox_messages > 50)
            pool.close(0.5)
            for thread, outcome in flushing:
                thread.join(LONG)
                assert [type(result) for result in outcome] == [ClosedError]


@posix_only
def test_closing_closes_the_socket_even_if_the_server_is_silent(unique: str) -> None:
    with EmbeddedServer() as own:
        pool = Pool(own.url).open()
        writer = client_of(pool)._transport._io_writer
        with frozen(own):
            pool.close(0.2)
        assert threads(pool.name) == []
        assert writer.is_closing(), "the socket is left to the garbage collector"


def test_closing_with_open_streams_is_quick_and_tells_the_other_ends(
    server: EmbeddedServer, unique: str, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    reasons: List[Optional[str]] = []

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        sender.wait_offline(LONG)
        reasons.append(sender.offline_reason)

    with Pool(server.url) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, serve)
        other = Pool(server.url).open()
        streams = [other.stream(unique) for _ in range(5)]
        for stream in streams:
            next(stream)
        began = time.monotonic()
        other.close()
        assert time.monotonic() - began < 1.5
        wait_for(lambda: reasons == ["cancelled"] * 5)  # told, not found out
        assert [stream.end_reason for stream in streams] == ["closed"] * 5
    assert "closed before" not in caplog.text


def test_closing_writes_out_what_was_published(server: EmbeddedServer, unique: str, pool: Pool, wait_for: WaitFor) -> None:
    for repetition in range(5):
        with pool.subscribe(f"{unique}.{repetition}") as sub:
            publisher = Pool(server.url).open()
            for n in range(1500):
                publisher.publish(f"{unique}.{repetition}", b"%d " % n + b"x" * 2000)
            publisher.close()
            numbers = [int(sub.next_msg(LONG).data.split()[0]) for _ in range(1500)]
            assert numbers == list(range(1500))


def test_draining_serves_what_had_arrived(server: EmbeddedServer, unique: str, pool: Pool) -> None:
    handled: List[bytes] = []
    other = Pool(server.url).open()
    gate = threading.Event()

    def handle(message: Message) -> None:
        gate.wait(LONG)
        handled.append(message.data)
        message.respond(message.data)

    other.subscribe(unique, handler=handle)
    asking = [in_thread(lambda n=n: pool.request(unique, b"%d" % n, timeout=LONG).data) for n in range(20)]  # type: ignore[misc]
    pool.flush()
    deadline = time.monotonic() + LONG
    while pool.stats().connections[0].out_messages < 20 and time.monotonic() < deadline:
        time.sleep(0.001)
    pool.flush()
    threading.Timer(0.05, gate.set).start()
    other.drain(LONG)
    assert sorted(handled, key=int) == [b"%d" % n for n in range(20)]
    for n, (thread, outcome) in enumerate(asking):
        thread.join(LONG)
        assert outcome == [b"%d" % n]
    assert other.stats().state == "closed"


def test_draining_gives_up_at_its_deadline(server: EmbeddedServer, unique: str) -> None:
    gate = threading.Event()
    other = Pool(server.url).open()
    try:
        started = threading.Event()

        def handle(message: Message) -> None:
            started.set()
            gate.wait(LONG)

        other.subscribe(unique, handler=handle)
        other.publish(unique)
        assert started.wait(LONG)
        threading.Timer(1.0, gate.set).start()
        with pytest.raises(RequestTimeoutError, match=unique):
            other.drain(0.1)
        assert other.stats().state == "closed"
    finally:
        gate.set()


def test_a_pool_that_is_dropped_is_closed(server: EmbeddedServer, unique: str, wait_for: WaitFor, monitor: Monitor) -> None:
    pool = Pool(server.url, name=unique).open()
    pool.publish(unique, b"x")
    pool.subscribe(unique).unsubscribe()
    with pytest.raises(NoRespondersError):
        pool.request(unique)
    reference = weakref.ref(pool)
    del pool
    wait_for(lambda: gc.collect() is not None and reference() is None)
    wait_for(lambda: threads(unique) == [])
    wait_for(lambda: monitor.connections(unique) == [])


def test_closing_while_others_open(server: EmbeddedServer, unique: str) -> None:
    for _ in range(10):
        pool = Pool(server.url, name=unique)

        def use(n: int, pool: Pool = pool) -> None:
            if n == 0:
                pool.close()
            else:
                with suppress(ClosedError):
                    pool.publish(unique, b"x")

        assert in_threads(4, use) == []
        pool.close()
        assert threads(unique) == []


# -- servers that do not answer ---------------------------------------------------------------------------------------


def test_a_dead_port_fails_fast_and_by_name(unique: str) -> None:
    port, other = dead_port(), dead_port()
    pool = Pool([f"nats://me:sesame@127.0.0.1:{port}", f"nats://127.0.0.1:{other}"], name=unique, connect_timeout=2.0)
    began = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        pool.open()
    assert time.monotonic() - began < 2.5
    assert f"***@127.0.0.1:{port}" in str(caught.value)
    assert f"127.0.0.1:{other}" in str(caught.value)
    assert "sesame" not in str(caught.value)
    assert threads(unique) == []
    for call in (lambda: pool.publish(unique), lambda: pool.request(unique), lambda: pool.stream(unique)):
        with pytest.raises(ConnectError):
            call()
    assert threads(unique) == []
    pool.close()


def test_a_server_that_never_answers_fails_in_time(black_hole: str, unique: str) -> None:
    pool = Pool(black_hole, name=unique, connect_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(ConnectError, match=black_hole):
        pool.open()
    assert 0.3 < time.monotonic() - began < 0.5 + 0.5
    with pytest.raises(ConnectError):
        pool.open(0.1)
    pool.close()
    assert threads(unique) == []


def test_connecting_is_bounded_by_the_timeout_of_the_call(black_hole: str, unique: str) -> None:
    pool = Pool(black_hole, connect_timeout=10 * LONG)
    began = time.monotonic()
    with pytest.raises(Error):
        pool.request(unique, timeout=0.3)
    assert time.monotonic() - began < SHORT
    pool.close()


def test_closing_while_connecting(black_hole: str, unique: str) -> None:
    pool = Pool(black_hole, name=unique, connect_timeout=1.0)
    thread, outcome = in_thread(pool.open)
    deadline = time.monotonic() + LONG
    while not threads(unique) and time.monotonic() < deadline:
        time.sleep(0.001)
    pool.close()
    thread.join(LONG)
    (error,) = outcome
    assert isinstance(error, (ClosedError, ConnectError))
    assert threads(unique) == []


def test_the_second_server_is_used_when_the_first_is_dead(server: EmbeddedServer) -> None:
    for urls in ([f"nats://127.0.0.1:{dead_port()}", server.url], [server.url, f"nats://127.0.0.1:{dead_port()}"]):
        with Pool(urls, connect_timeout=4.0) as pool:
            (link,) = pool.stats().connections
            assert link.connected
            assert link.server == server.url


def test_the_second_server_is_used_when_the_first_is_silent(server: EmbeddedServer, black_hole: str) -> None:
    with Pool([black_hole, server.url], connect_timeout=1.0) as pool:
        assert pool.stats().connections[0].server == server.url


def test_a_pool_that_failed_to_open_may_be_opened_again(unique: str) -> None:
    port = dead_port()
    pool = Pool(f"nats://127.0.0.1:{port}", connect_timeout=SHORT)
    with pytest.raises(ConnectError):
        pool.open()
    with EmbeddedServer(port=port):
        pool.publish(unique)
        pool.flush()
        pool.close()


def test_what_is_no_nats_server_is_an_error_that_says_so(unique: str) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def greet() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
                connection.settimeout(LONG)
                with suppress(OSError):
                    connection.recv(1024)

        thread, _ = in_thread(greet)
        pool = Pool(f"nats://127.0.0.1:{listening.getsockname()[1]}", connect_timeout=SHORT)
        with pytest.raises(ConnectError, match=str(listening.getsockname()[1])):
            pool.open()
        pool.close()
        thread.join(LONG)


# -- publish and flush ------------------------------------------------------------------------------------------------


def test_flush_is_a_barrier(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    """After it the server has everything, so a subscriber elsewhere that asks the server then has it too."""
    with Pool(server.url) as other:
        sub = other.subscribe(unique)
        for total in range(100, 1001, 100):
            for n in range(100):
                pool.publish(unique, b"%d" % n)
            pool.flush()
            other.flush()  # what the server has sent by now is here when this returns
            assert sub.pending == total


class ScriptedServer:
    """Speaks just enough of the protocol to count: how many messages it had read when it answered each PING."""

    def __init__(self) -> None:
        self.messages = 0
        self.messages_at_pong: List[int] = []
        self.reads = threading.Event()  # cleared, it stops reading
        self.reads.set()
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen()
        self.url = f"nats://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="scripted-server", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            info = {"server_id": "scripted", "version": "2.10.0", "proto": 1, "headers": True, "max_payload": 1048576}
            connection.sendall(f"INFO {json.dumps(info)}\r\n".encode())
            for line in lines:
                self.reads.wait(LONG)
                verb, *words = line.split()
                if verb == b"PING":
                    self.messages_at_pong.append(self.messages)
                    connection.sendall(b"PONG\r\n")
                elif verb == b"PUB":
                    lines.read(int(words[-1]) + 2)
                    self.messages += 1

    def close(self) -> None:
        self._listening.close()
        self._thread.join(LONG)


def test_flush_returns_after_a_pong_behind_everything(wait_for: WaitFor) -> None:
    """What waits for the socket in nats-py's buffer is overtaken by its next PING, whose PONG so proves nothing."""
    scripted = ScriptedServer()
    with Pool(scripted.url) as pool:
        client = client_of(pool)

        def waits() -> bool:
            return client.pending_data_size > 0 or pool.stats().connections[0].outbox_messages > 0

        scripted.reads.clear()
        published = 0
        given_up = 0.0
        while not waits() or time.monotonic() < given_up:  # until the socket takes no more
            if not waits():
                assert published < 1000
                pool.publish("x", b"y" * 50_000)
                published += 1
                given_up = time.monotonic() + 0.2
            scripted.reads.wait(0.001)
        flushing = in_thread(lambda: pool.flush(LONG))

        def flush_is_under_way() -> bool:
            assert pool._runtime is not None
            link = pool._runtime.links[0]
            # On Pythons whose drain() does not wait nothing stays in nats-py, and the flush waits its turn in the outbox.
            return bool(link.connection._pongs) or (client.pending_data_size == 0 and link.outbox.waiting()[0] > 0)

        wait_for(flush_is_under_way)
        scripted.reads.set()
        flushing[0].join(LONG)
        assert flushing[1] == [None]
        assert scripted.messages_at_pong[-1] == published
    scripted.close()


def test_flush_is_a_barrier_for_all_threads(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    with Pool(server.url) as other:
        sub = other.subscribe(unique)

        def work(n: int) -> None:
            for _ in range(50):
                pool.publish(unique, b"x")
            pool.flush()

        assert in_threads(8, work) == []
        other.flush()
        assert sub.pending == 400


def test_messages_of_one_thread_arrive_in_order(pool: Pool, unique: str) -> None:
    with pool.subscribe(unique) as sub:
        for n in range(5000):
            pool.publish(unique, b"%d" % n)
        assert [int(sub.next_msg(LONG).data) for _ in range(5000)] == list(range(5000))


def test_a_message_arrives_as_it_was_sent(pool: Pool, unique: str) -> None:
    headers = {"One": "1", "Empty": "", "Mixed-Case": "a: b; c", "ünicode".encode("ascii", "ignore").decode(): "Grüße €"}
    with pool.subscribe(f"{unique}.>") as sub:
        pool.publish(f"{unique}.a", b"\x00\xff\r\n", reply=f"{unique}.reply", headers=headers)
        pool.publish(f"{unique}.b", bytearray(b"array"))
        pool.publish(f"{unique}.c", memoryview(b"view"))
        pool.publish(f"{unique}.d")
        first = sub.next_msg(LONG)
        assert (first.subject, first.data, first.reply) == (f"{unique}.a", b"\x00\xff\r\n", f"{unique}.reply")
        assert first.headers == headers
        assert [sub.next_msg(LONG).data for _ in range(3)] == [b"array", b"view", b""]


def test_a_mutable_payload_is_taken_as_it_was(pool: Pool, unique: str) -> None:
    with pool.subscribe(unique) as sub:
        data = bytearray(b"before")
        pool.publish(unique, data)
        data[:] = b"after!"
        assert sub.next_msg(LONG).data == b"before"


def test_publishing_during_an_outage_is_kept_and_delivered(unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as own, Pool(own.url, reconnect_time_wait=0.1) as pool, Pool(
        own.url, reconnect_time_wait=0.1
    ) as other:
        sub = other.subscribe(unique)
        own.kill()
        wait_for(lambda: pool.stats().connected == 0 and other.stats().connected == 0)
        for n in range(500):
            pool.publish(unique, b"%d" % n)
        assert pool.stats().connections[0].outbox_messages == 500
        flushing = in_thread(lambda: pool.flush(LONG))
        own.restart()
        wait_for(lambda: other.stats().connected == 1)
        flushing[0].join(LONG)
        assert flushing[1] == [None]
        # Who is back first is chance: what reached the server before the subscription was renewed is lost, in order.
        received = []
        other.flush()
        while sub.pending:
            received.append(int(sub.next_msg(LONG).data))
        assert received == list(range(500 - len(received), 500))


def test_what_was_kept_through_an_outage_arrives_completely_and_in_order(unique: str, wait_for: WaitFor) -> None:
    """The same pool publishes and subscribes: then the subscription is renewed before anything is written."""
    with EmbeddedServer() as own, Pool(own.url, reconnect_time_wait=0.1) as pool:
        sub = pool.subscribe(unique)
        own.kill()
        wait_for(lambda: pool.stats().connected == 0)
        for n in range(500):
            pool.publish(unique, b"%d" % n)
        own.restart()
        assert [int(sub.next_msg(LONG).data) for _ in range(500)] == list(range(500))


def test_a_full_outbox_blocks_until_its_deadline(unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as own, Pool(own.url, outbox_bytes=10_000, reconnect_time_wait=0.1) as pool:
        sub = pool.subscribe(unique)
        own.kill()
        wait_for(lambda: pool.stats().connected == 0)
        published = 0
        with pytest.raises(RequestTimeoutError, match="outbox was full"):
            for _ in range(1000):
                pool.publish(unique, b"%d" % published, timeout=0.2)
                published += 1
        assert 10 < published < 1000
        blocked = in_thread(lambda: pool.publish(unique, b"last", timeout=LONG))
        own.restart()
        blocked[0].join(LONG)
        assert blocked[1] == [None]
        assert [sub.next_msg(LONG).data for _ in range(published)] == [b"%d" % n for n in range(published)]
        assert sub.next_msg(LONG).data == b"last"  # and the one that was refused is not among them


def test_closing_wakes_a_blocked_publish(unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as own:
        pool = Pool(own.url, outbox_bytes=1000).open()
        own.kill()
        wait_for(lambda: pool.stats().connected == 0)
        pool.publish(unique, b"x" * 1000)
        blocked = in_thread(lambda: pool.publish(unique, b"y", timeout=10 * LONG))
        wait_for(lambda: pool._runtime is not None and pool._runtime.links[0].outbox._blocked == 1)
        pool.close(0.5)
        blocked[0].join(LONG)
        assert [type(result) for result in blocked[1]] == [ClosedError]


def test_a_message_larger_than_the_outbox_passes(pool: Pool, server: EmbeddedServer, unique: str) -> None:
    with Pool(server.url, outbox_bytes=1000) as small, pool.subscribe(unique) as sub:
        small.publish(unique, b"x" * 100_000)
        assert len(sub.next_msg(LONG).data) == 100_000


HEADERS = {"Name": "value", "Other-Name": "ü"}
HEADERS_SIZE = len("NATS/1.0\r\nName: value\r\nOther-Name: ü\r\n\r\n".encode())


@pytest.mark.parametrize("headers", [None, HEADERS], ids=["without headers", "with headers"])
def test_max_payload_is_exact_and_the_connection_survives(
    server: EmbeddedServer, pool: Pool, unique: str, headers: Optional[Dict[str, str]]
) -> None:
    limit = 1024 * 1024
    most = limit - (HEADERS_SIZE if headers else 0)
    with Pool(server.url) as other:
        sub = other.subscribe(unique)
        pool.publish(unique, b"x" * most, headers=headers)
        assert len(sub.next_msg(LONG).data) == most
        for call in (
            lambda: pool.publish(unique, b"x" * (most + 1), headers=headers),
            lambda: pool.request(unique, b"x" * (most + 1), headers=headers),
            lambda: pool.request_many(unique, b"x" * (most + 1), headers=headers),
            lambda: pool.stream(unique, b"x" * (most + 1), headers=headers),
        ):
            with pytest.raises(MaxPayloadError) as caught:
                call()
            assert caught.value.limit == limit
            assert caught.value.size > limit
        pool.flush()
        assert pool.stats().connected == 1
        assert pool.stats().connections[0].reconnects == 0
        assert sub.pending == 0


def test_the_largest_request_and_the_largest_stream_request_are_sent(
    server: EmbeddedServer, pool: Pool, unique: str
) -> None:
    sizes: List[int] = []

    def answer(message: Message) -> None:
        sizes.append(len(message.data))
        message.respond(b"ok")
        if message.headers:
            message.respond(b"")

    with responder(server, unique, answer):
        most = 1024 * 1024
        assert pool.request(unique, b"x" * most, timeout=LONG).data == b"ok"
        while True:  # the stream's own headers take some room, how much is its business
            try:
                assert list(pool.stream(unique, b"x" * most, connect_id="c" * 100)) == [b"ok"]
                break
            except MaxPayloadError:
                most -= 50
        assert most > 1024 * 1024 - 500
        assert pool.stats().connections[0].reconnects == 0


def test_a_smaller_max_payload_is_honoured(unique: str) -> None:
    with EmbeddedServer(config_text="max_payload: 1000") as small, Pool(small.url) as pool:
        with pool.subscribe(unique) as sub:
            pool.publish(unique, b"x" * 1000)
            with pytest.raises(MaxPayloadError, match=r"1001 bytes.*at most 1000"):
                pool.publish(unique, b"x" * 1001)
            assert len(sub.next_msg(LONG).data) == 1000


# -- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [b"reply", bytearray(b"reply"), memoryview(b"reply")], ids=lambda r: type(r).__name__)
def test_an_answer_may_be_any_buffer(
    server: EmbeddedServer, pool: Pool, unique: str, reply: Union[bytes, bytearray, memoryview]
) -> None:
    with responder(server, unique, lambda message: message.respond(reply)):
        assert pool.request(unique, timeout=LONG).data == b"reply"


def test_a_request_returns_the_first_reply(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    def answer(message: Message) -> None:
        message.respond(message.data[::-1], {"Saw": message.headers.get("Sent", "")})
        message.respond(b"a second reply is nobody's")

    with responder(server, unique, answer):
        reply = pool.request(unique, b"abc", headers={"Sent": "yes"})
        assert reply.data == b"cba"
        assert reply.headers == {"Saw": "yes"}
        assert pool.request(unique, b"def").data == b"fed"


def test_a_request_to_nobody_fails_at_once(pool: Pool, unique: str) -> None:
    began = time.monotonic()
    with pytest.raises(NoRespondersError) as caught:
        pool.request(unique, timeout=LONG)
    assert time.monotonic() - began < SHORT
    assert caught.value.subject == unique


def test_a_request_that_is_not_answered_times_out(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    with responder(server, unique, lambda message: None):
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=rf"no reply came from '{unique}' within 0\.2 s"):
            pool.request(unique, timeout=0.2)
        assert 0.2 <= time.monotonic() - began < SHORT
        with Pool(server.url, timeout=0.1) as hasty, pytest.raises(RequestTimeoutError):
            hasty.request(unique)


def test_a_reply_that_comes_too_late_disturbs_nobody(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    gate = threading.Event()
    answered = threading.Event()

    def answer(message: Message) -> None:
        if message.data == b"late":
            gate.wait(LONG)
        message.respond(message.data)
        answered.set()

    with responder(server, unique, answer):
        with pytest.raises(RequestTimeoutError):
            pool.request(unique, b"late", timeout=0.05)
        gate.set()
        assert answered.wait(LONG)
        for n in range(20):
            assert pool.request(unique, b"%d" % n).data == b"%d" % n


def test_nothing_is_left_of_requests(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    with responder(server, unique, lambda message: message.respond(b"x") if message.data else None):
        for _ in range(20):
            pool.request(unique, b"x")
        with pytest.raises(RequestTimeoutError):
            pool.request(unique, timeout=0.05)
        with pytest.raises(NoRespondersError):
            pool.request(f"{unique}.nobody")
    assert pool._runtime is not None
    assert pool._runtime.links[0]._ends == {}


def test_a_handler_may_ask_its_own_pool(pool: Pool, unique: str) -> None:
    pool.subscribe(f"{unique}.outer", handler=lambda m: m.respond(pool.request(f"{unique}.inner", m.data).data + b"!"))
    pool.subscribe(f"{unique}.inner", handler=lambda m: m.respond(m.data + b"?"))
    assert pool.request(f"{unique}.outer", b"x").data == b"x?!"


def test_a_request_during_an_outage_is_sent_afterwards(unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as own, Pool(own.url, reconnect_time_wait=0.05) as pool:
        pool.subscribe(unique, handler=lambda message: message.respond(b"back"))
        own.kill()
        wait_for(lambda: pool.stats().connected == 0)
        asking = in_thread(lambda: pool.request(unique, timeout=LONG).data)
        own.restart()
        asking[0].join(LONG)
        assert asking[1] == [b"back"]


def test_a_request_that_was_given_up_during_an_outage_is_never_sent(unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as own, Pool(own.url, reconnect_time_wait=0.05) as pool:
        sub = pool.subscribe(unique)
        own.kill()
        wait_for(lambda: pool.stats().connected == 0)
        with pytest.raises(RequestTimeoutError):
            pool.request(unique, b"given up", timeout=0.05)
        pool.publish(unique, b"published")
        own.restart()
        assert sub.next_msg(LONG).data == b"published"
        pool.flush()
        assert sub.pending == 0


def test_replies_of_bare_nats_py_and_requests_to_it(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    pool.subscribe(f"{unique}.ours", handler=lambda message: message.respond(message.data + b" from us"))

    async def theirs() -> bytes:
        client = await nats.connect(server.url)
        try:

            async def answer(msg: Any) -> None:
                await msg.respond(msg.data + b" from them")

            await client.subscribe(f"{unique}.theirs", cb=answer)
            await client.flush()
            reply = await client.request(f"{unique}.ours", b"hello", timeout=LONG)
            ready.set()
            while not done.is_set():
                await asyncio.sleep(0.005)
            return bytes(reply.data)
        finally:
            await client.close()

    ready, done = threading.Event(), threading.Event()
    thread, outcome = in_thread(lambda: asyncio.run(theirs()))
    assert ready.wait(LONG)
    assert pool.request(f"{unique}.theirs", b"hello").data == b"hello from them"
    done.set()
    thread.join(LONG)
    assert outcome == [b"hello from us"]


def test_many_threads_with_mixed_operations_and_every_reply_matched(
    server: EmbeddedServer, pool: Pool, unique: str
) -> None:
    """32 threads, 200 operations each."""
    counted = pool.subscribe(f"{unique}.count")
    with responder(server, f"{unique}.echo", lambda message: message.respond(message.data, message.headers)):

        def work(n: int) -> None:
            for k in range(200):
                tag = b"%d-%d" % (n, k)
                kind = (n + k) % 5
                if kind == 0:
                    pool.publish(f"{unique}.count", tag)
                elif kind == 1:
                    reply = pool.request(f"{unique}.echo", tag, headers={"Tag": tag.decode()}, timeout=LONG)
                    assert reply.headers == {"Tag": tag.decode()}
                    assert reply.data == tag
                elif kind == 2:
                    assert pool.request(f"{unique}.echo", tag, timeout=LONG).data == tag
                elif kind == 3:
                    try:
                        pool.request(f"{unique}.nobody", tag, timeout=LONG)
                    except NoRespondersError:
                        continue
                    raise AssertionError("somebody answered")
                elif k % 20 == 4:
                    pool.flush(LONG)

        assert in_threads(32, work) == []
        pool.flush()
        tags = {counted.next_msg(LONG).data for _ in range(32 * 40)}
        assert len(tags) == 32 * 40
        assert counted.pending == 0


# -- looking ----------------------------------------------------------------------------------------------------------


def test_stats_and_repr_show_live_counts(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    before = pool.stats()
    assert before.state == "open"
    assert before.connected == 1
    assert before.subscriptions == 1  # for what is answered
    assert before.streams == 0
    gate, started = threading.Event(), threading.Event()

    def handle(message: Message) -> None:
        started.set()
        gate.wait(LONG)

    sub = pool.subscribe(unique, handler=handle)
    try:
        pool.publish(unique, b"12345")
        assert started.wait(LONG)
        stats = pool.stats()
        (link,) = stats.connections
        assert stats.subscriptions == 2
        assert (stats.handler_threads, stats.handlers_running, stats.handlers_queued) == (1, 1, 0)
        assert link.server == server.url
        assert link.in_messages == before.connections[0].in_messages + 1
        assert link.in_bytes == before.connections[0].in_bytes + 5
        assert link.out_messages == before.connections[0].out_messages + 1
        assert link.out_bytes > before.connections[0].out_bytes
        assert link.reconnects == 0
        assert pool.name in repr(pool)
        assert "open: 1 of 1 connected, 0 streams, 2 subscriptions, 1 handlers running" in repr(pool)
    finally:
        gate.set()
    sub.unsubscribe()
    wait_for(lambda: pool.stats().subscriptions == 1 and pool.stats().handlers_running == 0)


def test_repr_of_a_pool_in_every_state(server: EmbeddedServer) -> None:
    pool = Pool(server.url)
    assert "new: 0 of 1 connected" in repr(pool)
    pool.open()
    pool.close()
    assert "closed: 0 of 1 connected" in repr(pool)


# -- healing ----------------------------------------------------------------------------------------------------------


def test_it_reconnects_after_a_restart_and_subscriptions_go_on(unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as own, Pool(own.url, reconnect_time_wait=0.1) as pool:
        sub = pool.subscribe(unique)
        for _ in range(2):
            own.restart()
            wait_for(lambda: pool.stats().connected == 1 and pool.stats().connections[0].reconnects >= 1)
            pool.publish(unique, b"again")
            pool.flush()
            assert sub.next_msg(LONG).data == b"again"
        assert pool.stats().connections[0].reconnects == 2


def client_of(pool: Pool) -> Any:
    assert pool._runtime is not None
    return pool._runtime.links[0].connection._client


def on_loop(pool: Pool, call: Callable[[], object]) -> None:
    assert pool._runtime is not None
    pool._runtime.loop.post(call)


def test_a_dead_read_loop_is_replaced(server: EmbeddedServer, unique: str, wait_for: WaitFor, monitor: Monitor) -> None:
    """nats-py calls itself connected then, and hears nothing any more."""
    errors: List[Exception] = []
    with Pool(server.url, name=unique, reconnect_time_wait=0.1, error_callback=errors.append) as pool:
        sub = pool.subscribe(unique)
        pool.subscribe(f"{unique}.echo", handler=lambda message: message.respond(message.data))
        pool.publish(unique, b"before")
        assert sub.next_msg(LONG).data == b"before"
        before = pool.stats().connections[0]
        dead = client_of(pool)
        on_loop(pool, dead._reading_task.cancel)
        wait_for(lambda: client_of(pool) not in (dead, None) and pool.stats().connected == 1)
        assert pool.request(f"{unique}.echo", b"alive", timeout=LONG).data == b"alive"
        pool.publish(unique, b"after")
        assert sub.next_msg(LONG).data == b"after"
        link = pool.stats().connections[0]
        assert link.reconnects == before.reconnects + 1
        assert link.in_messages > before.in_messages
        assert link.subscriptions == before.subscriptions
        wait_for(lambda: len(monitor.connections(unique)) == 1, what="the dead connection to go")


def test_a_client_that_was_closed_for_good_is_replaced(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    with Pool(server.url, reconnect_time_wait=0.1) as pool:
        pool.subscribe(unique, handler=lambda message: message.respond(b"alive"))
        dead = client_of(pool)
        on_loop(pool, lambda: asyncio.ensure_future(dead.close()))
        wait_for(lambda: client_of(pool) not in (dead, None) and pool.stats().connected == 1)
        assert pool.request(unique, timeout=LONG).data == b"alive"


@posix_only
def test_a_flush_that_times_out_does_no_harm(wait_for: WaitFor, unique: str) -> None:
    """With nats-py alone a PONG that comes late ends the read loop."""
    with EmbeddedServer() as own, Pool(own.url) as pool:
        pool.subscribe(unique, handler=lambda message: message.respond(b"alive"))
        with frozen(own), pytest.raises(RequestTimeoutError):
            pool.flush(0.1)
        pool.flush(LONG)
        assert pool.request(unique, timeout=LONG).data == b"alive"
        assert pool.stats().connections[0].reconnects == 0


@posix_only
def test_a_flush_that_meets_a_disconnect_says_so(wait_for: WaitFor, unique: str) -> None:
    with EmbeddedServer() as own, Pool(own.url, reconnect_time_wait=0.1) as pool:
        with frozen(own):
            flushing = in_thread(lambda: pool.flush(LONG))
            wait_for(lambda: pool._runtime is not None and pool._runtime.links[0].connection._pongs)
            own.kill()
        flushing[0].join(LONG)
        assert [type(result) for result in flushing[1]] == [DisconnectedError]
        own.restart()
        pool.flush(LONG)


# -- permissions ------------------------------------------------------------------------------------------------------

USERS = """
authorization {
  users = [
    {user: boss, password: boss}
    {user: mute, password: mute, permissions: {publish: {deny: ["Secret.>"]}, subscribe: {deny: ["Secret.>"]}}}
    {user: deaf, password: deaf, permissions: {subscribe: {deny: ["_INBOX.>"]}}}
    {user: other, password: other, permissions: {subscribe: {allow: ["My.Inbox.>"]}}}
  ]
}
"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[EmbeddedServer]:
    with EmbeddedServer(config_text=USERS) as server:
        yield server


def as_user(server: EmbeddedServer, user: str, **options: Any) -> Pool:
    return Pool(server.url, user=user, password=user, **options)


def test_wrong_credentials_are_refused_and_not_shown(guarded: EmbeddedServer, unique: str) -> None:
    pool = Pool(guarded.url, user="boss", password="sesame", connect_timeout=SHORT)
    with pytest.raises(ConnectError, match=r"(?i)authorization") as caught:
        pool.open()
    assert "sesame" not in str(caught.value)
    pool.close()


def test_credentials_in_the_url_work(guarded: EmbeddedServer, unique: str) -> None:
    with Pool(guarded.url.replace("nats://", "nats://boss:boss@")) as pool:
        pool.publish(unique)
        pool.flush()
        assert "boss" not in repr(pool)
        assert "boss" not in repr(pool.stats())


def test_a_denied_publish_is_raised_by_flush_once(guarded: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    errors: List[Exception] = []
    with as_user(guarded, "mute", error_callback=errors.append) as pool:
        pool.publish(f"Secret.{unique}", b"x")
        with pytest.raises(PermissionDeniedError, match=f"(?i)publish.*secret.{unique}"):
            pool.flush()
        pool.flush()  # it has been told
        wait_for(lambda: errors)
        assert [type(error) for error in errors] == [PermissionDeniedError]
        pool.publish(unique, b"x")
        pool.flush()


def test_a_denied_publish_is_not_lost_on_the_way_to_flush(guarded: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    """Other calls that go to the server and back in between must not take the error for themselves, or drop it."""
    errors: List[Exception] = []
    with as_user(guarded, "mute", error_callback=errors.append) as pool:
        existing = pool.subscribe(f"{unique}.existing")
        pool.publish(f"Secret.{unique}", b"x")
        wait_for(lambda: errors)
        pool.subscribe(f"{unique}.new").unsubscribe()
        existing.drain(LONG)
        with pytest.raises(PermissionDeniedError):
            pool.flush()


def test_a_denied_publish_is_raised_while_others_subscribe(guarded: EmbeddedServer, unique: str) -> None:
    stop = threading.Event()
    with as_user(guarded, "mute") as pool:

        def subscribe_on() -> None:
            while not stop.is_set():
                pool.subscribe(unique).unsubscribe()

        thread, outcome = in_thread(subscribe_on)
        try:
            for _ in range(50):
                pool.publish(f"Secret.{unique}", b"x")
                with pytest.raises(PermissionDeniedError):
                    pool.flush()
        finally:
            stop.set()
        thread.join(LONG)
        assert outcome == [None]


def test_a_denied_subscription_is_raised_by_subscribe(guarded: EmbeddedServer, unique: str) -> None:
    with as_user(guarded, "mute") as pool:
        for handler in (None, print):
            with pytest.raises(PermissionDeniedError, match=f"(?i)secret.{unique}"):
                pool.subscribe(f"Secret.{unique}", handler=handler)
        assert pool.stats().subscriptions == 1
        with pool.subscribe(unique) as sub:
            pool.publish(unique, b"x")
            assert sub.next_msg(LONG).data == b"x"


def test_a_denied_request_is_raised(guarded: EmbeddedServer, unique: str) -> None:
    with as_user(guarded, "mute") as pool:
        began = time.monotonic()
        with pytest.raises(PermissionDeniedError, match=f"(?i)secret.{unique}"):
            pool.request(f"Secret.{unique}", timeout=LONG)
        with pytest.raises(PermissionDeniedError, match=f"(?i)secret.{unique}"):
            list(pool.request_many(f"Secret.{unique}", timeout=LONG))
        with pytest.raises(PermissionDeniedError, match=f"(?i)secret.{unique}"):
            list(pool.stream(f"Secret.{unique}", timeout=LONG))
        assert time.monotonic() - began < SHORT
        pool.flush()  # nobody is told twice


def test_a_denied_inbox_is_raised_by_open(guarded: EmbeddedServer, unique: str) -> None:
    pool = as_user(guarded, "deaf", name=unique)
    with pytest.raises(PermissionDeniedError, match=r"_INBOX\.>.*inbox_prefix"):
        pool.open()
    assert threads(unique) == []
    with pytest.raises(PermissionDeniedError):
        pool.publish(unique)
    pool.close()


def test_another_inbox_prefix(guarded: EmbeddedServer, unique: str) -> None:
    with as_user(guarded, "boss") as boss, as_user(guarded, "other", inbox_prefix="My.Inbox") as pool:
        boss.subscribe(unique, handler=lambda message: message.respond(message.reply.encode()))
        assert pool.request(unique).data.startswith(b"My.Inbox.")


# -- errors that have no caller ---------------------------------------------------------------------------------------


def test_errors_are_reported_on_a_thread_of_their_own(guarded: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    seen: List[str] = []

    def callback(error: Exception) -> None:
        seen.append(threading.current_thread().name)
        raise ValueError("what a callback raises is logged")

    with as_user(guarded, "mute", name=unique, error_callback=callback) as pool:
        for expected in (1, 2):
            pool.publish(f"Secret.{unique}", b"x")
            with pytest.raises(PermissionDeniedError):
                pool.flush()
            wait_for(lambda: len(seen) == expected)  # noqa: B023
        assert set(seen) == {f"natsbridge-{unique}-callbacks-1"}
