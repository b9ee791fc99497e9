"""Push consumers and ordered ones: reading, handlers, flow control, and what is lost on the way."""

from __future__ import annotations

import datetime
import gc
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Set

import nats.js.errors
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StorageType
from procs import WaitFor

from natsbridge import (
    BadSubjectError,
    ClosedError,
    FetchTimeoutError,
    JetStream,
    JetStreamMessage,
    OrderedConsumer,
    Pool,
    PushSubscription,
    SlowConsumerError,
    pushing,
)
from natsbridge.server import EmbeddedServer


def fill(js: JetStream, stream: str, count: int, subject: str = "a", start: int = 0) -> None:
    js.publish_many((f"{stream}.{subject}", b"%d" % n) for n in range(start, start + count))


def take(sub: Any, count: int) -> List[int]:
    return [int(sub.next_msg(timeout=10).data) for _ in range(count)]


# -- push consumers ----------------------------------------------------------------------------------------------------


def test_messages_are_read_one_by_one(js: JetStream, stream: str) -> None:
    fill(js, stream, 3)
    with js.subscribe(f"{stream}.>") as sub:
        assert isinstance(sub, PushSubscription)
        first = sub.next_msg(timeout=10)
        first.ack()
        assert (first.data, first.metadata.stream) == (b"0", stream)
        assert take(sub, 2) == [1, 2]
        assert sub.delivered == 3
        assert (sub.pending_msgs, sub.pending_bytes, sub.dropped) == (0, 0, 0)
        with pytest.raises(FetchTimeoutError, match=r"within 0\.05 s"):
            sub.next_msg(timeout=0.05)
        assert sub.consumer_info().name == sub.consumer
    with pytest.raises(ClosedError, match="has ended"):
        sub.next_msg()
    assert list(sub) == []


def test_an_iteration_ends_with_the_subscription(js: JetStream, stream: str) -> None:
    fill(js, stream, 10)
    sub = js.subscribe(f"{stream}.>", durable="d")
    seen: List[int] = []
    for message in sub:
        message.ack()
        seen.append(int(message.data))
        if len(seen) == 10:
            threading.Timer(0.1, sub.unsubscribe).start()
    assert seen == list(range(10))
    assert not sub.active


