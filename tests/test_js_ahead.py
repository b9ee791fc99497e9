"""What becomes of messages that were asked for ahead of their reader, or for one that has gone: none is lost by it."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any, Callable, List, Set

import pytest
from nats.js.api import AckPolicy, ConsumerConfig, StorageType
from procs import WaitFor

from natsbridge import FetchTimeoutError, JetStream, JetStreamMessage, PermissionDeniedError, Pool, PullSubscription
from natsbridge.server import EmbeddedServer

COUNT = 1000


class Interrupt(BaseException):
    """What comes out of the blue, as KeyboardInterrupt does."""


def fill(js: JetStream, stream: str, count: int = COUNT) -> None:
    js.publish_many((f"{stream}.a", b"%d" % n) for n in range(count))


def rest(sub: PullSubscription, count: int) -> List[int]:
    """So many more messages, each acknowledged."""
    numbers: List[int] = []
    while len(numbers) < count:
        for message in sub.fetch(count - len(numbers), timeout=10):
            message.ack()
            numbers.append(int(message.data))
    return numbers


def read(sub: PullSubscription, count: int, work: float = 0.0) -> List[int]:
    """Iterate, work so many seconds on each, and break after so many."""
    numbers: List[int] = []
    for message in sub:
        time.sleep(work)
        message.ack()
        numbers.append(int(message.data))
        if len(numbers) == count:
            break
    return numbers


def delivered(js: JetStream, sub: PullSubscription) -> int:
    """How many messages the consumer has delivered, those that it delivered again included."""
    info = js.consumer_info(sub.stream, sub.consumer)
    assert info.delivered is not None
    return info.delivered.consumer_seq


def interrupted(call: Callable[[], object], when: Callable[[], object], wait_for: WaitFor) -> None:
    """``call`` in a thread, and out of it again, by an exception, once ``when`` is true."""
    outcome: List[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(type(error))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait_for(when, what="the call to be under way")
    finally:
        assert thread.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupt))
        thread.join(10)
    assert outcome == [Interrupt]


@pytest.fixture
def sub(js: JetStream, stream: str) -> PullSubscription:
    return js.pull_subscribe(f"{stream}.>", "workers", stream=stream)


def consumer(js: JetStream, stream: str, **config: Any) -> PullSubscription:
    return js.pull_subscribe(f"{stream}.>", "workers", stream=stream, config=ConsumerConfig(**config))


# -- the end of an iteration -------------------------------------------------------------------------------------------


def test_an_iteration_reads_ahead(js: JetStream, stream: str, sub: PullSubscription) -> None:
    fill(js, stream)
    most = 0
    for read, message in enumerate(sub, 1):
        message.ack()
        most = max(most, sub.pending_msgs)
        if read == COUNT:
            break
    assert most > 20


@pytest.mark.parametrize("how", ["iterate", "fetch", "next_msg"])
def test_an_ordered_consumer_goes_on_where_a_break_left_it(js: JetStream, stream: str, how: str) -> None:
    fill(js, stream)
    sub = js.ordered_consumer(stream)
    numbers = read(sub, 300)
    if how == "iterate":
        numbers += read(sub, 300)
    elif how == "fetch":
        numbers += rest(sub, 300)
    else:
        numbers += [int(sub.next_msg(10).data) for _ in range(300)]
    assert numbers + read(sub, COUNT - 600) == list(range(COUNT))
    sub.unsubscribe()


def test_a_break_leaves_nothing_with_the_server(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor
) -> None:
    """What is published later is for whoever asks, and comes to nobody else before."""
    fill(js, stream)
    assert read(sub, COUNT) == list(range(COUNT))
    wait_for(lambda: js.consumer_info(stream, "workers").num_waiting == 0, what="the requests to be withdrawn")
    fill(js, stream, 1)
    (message,) = js.pull_subscribe_bind("workers", stream).fetch(1, timeout=10)
    assert message.metadata.num_delivered == 1
    assert sub.delivered == COUNT


def test_what_nobody_reads_is_given_back_to_others_once(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor
) -> None:
    fill(js, stream)
    read(sub, 300)
    other = js.pull_subscribe_bind("workers", stream)
    assert set(rest(other, COUNT - 300)) == set(range(300, COUNT))
    assert sub.pending_msgs == 0
    assert delivered(js, sub) <= COUNT + 500


def test_who_breaks_leaves_what_was_read_ahead_to_those_who_go_on(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor
) -> None:
    fill(js, stream)
    mine: List[int] = []
    others: List[int] = []
    reads, left = threading.Event(), threading.Event()

    def go_on() -> None:
        for message in sub:
            message.ack()
            others.append(int(message.data))
            reads.set()
            left.wait(20)

    thread = threading.Thread(target=go_on)
    for message in sub:
        message.ack()
        mine.append(int(message.data))
        if len(mine) == 100:
            thread.start()
            assert reads.wait(20)
            assert sub.pending_msgs
            break
    left.set()
    wait_for(lambda: len(mine) + len(others) == COUNT, what="the rest")
    sub.unsubscribe()
    thread.join(10)
    assert sorted(mine + others) == list(range(COUNT))
    assert delivered(js, sub) == COUNT


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_no_delivery_is_used_up_unread(js: JetStream, stream: str, most: int) -> None:
    """Readers come and go: what they had read ahead is delivered again, as often as it takes."""
    fill(js, stream, 300)
    sub = consumer(js, stream, max_deliver=most)
    numbers: Set[int] = set()
    for _ in range(20):
        numbers.update(read(sub, 7, work=0.003))
        sub.unsubscribe()
        sub = js.pull_subscribe_bind("workers", stream)
    assert len(numbers) == 140
    assert numbers | set(rest(sub, 160)) == set(range(300))


@pytest.mark.parametrize("config", [{"ack_policy": AckPolicy.NONE}, {"max_deliver": 1}], ids=["no ack", "once"])
def test_what_would_not_come_again_is_not_read_ahead(js: JetStream, stream: str, config: Any) -> None:
    fill(js, stream)
    numbers: List[int] = []
    reached, go = threading.Event(), threading.Event()

    def handler(message: JetStreamMessage) -> None:
        numbers.append(int(message.data))
        if len(numbers) == 300:
            reached.set()
            go.wait(20)

    sub = consumer(js, stream, **config)
    assert read(sub, 100) == list(range(100))
    consuming = sub.consume(handler)
    assert reached.wait(20)
    consuming.stop()
    go.set()
    consuming.drain(10)
    assert numbers == list(range(100, 400))
    assert rest(js.pull_subscribe_bind("workers", stream), COUNT - 400) == list(range(400, COUNT))


def test_a_client_that_may_not_know_the_consumer_reads_one_at_a_time(wait_for: WaitFor) -> None:
    config = (
        "jetstream: {}\nauthorization: { users: [{ user: u, password: p, "
        'permissions: { publish: { deny: ["$JS.API.CONSUMER.INFO.S.workers"] } } }, { user: all, password: p }] }\n'
    )
    errors: List[Exception] = []
    with EmbeddedServer(config_text=config) as server, Pool(server.url, user="all", password="p") as admin:
        js = admin.jetstream()
        js.add_stream(name="S", subjects=["S.>"], storage=StorageType.MEMORY)
        js.add_consumer("S", durable_name="workers", max_deliver=1)
        fill(js, "S")
        with Pool(server.url, user="u", password="p", error_callback=errors.append) as pool:
            sub = pool.jetstream().pull_subscribe_bind("workers", "S")
            assert read(sub, 300) == list(range(300))
            wait_for(lambda: errors, what="the report")
        assert rest(js.pull_subscribe_bind("workers", "S"), COUNT - 300) == list(range(300, COUNT))
    assert [type(error) for error in errors] == [PermissionDeniedError]


def test_a_break_while_disconnected_leaves_a_subscription_that_can_be_read(
    make_nats_server: Any, unique: str, wait_for: WaitFor
) -> None:
    server: EmbeddedServer = make_nats_server(jetstream=True)
    with Pool(server.url) as pool:
        js = pool.jetstream()
        js.add_stream(name=unique, subjects=[f"{unique}.>"], storage=StorageType.FILE)
        sub = js.pull_subscribe(f"{unique}.>", "workers", stream=unique, config=ConsumerConfig(ack_wait=1))
        fill(js, unique)
        numbers: List[int] = []
        for message in sub:
            message.ack()
            numbers.append(int(message.data))
            if len(numbers) == 100:
                server.kill()
                wait_for(lambda: not pool.is_connected, what="the loss of the connection")
                break
        server.restart()
        seen = {*numbers}
        while len(seen) < COUNT:
            seen.update(read(sub, 50) if len(seen) < 500 else rest(sub, 1))
    assert seen == set(range(COUNT))


# -- calls that are over -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.3, 0.01, 0.001, 0])
def test_next_msg_that_came_to_nothing_leaves_nothing_with_the_server(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor, timeout: float
) -> None:
    for _ in range(5):
        with pytest.raises(FetchTimeoutError):
            sub.next_msg(timeout)
    wait_for(lambda: js.consumer_info(stream, "workers").num_waiting == 0, timeout=5, what="the requests to be over")
    fill(js, stream, 1)
    (message,) = js.pull_subscribe_bind("workers", stream).fetch(1, timeout=10)
    assert message.metadata.num_delivered == 1


def test_next_msg_without_time_gets_what_has_come_for_the_one_before(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor
) -> None:
    fill(js, stream, 1)

    def come() -> bool:
        try:
            return sub.next_msg(0).data == b"0"
        except FetchTimeoutError:
            return False

    wait_for(come, what="the message")


@pytest.mark.parametrize("how", ["fetch", "next_msg", "iterate"])
def test_an_interrupt_withdraws_what_was_asked_for(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor, how: str
) -> None:
    calls = {"fetch": lambda: sub.fetch(5, 60), "next_msg": lambda: sub.next_msg(60), "iterate": lambda: next(iter(sub))}
    interrupted(calls[how], lambda: js.consumer_info(stream, "workers").num_waiting, wait_for)
    wait_for(lambda: js.consumer_info(stream, "workers").num_waiting == 0, what="the request to be withdrawn")
    fill(js, stream, 1)
    (message,) = js.pull_subscribe_bind("workers", stream).fetch(1, timeout=10)
    assert message.metadata.num_delivered == 1
    assert sub.delivered == 0


def interrupt_in_the_middle(js: JetStream, sub: PullSubscription, wait_for: WaitFor) -> None:
    """Of a fetch of two messages, when it has one."""

    def has_one() -> bool:
        if not js.consumer_info(sub.stream, "workers").num_waiting:
            return False
        if js.stream_info(sub.stream).state.messages == 0:
            fill(js, sub.stream, 1)
        return sub.delivered == 1 and sub.pending_msgs == 0

    interrupted(lambda: sub.fetch(2, timeout=60), has_one, wait_for)


def test_what_an_interrupted_fetch_had_taken_is_given_back(
    js: JetStream, stream: str, sub: PullSubscription, wait_for: WaitFor
) -> None:
    interrupt_in_the_middle(js, sub, wait_for)
    (message,) = js.pull_subscribe_bind("workers", stream).fetch(1, timeout=10)
    assert message.metadata.num_delivered == 2


@pytest.mark.parametrize("config", [{"ack_policy": AckPolicy.NONE}, {"max_deliver": 1}], ids=["no ack", "once"])
def test_what_would_not_come_again_is_kept_for_the_next_call(
    js: JetStream, stream: str, wait_for: WaitFor, config: Any
) -> None:
    sub = consumer(js, stream, **config)
    interrupt_in_the_middle(js, sub, wait_for)
    assert rest(sub, 1) == [0]


def test_what_was_never_read_and_does_not_come_again_is_reported(
    server: EmbeddedServer, js: JetStream, stream: str, wait_for: WaitFor
) -> None:
    errors: List[Exception] = []
    with Pool(server.url, error_callback=errors.append) as pool:
        sub = consumer(pool.jetstream(), stream, max_deliver=1)
        interrupt_in_the_middle(js, sub, wait_for)
        wait_for(lambda: sub._pulls.terms.known, what="the consumer to be known")
        sub.unsubscribe()
        wait_for(lambda: errors, what="the report")
    assert f"the subscription to '{stream}.workers' ended with 1 unread" in str(errors[0])
