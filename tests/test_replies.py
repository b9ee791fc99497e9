"""``Pool.request_many``: the strategies of ADR-47, each with its end reason."""

from __future__ import annotations

import gc
import threading
import time
from typing import List

import pytest
from procs import WaitFor

import natsbridge
from natsbridge import Message, Pool
from natsbridge.server import EmbeddedServer


def answer(pool: Pool, subject: str, replies: List[bytes], **headers: str) -> None:
    """Answer every request on the subject with these replies."""

    def handler(message: Message) -> None:
        for reply in replies:
            message.respond(reply, headers or None)

    pool.subscribe(subject, handler=handler)


def test_it_ends_after_so_many_messages(pool: Pool, worker_pool: Pool, unique: str) -> None:
    answer(worker_pool, unique, [b"1", b"2", b"3", b"4"])
    replies = pool.request_many(unique, max_messages=3)
    assert [message.data for message in replies] == [b"1", b"2", b"3"]
    assert replies.end_reason == "max_messages"
    assert list(replies) == []


def test_an_empty_message_is_the_standard_sentinel_and_is_not_yielded(pool: Pool, worker_pool: Pool, unique: str) -> None:
    answer(worker_pool, unique, [b"1", b"2", b"", b"late"])
    replies = pool.request_many(unique, sentinel=True)
    assert [message.data for message in replies] == [b"1", b"2"]
    assert replies.end_reason == "sentinel"


def test_a_sentinel_may_be_any_function_of_the_message(pool: Pool, worker_pool: Pool, unique: str) -> None:
    answer(worker_pool, unique, [b"1", b"stop", b"2"])
    replies = pool.request_many(unique, sentinel=lambda message: message.data == b"stop")
    assert [message.data for message in replies] == [b"1"]


def test_it_ends_when_no_further_reply_comes(pool: Pool, worker_pool: Pool, unique: str) -> None:
    answer(worker_pool, unique, [b"1", b"2"])
    began = time.monotonic()
    replies = pool.request_many(unique, stall=0.2, timeout=10)
    assert [message.data for message in replies] == [b"1", b"2"]
    assert replies.end_reason == "stall"
    assert 0.2 <= time.monotonic() - began < 5


def test_the_total_time_ends_it_silently_and_says_so(pool: Pool, worker_pool: Pool, unique: str) -> None:
    answer(worker_pool, unique, [b"1"])
    replies = pool.request_many(unique, timeout=0.3)
    assert [message.data for message in replies] == [b"1"]
    assert replies.end_reason == "deadline"


def test_the_readers_own_time_does_not_count(pool: Pool, worker_pool: Pool, unique: str) -> None:
    arrived = threading.Event()

    def handler(message: Message) -> None:
        message.respond(b"1")
        message.respond(b"2")
        message.respond(b"3")
        worker_pool.flush()
        arrived.set()

    worker_pool.subscribe(unique, handler=handler)
    seen = []
    replies = pool.request_many(unique, timeout=0.4, stall=0.2)
    for message in replies:
        seen.append(message.data)
        assert arrived.wait(5)
        time.sleep(0.3)  # longer than the stall, and in sum longer than the total time
    assert seen == [b"1", b"2", b"3"]


def test_every_responder_is_heard(pool: Pool, worker_pool: Pool, unique: str) -> None:
    for name in (b"a", b"b", b"c"):
        answer(worker_pool, unique, [name])
    assert sorted(message.data for message in pool.request_many(unique, max_messages=3)) == [b"a", b"b", b"c"]


def test_headers_travel_both_ways(pool: Pool, worker_pool: Pool, unique: str) -> None:
    worker_pool.subscribe(unique, handler=lambda message: message.respond(b"x", {"Seen": message.headers["Asked"]}))
    (reply,) = pool.request_many(unique, headers={"Asked": "yes"}, max_messages=1)
    assert reply.headers == {"Seen": "yes"}


def test_nobody_there_is_an_error(pool: Pool, unique: str) -> None:
    replies = pool.request_many(unique)
    with pytest.raises(natsbridge.NoRespondersError, match=unique):
        next(replies)
    assert replies.end_reason == "no_responders"


def test_a_cancel_from_another_thread_wakes_the_reader(pool: Pool, worker_pool: Pool, unique: str) -> None:
    answer(worker_pool, unique, [b"1"])
    with pool.request_many(unique, timeout=30) as replies:
        assert next(replies).data == b"1"
        threading.Timer(0.05, replies.cancel).start()
        assert list(replies) == []
        assert replies.end_reason == "cancelled"


def test_closing_the_pool_wakes_the_reader(server: EmbeddedServer, worker_pool: Pool, unique: str) -> None:
    answer(worker_pool, unique, [b"1"])
    pool = Pool(server.url)
    replies = pool.request_many(unique, timeout=30)
    assert next(replies).data == b"1"
    threading.Timer(0.05, pool.close).start()
    with pytest.raises(natsbridge.ClosedError):
        next(replies)


def test_nothing_is_left_when_nobody_reads(pool: Pool, worker_pool: Pool, unique: str, wait_for: WaitFor) -> None:
    answer(worker_pool, unique, [b"1"])
    ends = pool._runtime.links[0]._ends if pool._runtime else pool.open()._link()._ends
    pool.request_many(unique)
    gc.collect()
    wait_for(lambda: not ends)


@pytest.mark.parametrize(
    ("options", "error", "value"),
    [
        ({"max_messages": 0}, ValueError, "0"),
        ({"stall": 0}, ValueError, "stall"),
        ({"stall": float("nan")}, ValueError, "nan"),
        ({"timeout": -1}, ValueError, "-1"),
        ({"sentinel": 3}, TypeError, "3"),
        ({"headers": {"a": 1}}, TypeError, "1"),
    ],
)
def test_bad_options_are_refused_at_once(pool: Pool, unique: str, options: dict, error: type, value: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=value):
        pool.request_many(unique, **options)
