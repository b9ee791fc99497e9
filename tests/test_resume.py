"""Streams that outlast a lost connection, and what they notice at once all the same."""

from __future__ import annotations

import threading
import time
from typing import Any, List

import pytest
from procs import LONG, StartProgram, WaitFor, posix_only

from natsbridge import ClientOfflineError, Pool, ResponderLostError, ResponseSender, StreamError, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

SHORT = 3.0


@pytest.fixture
def reasons(subscriber: Subscriber, unique: str) -> List[object]:
    """The subject of this test is served without end; the reasons for which its handler was stopped."""
    reasons: List[object] = []

    def count(request: StreamRequest, sender: ResponseSender) -> None:
        number = 0
        try:
            while not sender.wait_offline(0.005):
                sender.send(b"%d" % number)
                number += 1
        finally:
            reasons.append(sender.offline_reason)

    subscriber.stream_subscribe_handler(unique, count)
    return reasons


def client_of(pool: Pool) -> Any:
    assert pool._runtime is not None
    return pool._runtime.links[0].connection._client


@pytest.mark.parametrize("whose", ["requester", "worker"])
def test_a_stream_goes_on_through_a_connection_that_is_replaced(
    pool: Pool, worker_pool: Pool, unique: str, reasons: List[object], wait_for: WaitFor, whose: str
) -> None:
    """nats-py's read loop has died: another client takes over, under the subjects of the first."""
    victim = pool if whose == "requester" else worker_pool
    with pool.stream(unique, resume=LONG) as stream:
        assert next(stream) == b"0"
        assert victim._runtime is not None
        client, prefix = client_of(victim), victim._runtime.links[0].prefix
        victim._runtime.loop.post(client._reading_task.cancel)
        wait_for(lambda: victim.stats().connected == 1 and client_of(victim) not in (None, client), what="a new client")
        assert [int(next(stream)) for _ in range(300)] == list(range(1, 301))
        assert victim._runtime.links[0].prefix == prefix
    wait_for(lambda: reasons == ["cancelled"])


@pytest.mark.parametrize("how", ["cancelled", "offline", "deadline"])
def test_what_is_said_needs_no_waiting(
    pool: Pool, worker_pool: Pool, unique: str, reasons: List[object], wait_for: WaitFor, how: str
) -> None:
    stream = pool.stream(unique, resume=LONG, connect_id=unique, timeout=0.2 if how == "deadline" else None)
    assert next(stream) == b"0"
    said = time.monotonic()
    if how == "cancelled":
        stream.cancel()
    elif how == "offline":
        worker_pool.mark_client_offline(unique)
        with pytest.raises(ClientOfflineError):
            list(stream)
    wait_for(lambda: reasons == [how])
    assert time.monotonic() - said < SHORT
    worker_pool.registry.forget_offline(unique)


def test_the_workers_end_needs_no_waiting(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    def fail(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        raise StreamError(418, "teapot")

    with Subscriber(server.url) as subscriber:
        subscriber.stream_subscribe_handler(unique, fail)
        with pytest.raises(StreamError, match="teapot"):
            list(pool.stream(unique, resume=LONG))


@posix_only
@pytest.mark.process
def test_a_kill_is_noticed_after_the_time_to_come_back_and_not_before(
    server: EmbeddedServer, unique: str, reasons: List[object], start_program: StartProgram, wait_for: WaitFor
) -> None:
    resume = 1.0
    gateway = start_program("gateway", url=server.url)
    gateway.hear("ready")
    gateway.order("stream", subject=unique, key="killed", options={"resume": resume})
    gateway.hear("first", key="killed")
    killed = gateway.kill()
    wait_for(lambda: reasons)
    assert reasons == ["no_interest"]
    assert resume - 0.1 <= time.monotonic() - killed < resume + SHORT


@posix_only
@pytest.mark.process
def test_a_worker_that_is_killed_before_its_first_chunk_is_lost(
    server: EmbeddedServer, unique: str, start_program: StartProgram
) -> None:
    worker = start_program("worker", url=server.url, subject=unique, subscriber={"max_workers": 1, "max_queued": 1})
    worker.hear("ready")
    with Pool(server.url, probe_interval=0.2) as pool, pool.stream(f"{unique}.silent", b"first") as first:
        assert next(first) == b"0"
        waiting = pool.stream(f"{unique}.silent", b"second")  # accepted and queued
        threading.Timer(0.3, worker.kill).start()  # while the reader waits
        with pytest.raises(ResponderLostError):
            next(waiting)
        assert waiting.end_reason == "lost"
