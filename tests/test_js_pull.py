"""Pull consumers: fetching, iterating, handlers on threads, and what a consumer that goes away does to each."""

from __future__ import annotations

import gc
import json
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Set

import nats.errors
import nats.js.errors
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StorageType
from procs import WaitFor

from natsbridge import (
    BadSubjectError,
    ClosedError,
    FetchTimeoutError,
    JetStream,
    JetStreamMessage,
    MaxPayloadError,
    Pool,
    PullSubscription,
)
from natsbridge._handling import Consuming
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from conftest import Monitor


def fill(js: JetStream, stream: str, count: int, subject: str = "a") -> None:
    js.publish_many((f"{stream}.{subject}", b"%d" % n) for n in range(count))


def floor(js: JetStream, stream: str, consumer: str = "workers") -> int:
    """Up to which message of the stream all are acknowledged."""
    info = js.consumer_info(stream, consumer)
    assert info.ack_floor is not None
    return info.ack_floor.stream_seq


def numbers(messages: List[JetStreamMessage]) -> List[int]:
    return [int(message.data) for message in messages]


@pytest.fixture
def sub(js: JetStream, stream: str) -> PullSubscription:
    return js.pull_subscribe(f"{stream}.>", "workers", stream=stream)


# -- fetch -------------------------------------------------------------------------------------------------------------


def test_fetch_returns_what_is_there_without_waiting(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 3)
    start = time.monotonic()
    assert numbers(sub.fetch(10, timeout=30)) == [0, 1, 2]
    assert time.monotonic() - start < 10
    assert sub.delivered == 3
    fill(js, stream, 3)
    assert numbers(sub.fetch(2)) == [0, 1]
    assert numbers(sub.fetch(2)) == [2]


def test_fetch_of_nothing_waits_for_the_whole_batch(js: JetStream, stream: str, sub: PullSubscription) -> None:
    later = threading.Timer(0.2, fill, [js, stream, 3])
    later.start()
    assert numbers(sub.fetch(3, timeout=20)) == [0, 1, 2]
    later.join()


def test_fetch_returns_a_part_when_the_time_is_over(js: JetStream, stream: str, sub: PullSubscription) -> None:
    later = threading.Timer(0.1, fill, [js, stream, 2])
    later.start()
    start = time.monotonic()
    assert numbers(sub.fetch(5, timeout=0.8)) == [0, 1]
    assert 0.5 < time.monotonic() - start < 5
    later.join()


def test_fetch_of_nothing_says_so_in_time(sub: PullSubscription) -> None:
    for batch in (1, 10):
        start = time.monotonic()
        with pytest.raises(FetchTimeoutError, match=r"no message came from consumer 'workers' within 0\.2 s") as raised:
            sub.fetch(batch, timeout=0.2)
        assert 0.2 <= time.monotonic() - start < 3
        assert isinstance(raised.value, nats.js.errors.FetchTimeoutError)
        assert isinstance(raised.value, TimeoutError)


def test_messages_that_come_too_late_are_kept_for_the_next(js: JetStream, stream: str, sub: PullSubscription) -> None:
    """Each message is handed out once, whenever it comes: none is lost between two fetches."""
    seen: List[int] = []
    publisher = threading.Thread(
        target=lambda: [js.publish(f"{stream}.a", b"%d" % n) for n in range(200)], name="publisher"
    )
    publisher.start()
    deadline = time.monotonic() + 30
    while len(seen) < 200 and time.monotonic() < deadline:
        try:
            for message in sub.fetch(3, timeout=0.003):
                message.ack()
                seen.append(int(message.data))
        except FetchTimeoutError:
            pass
    publisher.join()
    assert seen == list(range(200))


def test_next_msg_asks_for_one(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 3)
    assert sub.next_msg().data == b"0"
    assert js.consumer_info(stream, "workers").num_pending == 2
    assert sub.pending_msgs == 0
    for _ in range(2):
        sub.next_msg().ack()
    with pytest.raises(FetchTimeoutError):
        sub.next_msg(timeout=0.05)


