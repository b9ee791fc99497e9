"""``Subscriber``: registering, handlers, senders, refusals, draining and closing."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from nats.aio.msg import Msg
from procs import LONG, WaitFor

from natsbridge import (
    BusyError,
    ClientOfflineError,
    ClosedError,
    ConnectError,
    Error,
    MaxPayloadError,
    PermissionDeniedError,
    Pool,
    RequestTimeoutError,
    ResponderLostError,
    ResponseSender,
    StreamError,
    StreamRequest,
    Subscriber,
    online_clients,
)
from natsbridge._deadline import Deadline
from natsbridge._registration import Registration
from natsbridge._workers import Workers
from natsbridge.server import EmbeddedServer

SHORT = 3.0


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


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Handlers wait for it; set at the end of the test in any case."""
    gate = threading.Event()
    yield gate
    gate.set()


def ends_of(pool: Pool) -> List[str]:
    assert pool._runtime is not None
    return [token for link in pool._runtime.links for token in (*link._ends, *link._ticking)]


# -- registering ------------------------------------------------------------------------------------------------------


def test_decorators_connect_nothing_before_start(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    app = Subscriber(server.url)

    @app.stream(f"{unique}.one")
    def one(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"1")

    @app.stream(f"{unique}.two", queue="workers", max_workers=2, max_queued=0)
    def two(request: StreamRequest) -> Iterator[bytes]:
        yield b"2"

    assert app.pool.stats().state == "new"
    assert app.stats() == []
    assert "new" in repr(app)
    assert list(two(StreamRequest("x", b"", {}, None, None))) == [b"2"]  # type: ignore[arg-type]
    try:
        assert app.start() is app
        app.start()  # idempotent
        assert [(stats.subject, stats.queue) for stats in app.stats()] == [
            (f"{unique}.one", ""),
            (f"{unique}.two", "workers"),
        ]
        assert list(pool.stream(f"{unique}.one")) == [b"1"]
        assert list(pool.stream(f"{unique}.two")) == [b"2"]

        @app.stream(f"{unique}.late")
        def late(request: StreamRequest, sender: ResponseSender) -> None:
            sender.send(b"3")

        assert list(pool.stream(f"{unique}.late")) == [b"3"]
        assert "serving: 3 registrations" in repr(app)
    finally:
        app.close()
    assert app.pool.stats().state == "closed"
    assert "closed" in repr(app)


def test_a_start_that_fails_can_be_repeated(unique: str) -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    app = Subscriber(Pool(f"nats://127.0.0.1:{port}", connect_timeout=SHORT))
    app.stream(unique)(lambda request, sender: sender.send(b"x"))
    with pytest.raises(ConnectError):
        app.start()
    with EmbeddedServer(port=port):
        with app, Pool(f"nats://127.0.0.1:{port}") as pool:
            assert list(pool.stream(unique)) == [b"x"]
        app.pool.close()


def test_as_a_context_manager(worker_pool: Pool, pool: Pool, unique: str) -> None:
    with Subscriber(worker_pool) as subscriber:
        subscriber.stream_subscribe_handler(unique, lambda request, sender: sender.send(b"x"))
        assert list(pool.stream(unique)) == [b"x"]
    assert worker_pool.stats().state == "open"  # a shared pool is not closed
    with pytest.raises(Error):
        list(pool.stream(unique))
    with pytest.raises(ClosedError):
        subscriber.start()


@pytest.mark.parametrize("handler", [None, "print", 7, b"x"])
def test_what_cannot_be_called_is_refused(subscriber: Subscriber, unique: str, handler: Any) -> None:
    for register in (
        lambda: subscriber.stream_subscribe_handler(unique, handler),
        lambda: subscriber.stream_queue_subscribe_handler(unique, "q", handler),
        lambda: subscriber.stream(unique)(handler),
    ):
        with pytest.raises(TypeError, match="handler"):
            register()
    assert subscriber.stats() == []


def test_async_handlers_are_refused(subscriber: Subscriber, unique: str) -> None:
    async def coroutine(request: StreamRequest, sender: ResponseSender) -> None:
        pass

    async def generator(request: StreamRequest) -> Any:
        yield b"x"

    for handler in (coroutine, generator):
        with pytest.raises(TypeError, match="is async"):
            subscriber.stream_subscribe_handler(unique, handler)


def test_handlers_that_take_the_wrong_arguments_are_refused(subscriber: Subscriber, unique: str) -> None:
    def three(a: Any, b: Any, c: Any) -> None: ...
    def none() -> None: ...
    def plain_one(request: StreamRequest) -> None: ...
    def keyword_only(request: StreamRequest, *, sender: ResponseSender) -> None: ...

    for handler in (three, none, plain_one, keyword_only):
        with pytest.raises(TypeError, match="must take"):
            subscriber.stream_subscribe_handler(unique, handler)


def test_many_kinds_of_handlers_are_taken(subscriber: Subscriber, pool: Pool, unique: str) -> None:
    import functools

    class Service:
        def method(self, request: StreamRequest, sender: ResponseSender) -> None:
            sender.send(b"method")

        def __call__(self, request: StreamRequest, sender: ResponseSender) -> None:
            sender.send(b"instance")

        @staticmethod
        def static(request: StreamRequest, sender: ResponseSender) -> None:
            sender.send(b"static")

        def generator(self, request: StreamRequest) -> Iterator[bytes]:
            yield b"generator"

    def default(request: StreamRequest, sender: ResponseSender, more: bytes = b"default") -> None:
        sender.send(more)

    def star(*args: Any) -> None:
        args[1].send(b"star")

    handlers: Dict[str, Any] = {
        "method": Service().method,
        "instance": Service(),
        "static": Service.static,
        "generator": Service().generator,
        "default": default,
        "partial": functools.partial(default, more=b"partial"),
        "star": star,
    }
    for name, handler in handlers.items():
        subscriber.stream_subscribe_handler(f"{unique}.{name}", handler)
        assert list(pool.stream(f"{unique}.{name}")) == [name.encode()]


def test_wildcards_and_queue_groups(subscriber: Subscriber, pool: Pool, unique: str) -> None:
    subscriber.stream_subscribe_handler(f"{unique}.*", lambda request, sender: sender.send(request.subject.encode()))
    assert list(pool.stream(f"{unique}.abc")) == [f"{unique}.abc".encode()]
    served: List[int] = []
    for member in range(3):
        subscriber.stream_queue_subscribe_handler(
            f"{unique}.shared.x", "workers", lambda request, sender, member=member: served.append(member)
        )
    for _ in range(60):
        assert list(pool.stream(f"{unique}.shared.x")) == []
    assert len(served) == 60
    assert set(served) == {0, 1, 2}


def test_a_denied_subject_is_raised(unique: str) -> None:
    allowed = "{subscribe: {allow: ['_INBOX.>', 'free.>']}}"
    config = f"authorization {{users: [{{user: me, password: me, permissions: {allowed}}}]}}"
    with EmbeddedServer(config_text=config) as guarded, Pool(guarded.url, user="me", password="me") as pool:
        with Subscriber(pool) as subscriber:
            with pytest.raises(PermissionDeniedError, match=r"(?i)secret"):
                subscriber.stream_subscribe_handler("Secret.x", lambda request, sender: None)
            with pytest.raises(PermissionDeniedError, match=r"(?i)natsbridge\.offline"):
                subscriber.start_client_offline_listener()
            subscriber.stream_subscribe_handler("free.x", lambda request, sender: sender.send(b"x"))
            assert list(pool.stream("free.x")) == [b"x"]
            assert [stats.subject for stats in subscriber.stats()] == ["free.x"]
        assert pool.stats().subscriptions == 1


# -- handlers ---------------------------------------------------------------------------------------------------------


def test_handlers_run_on_named_threads_of_their_registration(subscriber: Subscriber, pool: Pool, unique: str) -> None:
    def name(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(threading.current_thread().name.encode())

    for subject in (f"{unique}.a", f"{unique}.b"):
        subscriber.stream_subscribe_handler(subject, name)
        assert list(pool.stream(subject)) == [f"natsbridge-{subject}-1".encode()]


def test_generators_of_one_or_two_arguments(subscriber: Subscriber, pool: Pool, unique: str) -> None:
    def one(request: StreamRequest) -> Iterator[bytes]:
        for n in range(int(request.data)):
            yield b"%d" % n

    def two(request: StreamRequest, sender: ResponseSender) -> Iterator[bytes]:
        sender.send(b"sent")
        yield b"yielded"

    def none(request: StreamRequest) -> Iterator[bytes]:
        return
        yield

    for name, handler in (("one", one), ("two", two), ("none", none)):
        subscriber.stream_subscribe_handler(f"{unique}.{name}", handler)
    assert list(pool.stream(f"{unique}.one", b"5")) == [b"0", b"1", b"2", b"3", b"4"]
    assert list(pool.stream(f"{unique}.two")) == [b"sent", b"yielded"]
    assert list(pool.stream(f"{unique}.none")) == []


@pytest.mark.parametrize("bad", [b"", "text", None, 7])
def test_a_generator_that_yields_no_chunk_fails(
    subscriber: Subscriber, pool: Pool, unique: str, caplog: pytest.LogCaptureFixture, wait_for: WaitFor, bad: Any
) -> None:
    def generate(request: StreamRequest) -> Iterator[Any]:
        yield b"fine"
        yield bad

    subscriber.stream_subscribe_handler(unique, generate)
    stream = pool.stream(unique)
    assert next(stream) == b"fine"
    with pytest.raises(StreamError, match="the handler failed"):
        next(stream)
    wait_for(lambda: "chunk" in caplog.text)
    wait_for(lambda: subscriber.stats()[0].failed == 1)


def test_a_generators_finally_runs_in_its_thread_when_the_client_goes(
    subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    cleaned: List[Tuple[str, type]] = []

    def generate(request: StreamRequest) -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        except BaseException as error:
            cleaned.append((threading.current_thread().name, type(error)))
            raise
        finally:
            cleaned.append((threading.current_thread().name, type(None)))

    subscriber.stream_subscribe_handler(unique, generate)
    with pool.stream(unique, window=4) as stream:
        next(stream)
    wait_for(lambda: len(cleaned) == 2)
    assert cleaned == [(f"natsbridge-{unique}-1", GeneratorExit), (f"natsbridge-{unique}-1", type(None))]
    wait_for(lambda: subscriber.stats()[0].running == 0)
    assert subscriber.stats()[0].failed == 0  # leaving is no failure


@pytest.mark.parametrize("how", ["complete", "leave"])
def test_a_generator_that_somebody_holds_is_closed_all_the_same(
    subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor, how: str
) -> None:
    """Its clean-up is not left to the garbage collector."""
    held: List[Iterator[bytes]] = []
    cleaned: List[str] = []

    def generate() -> Iterator[bytes]:
        try:
            for _ in range(3 if how == "complete" else 1_000_000):
                yield b"x"
        finally:
            cleaned.append(threading.current_thread().name)

    def serve(request: StreamRequest, sender: ResponseSender) -> Iterator[bytes]:
        held.append(generate())
        return held[0]

    subscriber.stream_subscribe_handler(unique, serve)
    with pool.stream(unique, window=4) as stream:
        assert next(stream) == b"x"
        if how == "complete":
            assert list(stream) == [b"x", b"x"]
    wait_for(lambda: cleaned, timeout=SHORT, what="the clean-up")
    assert cleaned == [f"natsbridge-{unique}-1"]


def test_leaving_clients_are_no_failure_of_the_handler(
    subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    def endless(request: StreamRequest, sender: ResponseSender) -> None:
        while True:
            sender.send(b"x")

    subscriber.stream_subscribe_handler(unique, endless)
    with pool.stream(unique) as stream:
        next(stream)
    wait_for(lambda: subscriber.stats()[0].running == 0)
    assert subscriber.stats()[0].failed == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_somebody_elses_offline_error_is_a_failure(
    subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    """A handler asks another service on behalf of a client that is gone: its own requester must not hear silence."""
    subscriber.stream_subscribe_handler(f"{unique}.inner", lambda request, sender: None)

    def outer(request: StreamRequest, sender: ResponseSender) -> None:
        list(pool.stream(f"{unique}.inner", connect_id=f"{unique}-gone"))

    subscriber.stream_subscribe_handler(f"{unique}.outer", outer)
    online_clients.mark_offline(f"{unique}-gone")
    with pytest.raises(StreamError) as caught:
        list(pool.stream(f"{unique}.outer"))
    assert caught.value.code == 500
    online_clients.forget_offline(f"{unique}-gone")


def test_a_handler_may_ask_its_own_service(subscriber: Subscriber, worker_pool: Pool, pool: Pool, unique: str) -> None:
    def countdown(request: StreamRequest, sender: ResponseSender) -> None:
        n = int(request.data)
        sender.send(b"%d" % n)
        if n:
            for chunk in worker_pool.stream(unique, b"%d" % (n - 1)):
                sender.send(chunk)

    subscriber.stream_subscribe_handler(unique, countdown, max_workers=8)
    assert list(pool.stream(unique, b"5")) == [b"5", b"4", b"3", b"2", b"1", b"0"]


def test_asking_oneself_with_no_worker_left_is_an_error_and_no_hang(
    subscriber: Subscriber, worker_pool: Pool, pool: Pool, unique: str
) -> None:
    def recurse(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            for chunk in worker_pool.stream(unique):
                sender.send(chunk)
        except BusyError:
            sender.send(b"busy")

    subscriber.stream_subscribe_handler(unique, recurse, max_workers=1, max_queued=0)
    assert list(pool.stream(unique, timeout=LONG)) == [b"busy"]


# -- the sender -------------------------------------------------------------------------------------------------------


def test_ending_oneself(subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    errors: List[Error] = []

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        sender.end()
        sender.end()  # once more: nothing
        sender.fail(500, "too late")
        try:
            sender.send(b"y")
        except Error as error:
            errors.append(error)

    subscriber.stream_subscribe_handler(unique, serve)
    stream = pool.stream(unique)
    assert list(stream) == [b"x"]
    assert stream.end_reason == "completed"
    wait_for(lambda: errors)
    assert [type(error) for error in errors] == [ClosedError]
    assert "too late" in str(errors[0])


def test_failing(subscriber: Subscriber, pool: Pool, unique: str) -> None:
    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        for bad_code in (-1, 1_000_000):
            with pytest.raises(ValueError, match="code"):
                sender.fail(bad_code, "x")
        with pytest.raises(TypeError, match="code"):
            sender.fail("404", "x")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="description"):
            sender.fail(404, b"x")  # type: ignore[arg-type]
        sender.send(b"x")
        sender.fail(404, "no such\r\nthing " + "." * 2000)

    subscriber.stream_subscribe_handler(unique, serve)
    stream = pool.stream(unique)
    assert next(stream) == b"x"
    with pytest.raises(StreamError) as caught:
        next(stream)
    assert caught.value.code == 404
    assert caught.value.description.startswith("no such thing ....")
    assert len(caught.value.description) == 1024


@pytest.mark.parametrize(
    "text", ["", " ", "ü", "日本語 €", "a: b", "\x85 \u2028 .", "=?utf-8?q?no?=", "\x1f", "trailing \t"]
)
def test_descriptions_arrive_as_they_were(subscriber: Subscriber, pool: Pool, unique: str, text: str) -> None:
    subscriber.stream_subscribe_handler(unique, lambda request, sender: sender.fail(0, text))
    with pytest.raises(StreamError) as caught:
        list(pool.stream(unique))
    assert caught.value.code == 0
    assert caught.value.description == (text.strip().strip("\x1f\t ") or "error")


def test_the_sender_as_a_context_manager(
    subscriber: Subscriber, pool: Pool, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        with sender as same:
            assert same is sender
            sender.send(b"x")
            if request.data == b"stream error":
                raise StreamError(418, "teapot")
            if request.data:
                raise ValueError(request.data)

    subscriber.stream_subscribe_handler(unique, serve)
    assert list(pool.stream(unique)) == [b"x"]
    for data, code, text in ((b"stream error", 418, "teapot"), (b"other", 500, "the handler failed")):
        stream = pool.stream(unique, data)
        assert next(stream) == b"x"
        with pytest.raises(StreamError) as caught:
            next(stream)
        assert (caught.value.code, caught.value.description) == (code, text)


def test_a_chunk_beyond_max_payload_is_refused_and_the_stream_goes_on(
    subscriber: Subscriber, pool: Pool, unique: str
) -> None:
    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        with pytest.raises(MaxPayloadError) as caught:
            sender.send(b"x" * (1024 * 1024 + 1))
        assert (caught.value.size, caught.value.limit) == (1024 * 1024 + 1, 1024 * 1024)
        for bad, kind, text in ((b"", ValueError, "empty"), ("text", TypeError, "encode"), (None, TypeError, "bytes")):
            with pytest.raises(kind, match=text):
                sender.send(bad)  # type: ignore[arg-type]
        sender.send(b"fine")

    subscriber.stream_subscribe_handler(unique, serve)
    assert list(pool.stream(unique)) == [b"fine"]


def test_waiting_for_the_client_to_go(subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    seen: List[object] = []

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        seen.append((sender.is_online(), sender.offline_reason, sender.wait_offline(0.01)))
        sender.send(b"x")
        seen.append(sender.wait_offline(LONG))
        seen.append((sender.is_online(), sender.offline_reason, sender.wait_offline(), sender.wait_offline(0)))

    subscriber.stream_subscribe_handler(unique, serve)
    with pool.stream(unique) as stream:
        next(stream)
    wait_for(lambda: len(seen) == 3)
    assert seen == [(True, None, False), True, (False, "cancelled", True, True)]


def test_waiting_ends_when_the_stream_does(subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    seen: List[object] = []

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        waiting = in_thread(lambda: sender.wait_offline(LONG))
        sender.end()
        seen.append(result(waiting))
        seen.append((sender.is_online(), sender.offline_reason))

    subscriber.stream_subscribe_handler(unique, serve)
    assert list(pool.stream(unique)) == []
    wait_for(lambda: len(seen) == 2)
    assert seen == [False, (False, None)]


def test_offline_callbacks(subscriber: Subscriber, worker_pool: Pool, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    called: List[Tuple[str, str]] = []

    def note(what: str) -> Callable[[], None]:
        return lambda: called.append((what, threading.current_thread().name))

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        with pytest.raises(TypeError, match="callback"):
            sender.add_offline_callback("print")  # type: ignore[arg-type]
        sender.add_offline_callback(note("before"))
        sender.add_offline_callback(lambda: 1 / 0)  # is logged, and stops nobody
        sender.add_offline_callback(note("behind"))
        if request.data == b"complete":
            return
        sender.send(b"x")
        sender.wait_offline(LONG)
        sender.add_offline_callback(note("after"))

    subscriber.stream_subscribe_handler(unique, serve)
    assert list(pool.stream(unique, b"complete")) == []
    with pool.stream(unique) as stream:
        next(stream)
    wait_for(lambda: len(called) == 3)
    assert sorted(what for what, _ in called) == ["after", "before", "behind"]  # and none of the stream that completed
    assert {thread for _, thread in called} == {f"natsbridge-{worker_pool.name}-callbacks-1"}


def test_a_callback_runs_although_every_handler_is_busy(
    subscriber: Subscriber, pool: Pool, unique: str, gate: threading.Event
) -> None:
    called = threading.Event()

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        sender.add_offline_callback(called.set)
        sender.send(b"x")
        gate.wait(LONG)

    subscriber.stream_subscribe_handler(unique, serve, max_workers=1, max_queued=0)
    with pool.stream(unique) as stream:
        next(stream)
    assert called.wait(LONG)


def test_a_sender_shows_itself(subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    shown: List[str] = []

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        shown.append(repr(sender))
        sender.wait_offline(LONG)
        shown.append(repr(sender))

    subscriber.stream_subscribe_handler(unique, serve)
    with pool.stream(unique, connect_id="me") as stream:
        next(stream)
    wait_for(lambda: len(shown) == 2)
    assert shown == [
        "<ResponseSender connect_id='me' open, 1 chunks>",
        "<ResponseSender connect_id='me' cancelled, 1 chunks>",
    ]


# -- detached senders -------------------------------------------------------------------------------------------------


class Keeper:
    """A handler that detaches its sender, and keeps it."""

    def __init__(self) -> None:
        self.senders: List[ResponseSender] = []

    def __call__(self, request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"handler")
        assert sender.detach() is sender
        assert sender.detach() is sender  # counts once
        self.senders.append(sender)


def test_a_detached_sender_outlives_its_handler(subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    keeper = Keeper()
    subscriber.stream_subscribe_handler(unique, keeper, max_workers=1, max_queued=0)
    streams = [pool.stream(unique) for _ in range(3)]  # more than there are workers
    for stream in streams:
        assert next(stream) == b"handler"
    wait_for(lambda: len(keeper.senders) == 3 and subscriber.stats()[0].running == 0)
    assert subscriber.stats()[0].detached == 3
    for n, sender in enumerate(keeper.senders):
        sender.send(b"later %d" % n)
        sender.end()
    assert sorted(b"".join(stream) for stream in streams) == [b"later 0", b"later 1", b"later 2"]
    wait_for(lambda: subscriber.stats()[0].detached == 0)


def test_a_detached_sender_learns_that_its_client_is_gone(
    subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    keeper = Keeper()
    subscriber.stream_subscribe_handler(unique, keeper)
    with pool.stream(unique) as stream:
        next(stream)
        wait_for(lambda: keeper.senders)
    (sender,) = keeper.senders
    assert sender.wait_offline(LONG)
    with pytest.raises(ClientOfflineError):
        sender.send(b"x")
    wait_for(lambda: subscriber.stats()[0].detached == 0)


def test_no_more_than_max_detached(worker_pool: Pool, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    keeper = Keeper()
    with Subscriber(worker_pool, max_detached=2) as subscriber:
        subscriber.stream_subscribe_handler(unique, keeper)
        streams = [pool.stream(unique) for _ in range(2)]
        for stream in streams:
            next(stream)
        wait_for(lambda: subscriber.stats()[0].detached == 2)
        third = pool.stream(unique)
        assert next(third) == b"handler"
        with pytest.raises(StreamError, match="the handler failed"):  # detach() raised BusyError in it
            next(third)
        keeper.senders[0].end()
        wait_for(lambda: subscriber.stats()[0].detached == 1)
        fourth = pool.stream(unique)
        assert next(fourth) == b"handler"
        wait_for(lambda: subscriber.stats()[0].detached == 2)
        for sender in keeper.senders:
            sender.end()
        assert list(fourth) == []


def test_a_stream_that_ends_while_it_is_detached_does_not_count_for_ever(
    worker_pool: Pool, pool: Pool, unique: str, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client goes just when the handler detaches."""
    admit = Registration._admit_detached

    def crossing(self: Registration, sink: Any) -> bool:
        admitted = admit(self, sink)
        sink.give_up("offline")
        return admitted

    monkeypatch.setattr(Registration, "_admit_detached", crossing)
    with Subscriber(worker_pool, max_detached=3) as subscriber:
        subscriber.stream_subscribe_handler(unique, Keeper())
        for _ in range(3):
            with pytest.raises(ClientOfflineError):
                list(pool.stream(unique))
        wait_for(lambda: subscriber.stats()[0].running == 0)
        assert subscriber.stats()[0].detached == 0


def test_a_detached_sender_that_nobody_holds_ends_its_stream(
    subscriber: Subscriber, worker_pool: Pool, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    keeper = Keeper()
    subscriber.stream_subscribe_handler(unique, keeper)
    stream = pool.stream(unique)
    assert next(stream) == b"handler"
    wait_for(lambda: subscriber.stats()[0].running == 0)
    keeper.senders.clear()
    gc.collect()
    with pytest.raises(StreamError, match="dropped the stream without ending it"):
        next(stream)
    wait_for(lambda: subscriber.stats()[0].detached == 0 and ends_of(worker_pool) == [])


def test_what_a_sender_had_sent_before_nobody_held_it_arrives(unique: str, wait_for: WaitFor) -> None:
    """It was accepted, so it is delivered, here after a reconnect; then the stream ends with the failure."""
    keeper = Keeper()
    with EmbeddedServer() as server, Pool(server.url) as pool, Subscriber(server.url) as subscriber:
        subscriber.stream_subscribe_handler(unique, keeper)
        stream = pool.stream(unique, resume=LONG, timeout=LONG)
        assert next(stream) == b"handler"
        wait_for(lambda: subscriber.stats()[0].running == 0)
        server.kill()
        wait_for(lambda: subscriber.pool.stats().connected == 0)
        for n in range(3):
            keeper.senders[0].send(b"%d" % n)
        keeper.senders.clear()
        gc.collect()
        server.restart()
        assert [next(stream) for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(StreamError, match="dropped the stream without ending it"):
            next(stream)
        wait_for(lambda: subscriber.stats()[0].detached == 0 and ends_of(subscriber.pool) == [])


# -- saturation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_workers", "max_queued"), [(1, 0), (2, 0), (1, 2)])
def test_saturation_is_exact(
    subscriber: Subscriber,
    pool: Pool,
    unique: str,
    gate: threading.Event,
    wait_for: WaitFor,
    max_workers: int,
    max_queued: int,
) -> None:
    def occupy(request: StreamRequest, sender: ResponseSender) -> None:
        gate.wait(LONG)
        sender.send(b"x")

    subscriber.stream_subscribe_handler(unique, occupy, max_workers=max_workers, max_queued=max_queued)
    streams = [pool.stream(unique) for _ in range(max_workers + max_queued)]
    wait_for(lambda: (subscriber.stats()[0].running, subscriber.stats()[0].queued) == (max_workers, max_queued))
    assert subscriber.stats()[0].refused == 0
    with pytest.raises(BusyError, match=unique):
        list(pool.stream(unique))
    gate.set()
    for stream in streams:
        assert list(stream) == [b"x"]
    assert subscriber.stats()[0].served == max_workers + max_queued


def test_a_queued_request_whose_client_has_left_is_never_started(
    subscriber: Subscriber, worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    started: List[bytes] = []

    def occupy(request: StreamRequest, sender: ResponseSender) -> None:
        started.append(request.data)
        gate.wait(LONG)

    subscriber.stream_subscribe_handler(unique, occupy, max_workers=1, max_queued=5)
    first = pool.stream(unique, b"first")
    wait_for(lambda: started == [b"first"])
    leaving = [pool.stream(unique, b"leaving") for _ in range(3)]
    last = pool.stream(unique, b"last")
    wait_for(lambda: subscriber.stats()[0].queued == 4)
    for stream in leaving:
        stream.close()
    pool.flush()
    wait_for(lambda: len(set(ends_of(worker_pool))) == 2)
    gate.set()
    assert list(first) == list(last) == []
    assert started == [b"first", b"last"]


def test_registrations_do_not_wait_for_each_other(
    subscriber: Subscriber, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    subscriber.stream_subscribe_handler(
        f"{unique}.slow", lambda request, sender: gate.wait(LONG), max_workers=1, max_queued=0
    )
    subscriber.stream_subscribe_handler(f"{unique}.quick", lambda request, sender: sender.send(b"x"))
    with pool.stream(f"{unique}.slow"):
        wait_for(lambda: subscriber.stats()[0].running == 1)
        assert list(pool.stream(f"{unique}.quick")) == [b"x"]


def test_a_handler_that_exits_takes_no_worker_with_it(subscriber: Subscriber, pool: Pool, unique: str) -> None:
    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        if request.data:
            raise SystemExit(1)
        sender.send(b"x")

    subscriber.stream_subscribe_handler(unique, serve, max_workers=1, max_queued=0)
    for _ in range(3):
        with pytest.raises(StreamError):
            list(pool.stream(unique, b"exit"))
    assert list(pool.stream(unique)) == [b"x"]


def test_an_offline_callback_that_exits_takes_no_thread_with_it(
    subscriber: Subscriber, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    called: List[int] = []

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        def exit_once() -> None:
            called.append(1)
            if len(called) == 1:
                raise SystemExit(1)

        sender.add_offline_callback(exit_once)
        sender.send(b"x")
        sender.wait_offline(LONG)

    subscriber.stream_subscribe_handler(unique, serve)
    for expected in (1, 2):
        with pool.stream(unique) as stream:
            next(stream)
        wait_for(lambda: len(called) == expected, timeout=SHORT, what="the callback")  # noqa: B023


def test_stats_and_repr(subscriber: Subscriber, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor) -> None:
    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        if request.data:
            raise ValueError
        gate.wait(LONG)

    subscriber.stream_queue_subscribe_handler(unique, "workers", serve, max_workers=2, max_queued=1)
    with pytest.raises(StreamError):
        list(pool.stream(unique, b"fail"))
    wait_for(lambda: subscriber.stats()[0].running == 0)
    streams = [pool.stream(unique) for _ in range(3)]
    wait_for(lambda: subscriber.stats()[0].queued == 1)
    with pytest.raises(BusyError):
        list(pool.stream(unique))
    (stats,) = subscriber.stats()
    assert stats == (unique, "workers", 2, 2, 1, 0, 0, 3, 4, 1)
    assert stats._fields == (
        "subject", "queue", "threads", "running", "queued", "detached", "ending", "served", "refused", "failed"
    )  # fmt: skip
    assert repr(subscriber) == "<Subscriber serving: 1 registrations, 2 handlers running, 1 requests queued>"
    gate.set()
    assert [list(stream) for stream in streams] == [[], [], []]


# -- draining ---------------------------------------------------------------------------------------------------------


def test_draining_waits_for_handlers_and_streams(
    worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"begin")
        gate.wait(LONG)
        for n in range(100):
            sender.send(b"%d" % n)

    subscriber = Subscriber(worker_pool)
    subscriber.stream_subscribe_handler(unique, serve, max_workers=2, max_queued=10)
    streams = [pool.stream(unique, window=8) for _ in range(5)]  # three of them queued
    wait_for(lambda: subscriber.stats()[0].running == 2 and subscriber.stats()[0].queued == 3)
    draining = in_thread(lambda: subscriber.drain(LONG))
    wait_for(lambda: worker_pool.stats().subscriptions == 1)
    with pytest.raises(Error):  # nothing new
        list(pool.stream(unique))
    assert draining[0].is_alive()
    gate.set()
    reading = [in_thread(lambda stream=stream: len(list(stream))) for stream in streams]  # type: ignore[misc]
    assert [result(running) for running in reading] == [101] * 5
    assert result(draining) is None
    assert ends_of(worker_pool) == []
    assert worker_pool.stats().state == "open"
    subscriber.drain()  # again: nothing to do
    with pytest.raises(ClosedError):
        subscriber.start()


def test_draining_waits_for_detached_senders(worker_pool: Pool, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    keeper = Keeper()
    subscriber = Subscriber(worker_pool)
    subscriber.stream_subscribe_handler(unique, keeper)
    stream = pool.stream(unique)
    next(stream)
    wait_for(lambda: keeper.senders)
    draining = in_thread(lambda: subscriber.drain(LONG))
    wait_for(lambda: worker_pool.stats().subscriptions == 1)
    keeper.senders[0].send(b"last")
    assert draining[0].is_alive()
    keeper.senders[0].end()
    assert list(stream) == [b"last"]
    assert result(draining) is None


def test_draining_gives_up_at_its_deadline(
    worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        sender.wait_offline(LONG)

    subscriber = Subscriber(worker_pool)
    subscriber.stream_subscribe_handler(unique, serve)
    stream = pool.stream(unique)
    next(stream)
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=rf"draining '{unique}'.*1 handlers running"):
        subscriber.drain(0.2)
    assert time.monotonic() - began < SHORT
    with pytest.raises(ResponderLostError, match="shutting down"):
        list(stream)


# -- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["subscriber", "pool"])
def test_closing_ends_streams_with_an_error_on_both_sides(
    server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor, what: str
) -> None:
    errors: List[Error] = []

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            while True:
                sender.send(b"x")
                sender.wait_offline(0.01)
        except Error as error:
            errors.append(error)
            raise

    worker = Pool(server.url).open()
    subscriber = Subscriber(worker)
    subscriber.stream_subscribe_handler(unique, serve)
    streams = [pool.stream(unique) for _ in range(3)]
    for stream in streams:
        next(stream)
    began = time.monotonic()
    (subscriber if what == "subscriber" else worker).close()
    assert time.monotonic() - began < SHORT
    for stream in streams:
        with pytest.raises(ResponderLostError, match="shutting down"):
            list(stream)
        assert stream.end_reason == "error"
    assert [type(error) for error in errors] == [ClosedError] * 3
    subscriber.close()
    worker.close()
    subscriber.close()
    with pytest.raises(ClosedError):
        subscriber.stream_subscribe_handler(unique, serve)


def test_closing_ends_detached_senders(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    keeper = Keeper()
    with Subscriber(server.url) as subscriber:
        subscriber.stream_subscribe_handler(unique, keeper)
        stream = pool.stream(unique)
        assert next(stream) == b"handler"
        wait_for(lambda: subscriber.stats()[0].running == 0)
        subscriber.close()
        with pytest.raises(ResponderLostError, match="shutting down"):
            next(stream)
        with pytest.raises(ClosedError):
            keeper.senders[0].send(b"x")


def test_closing_refuses_what_is_queued(
    worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    started: List[bytes] = []

    def occupy(request: StreamRequest, sender: ResponseSender) -> None:
        started.append(request.data)
        sender.wait_offline(LONG)

    subscriber = Subscriber(worker_pool)
    subscriber.stream_subscribe_handler(unique, occupy, max_workers=1, max_queued=3)
    streams = [pool.stream(unique, b"%d" % n) for n in range(4)]
    wait_for(lambda: subscriber.stats()[0].queued == 3)
    subscriber.close()
    for stream in streams:
        with pytest.raises(ResponderLostError, match="shutting down"):
            list(stream)
    assert len(started) == 1


def test_a_request_that_crosses_the_close_does_not_hold_it_up(
    worker_pool: Pool, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives when the streams have been told already, and the threads take jobs still."""
    ended: List[str] = []

    def endless(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            while not sender.wait_offline(0.01):
                sender.send(b"x")
        except Error as error:
            ended.append(type(error).__name__)
            raise

    subscriber = Subscriber(worker_pool)
    subscriber.stream_subscribe_handler(unique, endless)
    registration = subscriber._all(Registration)[0]
    link = registration._link
    assert link is not None
    assert link.loop._loop is not None
    inbox = worker_pool.subscribe(f"{unique}.inbox")
    msg = Msg(_client=None, subject=unique, reply=f"{unique}.inbox", data=b"", headers=None)  # type: ignore[arg-type]
    close = Workers.close

    def crossing(self: Workers, deadline: Deadline) -> bool:
        if self is registration._workers:
            assert link.loop._loop is not None

            async def take() -> None:
                registration._on_message(msg)

            asyncio.run_coroutine_threadsafe(take(), link.loop._loop).result(LONG)
        return close(self, deadline)

    monkeypatch.setattr(Workers, "close", crossing)
    began = time.monotonic()
    subscriber.close(LONG)
    assert time.monotonic() - began < SHORT
    assert ended in ([], ["ClosedError"])
    while True:  # whether it was served for a moment or refused: its requester is told
        message = inbox.next_msg(LONG)
        if message.headers:
            assert message.headers["Natsbridge-Error"] == "shutdown"
            break


def test_a_handler_may_close_its_subscriber(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    subscriber = Subscriber(server.url)

    def serve(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        subscriber.close()

    subscriber.stream_subscribe_handler(unique, serve)
    stream = pool.stream(unique)
    with pytest.raises(ResponderLostError):
        list(stream)
    wait_for(lambda: subscriber.pool.stats().state == "closed")


def test_closing_what_never_started(unique: str) -> None:
    subscriber = Subscriber("nats://127.0.0.1:1")
    subscriber.stream(unique)(lambda request, sender: None)
    subscriber.close()
    subscriber.drain()
    for call in (subscriber.start, subscriber.run, subscriber.start_client_offline_listener):
        with pytest.raises(ClosedError):
            call()


def test_run_ends_when_another_thread_closes(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    """In the main thread: the signals are handled as before afterwards."""
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    subscriber = Subscriber(server.url)
    subscriber.stream(unique)(lambda request, sender: sender.send(b"x"))

    def close_when_it_serves() -> List[bytes]:
        wait_for(lambda: subscriber.stats())
        chunks = list(pool.stream(unique))
        subscriber.close()
        return chunks

    closing = in_thread(close_when_it_serves)
    subscriber.run()
    assert result(closing) == [b"x"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert subscriber.pool.stats().state == "closed"


def test_run_outside_the_main_thread(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    subscriber = Subscriber(server.url)
    subscriber.stream(unique)(lambda request, sender: sender.send(b"x"))
    running = in_thread(subscriber.run)
    wait_for(lambda: subscriber.stats())
    assert list(pool.stream(unique)) == [b"x"]
    subscriber.close()
    assert result(running) is None


def test_run_raises_what_starting_raises(unique: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    subscriber = Subscriber(Pool("nats://127.0.0.1:1", connect_timeout=SHORT))
    subscriber.stream(unique)(lambda request, sender: None)
    with pytest.raises(ConnectError):
        subscriber.run()
    assert signal.getsignal(signal.SIGINT) == before
    with pytest.raises(ValueError, match="drain_timeout"):
        subscriber.run(drain_timeout=-1)


def test_nothing_is_left(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    with Pool(server.url) as worker:
        for n in range(5):
            with Subscriber(worker) as subscriber:
                subscriber.start_client_offline_listener()
                subscriber.stream_subscribe_handler(f"{unique}.{n}", lambda request, sender: sender.send(b"x"))
                assert list(pool.stream(f"{unique}.{n}")) == [b"x"]
        wait_for(lambda: worker.stats().subscriptions == 1)
        wait_for(lambda: ends_of(worker) == [])
        assert worker._attached == []
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith(f"natsbridge-{unique}")] == []
