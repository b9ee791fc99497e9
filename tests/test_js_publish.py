"""Publishing to streams: acknowledgements one by one, many on their way, and what becomes of them when something fails."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, Dict, Iterator, List, Tuple

import nats.js.errors
import pytest
from nats.js.api import Header, StorageType
from procs import LONG, WaitFor, posix_only

from natsbridge import (
    BadHeaderError,
    BadSubjectError,
    ClosedError,
    DisconnectedError,
    JetStream,
    MaxPayloadError,
    Message,
    NatsBridgeError,
    Pool,
    PublishManyError,
    RequestTimeoutError,
)
from natsbridge.server import EmbeddedServer


@pytest.fixture
def errors() -> List[Exception]:
    return []


@pytest.fixture
def deaf(server: EmbeddedServer, errors: List[Exception], unique: str) -> Iterator[JetStream]:
    """JetStream of a pool that reports to ``errors``; ``<unique>.deaf.>`` has a listener, and nobody acknowledges."""
    with Pool(server.url, error_callback=errors.append) as pool, pool.subscribe(f"{unique}.deaf.>"):
        yield pool.jetstream(timeout=0.3)


# -- interrupted ------------------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.skipif(sys.version_info < (3, 9), reason="Python 3.8 looks for signals between a try and its finally, or with")
def test_an_interrupt_at_any_step_leaves_nothing_to_wait_for(js: JetStream, stream: str, fast_switching: None) -> None:
    def numbers() -> Iterator[Tuple[str, bytes]]:
        while True:
            yield f"{stream}.a", b"x"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    js.publish(f"{stream}.a")
    gc.collect()
    gc.disable()  # Python ignores what is raised while the collector runs somebody's finalizer
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for number in range(60):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 0.02 + number * 17e-6)
                js.publish_many(numbers())
            with suppress(DisconnectedError):  # what was interrupted may have been withdrawn
                js.publish_async_completed(LONG)
            assert js.publish_async_pending() == 0
            assert js._slot.inbox is not None
            assert js._slot.inbox._bytes == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert js.publish_async(f"{stream}.a").result().stream == stream


# -- one by one --------------------------------------------------------------------------------------------------------


def test_a_message_is_stored_and_acknowledged(js: JetStream, stream: str) -> None:
    ack = js.publish(f"{stream}.a", b"one", headers={"Trace": "7"})
    assert (ack.stream, ack.seq, ack.duplicate) == (stream, 1, None)
    stored = js.get_msg(stream, 1)
    assert (stored.subject, stored.data, stored.headers) == (f"{stream}.a", b"one", {"Trace": "7"})


def test_a_message_id_makes_a_second_publish_a_duplicate(js: JetStream, stream: str) -> None:
    headers = {str(Header.MSG_ID.value): "42"}
    acks = [js.publish(f"{stream}.a", b"x", headers=headers) for _ in range(2)]
    assert [(ack.seq, bool(ack.duplicate)) for ack in acks] == [(1, False), (1, True)]
    assert headers == {"Nats-Msg-Id": "42"}, "the caller's headers are the caller's"


def test_nats_pys_names_of_headers_may_be_used(js: JetStream, stream: str) -> None:
    acks = [js.publish(f"{stream}.a", b"x", headers={Header.MSG_ID: "42"}) for _ in range(2)]
    assert bool(acks[1].duplicate)
    assert js.publish_async(f"{stream}.a", b"x", headers={Header.MSG_ID: "42"}).result().duplicate


def test_the_expected_stream_is_checked_by_the_server(js: JetStream, stream: str) -> None:
    headers = {"Trace": "7"}
    assert js.publish(f"{stream}.a", b"x", stream=stream, headers=headers).seq == 1
    assert headers == {"Trace": "7"}
    for publish in (js.publish, lambda *args, **kwargs: js.publish_async(*args, **kwargs).result()):
        with pytest.raises(nats.js.errors.BadRequestError, match="expected stream does not match") as raised:
            publish(f"{stream}.a", b"x", stream="other")
        assert raised.value.err_code == 10060


def test_a_message_may_have_a_life_of_its_own(js: JetStream, unique: str, wait_for: WaitFor) -> None:
    js.add_stream(name=unique, subjects=[unique], storage=StorageType.MEMORY, allow_msg_ttl=True)
    try:
        js.publish(unique, b"brief", msg_ttl=1)
        js.publish(unique, b"lasting")
        for few in (0.5, -1, float("nan")):
            with pytest.raises(ValueError, match="msg_ttl must be one second or more"):
                js.publish(unique, b"x", msg_ttl=few)
        wrong: Any
        for wrong in ("1", b"1", [1], True):
            with pytest.raises(TypeError, match="msg_ttl must be a number of seconds"):
                js.publish_async(unique, b"x", msg_ttl=wrong)
        assert js.stream_info(unique).state.messages == 2
        wait_for(lambda: js.stream_info(unique).state.messages == 1, what="the message to expire")
    finally:
        js.delete_stream(unique)


def test_where_no_stream_stores_the_subject_the_error_names_it(pool: Pool, unique: str) -> None:
    js = pool.jetstream(publish_retries=1, publish_retry_wait=0.05)
    for publish in (js.publish, lambda *args: js.publish_async(*args).result()):
        start = time.monotonic()
        with pytest.raises(nats.js.errors.NoStreamResponseError, match=f"no stream stores '{unique}'"):
            publish(unique, b"x")
        assert 0.05 <= time.monotonic() - start < 3.0


@pytest.mark.parametrize("how", ["publish", "publish_async"])
def test_a_stream_that_comes_a_moment_later_gets_the_message(pool: Pool, unique: str, how: str) -> None:
    """ADR-22: a stream that elects its leader answers nothing for a moment."""
    js = pool.jetstream(publish_retries=100, publish_retry_wait=0.02, timeout=10)
    acks = []

    def publish() -> None:
        acks.append(js.publish(unique, b"x") if how == "publish" else js.publish_async(unique, b"x").result())

    publisher = threading.Thread(target=publish)
    publisher.start()
    time.sleep(0.1)
    js.add_stream(name=unique, subjects=[unique], storage=StorageType.MEMORY)
    publisher.join(10.0)
    assert [ack.seq for ack in acks] == [1]
    assert js.stream_info(unique).state.messages == 1
    js.delete_stream(unique)


def test_a_publish_that_nobody_acknowledges_ends_in_time(deaf: JetStream, unique: str) -> None:
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"JetStream\.publish was not through within 0\.1 s"):
        deaf.publish(f"{unique}.deaf.a", b"x", timeout=0.1)
    assert time.monotonic() - start < 2.0


def test_an_answer_that_is_no_streams_is_told_apart(pool: Pool, worker_pool: Pool, unique: str) -> None:
    def hello(message: Message) -> None:
        message.respond(b"hello")

    worker_pool.subscribe(unique, handler=hello)
    js = pool.jetstream()
    with pytest.raises(NatsBridgeError, match="answered by something that is not JetStream"):
        js.publish(unique, b"x")
    with pytest.raises(nats.js.errors.Error, match="answered by something that is not a stream"):
        js.publish_async(unique, b"x").result()


# -- many on their way -------------------------------------------------------------------------------------------------


def test_many_are_stored_in_order(js: JetStream, stream: str) -> None:
    futures = [js.publish_async(f"{stream}.a", b"%d" % n) for n in range(3000)]
    js.publish_async_completed()
    assert js.publish_async_pending() == 0
    assert all(future.done() for future in futures)
    assert [future.result().seq for future in futures] == list(range(1, 3001))
    assert js.get_msg(stream, 1234).data == b"1233"
    assert futures[0].exception() is None


def test_publish_many_returns_every_acknowledgement_in_order(js: JetStream, stream: str) -> None:
    messages = ((f"{stream}.{n % 7}", b"%d" % n, {"N": str(n)}) for n in range(500))
    assert [ack.seq for ack in js.publish_many(messages)] == list(range(1, 501))
    stored = js.get_msg(stream, 500)
    assert (stored.data, stored.headers) == (b"499", {"N": "499"})
    assert [ack.seq for ack in js.publish_many([(f"{stream}.a", b"x")], stream=stream)] == [501]
    assert js.publish_many([]) == []


def test_publish_many_tells_which_failed(js: JetStream, stream: str, unique: str) -> None:
    js = js._pool.jetstream(publish_retries=0)
    with pytest.raises(
        PublishManyError, match="1 of 3 messages were not acknowledged, number 1 first: no stream"
    ) as raised:
        js.publish_many([(f"{stream}.a", b"0"), ("nowhere." + unique, b"1"), (f"{stream}.a", b"2")])
    error = raised.value
    assert [ack and ack.seq for ack in error.acks] == [1, None, 2]
    assert list(error.errors) == [1]
    assert isinstance(error.errors[1], nats.js.errors.NoStreamResponseError)


def test_many_threads_share_the_window(pool: Pool, stream: str) -> None:
    js = pool.jetstream(publish_async_max_pending=10)
    most = 0
    wrong: List[object] = []

    def publish(thread: int) -> None:
        nonlocal most
        for number in range(200):
            future = js.publish_async(f"{stream}.{thread}", b"%d" % number)
            most = max(most, js.publish_async_pending())
            if number % 20 == 0:
                stored = js.get_msg(stream, future.result().seq)
                if (stored.subject, stored.data) != (f"{stream}.{thread}", b"%d" % number):
                    wrong.append((thread, number, stored))

    threads = [threading.Thread(target=publish, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30.0)
    js.publish_async_completed(timeout=10)
    assert wrong == []
    assert js.stream_info(stream).state.messages == 1600
    assert 1 <= most <= 10


def test_a_full_window_stalls_and_then_says_so(deaf: JetStream, unique: str) -> None:
    js = deaf._pool.jetstream(publish_async_max_pending=2, timeout=30)
    futures = [js.publish_async(f"{unique}.deaf.a", b"x") for _ in range(2)]
    start = time.monotonic()
    with pytest.raises(nats.js.errors.TooManyStalledMsgsError):
        js.publish_async(f"{unique}.deaf.a", b"x", wait_stall=0.1)
    assert 0.1 <= time.monotonic() - start < 2.0
    assert js.publish_async_pending() == 2
    assert not any(future.done() for future in futures)
    with pytest.raises(RequestTimeoutError, match=r"2 messages were not acknowledged within 0\.05 s"):
        js.publish_async_completed(timeout=0.05)
    with pytest.raises(RequestTimeoutError, match=r"not acknowledged within 0\.05 s"):
        futures[0].result(timeout=0.05)


def test_a_message_that_nobody_acknowledges_fails_in_time(deaf: JetStream, unique: str, errors: List[Exception]) -> None:
    future = deaf.publish_async(f"{unique}.deaf.a", b"x")
    assert isinstance(future.exception(), RequestTimeoutError)
    with pytest.raises(RequestTimeoutError, match=f"no stream acknowledged a message on '{unique}.deaf.a' within 0.3 s"):
        future.result()
    deaf.publish_async_completed()  # its handle has told already
    assert deaf.publish_async_pending() == 0
    assert errors == []


def test_a_failure_that_nobody_asks_for_is_raised_by_completed(deaf: JetStream, unique: str) -> None:
    future = deaf.publish_async(f"{unique}.deaf.a", b"x")
    with pytest.raises(RequestTimeoutError, match="no stream acknowledged"):
        deaf.publish_async_completed()
    deaf.publish_async_completed()
    assert future.exception() is not None


def test_a_dropped_handle_reports_its_failure(
    deaf: JetStream, unique: str, errors: List[Exception], wait_for: WaitFor
) -> None:
    deaf.publish_async(f"{unique}.deaf.a", b"x")
    gc.collect()
    wait_for(lambda: errors, what="the failure to be reported")
    assert isinstance(errors[0], RequestTimeoutError)


def test_what_waits_is_bounded_in_bytes_too(deaf: JetStream, unique: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("natsbridge._acks._MAX_BYTES", 1_000_000)
    js = deaf._pool.jetstream(timeout=30)
    js.publish_async(f"{unique}.deaf.a", bytes(600_000))
    with pytest.raises(nats.js.errors.TooManyStalledMsgsError):
        js.publish_async(f"{unique}.deaf.a", bytes(600_000), wait_stall=0.05)
    js.publish_async(f"{unique}.deaf.a", bytes(10), wait_stall=0.05)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_closing_the_pool_settles_every_handle(server: EmbeddedServer, unique: str) -> None:
    with Pool(server.url) as pool, pool.subscribe(unique):
        js = pool.jetstream(timeout=60)
        future = js.publish_async(unique, b"x")
    assert isinstance(future.exception(timeout=5), ClosedError)
    with pytest.raises(ClosedError):
        js.publish_async(unique, b"x")
    with pytest.raises(ClosedError):
        js.publish(unique, b"x")


def test_a_lost_connection_settles_what_was_sent(make_nats_server: object, unique: str, wait_for: WaitFor) -> None:
    with EmbeddedServer() as server, Pool(server.url) as pool, pool.subscribe(unique):
        js = pool.jetstream(timeout=60)
        future = js.publish_async(unique, b"x")
        pool.flush()
        server.restart()
        with pytest.raises(DisconnectedError, match="may or may not be stored"):
            future.result(timeout=20)


def test_a_pool_that_publishes_can_be_collected(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    """What the loop refers to must not hold the pool."""
    with Pool(server.url) as listener, listener.subscribe(unique):
        Pool(server.url).jetstream(timeout=60).publish_async(unique, b"x")
        before = len(threading.enumerate())
        gc.collect()
        wait_for(lambda: len(threading.enumerate()) < before, timeout=10, what="the pool to end")


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["publish", "publish_async", "publish_many"])
def test_wrong_arguments_are_refused_before_anything_is_sent(js: JetStream, stream: str, how: str) -> None:
    def publish(subject: object = f"{stream}.a", payload: object = b"x", headers: object = None) -> object:
        if how == "publish_many":
            return js.publish_many([(subject, payload, headers)])  # type: ignore[list-item]
        return getattr(js, how)(subject, payload, headers=headers)

    for subject in ("", f"{stream}.", f"{stream} a", f"{stream}.*", f"{stream}.>", f"{stream}.\r\nPING", "..", ".a"):
        with pytest.raises(BadSubjectError):
            publish(subject)
    with pytest.raises(TypeError):
        publish(None)
    for payload in ("text", 5, None, ["x"]):
        with pytest.raises(TypeError, match="payload"):
            publish(payload=payload)
    for headers in ({"a": "b\r\nc"}, {"": "x"}, {"a b": "c"}):
        with pytest.raises(BadHeaderError):
            publish(headers=headers)
    for wrong in ("x", {"a": 5}, [("a", "b")]):
        with pytest.raises(TypeError):
            publish(headers=wrong)
    with pytest.raises(MaxPayloadError):
        publish(payload=bytes(2**20 + 1))
    assert js.stream_info(stream).state.messages == 0


def test_wrong_settings_are_refused(pool: Pool) -> None:
    values: List[Dict[str, Any]] = [
        {"publish_async_max_pending": 0},
        {"publish_retries": -1},
        {"publish_retry_wait": 0},
        {"timeout": -1},
        {"domain": "a b"},
        {"prefix": ""},
    ]
    for setting in values:
        with pytest.raises(ValueError):
            pool.jetstream(**setting)
    types: List[Dict[str, Any]] = [
        {"publish_async_max_pending": 1.5},
        {"publish_retries": "2"},
        {"timeout": "5"},
        {"domain": 7},
    ]
    for setting in types:
        with pytest.raises(TypeError):
            pool.jetstream(**setting)
    with pytest.raises(ValueError, match="pass one of them"):
        pool.jetstream(prefix="a", domain="b")


@pytest.mark.parametrize("messages", [[("a",)], ["ab"], [5], 5, [("a", b"x", {}, 1)]])
def test_publish_many_refuses_what_is_no_message(js: JetStream, messages: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        js.publish_many(messages)  # type: ignore[arg-type]
