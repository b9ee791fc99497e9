"""Every way to the server: TCP, TLS, WebSocket; and what several threads write to one socket."""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import importlib.util
import os
import random
import signal
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple
from urllib.parse import urlsplit

import pytest
import trustme
from procs import LONG, WaitFor, posix_only

from natsbridge import ClientOfflineError, Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge._transport import SharedTransport
from natsbridge.server import EmbeddedServer

# nats-py gives aiohttp its timeout in a way that aiohttp calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:parameter 'timeout' of type 'float':DeprecationWarning")

CHUNKS = 2_000


class Way(NamedTuple):
    """A server, and how a pool reaches it."""

    server: EmbeddedServer
    url: str
    options: Dict[str, Any]
    shared: bool  # any thread may write


needs_aiohttp = pytest.mark.skipif(not importlib.util.find_spec("aiohttp"), reason="aiohttp is not installed")
WAYS = ["tcp", "tls", "tls_first", *(pytest.param(kind, marks=needs_aiohttp) for kind in ("ws", "wss"))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    kind: str = request.param
    options: Dict[str, Any] = {}
    tls = ""
    if kind not in ("tcp", "ws"):
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(str(tmp_path / "cert.pem"), append=True)
        options["tls"] = ssl.create_default_context()
        authority.configure_trust(options["tls"])
        first = "handshake_first: true" if kind == "tls_first" else ""
        tls = f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem", {first} }}'
    if kind == "tls_first":
        options["tls_handshake_first"] = True
    port = free_port()
    websocket = f"websocket {{ port: {port}, host: 127.0.0.1, {tls or 'no_tls: true'} }}"
    with EmbeddedServer(config_text=websocket if kind in ("ws", "wss") else tls) as server:
        urls = {"tcp": server.url, "ws": f"ws://127.0.0.1:{port}", "wss": f"wss://127.0.0.1:{port}"}
        yield Way(server, urls.get(kind, server.url.replace("nats:", "tls:")), options, kind == "tcp")


def test_every_way_to_the_server(way: Way, unique: str, wait_for: WaitFor) -> None:
    """Streams, a client that leaves, requests, large messages: nothing of it depends on what lies below."""
    ended: List[str] = []

    def count(request: StreamRequest, sender: ResponseSender) -> None:
        for number in range(CHUNKS):
            sender.send(b"%d" % number)

    def endless(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            while True:
                sender.send(b"x")
                time.sleep(0.001)
        except ClientOfflineError as error:
            ended.append(error.reason)

    with Pool(way.url, **way.options) as pool, Pool(way.url, **way.options) as worker_pool, Subscriber(
        worker_pool
    ) as worker:
        worker.stream_subscribe_handler(f"{unique}.count", count)
        worker.stream_subscribe_handler(f"{unique}.endless", endless)
        assert [int(chunk) for chunk in pool.stream(f"{unique}.count")] == list(range(CHUNKS))
        with pool.stream(f"{unique}.endless") as stream:
            next(stream)
        wait_for(lambda: ended == ["cancelled"], what="the end of the handler")
        worker_pool.subscribe(f"{unique}.echo", handler=lambda message: message.respond(message.data))
        for size in (0, 1, 600_000):
            assert pool.request(f"{unique}.echo", b"x" * size).data == b"x" * size
        assert can_share(pool) is way.shared


def test_every_way_survives_a_restart(way: Way, unique: str) -> None:
    """The stream goes on where it was."""
    go_on = threading.Event()

    def handle(request: StreamRequest, sender: ResponseSender) -> None:
        for number in range(100):
            sender.send(b"%d" % number)
            if number == 10:
                go_on.wait(LONG)

    with Pool(way.url, **way.options) as pool, Pool(way.url, **way.options) as worker_pool, Subscriber(
        worker_pool
    ) as worker:
        worker.stream_subscribe_handler(unique, handle)
        stream = pool.stream(unique, resume=LONG)
        first = [int(next(stream)) for _ in range(5)]
        way.server.restart()
        go_on.set()
        assert first + [int(chunk) for chunk in stream] == list(range(100))
        assert can_share(pool) is way.shared


def can_share(pool: Pool) -> bool:
    assert pool._runtime is not None
    client = pool._runtime.links[0].connection._client
    assert client is not None
    return client.shared is not None and client.shared._own is not None


# -- one socket, several threads --------------------------------------------------------------------------------------


LOOPS = ["asyncio", pytest.param("uvloop", marks=pytest.mark.skipif(not importlib.util.find_spec("uvloop"), reason="none"))]


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "asyncio":
        return asyncio.new_event_loop()
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@contextmanager
def connected(loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """A shared transport on ``loop``, and the other end of its connection, a plain socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        uri: Any = urlsplit(f"nats://127.0.0.1:{listening.getsockname()[1]}")

        async def connect() -> SharedTransport:
            transport = SharedTransport()
            await transport.connect(uri, 65536, 5)
            transport.share()
            return transport

        transport = loop.run_until_complete(connect())
        other, _ = listening.accept()
        other.settimeout(LONG)
        with other:
            try:
                yield transport, other
            finally:
                transport.abort()
                loop.run_until_complete(asyncio.sleep(0.01))


def receive(other: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = other.recv(1 << 20)
        assert piece, f"the connection ended after {len(data)} of {size} bytes"
        data += piece
    return bytes(data)


@pytest.mark.parametrize("kind", LOOPS)
def test_what_does_not_fit_the_socket_goes_first(kind: str) -> None:
    """It is taken all the same; nothing else is until it is gone, and what the loop writes comes behind it."""
    loop = new_loop(kind)
    large = b"abcdefgh" * (2 << 20)
    with connected(loop) as (transport, other):
        assert transport.write_at_once(large)
        assert not transport.write_at_once(b"too soon"), "the system took 16 MiB at once: this test needs more"

        async def write() -> None:
            transport.write(b"-behind-")
            transport.writelines([b"it", b"."])

        loop.run_until_complete(write())
        reader = threading.Thread(target=lambda: got.append(receive(other, len(large) + 11)))
        got: List[bytes] = []
        reader.start()

        async def drain() -> None:
            await transport.drain()
            while transport._io_writer.transport.get_write_buffer_size():
                await asyncio.sleep(0.001)

        loop.run_until_complete(asyncio.wait_for(drain(), LONG))
        reader.join(LONG)
        assert got == [large + b"-behind-it."]
        loop.run_until_complete(write())  # which sees that all is gone
        assert transport.write_at_once(b"again")
        assert receive(other, 16) == b"-behind-it.again"
    loop.close()


@pytest.mark.parametrize("kind", LOOPS)
def test_nothing_is_written_while_the_loop_has_something_to_write(kind: str) -> None:
    loop = new_loop(kind)
    large = b"x" * (16 << 20)
    with connected(loop) as (transport, other):

        async def write() -> None:
            transport.write(large)

        loop.run_until_complete(write())
        assert not transport.write_at_once(b"too soon")
        reader = threading.Thread(target=receive, args=(other, len(large)))
        reader.start()
        loop.run_until_complete(asyncio.wait_for(transport.drain(), LONG))
        loop.run_until_complete(asyncio.sleep(0.05))
        reader.join(LONG)
    loop.close()


@pytest.mark.parametrize("end", ["close", "abort", "connect_tls"])
def test_the_descriptor_of_its_own_goes_with_the_connection(end: str) -> None:
    loop = new_loop("asyncio")
    with connected(loop) as (transport, other):
        own = transport._own
        if end == "connect_tls":  # which fails here: the other end says nothing
            trying = transport.connect_tls("localhost", ssl.create_default_context(), 65536, 0.1)
            with pytest.raises(asyncio.TimeoutError):
                loop.run_until_complete(trying)
        else:
            loop.call_soon(getattr(transport, end))
            loop.run_until_complete(asyncio.sleep(0.01))
            assert receive_nothing(other)
        assert own.fileno() == -1
        assert not transport.write_at_once(b"too late")
    loop.close()


def receive_nothing(other: socket.socket) -> bool:
    """The connection has ended: no descriptor of it is left open."""
    try:
        return other.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("uvloop", [False, pytest.param(True, marks=LOOPS[1].marks)])  # type: ignore[attr-defined]
def test_threads_that_write_at_once_and_the_loop_keep_out_of_each_others_way(
    server: EmbeddedServer, unique: str, uvloop: bool
) -> None:
    """Messages of many sizes, some behind a pause (written by the thread), some not (by the loop), PINGs in between."""
    threads, count = 6, 100
    sizes = [0, 10, 1_000, 60_000, 300_000]  # less than the server keeps for a slow reader, 64 MiB, in all
    switching = sys.getswitchinterval()
    with Pool(server.url, uvloop=uvloop) as reading, Pool(server.url, uvloop=uvloop) as writing:
        subscription = reading.subscribe(f"{unique}.>", pending_bytes=1 << 30)

        def write(name: int) -> None:
            for number in range(count):
                writing.publish(f"{unique}.{name}", b"%d " % number + bytes([65 + name]) * sizes[number % len(sizes)])
                if number % 3 == 0:
                    time.sleep(0.0005)
                if number % 40 == 0:
                    writing.flush()

        workers = [threading.Thread(target=write, args=(name,)) for name in range(threads)]
        sys.setswitchinterval(1e-5)
        try:
            for worker in workers:
                worker.start()
            came: Dict[str, int] = dict.fromkeys(map(str, range(threads)), 0)
            for _ in range(threads * count):
                message = subscription.next_msg(LONG)
                name = message.subject.rpartition(".")[2]
                number, _, filling = message.data.partition(b" ")
                assert int(number) == came[name], "each thread's come in its order"
                assert filling == bytes([65 + int(name)]) * sizes[int(number) % len(sizes)]
                came[name] += 1
            for worker in workers:
                worker.join(LONG)
        finally:
            sys.setswitchinterval(switching)
        assert subscription.dropped == 0
        assert [link.reconnects for pool in (reading, writing) for link in pool.stats().connections] == [0, 0]


@pytest.mark.parametrize("how", ["unsubscribe", "leave a with block"])
def test_what_is_published_after_unsubscribing_goes_to_others(server: EmbeddedServer, unique: str, how: str) -> None:
    """A queue group's member that has left is sent nothing more, however soon the next message follows."""
    with Pool(server.url) as staying, Pool(server.url) as leaving:
        other = staying.subscribe(unique, queue="group")
        for number in range(200):
            if how == "unsubscribe":
                leaving.subscribe(unique, queue="group").unsubscribe()
            else:
                with leaving.subscribe(unique, queue="group"):
                    pass
            time.sleep(0.0005 * (number % 2))
            leaving.publish(unique, b"%d" % number)
            assert other.next_msg(LONG).data == b"%d" % number


def test_a_request_is_on_its_way_before_the_loop_has_woken(server: EmbeddedServer, unique: str) -> None:
    """It is written by the thread that asks: even a loop that is held up does not hold it up."""
    with Pool(server.url) as pool, Pool(server.url) as other:
        requests = other.subscribe(unique)
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            go_on.wait(LONG)

        assert pool._runtime is not None
        loop = pool._runtime.links[0].loop
        stream_requests: List[Callable[[], object]] = [lambda: pool.stream(unique), lambda: pool.publish(unique, b"x")]
        for ask in stream_requests:
            time.sleep(0.01)
            held.clear()
            go_on.clear()
            loop.post(hold)
            assert held.wait(LONG)
            asked = ask()
            requests.next_msg(LONG)
            go_on.set()
            del asked


# -- what may go wrong in the middle ------------------------------------------------------------------------------------


def test_a_handler_that_publishes_on_top_of_a_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it not, and did the socket take a part of what it writes, the other one would come in the middle of that."""
    loop = new_loop("asyncio")
    with connected(loop) as (transport, other):
        idle, on_top = transport._idle, []

        def handler() -> bool:
            found: bool = idle()
            on_top.append(transport.write_at_once(b"on top"))
            return found

        monkeypatch.setattr(transport, "_idle", handler)
        assert transport.write_at_once(b"below")
        assert on_top == [False]
        assert receive(other, 5) == b"below"
    loop.close()


@posix_only
@pytest.mark.skipif(sys.version_info < (3, 9), reason="Python 3.8 looks for signals between a try and its finally, or with")
@pytest.mark.usefixtures("no_gc_callbacks")
@pytest.mark.parametrize("full", [True, False], ids=["the socket is full", "somebody else writes"])
def test_whatever_a_handler_raises_the_lock_is_free(full: bool) -> None:
    loop = new_loop("asyncio")

    class Interrupted(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    def in_other_thread() -> None:
        free.append(transport._lock.acquire(timeout=1.0))
        transport._lock.release()

    free: List[bool] = []
    before = signal.signal(signal.SIGALRM, interrupt)
    with connected(loop) as (transport, _):
        if full:
            while not transport._rest:
                assert transport.write_at_once(b"x" * 1_000_000)
                transport._settle()
            transport._rest = b""  # so that it is tried
        else:
            transport._busy = object()
        try:
            for number in range(1, 1000):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 20e-6 + number % 40 * 1e-6)
                    while True:
                        transport.write_at_once(b"x")
                except Interrupted:
                    pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        thread = threading.Thread(target=in_other_thread)
        thread.start()
        thread.join(LONG)
        assert free == [True]
    loop.close()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals")
@pytest.mark.usefixtures("no_gc_callbacks")
def test_what_a_signal_handler_raises_stops_nothing(server: EmbeddedServer, unique: str) -> None:
    """At whatever step of publishing it comes: the pool goes on, and no message of another thread is lost or cut short."""
    armed = stopping = False
    interrupted = 0
    sent = 0
    main = threading.get_ident()

    class Interrupt(Exception):
        pass

    def handler(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False  # once: what follows may come before anybody has caught it
            raise Interrupt

    def interrupt() -> None:
        while not stopping:
            time.sleep(random.uniform(0.0005, 0.002))
            signal.pthread_kill(main, signal.SIGUSR1)

    def publish() -> None:
        nonlocal sent
        while not stopping:
            pool.publish(f"{unique}.kept", b"%d" % sent + b"x" * 1000)
            sent += 1
            time.sleep(0.0004)

    with Pool(server.url) as pool, Pool(server.url) as other:
        kept = other.subscribe(f"{unique}.kept")
        threads = [threading.Thread(target=interrupt), threading.Thread(target=publish)]
        before = signal.signal(signal.SIGUSR1, handler)
        try:
            for thread in threads:
                thread.start()
            while interrupted < 500:
                try:
                    armed = True
                    while True:
                        pool.publish(f"{unique}.lost", b"y" * (200 if interrupted % 2 else 300_000))
                        time.sleep(0.0003)
                except Interrupt:
                    interrupted += 1
        finally:
            armed, stopping = False, True
            for thread in threads:
                thread.join(LONG)
            signal.signal(signal.SIGUSR1, before)
        pool.flush(LONG)
        other.flush(LONG)
        for number in range(sent):
            assert kept.next_msg(LONG).data == b"%d" % number + b"x" * 1000
        assert [link.reconnects for link in pool.stats().connections] == [0]


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
def test_a_handler_that_returns_in_a_forked_child_ends_nothing(server: EmbeddedServer, unique: str) -> None:
    """The child has the parent's socket: what it has to say there is not said."""
    children: List[int] = []

    def handle(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"1")
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(0.5, exit=True, file=os.open(os.devnull, os.O_WRONLY))
            return
        children.append(child)
        os.waitpid(child, 0)
        sender.send(b"2")

    with Pool(server.url) as pool, Pool(server.url) as worker_pool, Subscriber(worker_pool) as worker:
        worker.stream_subscribe_handler(unique, handle)
        assert list(pool.stream(unique)) == [b"1", b"2"]
    assert children


def test_without_a_descriptor_left_the_loop_writes(
    server: EmbeddedServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(number: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("natsbridge._transport._socket.dup", none_left)
    with Pool(server.url) as pool:
        assert not can_share(pool)
        pool.subscribe(unique, handler=lambda message: message.respond(message.data))
        assert pool.request(unique, b"x").data == b"x"
        pool.force_reconnect()
        assert pool.request(unique, b"y", timeout=LONG).data == b"y"