def test_fetch_with_heartbeats_notices_a_silent_consumer(server: EmbeddedServer, unique: str) -> None:
    """Requests that go nowhere: ``$JS.API.CONSUMER.MSG.NEXT`` of a consumer behind a prefix that somebody swallows."""
    errors: List[Exception] = []
    with Pool(server.url, error_callback=errors.append) as pool, pool.subscribe(f"{unique}.>"):
        sub = pool.jetstream(prefix=unique).pull_subscribe_bind("c", "S")
        with pytest.raises(FetchTimeoutError):
            sub.fetch(1, timeout=0.6, heartbeat=0.1)
        sub.unsubscribe()
    assert any("was silent for" in str(error) for error in errors)


# -- iterating ---------------------------------------------------------------------------------------------------------


def test_iterating_gives_every_message_in_order(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 2000)
    seen: List[int] = []
    for message in sub:
        message.ack()
        seen.append(int(message.data))
        if len(seen) == 2000:
            break
    assert seen == list(range(2000))


def test_unsubscribe_from_another_thread_ends_an_iteration(sub: PullSubscription) -> None:
    later = threading.Timer(0.2, sub.unsubscribe)
    later.start()
    assert list(sub) == []
    later.join()
    assert not sub.active
    for call in (lambda: sub.fetch(timeout=0.1), sub.next_msg):
        with pytest.raises(ClosedError, match="has ended"):
            call()
    assert list(sub) == []
    sub.unsubscribe()


def test_what_was_read_ahead_is_given_back_at_once(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor
) -> None:
    fill(js, stream, 500)
    for read, message in enumerate(sub, 1):
        message.ack()
        if read == 100:
            break
    rest: Set[int] = set()
    while len(rest) < 400:
        for message in sub.fetch(400, timeout=10):
            message.ack()
            rest.add(int(message.data))
    assert rest == set(range(100, 500))


def test_slow_work_is_asked_for_one_at_a_time(js: JetStream, stream: str, sub: PullSubscription) -> None:
    """Two slow readers share the work: neither hoards what the other could do."""
    fill(js, stream, 12)
    other = js.pull_subscribe_bind("workers", stream)
    done: List[List[int]] = [[], []]

    def work(sub: PullSubscription, mine: List[int]) -> None:
        for message in sub:
            time.sleep(0.05)
            message.ack()
            mine.append(int(message.data))
            if sum(map(len, done)) == 12:
                for each in (sub, other):
                    each.unsubscribe()

    subs = (sub, other)
    threads = [threading.Thread(target=work, args=(subs[n], done[n])) for n in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while sum(map(len, done)) < 12 and time.monotonic() < deadline:
        time.sleep(0.01)
    for each in subs:
        each.unsubscribe()
    for thread in threads:
        thread.join(10)
    assert sorted(done[0] + done[1]) == list(range(12))
    assert min(map(len, done)) >= 3


def test_threads_share_one_subscription(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 1000)
    seen: List[int] = []
    lock = threading.Lock()

    def work() -> None:
        for message in sub:
            message.ack()
            with lock:
                seen.append(int(message.data))
                if len(seen) == 1000:
                    sub.unsubscribe()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(seen) == list(range(1000))


# -- acknowledging -----------------------------------------------------------------------------------------------------


def test_a_message_knows_where_it_is_from(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 2)
    js.publish(f"{stream}.b", b"2", headers={"Trace": "7"})
    first, _, third = sub.fetch(3)
    assert (first.metadata.stream, first.metadata.consumer) == (stream, "workers")
    assert (first.metadata.sequence.stream, first.metadata.sequence.consumer) == (1, 1)
    assert (first.metadata.num_delivered, first.metadata.num_pending) == (1, 2)
    assert (third.subject, third.data, third.headers) == (f"{stream}.b", b"2", {"Trace": "7"})


def test_a_message_is_acknowledged_once(js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor) -> None:
    fill(js, stream, 4)
    acts: List[Callable[[JetStreamMessage], None]] = [
        JetStreamMessage.ack, JetStreamMessage.ack_sync, JetStreamMessage.nak, JetStreamMessage.term
    ]  # fmt: skip
    for message, act in zip(sub.fetch(4), acts):
        assert not message.is_acked
        act(message)
        assert message.is_acked
        for again in (*acts, JetStreamMessage.in_progress):
            with pytest.raises(nats.errors.MsgAlreadyAckdError):
                again(message)
    assert numbers(sub.fetch()) == [2], "the one that was given back"
    assert floor(js, stream) == 2


def test_ack_sync_returns_once_the_server_has_it(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 1)
    (message,) = sub.fetch()
    message.ack_sync()
    assert js.consumer_info(stream, "workers").num_ack_pending == 0


def test_ack_sync_of_a_consumer_that_is_gone_fails_and_may_be_repeated(
    js: JetStream, stream: str, sub: PullSubscription
) -> None:
    fill(js, stream, 1)
    (message,) = sub.fetch()
    js.delete_consumer(stream, "workers")
    for _ in range(2):
        with pytest.raises((nats.errors.NoRespondersError, TimeoutError)):
            message.ack_sync(timeout=0.3)
        assert not message.is_acked


def test_nak_brings_it_back_after_its_delay(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 1)
    sub.fetch()[0].nak()
    (again,) = sub.fetch()
    assert again.metadata.num_delivered == 2
    start = time.monotonic()
    again.nak(delay=0.3)
    (third,) = sub.fetch()
    assert third.metadata.num_delivered == 3
    assert 0.25 < time.monotonic() - start < 5
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="delay must be"):
            third.nak(wrong)
    with pytest.raises(TypeError):
        third.nak("1")  # type: ignore[arg-type]
    assert not third.is_acked


