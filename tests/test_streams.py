"""Streams from end to end: what arrives, how they end, who notices, and that nothing is left."""

from __future__ import annotations

import asyncio
import gc
import json
import queue
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Tuple, Type

import nats
import pytest
from procs import LONG, WaitFor

from natsbridge import (
    BusyError,
    ClientOfflineError,
    ClosedError,
    Message,
    NoRespondersError,
    OnlineRegistry,
    Pool,
    RequestTimeoutError,
    ResponderLostError,
    ResponseSender,
    ResponseStream,
    SlowConsumerError,
    StreamError,
    StreamGapError,
    StreamRequest,
    Subscriber,
    _incoming,
    _outgoing,
    _source,
    _wire,
    online_clients,
)
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from conftest import Monitor

SHORT = 3.0
MIB = 1024 * 1024


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


def result(running: Tuple[threading.Thread, List[object]]) -> object:
    thread, outcome = running
    thread.join(LONG)
    assert not thread.is_alive(), "it hangs"
    return outcome[0]


class Endless:
    """A handler that sends for ever, and remembers how it was stopped."""

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.sent = 0
        self.running = 0
        self.reasons: List[str] = []

    def __call__(self, request: StreamRequest, sender: ResponseSender) -> None:
        self.running += 1
        try:
            while True:
                sender.send(b"%d" % self.sent)
                self.sent += 1
                if self.pause:
                    sender.wait_offline(self.pause)
        except ClientOfflineError as error:
            self.reasons.append(error.reason)
            raise
        finally:
            self.running -= 1


def ends_of(pool: Pool) -> List[str]:
    """Tokens that the pool's links still know."""
    assert pool._runtime is not None
    return [token for link in pool._runtime.links for token in (*link._ends, *link._ticking)]


def assert_nothing_left(wait_for: WaitFor, *pools: Pool) -> None:
    for pool in pools:
        wait_for(lambda pool=pool: ends_of(pool) == [], what="the ends of streams to go")  # type: ignore[misc]
        assert pool._runtime is not None
        assert [link.incoming.taken + link.outgoing.taken for link in pool._runtime.links] == [0] * len(pool._runtime.links)
        assert pool.registry._watched == {}
        assert pool.stats().streams == 0


@pytest.fixture
def serve(subscriber: Subscriber, unique: str) -> Callable[[Any], str]:
    """``serve(handler)``: have it answer on a subject of this test, which is returned."""

    def register(handler: Any) -> str:
        subscriber.stream_subscribe_handler(unique, handler)
        return unique

    return register


Serve = Callable[[Any], str]


# -- what arrives -----------------------------------------------------------------------------------------------------


