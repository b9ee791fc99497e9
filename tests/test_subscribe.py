"""Ordinary subscriptions: iterators, handlers, queue groups, draining, slow readers."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from typing import List, Tuple

import pytest
from procs import LONG, WaitFor, posix_only, stop

from natsbridge import (
    BadSubjectError,
    ClosedError,
    Message,
    NatsBridgeError,
    NoRespondersError,
    Pool,
    RequestTimeoutError,
    SlowConsumerError,
    Subscription,
    subscription,
)
from natsbridge.server import EmbeddedServer

SHORT = 3.0


def publish(pool: Pool, subject: str, count: int, size: int = 0) -> None:
    for n in range(count):
        pool.publish(subject, (b"%d " % n).ljust(size, b"x"))
    pool.flush()


def number(message: Message) -> int:
    return int(message.data.split()[0])


# -- reading ----------------------------------------------------------------------------------------------------------


def test_iterating_yields_messages_until_unsubscribed(pool: Pool, unique: str) -> None:
    sub = pool.subscribe(unique)
    publish(pool, unique, 10)
    seen: List[int] = []
    for message in sub:
        seen.append(number(message))
        if len(seen) == 5:
            sub.unsubscribe()
    assert seen == [0, 1, 2, 3, 4]  # what was not read yet is dropped
    assert not sub.active
    assert list(sub) == []
    with pytest.raises(ClosedError, match="has ended"):
        sub.next_msg(LONG)


def test_a_subscription_hears_what_is_published_once_subscribe_has_returned(
    server: EmbeddedServer, pool: Pool, unique: str
) -> None:
    with Pool(server.url) as other:
        for n in range(50):
            with pool.subscribe(f"{unique}.{n}") as sub:
                other.publish(f"{unique}.{n}", b"x")
                assert sub.next_msg(LONG).data == b"x"


def test_next_msg_waits_for_a_while(pool: Pool, unique: str) -> None:
    with pool.subscribe(unique) as sub:
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=rf"no message came on '{unique}' within 0\.1 s"):
            sub.next_msg(0.1)
        assert 0.1 <= time.monotonic() - began < SHORT
        with pytest.raises(RequestTimeoutError):
            sub.next_msg(0)
        pool.publish(unique, b"x")
        assert sub.next_msg(None).data == b"x"


def test_unsubscribing_wakes_whoever_waits(pool: Pool, unique: str) -> None:
    sub = pool.subscribe(unique)
    outcome: List[object] = []
    started = threading.Event()

    def read() -> None:
        started.set()
        outcome.append(list(sub))

    thread = threading.Thread(target=read)
    thread.start()
    assert started.wait(LONG)
    sub.unsubscribe()
    sub.close()  # again, under its other name
    thread.join(LONG)
    assert outcome == [[]]


def test_a_subscription_may_end_after_so_many_messages(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    sub = pool.subscribe(unique, max_msgs=3)
    publish(pool, unique, 5)
    assert [number(message) for message in sub] == [0, 1, 2]
    assert sub.delivered == 3
    assert not sub.active
    wait_for(lambda: pool.stats().subscriptions == 1, what="the end of the subscription")
    handled: List[int] = []
    sub = pool.subscribe(unique, max_msgs=3, handler=lambda message: handled.append(number(message)))
    publish(pool, unique, 5)
    wait_for(lambda: len(handled) == 3 and pool.stats().subscriptions == 1, what="the end of the subscription")
    assert handled == [0, 1, 2]


def test_unsubscribing_may_wait_for_so_many_messages(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    sub = pool.subscribe(unique)
    publish(pool, unique, 2)
    sub.unsubscribe(limit=4)
    publish(pool, unique, 5)
    assert [number(message) for message in sub] == [0, 1, 0, 1]
    sub = pool.subscribe(unique)
    publish(pool, unique, 2)
    wait_for(lambda: sub.pending_msgs == 2, what="both messages")
    assert sub.pending_bytes == 4
    sub.unsubscribe(limit=1)  # more have come already: all of these are handed out
    assert [number(message) for message in sub] == [0, 1]
    for wrong in (-1, 1.5, "1", True):
        with pytest.raises((TypeError, ValueError)):
            sub.unsubscribe(wrong)  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError)):
            pool.subscribe(unique, max_msgs=wrong)  # type: ignore[arg-type]


def test_wildcards(pool: Pool, unique: str) -> None:
    with pool.subscribe(f"{unique}.*.end") as star, pool.subscribe(f"{unique}.>") as rest:
        for subject in ("a.end", "b.end", "a.b.end", "a"):
            pool.publish(f"{unique}.{subject}")
        pool.flush()
        assert [star.next_msg(LONG).subject for _ in range(2)] == [f"{unique}.a.end", f"{unique}.b.end"]
        assert star.pending == 0
        assert len([rest.next_msg(LONG) for _ in range(4)]) == 4


def test_several_threads_share_a_subscription(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    sub = pool.subscribe(unique)
    seen: List[int] = []

    def read() -> None:
        for message in sub:
            seen.append(number(message))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    publish(pool, unique, 3000)
    wait_for(lambda: len(seen) == 3000)
    sub.unsubscribe()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert sorted(seen) == list(range(3000))


def test_two_subscriptions_each_get_everything(pool: Pool, unique: str) -> None:
    with pool.subscribe(unique) as one, pool.subscribe(unique) as other:
        publish(pool, unique, 5)
        for sub in (one, other):
            assert [number(sub.next_msg(LONG)) for _ in range(5)] == [0, 1, 2, 3, 4]


def test_looking_at_a_subscription(pool: Pool, unique: str) -> None:
    sub = pool.subscribe(unique, queue="workers")
    assert (sub.subject, sub.queue, sub.active, sub.pending, sub.dropped) == (unique, "workers", True, 0, 0)
    publish(pool, unique, 3)
    assert sub.pending == 3
    assert repr(sub) == f"<Subscription '{unique}' queue='workers' active, 3 pending, 0 dropped>"
    sub.unsubscribe()
    assert "ended" in repr(sub)


@pytest.mark.parametrize("count", [10, 1023, 1024, 1025, 3000])
def test_pending_counts_every_message_that_has_arrived(pool: Pool, unique: str, count: int) -> None:
    with pool.subscribe(unique) as sub:
        publish(pool, unique, count)
        assert sub.pending == count


def test_a_subscription_that_nobody_holds_ends(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    sub = pool.subscribe(unique)
    publish(pool, unique, 3)
    assert pool.stats().subscriptions == 2
    del sub
    wait_for(lambda: gc.collect() is not None and pool.stats().subscriptions == 1)


# -- handlers ---------------------------------------------------------------------------------------------------------


def test_a_handler_gets_one_message_at_a_time_in_order(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    seen: List[int] = []
    running: List[int] = []
    overlaps: List[int] = []

    def handle(message: Message) -> None:
        running.append(1)
        if len(running) > 1:
            overlaps.append(number(message))
        seen.append(number(message))
        running.pop()

    pool.subscribe(unique, handler=handle)
    publish(pool, unique, 5000)
    wait_for(lambda: len(seen) == 5000)
    assert seen == list(range(5000))
    assert overlaps == []


def test_a_handler_runs_on_the_pools_named_threads(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    names: List[str] = []
    pool.subscribe(unique, handler=lambda message: names.append(threading.current_thread().name))
    pool.publish(unique)
    wait_for(lambda: names)
    assert names == [f"natsbridge-{pool.name}-handler-1"]


def test_nobody_has_to_hold_a_subscription_with_a_handler(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    seen: List[bytes] = []
    pool.subscribe(unique, handler=lambda message: seen.append(message.data))
    gc.collect()
    pool.publish(unique, b"x")
    wait_for(lambda: seen)


def test_a_subscription_with_a_handler_cannot_be_read(pool: Pool, unique: str) -> None:
    sub = pool.subscribe(unique, handler=print)
    with pytest.raises(ClosedError, match="has a handler"):
        sub.next_msg(LONG)
    with pytest.raises(ClosedError, match="has a handler"):
        iter(sub)


def test_a_handler_that_fails_is_reported_and_goes_on(
    server: EmbeddedServer, unique: str, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    errors: List[Exception] = []
    seen: List[int] = []

    def handle(message: Message) -> None:
        if number(message) % 2:
            raise ValueError(f"message {number(message)}")
        seen.append(number(message))

    with Pool(server.url, error_callback=errors.append) as pool:
        pool.subscribe(unique, handler=handle)
        publish(pool, unique, 6)
        wait_for(lambda: len(seen) == 3 and len(errors) == 3)
    assert seen == [0, 2, 4]
    assert [str(error) for error in errors] == ["message 1", "message 3", "message 5"]
    assert f"the handler of '{unique}' failed" in caplog.text


def test_a_handler_that_exits_ends_no_more_than_itself(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    """``sys.exit()`` in a handler is a mistake, but not one that may silence the subscription for good."""
    seen: List[int] = []

    def handle(message: Message) -> None:
        if number(message) == 0:
            raise SystemExit(1)
        seen.append(number(message))

    with Pool(server.url, handler_threads=1) as pool:
        pool.subscribe(unique, handler=handle)
        publish(pool, unique, 3)
        wait_for(lambda: seen == [1, 2], timeout=SHORT, what="the messages behind the one that made the handler exit")


def test_a_slow_handler_holds_up_nobody_else(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    gate, started = threading.Event(), threading.Event()
    seen: List[int] = []

    def slow(message: Message) -> None:
        started.set()
        gate.wait(LONG)

    try:
        pool.subscribe(f"{unique}.slow", handler=slow)
        pool.subscribe(f"{unique}.quick", handler=lambda message: seen.append(number(message)))
        pool.subscribe(f"{unique}.echo", handler=lambda message: message.respond(message.data))
        publish(pool, f"{unique}.slow", 3000)
        assert started.wait(LONG)
        publish(pool, f"{unique}.quick", 100)
        wait_for(lambda: len(seen) == 100)
        assert pool.request(f"{unique}.echo", b"x", timeout=LONG).data == b"x"
        with pool.subscribe(f"{unique}.read") as sub:
            pool.publish(f"{unique}.read", b"y")
            assert sub.next_msg(LONG).data == b"y"
    finally:
        gate.set()


def test_a_busy_handler_gives_way_to_others_on_its_thread(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    with Pool(server.url, handler_threads=1) as pool:
        seen: List[str] = []
        gate, started = threading.Event(), threading.Event()

        def flood(message: Message) -> None:
            started.set()
            gate.wait(LONG)
            seen.append("flood")

        pool.subscribe(f"{unique}.flood", handler=flood)
        pool.subscribe(f"{unique}.other", handler=lambda message: seen.append("other"))
        publish(pool, f"{unique}.flood", 900)
        assert started.wait(LONG)
        pool.publish(f"{unique}.other")
        pool.flush()
        wait_for(lambda: pool.stats().handlers_queued == 1)
        gate.set()
        wait_for(lambda: len(seen) == 901)
        assert seen.index("other") <= subscription._TURN


def test_a_handler_may_unsubscribe_itself(pool: Pool, unique: str, wait_for: WaitFor) -> None:
    seen: List[int] = []
    subs: List[Subscription] = []
    ready = threading.Event()

    def handle(message: Message) -> None:
        ready.wait(LONG)
        seen.append(number(message))
        subs[0].unsubscribe()

    subs.append(pool.subscribe(unique, handler=handle))
    publish(pool, unique, 10)
    ready.set()
    wait_for(lambda: pool.stats().subscriptions == 1)
    publish(pool, unique, 10)
    wait_for(lambda: pool.stats().handlers_running == 0)
    assert seen == [0]


# -- responding -------------------------------------------------------------------------------------------------------


def test_responding(pool: Pool, unique: str) -> None:
    with pool.subscribe(unique) as sub, pool.subscribe(f"{unique}.reply") as replies:
        pool.publish(unique, b"x", reply=f"{unique}.reply")
        sub.next_msg(LONG).respond(b"y", {"Name": "value"})
        reply = replies.next_msg(LONG)
        assert (reply.data, reply.headers, reply.reply) == (b"y", {"Name": "value"}, "")


def test_responding_to_nobody_is_an_error(pool: Pool, unique: str) -> None:
    with pool.subscribe(unique) as sub:
        pool.publish(unique, b"x")
        with pytest.raises(NatsBridgeError, match="no reply subject"):
            sub.next_msg(LONG).respond(b"y")
    with pytest.raises(NatsBridgeError, match="no reply subject"):
        Message("a", b"b", "c").respond(b"d")


def test_a_message_shows_itself() -> None:
    assert repr(Message("a.b", b"xyz")) == "<Message 'a.b' 3 bytes>"
    assert repr(Message("a.b", b"", "c")) == "<Message 'a.b' 0 bytes reply='c'>"
    assert Message("a", b"").headers == {}


# -- queue groups -----------------------------------------------------------------------------------------------------


def test_a_queue_group_shares_the_messages(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    seen: List[Tuple[int, int]] = []
    with Pool(server.url) as other:
        for member, where in enumerate((pool, pool, other)):
            where.subscribe(unique, queue="workers", handler=lambda m, member=member: seen.append((member, number(m))))  # type: ignore[misc]
        with other.subscribe(unique) as outside:
            publish(pool, unique, 300)
            assert [number(outside.next_msg(LONG)) for _ in range(300)] == list(range(300))
        wait_for(lambda: len(seen) >= 300)
        pool.flush()
        other.flush()
    assert sorted(n for _, n in seen) == list(range(300))  # each of them once
    assert {member for member, _ in seen} == {0, 1, 2}


# -- draining ---------------------------------------------------------------------------------------------------------


def test_draining_hands_out_what_had_arrived(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    with Pool(server.url) as other:
        sub = pool.subscribe(unique)
        publish(other, unique, 500)
        sub.drain(LONG)
        publish(other, unique, 10)
        assert [number(message) for message in sub] == list(range(500))
        assert pool.stats().subscriptions == 1


def test_draining_hands_out_more_than_a_mailbox_holds(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    """First drain, then read what is left, in one thread: the most natural order."""
    with Pool(server.url) as other:
        sub = pool.subscribe(unique)
        publish(other, unique, 3000)
        sub.drain(SHORT)
        assert [number(message) for message in sub] == list(range(3000))


def test_draining_loses_nothing_to_a_slow_reader(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    """The reader pauses whenever there is just one message that the full mailbox does not hold."""
    with Pool(server.url) as other:
        sub = pool.subscribe(unique)
        publish(other, unique, 1026)
        drained = threading.Thread(target=sub.drain, args=(LONG,))
        drained.start()
        seen = [number(sub.next_msg(LONG))]
        drained.join(0.1)  # time enough for the loop to look
        seen += [number(message) for message in sub]
        drained.join(LONG)
        assert seen == list(range(1026))


def test_draining_loses_nothing_that_is_on_its_way(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    """The messages are in the socket still when draining begins."""
    gate = threading.Event()
    with Pool(server.url) as other:
        sub = pool.subscribe(unique)
        assert pool._runtime is not None
        pool._runtime.loop.post(gate.wait, LONG)  # the loop hears nothing meanwhile
        publish(other, unique, 500)
        draining = threading.Thread(target=sub.drain, args=(LONG,))
        draining.start()
        draining.join(0.05)  # until it has been asked for
        gate.set()
        draining.join(LONG)
        assert not draining.is_alive()
        assert [number(message) for message in sub] == list(range(500))


def test_draining_waits_for_the_handler(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    seen: List[int] = []

    def handle(message: Message) -> None:
        time.sleep(0.0005)
        seen.append(number(message))

    with Pool(server.url) as other:
        sub = pool.subscribe(unique, handler=handle)
        publish(other, unique, 1500)
        sub.drain(LONG)
        assert seen == list(range(1500))
        sub.drain(LONG)  # again
        assert not sub.active


def test_draining_gives_up_at_its_deadline(pool: Pool, unique: str) -> None:
    gate, started = threading.Event(), threading.Event()

    def handle(message: Message) -> None:
        started.set()
        gate.wait(LONG)

    sub = pool.subscribe(unique, handler=handle)
    try:
        pool.publish(unique)
        assert started.wait(LONG)
        with pytest.raises(RequestTimeoutError, match=unique):
            sub.drain(0.1)
        assert not sub.active
    finally:
        gate.set()


def test_a_drained_queue_member_loses_nothing(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    """Members come and go while messages are published: each message is handled once."""
    seen: List[int] = []
    with Pool(server.url) as pool, Pool(server.url) as other:

        def join() -> Subscription:
            return pool.subscribe(unique, queue="workers", handler=lambda message: seen.append(number(message)))

        members = [join()]
        published = threading.Event()

        def feed() -> None:
            for n in range(4000):
                other.publish(unique, b"%d" % n)
            other.flush()
            published.set()

        thread = threading.Thread(target=feed)
        thread.start()
        while not published.is_set():
            members.append(join())
            members.pop(0).drain(LONG)
        thread.join(LONG)
        wait_for(lambda: len(seen) >= 4000, what="every message")
        members[0].drain(LONG)
    assert sorted(seen) == list(range(4000))


# -- slow readers -----------------------------------------------------------------------------------------------------


def test_a_slow_reader_loses_the_newest_and_is_told(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    errors: List[Exception] = []
    with Pool(server.url, error_callback=errors.append) as pool:
        sub = pool.subscribe(unique, pending_messages=100)
        publish(pool, unique, 2000)
        wait_for(lambda: sub.pending + sub.dropped == 2000)
        kept = sub.pending
        assert 100 <= kept < 2000
        assert sub.dropped == 2000 - kept
        wait_for(lambda: errors)
        error = errors[0]
        assert isinstance(error, SlowConsumerError)
        assert error.subject == unique
        assert len(errors) < 20  # not one for each message
        read = [number(sub.next_msg(LONG)) for _ in range(kept)]
        assert read[:100] == list(range(100))  # the newest are dropped, not what waits already
        assert read == sorted(set(read))
        pool.publish(unique, b"9999")  # it goes on with what comes next
        assert number(sub.next_msg(LONG)) == 9999
        assert f"{2000 - kept} dropped" in repr(sub)


def test_bytes_count_too(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    with Pool(server.url) as pool:
        sub = pool.subscribe(unique, pending_bytes=100_000)
        publish(pool, unique, 2000, size=1000)
        wait_for(lambda: sub.pending + sub.dropped == 2000)
        assert sub.dropped > 500
        assert number(sub.next_msg(LONG)) == 0


def test_a_reader_that_keeps_up_loses_nothing(pool: Pool, unique: str) -> None:
    sub = pool.subscribe(unique, pending_messages=5000)
    for _ in range(4):
        publish(pool, unique, 4000)
        assert [number(sub.next_msg(LONG)) for _ in range(4000)] == list(range(4000))
    assert sub.dropped == 0


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_subscription_that_fails_leaves_nothing_behind(pool: Pool, unique: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with pytest.raises(BadSubjectError):
        pool.subscribe(f"{unique}..x")
    with pytest.raises(TypeError, match="handler"):
        pool.subscribe(unique, handler="print")  # type: ignore[arg-type]
    pool.flush()
    assert pool.stats().subscriptions == 1
    assert pool._attached == []


@posix_only
def test_a_subscription_that_is_given_up_leaves_nothing_behind(unique: str, wait_for: WaitFor) -> None:
    """The server stands still, so the subscription is under way when the caller leaves."""
    with EmbeddedServer() as own, Pool(own.url) as pool:
        for handler in (None, print):
            stop(own.pid)
            try:
                with pytest.raises(RequestTimeoutError, match=f"subscribing to '{unique}'"):
                    pool.subscribe(unique, handler=handler, timeout=0.1)
            finally:
                os.kill(own.pid, signal.SIGCONT)
            wait_for(lambda: pool.stats().subscriptions == 1)
            pool.flush()
            with pytest.raises(NoRespondersError):
                pool.request(unique)
        assert pool._attached == []