def test_term_ends_it_and_tells_why(js: JetStream, pool: Pool, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 1)
    with pool.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{stream}.workers") as advisories:
        (message,) = sub.fetch()
        with pytest.raises(ValueError):
            message.term("two\nlines")
        with pytest.raises(MaxPayloadError):
            message.term("x" * 2_000_000)
        assert not message.is_acked
        message.term("no such order")
        assert b"no such order" in advisories.next_msg(5).data
    with pytest.raises(FetchTimeoutError):
        sub.fetch(timeout=0.1)


def test_in_progress_keeps_a_message(js: JetStream, stream: str) -> None:
    sub = js.pull_subscribe(f"{stream}.>", stream=stream, config=ConsumerConfig(ack_wait=0.4))
    fill(js, stream, 1)
    (message,) = sub.fetch()
    for _ in range(5):
        time.sleep(0.12)
        message.in_progress()
    with pytest.raises(FetchTimeoutError):
        sub.fetch(timeout=0.1)
    message.ack_sync()
    sub.unsubscribe()


def test_any_thread_may_acknowledge_and_only_one_does(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream, 200)
    refused: List[int] = []

    def settle(messages: List[JetStreamMessage]) -> None:
        for message in messages:
            try:
                message.ack()
            except nats.errors.MsgAlreadyAckdError:
                refused.append(1)

    messages = sub.fetch(200)
    threads = [threading.Thread(target=settle, args=(messages,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(refused) == 600
    js._pool.flush()
    assert js.consumer_info(stream, "workers").num_ack_pending == 0


def test_a_message_can_be_responded_to(js: JetStream, stream: str, sub: PullSubscription) -> None:
    """As nats-py's: what is sent to the reply subject is taken for an acknowledgement."""
    fill(js, stream, 1)
    (message,) = sub.fetch()
    message.respond(b"+ACK")
    js._pool.flush()
    assert js.consumer_info(stream, "workers").num_ack_pending == 0


# -- handlers ----------------------------------------------------------------------------------------------------------


def test_a_handlers_messages_are_acknowledged_when_it_returns(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor
) -> None:
    fill(js, stream, 100)
    seen: List[int] = []
    threads: Set[str] = set()

    def handler(message: JetStreamMessage) -> None:
        seen.append(int(message.data))
        threads.add(threading.current_thread().name)

    with sub.consume(handler) as consuming:
        wait_for(lambda: floor(js, stream) == 100, what="the last acknowledgement")
        assert consuming.active
    assert seen == list(range(100))
    assert threads == {f"natsbridge-{stream}.workers-1"}
    consuming.wait(5)
    assert not consuming.active


def test_a_handler_that_raises_gives_the_message_back(server: EmbeddedServer, stream: str, wait_for: WaitFor) -> None:
    errors: List[Exception] = []
    seen: List[Any] = []

    def handler(message: JetStreamMessage) -> None:
        seen.append((time.monotonic(), message.metadata.num_delivered))
        if len(seen) < 3:
            raise RuntimeError(f"failure {len(seen)}")

    with Pool(server.url, error_callback=errors.append) as pool:
        js = pool.jetstream()
        fill(js, stream, 1)
        sub = js.pull_subscribe(f"{stream}.>", "failing", stream=stream)
        consuming = sub.consume(handler, nak_delay=0.1)
        wait_for(lambda: len(seen) == 3, what="the third delivery")
        wait_for(lambda: js.consumer_info(stream, "failing").num_ack_pending == 0, what="the acknowledgement")
        consuming.drain(5)
        wait_for(lambda: len(errors) == 2, what="the errors to be reported")
    assert [delivered for _, delivered in seen] == [1, 2, 3]
    assert seen[1][0] - seen[0][0] >= 0.09
    assert [str(error) for error in errors] == ["failure 1", "failure 2"]


def test_what_happens_to_a_failure_can_be_set(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    fill(js, stream, 1)
    sub = js.pull_subscribe(f"{stream}.>", "silent", stream=stream, config=ConsumerConfig(ack_wait=30))
    called = threading.Event()

    def handler(message: JetStreamMessage) -> None:
        called.set()
        raise SystemExit("not to end the thread")

    with sub.consume(handler, nak_on_error=False) as consuming:
        assert called.wait(10)
        time.sleep(0.1)
        assert js.consumer_info(stream, "silent").num_ack_pending == 1
        assert consuming.active


def test_acknowledging_may_be_the_handlers(js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor) -> None:
    fill(js, stream, 2)
    kept: List[JetStreamMessage] = []
    with sub.consume(kept.append, manual_ack=True):
        wait_for(lambda: len(kept) == 2, what="both messages")
        assert js.consumer_info(stream, "workers").num_ack_pending == 2
    for message in kept:
        message.ack_sync()
    assert js.consumer_info(stream, "workers").num_ack_pending == 0


def test_a_handler_may_settle_it_itself(js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor) -> None:
    fill(js, stream, 1)
    deliveries: List[int] = []

    def handler(message: JetStreamMessage) -> None:
        deliveries.append(message.metadata.num_delivered)
        if len(deliveries) == 1:
            message.nak()

    with sub.consume(handler):
        wait_for(lambda: floor(js, stream) == 1, what="the end")
    assert deliveries == [1, 2]


def test_handlers_are_bounded(js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor) -> None:
    fill(js, stream, 10)
    running: List[int] = []
    go = threading.Event()

    def handler(message: JetStreamMessage) -> None:
        running.append(int(message.data))
        go.wait(20)

    consuming = sub.consume(handler, max_workers=3)
    wait_for(lambda: len(running) == 3, what="three handlers")
    time.sleep(0.1)
    assert len(running) == 3
    go.set()
    wait_for(lambda: len(running) == 10, what="the rest")
    consuming.drain(10)


def test_a_pool_that_closes_ends_its_handlers(server: EmbeddedServer, stream: str, wait_for: WaitFor) -> None:
    seen: List[JetStreamMessage] = []
    with Pool(server.url) as pool:
        js = pool.jetstream()
        fill(js, stream, 1)
        consuming = js.pull_subscribe(f"{stream}.>", "closing", stream=stream).consume(seen.append)
        gc.collect()  # nobody needs to hold the subscription
        wait_for(lambda: seen, what="the message")
    with pytest.raises(ClosedError):
        consuming.wait(5)
    assert not consuming.active


def test_a_consumer_that_ends_ends_its_handlers_and_is_reported(
    server: EmbeddedServer, stream: str, wait_for: WaitFor
) -> None:
    errors: List[Exception] = []
    with Pool(server.url, error_callback=errors.append) as pool:
        js = pool.jetstream()
        consuming = js.pull_subscribe(f"{stream}.>", "doomed", stream=stream).consume(print, max_workers=2)
        wait_for(lambda: js.consumer_info(stream, "doomed").num_waiting, what="the handlers to ask")
        js.delete_consumer(stream, "doomed")
        with pytest.raises(nats.js.errors.Error):
            consuming.wait(10)
        wait_for(lambda: errors, what="the report")


def test_a_fault_while_reading_ends_the_consuming_and_is_told(server: EmbeddedServer, wait_for: WaitFor) -> None:
    errors: List[Exception] = []
    finished: List[object] = []

    def messages() -> Iterator[JetStreamMessage]:
        raise OverflowError("cannot convert float infinity to integer")
        yield

    with Pool(server.url, error_callback=errors.append) as pool:
        pool.open()
        consuming = Consuming.start(
            pool, "faulty", messages, print,
            max_workers=1, ack=True, nak=True, nak_delay=None, on_error=pool._report, finish=finished.append,
        )  # fmt: skip
        with pytest.raises(OverflowError):
            consuming.wait(10)
        assert not consuming.active
        wait_for(lambda: errors, what="the report")
    assert [type(error) for error in (*errors, *finished)] == [OverflowError] * 2


# -- consumers that go away --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fetch one", "fetch many", "iterate", "next_msg"])
@pytest.mark.parametrize("what", ["consumer", "stream"])
def test_deleting_ends_whoever_waits(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor, how: str, what: str
) -> None:
    ended: List[BaseException] = []
    calls: Dict[str, Callable[[], object]] = {
        "fetch one": lambda: sub.fetch(1, timeout=20),
        "fetch many": lambda: sub.fetch(10, timeout=20),
        "iterate": lambda: list(sub),
        "next_msg": lambda: sub.next_msg(timeout=20),
    }

    def wait() -> None:
        try:
            calls[how]()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: js.consumer_info(stream, "workers").num_waiting, what="the request to be under way")
    if what == "consumer":
        js.delete_consumer(stream, "workers")
    else:
        js.delete_stream(stream)
    thread.join(10)
    (error,) = ended
    assert isinstance(error, nats.js.errors.APIError)
    assert "Deleted" in str(error) or isinstance(error, nats.js.errors.NotFoundError)


def test_a_fetch_from_a_consumer_that_is_gone_says_so(js: JetStream, stream: str, sub: PullSubscription) -> None:
    js.delete_consumer(stream, "workers")
    start = time.monotonic()
    with pytest.raises(nats.js.errors.NotFoundError, match="consumer not found"):
        sub.fetch(1, timeout=20)
    with pytest.raises(nats.js.errors.NotFoundError, match="consumer not found"):
        next(iter(sub))
    with pytest.raises(nats.js.errors.NotFoundError, match="consumer not found"):
        sub.consumer_info()
    assert time.monotonic() - start < 10


def test_a_request_that_the_consumer_refuses_says_why(js: JetStream, pool: Pool, stream: str) -> None:
    config = {"durable_name": "small", "ack_policy": "explicit", "max_batch": 2}  # nats-py knows no max_batch
    request = json.dumps({"stream_name": stream, "config": config}).encode()
    assert b"error" not in pool.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.small", request).data
    sub = js.pull_subscribe_bind("small", stream)
    with pytest.raises(nats.js.errors.APIError, match="Exceeded MaxRequestBatch") as raised:
        sub.fetch(5, timeout=10)
    assert raised.value.code == 409


def test_a_consumer_of_its_own_goes_with_the_subscription(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    sub = js.pull_subscribe(f"{stream}.>", stream=stream)
    assert [info.name for info in js.consumers_info(stream)] == [sub.consumer]
    sub.unsubscribe()
    wait_for(lambda: not js.consumers_info(stream), what="the consumer to be deleted")
    js.pull_subscribe(f"{stream}.>", stream=stream)  # nobody holds it
    gc.collect()
    wait_for(lambda: not js.consumers_info(stream), what="the consumer to be deleted")
    with js.pull_subscribe(f"{stream}.>", "durable", stream=stream):
        pass
    assert [info.name for info in js.consumers_info(stream)] == ["durable"]


def test_a_pool_that_closes_ends_whoever_reads(server: EmbeddedServer, stream: str, wait_for: WaitFor) -> None:
    ended: List[BaseException] = []
    with Pool(server.url) as pool:
        js = pool.jetstream()
        sub = js.pull_subscribe(f"{stream}.>", "closing", stream=stream)

        def wait() -> None:
            try:
                for _ in sub:
                    pass
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        wait_for(lambda: js.consumer_info(stream, "closing").num_waiting, what="the request to be under way")
    thread.join(5)
    assert [type(error) for error in ended] == [ClosedError]


def test_a_pool_with_consumers_ends_when_nobody_holds_it(
    server: EmbeddedServer, stream: str, monitor: Monitor, wait_for: WaitFor
) -> None:
    """Subscriptions that are read hold no pool, and a pool that nobody holds leaves no connection behind."""
    pool = Pool(server.url, name=stream)
    js = pool.jetstream()
    js.publish(f"{stream}.a", b"x")
    held = [js.pull_subscribe(f"{stream}.>", stream=stream), js.subscribe(f"{stream}.>"), js.ordered_consumer(stream)]
    assert len(monitor.connections(stream)) == 1
    del pool, js, held
    gc.collect()
    wait_for(lambda: not monitor.connections(stream), what="the connection to be closed")


def test_a_subject_without_a_stream_is_told_at_once(js: JetStream, unique: str) -> None:
    with pytest.raises(nats.js.errors.NotFoundError):
        js.pull_subscribe(unique, "workers")
    with pytest.raises(nats.js.errors.NotFoundError):
        js.pull_subscribe(unique, "workers", stream=unique)
    sub = js.pull_subscribe_bind("workers", unique)
    with pytest.raises(nats.js.errors.NotFoundError):
        sub.fetch(timeout=20)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused(js: JetStream, stream: str, sub: PullSubscription) -> None:
    for batch in (0, -1):
        with pytest.raises(ValueError, match="batch"):
            sub.fetch(batch)
    wrong: Any
    for wrong in (1.5, "1", None, True):
        with pytest.raises(TypeError, match="batch"):
            sub.fetch(wrong)
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            sub.fetch(1, timeout)
    for wrong in ("1", True):
        with pytest.raises(TypeError, match="timeout"):
            sub.fetch(1, wrong)
    with pytest.raises(ValueError, match="heartbeat"):
        sub.fetch(1, heartbeat=0)
    with pytest.raises(TypeError, match="handler"):
        sub.consume("no function")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_workers"):
        sub.consume(print, max_workers=0)
    with pytest.raises(ValueError, match="nak_delay must be a finite number of seconds"):
        sub.consume(print, nak_delay=float("inf"))
    for name in ("a.b", "a b", "", "a*", "a>", "a/b", "a\x00b", "\ud800", "a" * 5000):
        with pytest.raises(ValueError):
            js.pull_subscribe_bind(name, stream)
        with pytest.raises(ValueError):
            js.pull_subscribe_bind("workers", name)
    for name in ("a.b", "a b", "a*"):
        with pytest.raises(ValueError):
            js.pull_subscribe(f"{stream}.>", name, stream=stream)
        with pytest.raises(ValueError):
            js.pull_subscribe(f"{stream}.>", "workers", stream=name)
    for subject in ("a b", "a..b", "a\r\n"):
        with pytest.raises(BadSubjectError):
            js.pull_subscribe(subject, "workers", stream=stream)
    assert js._pool.stats().connections[0].reconnects == 0, "nothing of it may reach the server"


@pytest.mark.parametrize("prefix", [b"a" * 5000, b"*.", b">.", b"a b.", b"..", b"a\r\nPUB x 0\r\n\r\n", b"\xff."])
def test_an_inbox_that_cannot_be_one_is_refused(js: JetStream, stream: str, prefix: bytes) -> None:
    js.add_consumer(stream, durable_name="d")
    with pytest.raises(BadSubjectError, match="inbox_prefix"):
        js.pull_subscribe_bind("d", stream, inbox_prefix=prefix)
    with pytest.raises(BadSubjectError, match="inbox_prefix"):
        js.pull_subscribe(f"{stream}.>", stream=stream, inbox_prefix=prefix)
    wrong: Any
    for wrong in ("mine.", 5):
        with pytest.raises(TypeError, match="inbox_prefix must be bytes"):
            js.pull_subscribe(f"{stream}.>", stream=stream, inbox_prefix=wrong)
    assert [info.name for info in js.consumers_info(stream)] == ["d"]
    assert js._pool.stats().connections[0].reconnects == 0, "nothing of it may reach the server"


@pytest.mark.parametrize("prefix", [b"", b"mine.", b"mine"])
def test_an_inbox_may_be_somewhere_else(js: JetStream, stream: str, prefix: bytes) -> None:
    fill(js, stream, 1)
    with js.pull_subscribe(f"{stream}.>", stream=stream, inbox_prefix=prefix) as sub:
        assert numbers(sub.fetch()) == [0]


@pytest.mark.parametrize("heartbeat", [1e300, 601, 0.09, 1e-9])
def test_a_heartbeat_that_cannot_be_heard_is_refused(sub: PullSubscription, heartbeat: float) -> None:
    calls: List[Callable[[], object]] = [
        lambda: sub.messages(heartbeat=heartbeat),
        lambda: sub.consume(print, heartbeat=heartbeat),
        lambda: sub.fetch(1, timeout=0.1, heartbeat=heartbeat),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="heartbeat must be between") as raised:
            call()
        assert str(raised.value) == f"heartbeat must be between 0.1 and 600 seconds, not {heartbeat!r}"


def test_wrong_arguments_of_an_iteration_are_refused_at_once(sub: PullSubscription) -> None:
    with pytest.raises(ValueError, match="batch"):
        sub.messages(batch=0)
    with pytest.raises(TypeError, match="heartbeat"):
        sub.messages(heartbeat=None)  # type: ignore[arg-type]


def test_the_callers_configuration_stays_as_it_is(js: JetStream, stream: str) -> None:
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT)
    before = config.as_dict()
    with js.pull_subscribe(f"{stream}.>", stream=stream, config=config):
        assert config.as_dict() == before
        assert config.filter_subject is None


def test_messages_survive_a_restart_of_the_server(make_nats_server: Any, unique: str) -> None:
    server = make_nats_server(jetstream=True)
    with Pool(server.url) as pool:
        js = pool.jetstream()
        js.add_stream(name=unique, subjects=[f"{unique}.>"], storage=StorageType.FILE)
        sub = js.pull_subscribe(f"{unique}.>", "workers", stream=unique, config=ConsumerConfig(ack_wait=1))
        fill(js, unique, 20)
        for message in sub.fetch(10):
            message.ack_sync()
        server.restart()
        assert numbers(sub.fetch(10, timeout=20)) == list(range(10, 20))