def test_chunks_arrive_in_order_each_once(serve: Serve, pool: Pool, worker_pool: Pool, wait_for: WaitFor) -> None:
    def count(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(int(request.data)):
            sender.send(b"%d" % n)

    subject = serve(count)
    for total in (1, 2, 100, 20_000):
        with pool.stream(subject, b"%d" % total) as stream:
            assert stream.end_reason is None or total < 20_000
            assert [int(chunk) for chunk in stream] == list(range(total))
            assert stream.end_reason == "completed"
            assert list(stream) == []
    assert_nothing_left(wait_for, pool, worker_pool)


def test_an_empty_answer(serve: Serve, pool: Pool) -> None:
    subject = serve(lambda request, sender: None)
    stream = pool.stream(subject)
    assert list(stream) == []
    assert stream.end_reason == "completed"


def test_chunks_keep_their_bounds_and_their_bytes(serve: Serve, pool: Pool) -> None:
    chunks = [b"\x00", b"\r\n", b"x" * 100_000, b"\xff" * 3, b"MSG x 1 1\r\n", bytes(range(256)) * 10]

    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for chunk in chunks:
            sender.send(chunk)

    assert list(pool.stream(serve(send))) == chunks


def test_the_reader_hears_of_what_came_together(serve: Serve, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is woken once for all of it, behind the last one."""
    monkeypatch.setattr("natsbridge._waiter.SLICE", LONG)  # no reader looks by itself
    counts: queue.Queue[int] = queue.Queue()
    together = []
    woken = _source.StreamSource._woken

    def count(self: _source.StreamSource) -> None:
        together.append(self)
        woken(self)

    monkeypatch.setattr(_source.StreamSource, "_woken", count)

    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for number in iter(counts.get, 0):
            for _ in range(number):
                sender.send(b"x" * 20_000)

    with pool.stream(serve(send), idle_timeout=SHORT) as stream:
        for number in range(1, 100):
            counts.put(number)
            for _ in range(number):
                assert len(next(stream)) == 20_000
        counts.put(0)
        assert list(stream) == []
    assert together, "no two of them came together"


def test_chunks_as_large_as_max_payload(serve: Serve, pool: Pool) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(12):
            sender.send(bytes([n]) * MIB)
        sender.send(b"small")
        sender.send(b"x" * MIB)

    sizes = [(len(chunk), chunk[0]) for chunk in pool.stream(serve(send))]
    assert sizes == [(MIB, n) for n in range(12)] + [(5, ord("s")), (MIB, ord("x"))]


def test_mutable_chunks_are_taken_as_they_were(serve: Serve, pool: Pool) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        buffer = bytearray(b"0")
        for n in range(10):
            buffer[:] = b"%d" % n
            sender.send(buffer)
        sender.send(memoryview(b"view"))

    assert list(pool.stream(serve(send))) == [b"%d" % n for n in range(10)] + [b"view"]


def test_the_handler_sees_the_request(serve: Serve, pool: Pool, unique: str) -> None:
    seen: List[StreamRequest] = []

    def look(request: StreamRequest, sender: ResponseSender) -> None:
        seen.append(request)
        remaining = request.remaining()
        sender.send(repr((request.connect_id, sender.connect_id, remaining is not None and 5 < remaining <= LONG)).encode())

    subject = serve(look)
    headers = {"Colour": "red", "Size": "größer"}
    (chunk,) = pool.stream(subject, b"question", connect_id="id-ü 7", headers=headers, timeout=LONG)
    assert chunk.decode() == repr(("id-ü 7", "id-ü 7", True))
    (chunk,) = pool.stream(subject)
    assert chunk.decode() == repr((None, None, False))
    first, second = seen
    assert (first.subject, first.data) == (subject, b"question")
    assert {name: first.headers[name] for name in headers} == headers
    assert second.data == b""
    assert repr(first) == f"<StreamRequest '{subject}' 8 bytes connect_id='id-ü 7'>"
    assert repr(second) == f"<StreamRequest '{subject}' 0 bytes>"


def test_as_messages(serve: Serve, pool: Pool) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        sender.send(b"two")

    subject = serve(send)
    messages = list(pool.stream(subject).messages())
    assert [(m.subject, m.data, m.headers, m.reply) for m in messages] == [
        (subject, b"one", {}, ""),
        (subject, b"two", {}, ""),
    ]
    assert all(isinstance(m, Message) for m in messages)


def test_many_streams_at_once(serve: Serve, pool: Pool, worker_pool: Pool, wait_for: WaitFor) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(200):
            sender.send(request.data + b"-%d" % n)

    subject = serve(send)

    def read(tag: bytes) -> None:
        for _ in range(5):
            assert list(pool.stream(subject, tag, timeout=LONG)) == [tag + b"-%d" % n for n in range(200)]

    running = [in_thread(lambda n=n: read(b"%d" % n)) for n in range(16)]  # type: ignore[misc]
    assert [result(thread) for thread in running] == [None] * 16
    assert_nothing_left(wait_for, pool, worker_pool)


def test_the_end_is_acknowledged_with_the_next_message_or_by_itself(
    serve: Serve, pool: Pool, subscriber: Subscriber, unique: str, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ending() -> int:
        return sum(figures.ending for figures in subscriber.stats())

    # Later than the requester is through with writing: else the end is acknowledged with that.
    subject = serve(lambda request, sender: sender.wait_offline(0.05))
    assert list(pool.stream(subject)) == []
    wait_for(lambda: ending() == 0, what="the acknowledgement by itself")
    assert pool._runtime is not None
    outbox = pool._runtime.links[0].outbox
    wait_for(lambda: not outbox._stirring)
    with monkeypatch.context() as patch:
        patch.setattr("natsbridge._outbox.SOON", LONG)
        for _ in range(5):  # now and then the loop looks whether something was forgotten
            assert list(pool.stream(subject)) == []
            if ending() == 1:
                break
        else:
            pytest.fail("the acknowledgement waited for nothing")
        pool.publish(f"{unique}.anything")
        wait_for(lambda: ending() == 0, what="the acknowledgement with the next message")


def test_a_stream_shows_itself(serve: Serve, pool: Pool, unique: str) -> None:
    subject = serve(lambda request, sender: sender.send(b"x"))
    stream = pool.stream(subject, connect_id=unique)
    assert (stream.subject, stream.connect_id) == (subject, unique)
    assert list(stream) == [b"x"]
    assert repr(stream) == f"<ResponseStream '{subject}' completed, 1 chunks received>"


# -- how a stream ends ------------------------------------------------------------------------------------------------


def test_an_error_of_the_handler_comes_after_its_chunks(serve: Serve, pool: Pool) -> None:
    def fail(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        raise StreamError(418, "the teapot, größer\nand wider")

    stream = pool.stream(serve(fail))
    assert next(stream) == b"one"
    with pytest.raises(StreamError) as caught:
        next(stream)
    assert (caught.value.code, caught.value.description) == (418, "the teapot, größer and wider")
    assert stream.end_reason == "error"
    with pytest.raises(StreamError):  # it stays so
        next(stream)


def test_other_exceptions_tell_the_requester_nothing(
    serve: Serve, pool: Pool, caplog: pytest.LogCaptureFixture, wait_for: WaitFor
) -> None:
    def fail(request: StreamRequest, sender: ResponseSender) -> None:
        raise ValueError("password=sesame")

    with pytest.raises(StreamError) as caught:
        list(pool.stream(serve(fail)))
    assert (caught.value.code, caught.value.description) == (500, "the handler failed")
    wait_for(lambda: "sesame" in caplog.text)


def test_nobody_there(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    began = time.monotonic()
    stream = pool.stream(unique, timeout=LONG)
    with pytest.raises(NoRespondersError) as caught:
        next(stream)
    assert time.monotonic() - began < SHORT
    assert caught.value.subject == unique
    assert stream.end_reason == "no_responders"
    assert_nothing_left(wait_for, pool)


def test_a_timeout_is_for_the_whole_stream_and_the_worker_knows_it(
    serve: Serve, pool: Pool, worker_pool: Pool, wait_for: WaitFor
) -> None:
    handler = Endless(0.02)
    stream = pool.stream(serve(handler), timeout=0.3)
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"did not end within 0\.3 s"):
        for _ in stream:
            pass
    assert 0.25 < time.monotonic() - began < SHORT
    assert stream.end_reason in ("deadline", "error")  # who noticed first is chance
    wait_for(lambda: handler.reasons == ["deadline"])
    assert_nothing_left(wait_for, pool, worker_pool)


def test_a_timeout_strikes_without_a_reader(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless(0.02)
    stream = pool.stream(serve(handler), timeout=0.2)
    wait_for(lambda: handler.reasons == ["deadline"])
    wait_for(lambda: stream.end_reason is not None)
    with pytest.raises(RequestTimeoutError):
        list(stream)


def test_idle_timeout_counts_time_without_a_chunk(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    stopped: List[Optional[str]] = []

    def pause(request: StreamRequest, sender: ResponseSender) -> None:
        for _ in range(5):
            sender.send(b"x")
            time.sleep(0.05)
        sender.wait_offline(LONG)
        stopped.append(sender.offline_reason)

    stream = pool.stream(serve(pause), idle_timeout=0.5)
    for _ in range(5):
        assert next(stream) == b"x"
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"nothing came from .* for 0\.5 s"):
        next(stream)
    assert 0.5 <= time.monotonic() - began < SHORT
    assert stream.end_reason == "idle"
    wait_for(lambda: stopped == ["cancelled"])


def test_idle_timeout_does_not_count_the_readers_own_time(serve: Serve, pool: Pool) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(3):
            sender.send(b"%d" % n)

    stream = pool.stream(serve(send), idle_timeout=0.2)
    assert next(stream) == b"0"
    threading.Event().wait(0.4)  # the reader is busy with something else
    assert list(stream) == [b"1", b"2"]


def test_next_chunks_hands_out_what_is_there(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    go_on = threading.Event()

    def handler(request: StreamRequest, sender: ResponseSender) -> None:
        for number in range(100):
            sender.send(b"%d" % number)
        go_on.wait(LONG)
        sender.send(b"last")

    with pool.stream(serve(handler)) as stream:
        first = next(stream)
        found: List[bytes] = [first]
        while len(found) < 100:
            chunks = stream.next_chunks(LONG)
            assert chunks
            found += chunks
        assert found == [b"%d" % number for number in range(100)]
        assert stream.next_chunks(0) is None
        assert stream.next_chunks(0.01) is None
        assert stream.end_reason is None
        go_on.set()
        assert stream.next_chunks() == [b"last"]
        assert stream.next_chunks() == []
        assert stream.end_reason == "completed"
        assert stream.next_chunks(0) == []


def test_next_chunks_raises_what_iterating_raises(serve: Serve, pool: Pool, unique: str) -> None:
    def handler(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"chunk")
        raise StreamError(422, "no")

    with pool.stream(serve(handler)) as stream:
        assert stream.next_chunks(LONG) == [b"chunk"]
        for _ in range(2):
            with pytest.raises(StreamError, match="no"):
                stream.next_chunks(LONG)
    with pytest.raises(NoRespondersError):
        pool.stream(f"{unique}.nobody").next_chunks(LONG)
    with pytest.raises(ValueError):
        pool.stream(f"{unique}.nobody").next_chunks(-1)


def test_idle_timeout_goes_on_through_waits_that_got_nothing(serve: Serve, pool: Pool) -> None:
    with pool.stream(serve(lambda request, sender: sender.wait_offline(LONG)), idle_timeout=0.2) as stream:
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=r"0\.2 s"):
            while stream.next_chunks(0.02) is None:
                assert time.monotonic() < began + SHORT
        assert time.monotonic() - began >= 0.2
        assert stream.end_reason == "idle"


def test_a_silent_handler_is_waited_for_without_limit(serve: Serve, server: EmbeddedServer) -> None:
    """The timeout of the pool is for a first sign of the responder, not for its first chunk."""
    gate = threading.Event()

    def think(request: StreamRequest, sender: ResponseSender) -> None:
        gate.wait(LONG)
        sender.send(b"thought")

    subject = serve(think)
    with Pool(server.url, timeout=0.2) as hasty:
        stream = hasty.stream(subject)
        threading.Timer(0.8, gate.set).start()
        assert list(stream) == [b"thought"]


def test_a_silent_handler_is_alive_to_a_requester_that_probes_more_often(serve: Serve, server: EmbeddedServer) -> None:
    """Each pool has its own ``probe_interval``; a responder that answers no probe must not be taken for dead by it."""
    gate = threading.Event()

    def think(request: StreamRequest, sender: ResponseSender) -> None:
        gate.wait(LONG)
        sender.send(b"thought")

    subject = serve(think)  # on a pool with the default of two seconds
    with Pool(server.url, probe_interval=0.2) as eager:
        stream = eager.stream(subject)
        threading.Timer(1.5, gate.set).start()
        try:
            assert list(stream) == [b"thought"]
        finally:
            gate.set()


def test_a_slow_requester_is_alive_to_a_responder_that_probes_more_often(
    server: EmbeddedServer, pool: Pool, unique: str
) -> None:
    gate = threading.Event()

    def think(request: StreamRequest, sender: ResponseSender) -> None:
        gate.wait(LONG)
        sender.send(b"thought")

    with Pool(server.url, probe_interval=0.2) as eager, Subscriber(eager) as subscriber:
        subscriber.stream_subscribe_handler(unique, think)
        stream = pool.stream(unique)
        threading.Timer(1.5, gate.set).start()
        try:
            assert list(stream) == [b"thought"]
        finally:
            gate.set()


# -- stopping on the requester's side ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["fast", "slow"])
def test_leaving_the_with_stops_the_worker(
    serve: Serve, pool: Pool, worker_pool: Pool, wait_for: WaitFor, pause: float
) -> None:
    handler = Endless(pause)
    with pool.stream(serve(handler)) as stream:
        for chunk in stream:
            if chunk == b"3":
                break
    began = time.monotonic()
    assert stream.end_reason == "cancelled"
    wait_for(lambda: handler.reasons == ["cancelled"])
    assert time.monotonic() - began < SHORT
    assert list(stream) == []
    assert_nothing_left(wait_for, pool, worker_pool)


def test_an_exception_in_the_with_stops_the_worker(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    with pytest.raises(ZeroDivisionError):
        with pool.stream(serve(handler)) as stream:
            for _ in stream:
                raise ZeroDivisionError
    wait_for(lambda: handler.reasons == ["cancelled"])


def test_closing_again_and_cancelling_do_nothing_more(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    stream = pool.stream(serve(handler))
    next(stream)
    for _ in range(3):
        stream.close()
        stream.cancel()
    assert stream.end_reason == "cancelled"
    wait_for(lambda: handler.reasons == ["cancelled"])


def test_threads_that_read_one_stream_share_its_chunks(serve: Serve, pool: Pool) -> None:
    count = 5_000

    def handler(_: StreamRequest, sender: ResponseSender) -> None:
        for n in range(count):
            sender.send(b"%d" % n)

    with pool.stream(serve(handler)) as stream:
        readers = [in_thread(lambda: list(stream)) for _ in range(4)]
        for thread, _ in readers:
            thread.join(LONG)
        got = [outcome[0] for _, outcome in readers]
        assert all(isinstance(chunks, list) for chunks in got), got
        assert sorted(int(chunk) for chunks in got for chunk in chunks) == list(range(count))  # type: ignore[attr-defined]
        for chunks in got:
            numbers = [int(chunk) for chunk in chunks]  # type: ignore[attr-defined]
            assert numbers == sorted(numbers)
        assert stream.end_reason == "completed"


def test_nothing_is_handed_out_after_a_cancel(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    """Not even what the reader would have found without asking the stream's state."""

    def handler(_: StreamRequest, sender: ResponseSender) -> None:
        for n in range(1000):
            sender.send(b"%d" % n)
        sender.wait_offline(LONG)

    with pool.stream(serve(handler)) as stream:
        assert next(stream) == b"0"
        wait_for(lambda: stream._source._incoming.received == 1000)
        assert next(stream) == b"1"
        in_thread(stream.cancel)[0].join(LONG)
        assert list(stream) == []
        assert stream.end_reason == "cancelled"


def test_closing_from_another_thread_wakes_the_reader(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    released: List[bool] = []

    def wait(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        released.append(sender.wait_offline(LONG))

    stream = pool.stream(serve(wait))
    read: List[bytes] = []

    def reader() -> List[bytes]:
        for chunk in stream:
            read.append(chunk)
        return read

    reading = in_thread(reader)
    wait_for(lambda: read == [b"x"])
    began = time.monotonic()
    stream.close()
    assert result(reading) == [b"x"]
    assert time.monotonic() - began < SHORT
    wait_for(lambda: released == [True])


def test_a_stream_that_is_never_iterated_can_be_closed(
    serve: Serve, pool: Pool, worker_pool: Pool, wait_for: WaitFor
) -> None:
    handler = Endless()
    stream = pool.stream(serve(handler))
    wait_for(lambda: handler.sent > 0)
    stream.close()
    wait_for(lambda: handler.reasons == ["cancelled"])
    assert_nothing_left(wait_for, pool, worker_pool)


def test_closing_before_the_worker_has_begun(serve: Serve, pool: Pool, worker_pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless()
    subject = serve(handler)
    for _ in range(50):
        pool.stream(subject).close()
    pool.flush()
    worker_pool.flush()
    wait_for(lambda: handler.running == 0 and ends_of(worker_pool) == [])
    assert_nothing_left(wait_for, pool, worker_pool)


def test_closing_drops_what_had_arrived_already(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(100):
            sender.send(b"%d" % n)

    stream = pool.stream(serve(send))
    wait_for(lambda: stream.end_reason == "completed")  # all of it is here, the end too
    assert next(stream) == b"0"
    stream.close()
    assert list(stream) == [], "close() drops what was not read, and ends the iteration"


@pytest.mark.parametrize("iterated", [False, True])
def test_a_stream_that_is_dropped_is_cancelled(
    serve: Serve, pool: Pool, worker_pool: Pool, wait_for: WaitFor, monitor: Monitor, iterated: bool
) -> None:
    handler = Endless(0.01)
    subject = serve(handler)
    before = len(monitor.subscriptions())
    threads = threading.active_count()
    stream: Optional[ResponseStream] = pool.stream(subject)
    if iterated:
        assert stream is not None
        next(stream)
    wait_for(lambda: handler.running == 1)
    began = time.monotonic()
    stream = None
    gc.collect()
    wait_for(lambda: handler.reasons == ["cancelled"])
    assert time.monotonic() - began < 1.0
    assert_nothing_left(wait_for, pool, worker_pool)
    wait_for(lambda: len(monitor.subscriptions()) <= before)
    assert threading.active_count() <= threads + 1  # the worker's thread may idle


def test_a_stream_holds_its_pool(server: EmbeddedServer, serve: Serve, wait_for: WaitFor) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(100):
            sender.send(b"%d" % n)

    subject = serve(send)
    stream = Pool(server.url).stream(subject)
    gc.collect()
    assert len(list(stream)) == 100


def test_subscriptions_do_not_grow_with_streams(serve: Serve, pool: Pool, monitor: Monitor) -> None:
    subject = serve(lambda request, sender: sender.send(b"x"))
    list(pool.stream(subject))
    before = monitor.get("varz")["subscriptions"]
    open_streams = [pool.stream(subject) for _ in range(50)]
    pool.flush()
    assert monitor.get("varz")["subscriptions"] == before
    for stream in open_streams:
        assert list(stream) == [b"x"]


# A mark ends both ends; whether the worker hears of it before the requester's cancel arrives is chance.
STOPPED = (["offline"], ["cancelled"])


# -- going offline ----------------------------------------------------------------------------------------------------


def test_marking_offline_stops_both_ends(
    serve: Serve, pool: Pool, worker_pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    handler = Endless(0.01)
    stream = pool.stream(serve(handler), connect_id=unique)
    next(stream)
    reading = in_thread(lambda: list(stream))
    pool.mark_client_offline(unique)
    error = result(reading)
    assert isinstance(error, ClientOfflineError)
    assert (error.connect_id, error.reason) == (unique, "offline")
    assert stream.end_reason == "offline"
    wait_for(lambda: handler.reasons in STOPPED)
    assert_nothing_left(wait_for, pool, worker_pool)


def test_requests_of_an_offline_client_are_refused_until_it_is_back(
    serve: Serve, pool: Pool, server: EmbeddedServer, unique: str
) -> None:
    subject = serve(lambda request, sender: sender.send(b"x"))
    client = f"{unique}-client"
    pool.mark_client_offline(client)
    with pytest.raises(ClientOfflineError) as caught:
        pool.stream(subject, connect_id=client)
    assert caught.value.connect_id == client
    with Pool(server.url, registry=OnlineRegistry()) as stranger:  # which does not know; the worker does
        stream = stranger.stream(subject, connect_id=client)
        with pytest.raises(ClientOfflineError):
            list(stream)
        assert list(stranger.stream(subject, connect_id=f"{unique}-other")) == [b"x"]
    pool.mark_client_online(client)
    assert list(pool.stream(subject, connect_id=client)) == [b"x"]
    online_clients.mark_offline(client)
    online_clients.forget_offline(client)


def test_a_mark_that_crosses_the_request_is_not_missed(
    server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    """The client goes offline between the worker's look at the registry and its watching it."""

    class Crossing(OnlineRegistry):
        armed = True

        def watch(self, end: Any) -> None:
            if self.armed:
                self.armed = False
                self.mark_offline(unique)
            super().watch(end)

    handler = Endless(0.01)
    with Pool(server.url) as worker, Subscriber(worker, registry=Crossing()) as subscriber:
        subscriber.stream_subscribe_handler(f"{unique}.s", handler)
        stream = pool.stream(f"{unique}.s", connect_id=unique, idle_timeout=LONG)
        with pytest.raises(ClientOfflineError):
            for _ in range(200):
                next(stream)
        assert handler.reasons in ([], ["offline"])
        stream.close()


def test_unknown_ids_are_served(serve: Serve, pool: Pool, unique: str) -> None:
    subject = serve(lambda request, sender: sender.send(b"x"))
    assert not online_clients.is_online(unique)
    assert list(pool.stream(subject, connect_id=unique)) == [b"x"]


# -- leases -----------------------------------------------------------------------------------------------------------


def test_leaving_the_client_stops_its_streams(serve: Serve, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    subject = serve(handler)
    with pool.client(unique) as client:
        assert client == unique
        assert pool.registry.is_online(unique)
        stream = pool.stream(subject, connect_id=unique)
        next(stream)
    assert not pool.registry.is_online(unique)
    wait_for(lambda: handler.reasons in STOPPED)
    with pytest.raises(ClientOfflineError):
        list(stream)
    # It may come back at once.
    with pool.client(unique), pool.stream(subject, connect_id=unique) as again:
        assert next(again) is not None


def test_a_client_held_twice_stops_with_the_last_holder(serve: Serve, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    subject = serve(handler)
    with pool.client(unique):
        with pool.client(unique):
            stream = pool.stream(subject, connect_id=unique)
            next(stream)
        assert pool.registry.is_online(unique)
        for _ in range(5):
            next(stream)
        assert handler.reasons == []
    wait_for(lambda: handler.reasons in STOPPED)
    with pytest.raises(ClientOfflineError):
        list(stream)


def test_an_exception_in_the_client_block_stops_its_streams_too(
    serve: Serve, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    handler = Endless(0.01)
    subject = serve(handler)
    with pytest.raises(ZeroDivisionError):
        with pool.client(unique):
            pool.stream(subject, connect_id=unique)
            raise ZeroDivisionError
    assert not pool.registry.is_online(unique)
    assert pool.registry.lease_of(unique) is None


@contextmanager
def gateways(server: EmbeddedServer) -> Iterator[Tuple[Pool, Pool]]:
    """Two processes, as far as registries can tell."""
    with Pool(server.url, registry=OnlineRegistry()) as one, Pool(server.url, registry=OnlineRegistry()) as other:
        yield one, other


def test_the_clean_up_of_one_process_does_not_cut_off_another(
    server: EmbeddedServer, unique: str, wait_for: WaitFor
) -> None:
    """A browser reconnects to another gateway, whose stream runs already when the first one notices the old connection."""
    handler = Endless(0.01)
    with Pool(server.url, registry=OnlineRegistry()) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(f"{unique}.s", handler)
        subscriber.start_client_offline_listener()
        with gateways(server) as (one, other):
            first = one.client(unique)
            first.__enter__()
            old = one.stream(f"{unique}.s", connect_id=unique)
            next(old)
            with other.client(unique), other.stream(f"{unique}.s", connect_id=unique) as new:
                next(new)
                first.__exit__(None, None, None)
                wait_for(lambda: handler.reasons in STOPPED)  # the old one
                with pytest.raises(ClientOfflineError):
                    list(old)
                for _ in range(20):
                    next(new)
                assert handler.running == 1
                with other.stream(f"{unique}.s", connect_id=unique) as another:  # and new ones are not refused
                    next(another)


def test_a_mark_in_one_process_stops_streams_of_all(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    with Pool(server.url, registry=OnlineRegistry()) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(f"{unique}.s", handler)
        subscriber.start_client_offline_listener()
        subscriber.start_client_offline_listener()  # again: nothing more
        with gateways(server) as (one, other):
            stream = one.stream(f"{unique}.s", connect_id=unique)
            next(stream)
            other.mark_client_offline(unique)
            wait_for(lambda: handler.reasons == ["offline"])
            with pytest.raises(ClientOfflineError):
                list(stream)
            assert worker.registry.is_offline(unique)
            with pytest.raises(ClientOfflineError):
                list(one.stream(f"{unique}.s", connect_id=unique))
            other.mark_client_online(unique)
            wait_for(lambda: not worker.registry.is_offline(unique))
            with one.stream(f"{unique}.s", connect_id=unique) as again:
                next(again)


def test_without_a_listener_a_worker_does_not_hear_of_marks_elsewhere(
    server: EmbeddedServer, unique: str, wait_for: WaitFor
) -> None:
    with Pool(server.url, registry=OnlineRegistry()) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(f"{unique}.s", lambda request, sender: sender.send(b"x"))
        with gateways(server) as (one, other):
            other.mark_client_offline(unique)
            other.flush()
            assert list(one.stream(f"{unique}.s", connect_id=unique)) == [b"x"]
        assert not worker.registry.is_offline(unique)


def test_a_process_does_not_act_on_its_own_announcements(server: EmbeddedServer, unique: str) -> None:
    """They come back after a round trip, when the client may be online again."""
    with Pool(server.url, registry=OnlineRegistry()) as own, Subscriber(own) as subscriber:
        subscriber.start_client_offline_listener()
        for _ in range(20):
            own.mark_client_online(unique)
            own.mark_client_offline(unique)
            own.mark_client_online(unique)
            own.flush()  # by now they have come back
            assert own.registry.is_online(unique)
            with own.client(unique):
                own.flush()
                assert own.registry.is_online(unique)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'{"connect_id": ""}',
        b'{"connect_id": 7}',
        b'{"connect_id": "a\\nb"}',
        b"\xff",
        b'{"connect_id": "\\ud800"}',
    ],
)
def test_malformed_announcements_do_no_harm(
    server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor, payload: bytes
) -> None:
    registry = OnlineRegistry()
    with Pool(server.url, registry=registry) as worker, Subscriber(worker) as subscriber:
        subscriber.start_client_offline_listener()
        pool.publish("natsbridge.offline.0123456789abcdef", payload)
        pool.publish("natsbridge.online.0123456789abcdef", payload)
        pool.publish("natsbridge.offline.0123456789abcdef", b'{"connect_id": "%s"}' % unique.encode())
        pool.flush()
        wait_for(lambda: registry.is_offline(unique))  # one from another language is understood
        assert len(registry._offline) == 1


# -- blocking forms ---------------------------------------------------------------------------------------------------


def test_stream_request_calls_the_handler_with_each_message(serve: Serve, pool: Pool, unique: str) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(5):
            sender.send(b"%d" % n)

    subject = serve(send)
    seen: List[bytes] = []
    assert pool.stream_request_with_client(subject, b"", unique, lambda m: seen.append(m.data)) == "completed"
    assert pool.stream_request(subject, b"", lambda m: seen.append(m.data)) == "completed"
    assert seen == [b"%d" % n for n in range(5)] * 2


@pytest.mark.parametrize("value", [None, True, 0, "", [], "False"])
def test_only_false_stops(serve: Serve, pool: Pool, value: object) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(5):
            sender.send(b"%d" % n)

    seen: List[bytes] = []

    def handle(message: Message) -> object:
        seen.append(message.data)
        return value

    assert pool.stream_request(serve(send), b"", handle) == "completed"
    assert len(seen) == 5


def test_false_stops_the_worker(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless(0.005)
    seen: List[bytes] = []

    def handle(message: Message) -> bool:
        seen.append(message.data)
        return len(seen) < 3

    assert pool.stream_request(serve(handler), b"", handle) == "cancelled"
    assert seen == [b"0", b"1", b"2"]
    wait_for(lambda: handler.reasons == ["cancelled"])


def test_false_is_a_cancellation_even_if_all_had_arrived(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    """What the caller is told must not depend on how far ahead the worker was."""

    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(5):
            sender.send(b"%d" % n)

    subject = serve(send)

    def handle(message: Message) -> bool:
        wait_for(lambda: ends_of(pool) == [], what="the end of the stream to arrive")
        return False

    assert pool.stream_request(subject, b"", handle) == "cancelled"


def test_an_exception_of_the_response_handler_cancels_and_comes_through(
    serve: Serve, pool: Pool, wait_for: WaitFor
) -> None:
    handler = Endless(0.005)

    def handle(message: Message) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pool.stream_request(serve(handler), b"", handle)
    wait_for(lambda: handler.reasons == ["cancelled"])


def test_a_blocking_form_ends_when_the_client_goes_offline(
    serve: Serve, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    handler = Endless(0.01)
    subject = serve(handler)
    seen: List[Message] = []
    running = in_thread(lambda: pool.stream_request_with_client(subject, b"", unique, seen.append))
    wait_for(lambda: seen)
    pool.mark_client_offline(unique)
    assert isinstance(result(running), ClientOfflineError)
    wait_for(lambda: handler.reasons in STOPPED)


def test_a_blocking_form_ends_when_the_pool_is_closed(serve: Serve, server: EmbeddedServer, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    subject = serve(handler)
    seen: List[Message] = []
    other = Pool(server.url).open()
    running = in_thread(lambda: other.stream_request(subject, b"", seen.append))
    wait_for(lambda: seen)
    other.close()
    assert isinstance(result(running), ClosedError)
    wait_for(lambda: handler.reasons in (["cancelled"], ["no_interest"]))


def test_errors_come_through_the_blocking_form(serve: Serve, pool: Pool, unique: str) -> None:
    def answer(request: StreamRequest, sender: ResponseSender) -> None:
        if request.data == b"nothing":  # an answer may be faster than no time at all
            sender.wait_offline(LONG)
        raise StreamError(404, "no such thing")

    subject = serve(answer)
    with pytest.raises(StreamError, match="no such thing"):
        pool.stream_request(subject, b"", print)
    with pytest.raises(NoRespondersError):
        pool.stream_request(f"{unique}.nobody", b"", print)
    with pytest.raises(RequestTimeoutError):
        pool.stream_request(subject, b"nothing", lambda m: None, timeout=0.0)


# -- back-pressure ----------------------------------------------------------------------------------------------------


def test_send_blocks_while_the_window_is_full(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless()
    with pool.stream(serve(handler), window=4) as stream:
        wait_for(lambda: handler.sent == 4)
        assert stream.end_reason is None
        threading.Event().wait(0.05)
        assert handler.sent == 4
        for n in range(4):  # reading makes room for as many as were read
            assert next(stream) == b"%d" % n
        wait_for(lambda: handler.sent == 8)
        threading.Event().wait(0.05)
        assert handler.sent == 8
        assert [int(next(stream)) for _ in range(1000)] == list(range(4, 1004))
    wait_for(lambda: handler.reasons == ["cancelled"])  # a blocked send is woken


def test_the_window_counts_bytes_too(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    sent: List[int] = []

    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(100):
            sender.send(b"x" * 1000)
            sent.append(n)

    with pool.stream(serve(send), window_bytes=10_000) as stream:
        wait_for(lambda: len(sent) == 10)
        threading.Event().wait(0.05)
        assert len(sent) == 10
        assert len(list(stream)) == 100


def test_a_window_of_one_chunk_or_one_byte(serve: Serve, pool: Pool) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(50):
            sender.send(b"%d" % n)

    subject = serve(send)
    for stream in (pool.stream(subject, window=1), pool.stream(subject, window_bytes=1)):
        assert [int(chunk) for chunk in stream] == list(range(50))


def test_the_worker_may_cap_the_window(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    handler = Endless()
    with Pool(server.url, window=8) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, handler)
        with pool.stream(unique, window=1000) as stream:
            wait_for(lambda: handler.sent == 8)
            assert [int(next(stream)) for _ in range(100)] == list(range(100))


def test_the_worker_caps_what_a_fast_reader_asks_for(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        while True:
            sender.send(bytes(64 * 1024))

    with ExitStack() as stack:
        pool = stack.enter_context(Pool(server.url))  # one with nothing else to do
        worker = stack.enter_context(Pool(server.url, window_bytes=2 * MIB))
        subscriber = stack.enter_context(Subscriber(worker))
        subscriber.stream_subscribe_handler(unique, send)
        with pool.stream(unique) as stream:
            for _ in range(10_000):
                next(stream)
                if stream._source._incoming.window._room is not None:
                    break
            assert pool._runtime is not None
            assert worker._runtime is not None
            assert stream._source._incoming.window.bytes == 2 * MIB == worker._runtime.links[0].outgoing.taken
            for _ in range(10):
                began = time.monotonic()
                for _ in range(100):
                    next(stream)
                if time.monotonic() - began < 0.1:
                    break
            else:
                pytest.fail("each time somebody waited until an acknowledgement was due by the clock")
        assert_nothing_left(wait_for, pool, worker)


def test_a_stream_that_was_fast_keeps_nothing_of_it(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    go_on = threading.Event()

    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for _ in range(1000):
            sender.send(bytes(64 * 1024))
        go_on.wait(LONG)

    with ExitStack() as stack:
        pool, worker = (stack.enter_context(Pool(server.url)) for _ in range(2))
        subscriber = stack.enter_context(Subscriber(worker))
        subscriber.stream_subscribe_handler(unique, send)
        with pool.stream(unique) as stream:
            most = 0
            for _ in range(1000):
                next(stream)
                most = max(most, stream._source._incoming.window.told)
            assert most >= 2 * MIB
            assert pool._runtime is not None
            assert worker._runtime is not None
            budgets = [pool._runtime.links[0].incoming, worker._runtime.links[0].outgoing]
            wait_for(lambda: [budget.taken for budget in budgets] == [MIB, MIB], what="all but the share to be given back")
            go_on.set()
            assert list(stream) == []
        assert_nothing_left(wait_for, pool, worker)


def test_a_reader_that_sleeps_holds_up_no_other_stream(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless()
    subject = serve(handler)
    with pool.stream(subject, window=16):
        wait_for(lambda: handler.sent >= 16)
        with pool.stream(subject, window=16) as other:
            assert len([next(other) for _ in range(500)]) == 500
        assert pool.stats().connections[0].outbox_messages == 0


def test_offline_wakes_a_blocked_send(serve: Serve, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    handler = Endless()
    stream = pool.stream(serve(handler), connect_id=unique, window=2)
    wait_for(lambda: handler.sent == 2)
    online_clients.mark_offline(unique)
    wait_for(lambda: handler.reasons in STOPPED)
    stream.close()
    online_clients.forget_offline(unique)


def test_a_stalled_reader_is_given_up(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    handler = Endless()
    with Pool(server.url) as worker, Subscriber(worker, stall_timeout=0.3) as subscriber:
        subscriber.stream_subscribe_handler(unique, handler)
        stream = pool.stream(unique, window=4)
        wait_for(lambda: handler.reasons == ["stalled"])
        assert [int(next(stream)) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(StreamError, match="has not read on") as caught:
            next(stream)
        assert caught.value.code == 408


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_busy_is_tried_again_and_then_raised(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    gate = threading.Event()

    def occupy(request: StreamRequest, sender: ResponseSender) -> None:
        gate.wait(LONG)
        sender.send(b"done")

    with Pool(server.url) as worker, Subscriber(worker, max_workers=1, max_queued=0) as subscriber:
        subscriber.stream_subscribe_handler(unique, occupy)
        first = pool.stream(unique)
        wait_for(lambda: subscriber.stats()[0].running == 1)
        took: List[float] = []
        for _ in range(5):
            began = time.monotonic()
            stream = pool.stream(unique)
            with pytest.raises(BusyError, match=unique):
                next(stream)
            took.append(time.monotonic() - began)
            assert stream.end_reason == "error"
        assert 0.08 < min(took) < 0.2  # the machine may be busy, too, but not each time
        assert subscriber.stats()[0].refused == 4 * len(took)
        threading.Timer(0.02, gate.set).start()
        assert list(pool.stream(unique)) == [b"done"]  # free again at the second or third try
        assert list(first) == [b"done"]
        assert subscriber.stats()[0].served == 2
        assert_nothing_left(wait_for, pool, worker)


@pytest.fixture
def busy(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> Iterator[str]:
    """A subject whose only worker is busy for the whole test."""
    gate = threading.Event()
    with Pool(server.url) as worker, Subscriber(worker, max_workers=1, max_queued=0) as subscriber:
        subscriber.stream_subscribe_handler(unique, lambda request, sender: gate.wait(LONG))
        with worker.stream(unique):
            wait_for(lambda: subscriber.stats()[0].running == 1)
            yield unique
            gate.set()


@pytest.mark.parametrize("event", ["close", "cancel", "offline"])
def test_what_happens_between_two_tries_is_not_missed(
    server: EmbeddedServer, busy: str, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    """While a refused request waits for its next try it has no token, but it is still somebody's stream."""
    monkeypatch.setattr(_source, "_BUSY_RETRIES", (LONG,))
    with Pool(server.url, timeout=LONG) as pool:
        stream = pool.stream(busy, connect_id=busy)
        reading = in_thread(lambda: list(stream))
        wait_for(lambda: stream._source._retries == [], what="the refusal")
        began = time.monotonic()
        if event == "close":
            pool.close()
            expected: Type[Exception] = ClosedError
        elif event == "cancel":
            stream.cancel()
        else:
            online_clients.mark_offline(busy)
            expected = ClientOfflineError
        outcome = result(reading)
        assert time.monotonic() - began < SHORT
        if event == "cancel":
            assert outcome == []
        else:
            assert isinstance(outcome, expected)
    online_clients.forget_offline(busy)


def test_a_request_of_a_later_version_is_refused(serve: Serve, pool: Pool, unique: str) -> None:
    serve(lambda request, sender: sender.send(b"x"))
    inbox = pool.subscribe(f"{unique}.inbox")
    for value in ("v=2; window=1; bytes=1", "v=99; window=1; bytes=1; colour=blue", "nonsense"):
        pool.publish(unique, b"", reply=f"{unique}.inbox", headers={"Natsbridge-Stream": value})
        message = inbox.next_msg(LONG)
        assert message.data == b""
        assert message.headers["Natsbridge-Error"] == "version"
        assert message.headers["Nats-Service-Error-Code"] == "505"


@pytest.mark.parametrize("reply", ["", "$SYS.REQ.X", "natsbridge.offline.0123456789abcdef"])
def test_a_request_that_would_borrow_the_workers_rights_is_dropped(
    subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor, reply: str
) -> None:
    subscriber.stream_subscribe_handler(unique, lambda request, sender: sender.send(b"x"))
    pool.publish(unique, b"", reply=reply)
    wait_for(lambda: subscriber.stats()[0].refused == 1)
    assert subscriber.stats()[0].served == 0


# -- plain responders: bare nats-py on the other side ---------------------------------------------------------------------


class Bare:
    """A nats-py client on a loop of its own."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bare-nats-py", daemon=True)
        self._thread.start()
        self.client: Any = self.run(nats.connect(url))

    def run(self, coro: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coro, self._loop).result(LONG)

    def subscribe(self, subject: str, callback: Any, **options: Any) -> Any:
        sub = self.run(self.client.subscribe(subject, cb=callback, **options))
        self.run(self.client.flush())
        return sub

    def close(self) -> None:
        self.run(self.client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG)
        self._loop.close()


@pytest.fixture
def bare(server: EmbeddedServer) -> Iterator[Bare]:
    bare = Bare(server.url)
    yield bare
    bare.close()


def test_a_plain_responder_ends_with_an_empty_message(bare: Bare, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    async def answer(msg: Any) -> None:
        for n in range(500):
            await bare.client.publish(msg.reply, b"%d" % n)
        await bare.client.publish(msg.reply, b"with headers", headers={"Colour": "red"})
        await bare.client.publish(msg.reply, b"")

    bare.subscribe(unique, answer)
    stream = pool.stream(unique, connect_id="someone", headers={"Ask": "nicely"})
    messages = list(stream.messages())
    assert [message.data for message in messages] == [b"%d" % n for n in range(500)] + [b"with headers"]
    assert messages[-1].headers == {"Colour": "red"}
    assert stream.end_reason == "completed"
    assert_nothing_left(wait_for, pool)


def test_a_plain_responder_sees_the_request(bare: Bare, pool: Pool, unique: str) -> None:
    seen: List[Any] = []

    async def answer(msg: Any) -> None:
        seen.append(msg)
        await bare.client.publish(msg.reply, b"")

    bare.subscribe(unique, answer)
    list(pool.stream(unique, b"question", connect_id="someone", headers={"Ask": "nicely"}, timeout=LONG))
    (msg,) = seen
    assert msg.data == b"question"
    assert msg.headers["Connect-ID"] == "someone"
    assert msg.headers["Ask"] == "nicely"
    params = _wire.parse_params(msg.headers["Natsbridge-Stream"])
    assert params is not None
    assert params.version == 1
    assert params.timeout_ms is not None
    assert 15_000 < params.timeout_ms <= LONG * 1000


@pytest.mark.parametrize("payload", [b"", b"with a body"])
def test_a_plain_responders_error_headers(bare: Bare, pool: Pool, unique: str, payload: bytes) -> None:
    async def answer(msg: Any) -> None:
        await bare.client.publish(msg.reply, b"one")
        headers = {"Nats-Service-Error": "no such thing", "Nats-Service-Error-Code": "404"}
        await bare.client.publish(msg.reply, payload, headers=headers)

    bare.subscribe(unique, answer)
    stream = pool.stream(unique)
    assert next(stream) == b"one"
    with pytest.raises(StreamError) as caught:
        next(stream)
    assert (caught.value.code, caught.value.description) == (404, "no such thing")


def test_a_silent_plain_responder_times_out(bare: Bare, server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    async def answer(msg: Any) -> None:
        if msg.data:
            await bare.client.publish(msg.reply, msg.data)

    bare.subscribe(unique, answer)
    with Pool(server.url, timeout=0.3) as pool:
        for data, chunks in ((b"", []), (b"one", [b"one"])):
            stream = pool.stream(unique, data)
            assert [next(stream) for _ in chunks] == chunks
            began = time.monotonic()
            with pytest.raises(RequestTimeoutError, match=r"nothing came .* for 0\.3 s"):
                next(stream)
            assert 0.2 < time.monotonic() - began < SHORT
            assert stream.end_reason == "idle"
        assert_nothing_left(wait_for, pool)


def test_a_plain_responder_that_is_too_fast_overflows(
    bare: Bare, pool: Pool, unique: str, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_incoming, "MAX_PLAIN_MESSAGES", 100)

    async def answer(msg: Any) -> None:
        for n in range(200):
            await bare.client.publish(msg.reply, b"%d" % n)

    bare.subscribe(unique, answer)
    stream = pool.stream(unique)
    wait_for(lambda: stream.end_reason == "overflow")
    assert [int(next(stream)) for _ in range(100)] == list(range(100))
    with pytest.raises(SlowConsumerError) as caught:
        next(stream)
    assert caught.value.subject == unique


def test_two_queue_groups_on_one_subject_give_one_stream(
    server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    """Both answer; the first that is heard is kept, the other is told to stop."""
    handlers = [Endless(0.005), Endless(0.005)]
    with Pool(server.url) as one, Pool(server.url) as other, Subscriber(one) as s1, Subscriber(other) as s2:
        s1.stream_queue_subscribe_handler(unique, "left", handlers[0])
        s2.stream_queue_subscribe_handler(unique, "right", handlers[1])
        with pool.stream(unique) as stream:
            wait_for(lambda: sorted(h.reasons for h in handlers) == [[], ["cancelled"]])
            assert [int(next(stream)) for _ in range(50)] == list(range(50))
        wait_for(lambda: [h.reasons for h in handlers] == [["cancelled"], ["cancelled"]])


# -- plain requesters ---------------------------------------------------------------------------------------------------


class Inbox:
    """An inbox of bare nats-py: what it got."""

    def __init__(self, bare: Bare, subject: str) -> None:
        self.bare, self.subject = bare, subject
        self.messages: List[Any] = []
        self.listen()

    def listen(self) -> None:
        self.sub = self.bare.subscribe(self.subject, self._got)

    def leave(self) -> None:
        self.bare.run(self.sub.unsubscribe())
        self.bare.run(self.bare.client.flush())

    async def _got(self, msg: Any) -> None:
        self.messages.append(msg)

    def ask(self, subject: str, data: bytes = b"", headers: Optional[Dict[str, str]] = None) -> None:
        self.bare.run(self.bare.client.publish(subject, data, reply=self.subject, headers=headers))


def test_a_plain_requester_gets_chunks_and_an_empty_end(serve: Serve, bare: Bare, unique: str, wait_for: WaitFor) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        assert request.connect_id == "someone"
        assert request.remaining() is None
        for n in range(500):
            sender.send(b"%d" % n)

    subject = serve(send)
    inbox = Inbox(bare, f"{unique}.inbox")
    inbox.ask(subject, headers={"Connect-ID": "someone"})
    wait_for(lambda: len(inbox.messages) >= 501)
    assert [msg.data for msg in inbox.messages] == [b"%d" % n for n in range(500)] + [b""]
    assert not any(msg.headers for msg in inbox.messages)


def test_a_plain_requester_gets_errors_as_headers(serve: Serve, bare: Bare, unique: str, wait_for: WaitFor) -> None:
    def fail(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        sender.fail(404, "no such thing")

    subject = serve(fail)
    inbox = Inbox(bare, f"{unique}.inbox")
    inbox.ask(subject)
    wait_for(lambda: len(inbox.messages) == 2)
    end = inbox.messages[1]
    assert end.data == b""
    assert end.headers == {"Nats-Service-Error": "no such thing", "Nats-Service-Error-Code": "404"}


def test_a_plain_requester_that_unsubscribes_is_noticed(serve: Serve, bare: Bare, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.005)
    subject = serve(handler)
    inbox = Inbox(bare, f"{unique}.inbox")
    inbox.ask(subject)
    wait_for(lambda: len(inbox.messages) > 3)
    inbox.leave()
    began = time.monotonic()
    wait_for(lambda: handler.reasons == ["no_interest"])
    assert time.monotonic() - began < SHORT


def test_two_mistakes_about_a_plain_requester_do_not_confirm_each_other(
    serve: Serve, bare: Bare, unique: str, wait_for: WaitFor
) -> None:
    """It misses a chunk twice, but gets what is sent in between; only then it goes."""
    orders: queue.Queue[bytes] = queue.Queue()
    senders: List[ResponseSender] = []

    def send(request: StreamRequest, sender: ResponseSender) -> None:
        senders.append(sender)
        while True:
            sender.send(orders.get(timeout=LONG))

    subject = serve(send)
    inbox = Inbox(bare, f"{unique}.inbox")
    inbox.ask(subject)

    def wait_for_503(of: int) -> None:
        wait_for(lambda: senders[0]._sink._outgoing._missed == of, what="the 503")
        time.sleep(2 * _outgoing.CONFIRM_AFTER)  # no longer the same burst

    for heard, unheard in ((1, 2), (3, 4)):
        orders.put(b"%d" % heard)
        wait_for(lambda: [msg.data for msg in inbox.messages][-1:] == [b"%d" % heard])  # noqa: B023
        inbox.leave()
        orders.put(b"%d" % unheard)
        wait_for_503(unheard)
        inbox.listen()
    orders.put(b"5")
    wait_for(lambda: [msg.data for msg in inbox.messages] == [b"1", b"3", b"5"])
    assert senders[0].is_online()
    inbox.leave()
    orders.put(b"6")
    wait_for_503(6)
    orders.put(b"7")
    wait_for(lambda: senders[0].offline_reason == "no_interest")
    orders.put(b"8")


@pytest.fixture
def captured(pool: Pool, unique: str) -> Iterator[str]:
    """A subject whose messages a JetStream stream keeps, and answers."""
    config = {"name": unique, "subjects": [unique], "storage": "memory"}
    created = pool.request(f"$JS.API.STREAM.CREATE.{unique}", json.dumps(config).encode())
    assert "error" not in json.loads(created.data)
    yield unique
    pool.request(f"$JS.API.STREAM.DELETE.{unique}")


@pytest.mark.parametrize("chunks", [[], [b"one", b"two"]], ids=["empty", "chunks"])
def test_the_acknowledgement_of_a_jetstream_stream_is_no_chunk(
    captured: str, serve: Serve, pool: Pool, chunks: List[bytes]
) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for chunk in chunks:
            sender.send(chunk)

    serve(send)
    for _ in range(50):  # which of the two answers comes first is not for us to say
        assert list(pool.stream(captured, timeout=LONG)) == chunks


def test_a_request_that_only_a_jetstream_stream_has_heard_says_so(captured: str, pool: Pool) -> None:
    with pytest.raises(RequestTimeoutError, match=r"nothing came.*a JetStream stream captures the subject"):
        list(pool.stream(captured, idle_timeout=0.2))


def test_a_plain_requester_with_an_offline_id_is_refused(serve: Serve, bare: Bare, unique: str, wait_for: WaitFor) -> None:
    subject = serve(lambda request, sender: sender.send(b"x"))
    client = f"{unique}-client"
    online_clients.mark_offline(client)
    inbox = Inbox(bare, f"{unique}.inbox")
    inbox.ask(subject, headers={"Connect-ID": client})
    wait_for(lambda: inbox.messages)
    assert inbox.messages[0].headers["Natsbridge-Error"] == "offline"
    assert inbox.messages[0].headers["Nats-Service-Error-Code"] == "499"
    online_clients.forget_offline(client)


def test_marking_offline_stops_a_plain_requesters_stream(serve: Serve, bare: Bare, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.005)
    subject = serve(handler)
    inbox = Inbox(bare, f"{unique}.inbox")
    inbox.ask(subject, headers={"Connect-ID": unique})
    wait_for(lambda: len(inbox.messages) > 3)
    online_clients.mark_offline(unique)
    wait_for(lambda: handler.reasons == ["offline"])
    wait_for(lambda: inbox.messages[-1].headers)
    assert inbox.messages[-1].headers["Natsbridge-Error"] == "offline"
    online_clients.forget_offline(unique)


# -- losing the other end -----------------------------------------------------------------------------------------------


def test_a_requester_whose_connection_breaks_is_noticed_at_once(
    serve: Serve, server: EmbeddedServer, unique: str, wait_for: WaitFor
) -> None:
    """By a 503 that another one confirms; or, as it has reconnected by then, by its not knowing the stream any more."""
    handler = Endless(0.005)
    subject = serve(handler)
    other = Pool(server.url).open()
    stream = other.stream(subject)
    next(stream)
    assert other._runtime is not None
    link = other._runtime.links[0]
    client = link.connection._client
    assert client is not None
    link.loop.post(lambda: client._transport._io_writer.transport.abort())  # type: ignore[union-attr]
    began = time.monotonic()
    wait_for(lambda: handler.reasons in (["no_interest"], ["cancelled"]))
    assert time.monotonic() - began < SHORT
    with pytest.raises(ResponderLostError):
        list(stream)
    assert stream.end_reason == "lost"
    other.close()


def test_a_worker_that_vanishes_is_noticed_at_once(
    server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    handler = Endless(0.01)
    worker = Pool(server.url).open()
    with Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, handler)
        stream = pool.stream(unique)
        next(stream)
        assert worker._runtime is not None
        link = worker._runtime.links[0]
        client = link.connection._client
        assert client is not None
        link.loop.post(lambda: client._transport._io_writer.transport.abort())  # type: ignore[union-attr]
        with pytest.raises(ResponderLostError):
            list(stream)
        wait_for(lambda: handler.reasons == ["disconnected"])
    worker.close()


def test_a_server_restart_ends_streams_on_both_sides(unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    with EmbeddedServer() as own, Pool(own.url, reconnect_time_wait=0.05) as pool, Pool(
        own.url, reconnect_time_wait=0.05
    ) as worker:
        with Subscriber(worker) as subscriber:
            subscriber.stream_subscribe_handler(unique, handler)
            stream = pool.stream(unique)
            next(stream)
            own.restart()
            with pytest.raises(ResponderLostError):
                list(stream)
            wait_for(lambda: handler.reasons == ["disconnected"])
            wait_for(lambda: pool.stats().connected == worker.stats().connected == 1)
            worker.flush(LONG)
            with pool.stream(unique) as again:
                assert next(again) is not None
        assert_nothing_left(wait_for, pool, worker)


def test_a_stream_that_resumes_survives_a_server_restart(unique: str, wait_for: WaitFor) -> None:
    """No gap, nothing twice, through three restarts with unequal delays."""
    total = 3000

    def count(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(total):
            sender.send(b"%d" % n)
            if n % 10 == 0:
                sender.wait_offline(0.002)

    with EmbeddedServer() as own:
        with Pool(own.url, reconnect_time_wait=0.3) as pool, Pool(own.url, reconnect_time_wait=0.02) as worker:
            with Subscriber(worker) as subscriber:
                subscriber.stream_subscribe_handler(unique, count)
                received: List[int] = []
                with pool.stream(unique, resume=LONG, window=64) as stream:
                    for chunk in stream:
                        received.append(int(chunk))
                        if len(received) in (300, 900, 1800):
                            own.restart()
                assert received == list(range(total))
                assert stream.end_reason == "completed"
            assert_nothing_left(wait_for, pool, worker)


# -- the protocol on the wire -------------------------------------------------------------------------------------------


class Tap:
    """Drops or changes messages on their way into a pool."""

    def __init__(self, pool: Pool, judge: Callable[[Any], bool]) -> None:
        assert pool._runtime is not None
        self.link = pool._runtime.links[0]
        inbox = next(s for s in self.link.connection._subscriptions if s.subject.endswith(".>"))
        original = inbox.take
        self.dropped: List[Any] = []

        def take(msg: Any) -> None:
            if judge(msg):
                original(msg)
            else:
                self.dropped.append(msg)

        inbox.take = take


def kind_of(msg: Any) -> str:
    parsed = _wire.parse_reply(msg.reply)
    return "" if parsed is None else f"{parsed[1]}{parsed[2]}"


def drop_once(*kinds: str) -> Callable[[Any], bool]:
    left = list(kinds)

    def judge(msg: Any) -> bool:
        if kind_of(msg) in left:
            left.remove(kind_of(msg))
            return False
        return True

    return judge


@pytest.mark.parametrize("lost", [["d1"], ["d3"], ["d2", "d4"], ["e5"], ["d5", "e5"]], ids=str)
def test_what_is_lost_on_the_way_is_sent_again(
    server: EmbeddedServer, unique: str, wait_for: WaitFor, lost: List[str]
) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(1, 6):
            sender.send(b"%d" % n)
            sender.wait_offline(0.01)  # so that no batches are made

    options: Dict[str, Any] = {"probe_interval": 0.2}
    with Pool(server.url, **options) as pool, Pool(server.url, **options) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, send)
        tap = Tap(pool, drop_once(*lost))
        stream = pool.stream(unique, timeout=LONG)
        assert list(stream) == [b"1", b"2", b"3", b"4", b"5"]
        assert sorted(map(kind_of, tap.dropped)) == sorted(lost)
        assert_nothing_left(wait_for, pool, worker)


def test_a_lost_last_ack_is_made_good(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    with Pool(server.url, probe_interval=0.2) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, lambda request, sender: sender.send(b"x"))
        dropped: List[bytes] = []

        def judge(msg: Any) -> bool:
            if msg.data == b"ack 2" and not dropped:
                dropped.append(msg.data)
                return False
            return True

        Tap(worker, judge)
        assert list(pool.stream(unique)) == [b"x"]
        assert_nothing_left(wait_for, pool, worker)
        assert dropped == [b"ack 2"]


def test_a_chunk_that_never_arrives_ends_the_stream_with_a_gap(server: EmbeddedServer, unique: str) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(1, 6):
            sender.send(b"%d" % n)
            sender.wait_offline(0.01)

    options: Dict[str, Any] = {"probe_interval": 0.1}
    with Pool(server.url, **options) as pool, Pool(server.url, **options) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, send)
        Tap(pool, lambda msg: kind_of(msg) not in ("d3", "b3"))
        stream = pool.stream(unique, timeout=LONG)
        assert [next(stream), next(stream)] == [b"1", b"2"]
        with pytest.raises(StreamGapError) as caught:
            next(stream)
        assert (caught.value.expected, caught.value.got) == (3, 6)  # of the five chunks, and the end behind them
        assert stream.end_reason == "gap"


def test_a_lost_cancel_is_made_good(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.02)
    with Pool(server.url) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, handler)
        cancels: List[bytes] = []

        def judge(msg: Any) -> bool:
            if msg.data == b"cancel":
                cancels.append(msg.data)
                return len(cancels) > 1
            return True

        Tap(worker, judge)
        with pool.stream(unique) as stream:
            next(stream)
        wait_for(lambda: handler.reasons == ["cancelled"])
        assert len(cancels) >= 2


def test_silence_in_both_directions_is_noticed(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    """The path is cut without anybody being told: probes go unanswered on both sides."""
    handler = Endless(0.05)
    options: Dict[str, Any] = {"probe_interval": 0.1}
    with Pool(server.url, **options) as pool, Pool(server.url, **options) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, handler)
        stream = pool.stream(unique)
        next(stream)
        cut = threading.Event()
        Tap(pool, lambda msg: not cut.is_set())
        Tap(worker, lambda msg: not cut.is_set())
        cut.set()
        with pytest.raises(ResponderLostError, match="3 probes"):
            list(stream)
        wait_for(lambda: handler.reasons == ["unreachable"])
        assert_nothing_left(wait_for, pool, worker)


def test_a_false_503_convicts_nobody(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.005)
    with Pool(server.url) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, handler)
        with pool.stream(unique) as stream:
            next(stream)
            for mine, theirs in ((pool, worker), (worker, pool)):
                for token in list(ends_of(mine))[:1]:
                    assert mine._runtime is not None
                    subject = f"{mine._runtime.links[0].prefix}.{token}" + ("" if mine is pool else ".d1")
                    theirs.publish(subject, b"", headers={"Status": "503"})
                theirs.flush()
            assert [int(next(stream)) for _ in range(100)] == list(range(1, 101))
        wait_for(lambda: handler.reasons == ["cancelled"])


def test_unknown_streams_are_answered_once_and_without_end(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    """A cancel for chunks of a stream that is over, "unknown" for acks; never an answer to an answer."""
    assert pool._runtime is not None
    prefix = pool._runtime.links[0].prefix
    token = _wire.stream_token()
    with Pool(server.url) as other:
        answers = other.subscribe(f"{unique}.>")
        other.publish(f"{prefix}.{token}", b"chunk", reply=f"{unique}.{token}.d7")
        other.publish(f"{prefix}.{token}.d1", b"ack 1", reply=f"{unique}.inbox")
        other.publish(f"{prefix}.{token}.d1", b"nak 1", reply=f"{unique}.inbox")
        for subject, data, reply, headers in (
            (f"{prefix}.{token}.d1", b"cancel", f"{unique}.inbox", None),
            (f"{prefix}.{token}.d1", b"ack 1", "", None),
            (f"{prefix}.{token}.d1", b"ack 1", "$SYS.REQ", None),
            (f"{prefix}.{token}.d1", b"ack 1", "natsbridge.offline.x", None),
            (f"{prefix}.{token}.d1", b"nonsense", f"{unique}.inbox", None),
            (f"{prefix}.{token}.nonsense", b"ack 1", f"{unique}.inbox", None),
            (f"{prefix}.{token}", b"chunk", "", None),
            (f"{prefix}.{token}", b"chunk", f"{unique}.foreign", None),
            (f"{prefix}.{token}", b"", f"{unique}.{token}.d7", {"Status": "503"}),
            (f"{prefix}.{token}.d1", b"", f"{unique}.inbox", {"Status": "503"}),
        ):
            other.publish(subject, data, reply=reply, headers=headers)
        other.flush()
        received = [answers.next_msg(LONG) for _ in range(3)]
        pool.flush()
        other.flush()
        assert answers.pending == 0
    assert (received[0].subject, received[0].data, received[0].reply) == (f"{unique}.{token}.d7", b"cancel", "")
    for message in received[1:]:
        assert (message.subject, message.data, message.reply) == (f"{unique}.inbox", b"", "")
        assert message.headers["Natsbridge-Error"] == "unknown"
    assert pool.stats().connections[0].ignored == 8  # status messages are what they are


def test_a_worker_that_has_forgotten_the_stream_says_so(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    gate = threading.Event()

    def wait(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        gate.wait(LONG)

    with Pool(server.url, probe_interval=0.2) as pool, Pool(server.url) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, wait)
        stream = pool.stream(unique)
        assert next(stream) == b"x"
        try:
            for token in ends_of(worker)[:1]:
                assert worker._runtime is not None
                worker._runtime.links[0].forget(token)
            with pytest.raises(ResponderLostError, match="does not know this stream"):
                next(stream)
        finally:
            gate.set()


# -- several connections ------------------------------------------------------------------------------------------------


def test_streams_over_several_connections(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    def send(request: StreamRequest, sender: ResponseSender) -> None:
        for n in range(300):
            sender.send(request.data + b"-%d" % n)

    with Pool(server.url, size=3) as pool, Pool(server.url, size=3) as worker, Subscriber(worker) as subscriber:
        for _ in range(3):
            subscriber.stream_queue_subscribe_handler(unique, "workers", send)

        def read(tag: bytes) -> None:
            assert list(pool.stream(unique, tag, timeout=LONG)) == [tag + b"-%d" % n for n in range(300)]

        running = [in_thread(lambda n=n: read(b"%d" % n)) for n in range(12)]  # type: ignore[misc]
        assert [result(thread) for thread in running] == [None] * 12
        assert all(link.in_messages > 0 for link in pool.stats().connections)
        assert_nothing_left(wait_for, pool, worker)


def test_marks_reach_streams_of_every_connection(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    handler = Endless(0.01)
    with Pool(server.url, size=3) as pool, Pool(server.url, size=3, registry=OnlineRegistry()) as worker:
        with Subscriber(worker) as subscriber:
            subscriber.stream_subscribe_handler(unique, handler)
            subscriber.start_client_offline_listener()
            streams = [pool.stream(unique, connect_id=unique) for _ in range(6)]
            for stream in streams:
                next(stream)
            pool.mark_client_offline(unique)
            wait_for(lambda: len(handler.reasons) == 6)
            for stream in streams:
                with pytest.raises(ClientOfflineError):
                    list(stream)
        assert_nothing_left(wait_for, pool, worker)


def test_the_bytes_that_are_granted_to_many_streams_are_bounded(serve: Serve, pool: Pool, wait_for: WaitFor) -> None:
    handler = Endless(1.0)
    subject = serve(handler)
    streams = [pool.stream(subject, window_bytes=16 * MIB) for _ in range(16)]
    assert pool._runtime is not None
    assert pool._runtime.links[0].incoming.taken <= 49 * MIB  # the last ones get little, but something
    for stream in streams:
        next(stream)
        stream.close()
    assert_nothing_left(wait_for, pool)


def test_the_delay_of_confirming_is_as_documented() -> None:
    assert _outgoing.CONFIRM_AFTER == 0.010