def test_a_handlers_messages_are_acknowledged(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    fill(js, stream, 50)
    seen: List[int] = []

    def handler(message: JetStreamMessage) -> None:
        assert threading.current_thread().name.startswith("natsbridge-")
        seen.append(int(message.data))

    js.subscribe(f"{stream}.>", durable="d", cb=handler)
    gc.collect()  # nobody needs to hold it
    wait_for(lambda: len(seen) == 50, what="all messages")
    wait_for(lambda: js.consumer_info(stream, "d").num_ack_pending == 0, what="the acknowledgements")
    assert seen == list(range(50))


def test_a_handler_that_raises_gives_the_message_back(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    fill(js, stream, 1)
    delivered: List[int] = []

    def handler(message: JetStreamMessage) -> None:
        delivered.append(message.metadata.num_delivered)
        if len(delivered) < 3:
            raise RuntimeError("not yet")

    with js.subscribe(f"{stream}.>", durable="d", cb=handler, nak_delay=0.01):
        wait_for(lambda: len(delivered) == 3, what="the third delivery")
        wait_for(lambda: js.consumer_info(stream, "d").num_ack_pending == 0, what="the acknowledgement")
    assert delivered == [1, 2, 3]


def test_acknowledging_may_be_the_handlers(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    fill(js, stream, 2)
    kept: List[JetStreamMessage] = []
    with js.subscribe(f"{stream}.>", durable="d", cb=kept.append, manual_ack=True, nak_on_error=False):
        wait_for(lambda: len(kept) == 2, what="both")
        assert js.consumer_info(stream, "d").num_ack_pending == 2


def test_members_of_a_queue_share_the_messages(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    seen: List[List[int]] = [[], []]
    subs = [
        js.subscribe(f"{stream}.>", "workers", cb=lambda message, mine=mine: mine.append(int(message.data)))  # type: ignore[misc]
        for mine in seen
    ]
    fill(js, stream, 100)
    wait_for(lambda: sum(map(len, seen)) == 100, what="all messages")
    assert sorted(seen[0] + seen[1]) == list(range(100))
    assert all(seen)
    for sub in subs:
        sub.unsubscribe()


def test_handlers_run_on_as_many_threads_as_allowed(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    fill(js, stream, 6)
    running: List[int] = []
    go = threading.Event()

    def handler(message: JetStreamMessage) -> None:
        running.append(int(message.data))
        go.wait(20)

    sub = js.subscribe(f"{stream}.>", cb=handler, max_workers=3)
    wait_for(lambda: len(running) == 3, what="three handlers")
    time.sleep(0.05)
    assert len(running) == 3
    go.set()
    wait_for(lambda: len(running) == 6, what="the rest")
    sub.drain(10)


def test_drain_hands_out_what_had_arrived(js: JetStream, stream: str) -> None:
    fill(js, stream, 20)
    sub = js.subscribe(f"{stream}.>", durable="d")
    sub.next_msg(10)
    sub.drain()
    fill(js, stream, 5, start=20)
    assert [int(message.data) for message in sub] == list(range(1, 20))


def test_flow_control_waits_for_a_slow_reader(js: JetStream, stream: str) -> None:
    """The server sends on once what it sent was taken; nothing is dropped, however slow the reader is."""
    payload = bytes(1000)
    js.publish_many((f"{stream}.a", payload) for _ in range(3000))
    with js.subscribe(f"{stream}.>", config=ConsumerConfig(ack_policy=AckPolicy.NONE), flow_control=True,
                      idle_heartbeat=1.0) as sub:  # fmt: skip
        time.sleep(0.3)
        assert sub.delivered < 3000, "the server did not wait"
        assert sum(1 for _ in zip(range(3000), sub)) == 3000
        assert sub.dropped == 0


def test_a_reader_that_is_too_slow_drops_the_rest(server: EmbeddedServer, stream: str, wait_for: WaitFor) -> None:
    errors: List[Exception] = []
    with Pool(server.url, error_callback=errors.append) as pool:
        js = pool.jetstream()
        fill(js, stream, 10)
        sub = js.subscribe(f"{stream}.>", config=ConsumerConfig(ack_wait=0.3), pending_msgs_limit=4)
        wait_for(lambda: sub.dropped == 6, what="the rest to be dropped")
        wait_for(lambda: errors, what="the report")
        assert isinstance(errors[0], SlowConsumerError)
        seen: Set[int] = set()
        while len(seen) < 10:
            message = sub.next_msg(10)
            message.ack()
            seen.add(int(message.data))
        sub.unsubscribe()


def test_a_consumer_that_is_deleted_ends_reading(js: JetStream, stream: str) -> None:
    """Only heartbeats, or a reconnect, give a reason to ask for it."""
    sub = js.subscribe(f"{stream}.>", durable="d", idle_heartbeat=0.1)
    js.delete_consumer(stream, "d")
    with pytest.raises(nats.js.errors.NotFoundError, match="consumer not found"):
        sub.next_msg(timeout=20)
    with pytest.raises(nats.js.errors.NotFoundError):
        list(sub)
    assert not sub.active


def test_a_consumer_of_its_own_goes_with_the_subscription(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    sub = js.subscribe(f"{stream}.>")
    sub.unsubscribe()
    wait_for(lambda: not js.consumers_info(stream), what="the consumer to be deleted")
    js.subscribe(f"{stream}.>")
    gc.collect()
    wait_for(lambda: not js.consumers_info(stream), what="the consumer to be deleted")
    js.subscribe(f"{stream}.>", durable="d").unsubscribe()
    js.subscribe(f"{stream}.>", "q").unsubscribe()
    assert sorted(str(info.name) for info in js.consumers_info(stream)) == ["d", "q"]


def test_a_consumer_that_has_a_name_stays(js: JetStream, pool: Pool, stream: str, wait_for: WaitFor) -> None:
    """It may be somebody else's, and its position with it."""
    config = ConsumerConfig(name="shared", deliver_subject=pool.new_inbox(), inactive_threshold=3600)
    js.add_consumer(stream, config)
    js.subscribe(f"{stream}.>", stream=stream, config=config).unsubscribe()
    js.pull_subscribe(f"{stream}.>", stream=stream, config=ConsumerConfig(name="shared")).unsubscribe()
    js.subscribe(f"{stream}.>").unsubscribe()  # which is deleted after the others
    wait_for(lambda: len(js.consumers_info(stream)) <= 1, what="the consumers without a name to be deleted")
    assert [info.name for info in js.consumers_info(stream)] == ["shared"]


def test_a_consumer_that_exists_can_be_bound(js: JetStream, pool: Pool, stream: str) -> None:
    fill(js, stream, 2)
    config = ConsumerConfig(durable_name="d", deliver_subject=pool.new_inbox())
    js.add_consumer(stream, config)
    with js.subscribe_bind(stream, config, "d") as sub:
        assert take(sub, 2) == [0, 1]
    with pytest.raises(nats.js.errors.Error, match="no push consumer: use pull_subscribe"):
        js.subscribe_bind(stream, ConsumerConfig(), "d")


def test_a_pool_that_closes_ends_readers_and_handlers(server: EmbeddedServer, stream: str) -> None:
    ended: List[BaseException] = []
    with Pool(server.url) as pool:
        js = pool.jetstream()
        sub = js.subscribe(f"{stream}.>")
        js.subscribe(f"{stream}.>", cb=print)

        def wait() -> None:
            try:
                sub.next_msg(timeout=30)
            except BaseException as error:
                ended.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
    thread.join(5)
    assert [type(error) for error in ended] == [ClosedError]


def test_a_durable_consumer_survives_a_restart(make_nats_server: Any, unique: str) -> None:
    server = make_nats_server(jetstream=True)
    with Pool(server.url) as pool:
        js = pool.jetstream()
        js.add_stream(name=unique, subjects=[f"{unique}.>"], storage=StorageType.FILE)
        sub = js.subscribe(f"{unique}.>", durable="d", config=ConsumerConfig(ack_wait=1))
        fill(js, unique, 3)
        for _ in range(3):
            sub.next_msg(10).ack_sync()
        server.restart()
        pool.flush(20)
        js.with_timeout(20).publish(f"{unique}.a", b"3")
        assert take(sub, 1) == [3]


def test_a_message_may_have_a_header_called_status(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    """Heartbeats and flow control have one too."""
    seen: List[Optional[str]] = []

    def handler(message: JetStreamMessage) -> None:
        seen.append((message.headers or {}).get("Status"))

    config = ConsumerConfig(flow_control=True, idle_heartbeat=0.3)
    with js.subscribe(f"{stream}.>", durable="d", cb=handler, config=config):
        for number in range(3):
            js.publish(f"{stream}.a", b"", headers={"Status": str(100 + number)})
        wait_for(lambda: len(seen) == 3, what="all messages")
    assert seen == ["100", "101", "102"]


@pytest.mark.parametrize("what", ["consumer", "stream"])
def test_a_reader_without_heartbeats_learns_that_the_consumer_is_gone(
    js: JetStream, unique: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(pushing, "_SILENCE", 0.5)
    js.add_stream(name=unique, subjects=[f"{unique}.>"])
    sub = js.subscribe(f"{unique}.>")
    if what == "consumer":
        js.delete_consumer(unique, sub.consumer)
    else:
        js.delete_stream(unique)
    with pytest.raises(nats.js.errors.NotFoundError):
        sub.next_msg(timeout=10)
    assert not sub.active
    if what == "consumer":
        js.delete_stream(unique)


def test_misuse_is_told(js: JetStream, stream: str) -> None:
    js.subscribe(f"{stream}.>", durable="d")
    sub = js.subscribe(f"{stream}.>", durable="e")
    with pytest.raises(nats.js.errors.Error, match="already bound"):
        js.subscribe(f"{stream}.>", durable="e")
    sub.unsubscribe()
    with pytest.raises(nats.js.errors.Error, match="cannot create queue subscription"):
        js.subscribe(f"{stream}.>", "q", durable="d")
    js.subscribe(f"{stream}.>", "q").unsubscribe()
    with pytest.raises(nats.js.errors.Error, match="with a deliver group"):
        js.subscribe(f"{stream}.>", durable="q")
    js.pull_subscribe(f"{stream}.>", "pulled", stream=stream)
    with pytest.raises(nats.js.errors.Error, match="no push consumer: use pull_subscribe"):
        js.subscribe(f"{stream}.>", durable="pulled")
    with pytest.raises(nats.js.errors.APIError, match="Consumer is push based"):
        js.pull_subscribe(f"{stream}.>", "q", stream=stream).fetch(timeout=20)


@pytest.mark.parametrize("subject", ["", "a b", "a..b", ".a", "a.", "a\r\nb"])
def test_wrong_subjects_are_refused(js: JetStream, stream: str, subject: str) -> None:
    with pytest.raises(BadSubjectError):
        js.subscribe(subject, stream=stream)
    with pytest.raises(BadSubjectError):
        js.ordered_consumer(stream, filter_subjects=subject)


@pytest.mark.parametrize("name", ["a.b", "a b", "a*", "a>", "a/b", "a\\b"])
def test_wrong_names_are_refused(js: JetStream, stream: str, name: str) -> None:
    for call in (
        lambda: js.subscribe(f"{stream}.>", stream=name),
        lambda: js.subscribe(f"{stream}.>", durable=name, stream=stream),
        lambda: js.subscribe(f"{stream}.>", name, stream=stream),
        lambda: js.subscribe_bind(name, ConsumerConfig(deliver_subject="x"), "d"),
        lambda: js.subscribe_bind(stream, ConsumerConfig(deliver_subject="x"), name),
        lambda: js.ordered_consumer(name),
    ):
        with pytest.raises(ValueError):
            call()
    assert js._pool.stats().connections[0].reconnects == 0, "nothing of it may reach the server"


# More than 4,096 bytes together, on which the server would hang up.
LONG_LINE: Dict[str, Any] = {"deliver_subject": "a" * 3000, "deliver_group": "b" * 3000}


@pytest.mark.parametrize(
    "delivery",
    [
        *({"deliver_subject": wrong} for wrong in ("a b", "a\r\nb", "*", "a.>", ".", "a" * 5000)),
        *({"deliver_subject": "mine", "deliver_group": wrong} for wrong in ("a b", "a\r\nb", "*", "g" * 5000)),
        LONG_LINE,
    ],
    ids=lambda delivery: str(list(delivery.items())[-1])[:40],
)
def test_where_to_deliver_is_checked(js: JetStream, stream: str, delivery: Dict[str, Any]) -> None:
    js.add_consumer(stream, durable_name="d", deliver_subject="mine")
    config = ConsumerConfig(**delivery)
    calls: List[Callable[[], object]] = [
        lambda: js.subscribe_bind(stream, config, "d"),
        lambda: js.subscribe(f"{stream}.>", config=config),
    ]
    for call in calls:
        with pytest.raises(BadSubjectError, match="deliver_" if delivery is not LONG_LINE else "bytes together"):
            call()
    assert len(js.consumers_info(stream)) == 1
    assert js._pool.stats().connections[0].reconnects == 0, "nothing of it may reach the server"


@pytest.mark.parametrize("name", ["d" * 5000, "a\x00b", "\ud800"], ids=["too long", "a control character", "no text"])
def test_names_that_fit_into_no_subject_are_refused(js: JetStream, stream: str, name: str) -> None:
    calls: List[Callable[[], object]] = [
        lambda: js.subscribe_bind(stream, ConsumerConfig(deliver_subject="mine"), name),
        lambda: js.subscribe_bind(name, ConsumerConfig(deliver_subject="mine"), "d"),
        lambda: js.ordered_consumer(name),
    ]
    for call in calls:
        with pytest.raises(BadSubjectError):
            call()
    js.stream_info(stream)  # the server has read what was sent before
    assert js._pool.stats().connections[0].reconnects == 0, "nothing of it may reach the server"


def test_wrong_kinds_are_refused(js: JetStream, stream: str) -> None:
    wrong: Any
    for wrong in ("print", 5):
        with pytest.raises(TypeError, match="cb"):
            js.subscribe(f"{stream}.>", cb=wrong)
    for wrong in (0, -1):
        with pytest.raises(ValueError):
            js.subscribe(f"{stream}.>", max_workers=wrong)
        with pytest.raises(ValueError):
            js.subscribe(f"{stream}.>", pending_msgs_limit=wrong)
    for wrong in (5, None, b"a"):
        with pytest.raises(TypeError):
            js.subscribe(wrong)
    for wrong in (5, b"mine"):
        with pytest.raises(TypeError, match=r"ConsumerConfig\.deliver_subject must be a str"):
            js.subscribe_bind(stream, ConsumerConfig(deliver_subject=wrong), "d")
        with pytest.raises(TypeError, match=r"ConsumerConfig\.deliver_group must be a str"):
            js.subscribe_bind(stream, ConsumerConfig(deliver_subject="mine", deliver_group=wrong), "d")
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="idle_heartbeat must be a finite number of seconds"):
            js.subscribe(f"{stream}.>", idle_heartbeat=wrong)
    with pytest.raises(ValueError, match="nak_delay must be a finite number of seconds"):
        js.subscribe(f"{stream}.>", cb=print, nak_delay=float("inf"))
    assert js.consumers_info(stream) == []


# -- ordered consumers -------------------------------------------------------------------------------------------------


def test_an_ordered_consumer_reads_all_in_order(js: JetStream, stream: str) -> None:
    fill(js, stream, 10_240)
    start = time.monotonic()
    with js.ordered_consumer(stream) as consumer:
        assert isinstance(consumer, OrderedConsumer)
        assert consumer.initial_pending == 10_240
        seen = [int(message.data) for _, message in zip(range(10_240), consumer)]
    assert seen == list(range(10_240))
    assert time.monotonic() - start < 20


def test_an_ordered_consumer_goes_on_where_an_iteration_was_left(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    fill(js, stream, 300)
    seen: List[int] = []
    with js.ordered_consumer(stream) as consumer:
        for count in (1, 50, 100):  # much was read ahead each time
            seen += [int(message.data) for _, message in zip(range(count), consumer)]
            seen += take(consumer, 1)
        consumer.unsubscribe()
        wait_for(lambda: consumer.pending_msgs == 0, what="the unread to be dropped")
    assert len(seen) == 154
    assert seen == list(range(154))


def test_nats_pys_way_to_ask_for_one(js: JetStream, stream: str, wait_for: WaitFor) -> None:
    fill(js, stream, 3)
    with js.subscribe(f"{stream}.>", ordered_consumer=True) as consumer:
        assert isinstance(consumer, OrderedConsumer)
        assert take(consumer, 3) == [0, 1, 2]
    seen: List[int] = []
    js.subscribe(f"{stream}.>", ordered_consumer=True, cb=lambda message: seen.append(int(message.data)))
    wait_for(lambda: seen == [0, 1, 2], what="the handler to get all")
    with pytest.raises(ValueError, match="no queue, no durable"):
        js.subscribe(f"{stream}.>", durable="d", ordered_consumer=True)  # type: ignore[call-overload]


def test_where_an_ordered_consumer_begins(js: JetStream, stream: str) -> None:
    fill(js, stream, 5)
    fill(js, stream, 2, subject="b", start=100)
    with js.ordered_consumer(stream, deliver_policy=DeliverPolicy.LAST_PER_SUBJECT) as consumer:
        assert take(consumer, 2) == [4, 101]
    with js.ordered_consumer(stream, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=4) as consumer:
        assert take(consumer, 3) == [3, 4, 100]
    with js.ordered_consumer(stream, filter_subjects=[f"{stream}.b", f"{stream}.c"]) as consumer:
        assert take(consumer, 2) == [100, 101]
    with js.ordered_consumer(stream, headers_only=True, filter_subjects=f"{stream}.b") as consumer:
        message = consumer.next_msg()
        assert (message.data, message.headers["Nats-Msg-Size"]) == (b"", "3")
    with js.ordered_consumer(stream, deliver_policy=DeliverPolicy.NEW) as consumer:
        assert consumer.initial_pending == 0
        fill(js, stream, 1, start=7)
        assert take(consumer, 1) == [7]


def test_what_an_ordered_consumer_cannot_be_is_refused_at_once(js: JetStream, stream: str) -> None:
    wrong: Any
    for wrong, error in (("x", TypeError), (float("nan"), ValueError), (1e12, ValueError)):
        start = time.monotonic()
        with pytest.raises(error, match=r"^inactive_threshold must be "):
            js.ordered_consumer(stream, inactive_threshold=wrong)
        assert time.monotonic() - start < 1.0
    for wrong in (5, datetime.date.today()):
        with pytest.raises(TypeError, match=r"ConsumerConfig\.opt_start_time must be a datetime or None"):
            js.ordered_consumer(stream, deliver_policy=DeliverPolicy.BY_START_TIME, opt_start_time=wrong)
    for wrong in ({"headers_only": True}, "x"):
        with pytest.raises(TypeError, match="config must be a ConsumerConfig"):
            js.subscribe(f"{stream}.>", ordered_consumer=True, config=wrong)
    with pytest.raises(TypeError, match="stream must be a str"):
        js.ordered_consumer(5)  # type: ignore[arg-type]
    assert js.consumers_info(stream) == []


def test_an_ordered_consumer_survives_the_loss_of_its_consumer(js: JetStream, stream: str) -> None:
    fill(js, stream, 10)
    consumer = js.ordered_consumer(stream)
    assert take(consumer, 5) == [0, 1, 2, 3, 4]
    first = consumer.consumer
    js.delete_consumer(stream, first)
    assert take(consumer, 5) == [5, 6, 7, 8, 9]
    assert consumer.consumer != first
    consumer.unsubscribe()


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize(
    ("policy", "there"), [(DeliverPolicy.NEW, []), (DeliverPolicy.LAST, [2]), (DeliverPolicy.ALL, [0, 1, 2])]
)
def test_an_ordered_consumer_that_has_read_nothing_yet_loses_nothing(
    js: JetStream, stream: str, policy: DeliverPolicy, there: List[int], before: int
) -> None:
    fill(js, stream, before)
    expected = [*there[:before], 3, 4, 5]
    with js.ordered_consumer(stream, deliver_policy=policy) as consumer:
        js.delete_consumer(stream, consumer.consumer)
        fill(js, stream, 3, start=3)
        assert take(consumer, len(expected)) == expected


def test_an_ordered_consumer_of_latest_messages_that_is_lost_meanwhile(js: JetStream, stream: str) -> None:
    """Former messages of a subject do not come, those that were read do not come again; afterwards all come."""
    js.publish_many((f"{stream}.{n}", data) for n in range(100) for data in (b"-1", b"%d" % n))
    with js.ordered_consumer(stream, deliver_policy=DeliverPolicy.LAST_PER_SUBJECT) as consumer:
        assert take(consumer, 2) == [0, 1]
        for number in (2, 3):
            js.delete_consumer(stream, consumer.consumer)
            assert take(consumer, 1) == [number]
        assert take(consumer, 96) == list(range(4, 100))
        js.delete_consumer(stream, consumer.consumer)
        fill(js, stream, 3)
        assert take(consumer, 3) == [0, 1, 2]


def test_an_ordered_consumer_mends_a_gap(js: JetStream, stream: str) -> None:
    fill(js, stream, 300)
    consumer = js.ordered_consumer(stream)
    seen: List[int] = []
    on_arrival = consumer._pulls.accepts
    lost = iter([False] * 50 + [True] + [False] * 30 + [True])

    def lossy(message: JetStreamMessage) -> bool:
        return False if next(lost, False) else on_arrival(message)

    consumer._pulls.accepts = lossy  # type: ignore[method-assign]
    for message in consumer:
        seen.append(int(message.data))
        if len(seen) == 300:
            break
    assert seen == list(range(300))
    consumer.unsubscribe()


def test_an_ordered_consumer_survives_a_restart(make_nats_server: Any, unique: str) -> None:
    server = make_nats_server(jetstream=True)
    with Pool(server.url) as pool:
        js = pool.jetstream()
        js.add_stream(name=unique, subjects=[f"{unique}.>"], storage=StorageType.FILE)
        fill(js, unique, 20)
        consumer = js.ordered_consumer(unique)
        assert take(consumer, 10) == list(range(10))
        server.restart()
        assert take(consumer, 10) == list(range(10, 20))


def test_an_ordered_consumer_ends_with_its_stream(js: JetStream, stream: str) -> None:
    consumer = js.ordered_consumer(stream)
    js.delete_stream(stream)
    with pytest.raises(nats.js.errors.NotFoundError, match="stream not found"):
        consumer.next_msg(timeout=30)
    with pytest.raises(nats.js.errors.NotFoundError, match="stream not found"):
        js.ordered_consumer(stream)


def test_messages_of_an_ordered_consumer_need_no_acknowledgement(js: JetStream, stream: str) -> None:
    fill(js, stream, 1)
    with js.ordered_consumer(stream) as consumer:
        message = consumer.next_msg()
        message.ack()
        assert (message.metadata.num_pending, message.metadata.sequence.stream) == (0, 1)
