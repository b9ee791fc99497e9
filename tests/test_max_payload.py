"""A server that comes back with a smaller ``max_payload``: what had been accepted before must not end its connection."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from procs import LONG, WaitFor

from natsbridge import MaxPayloadError, Pool, ResponseSender, StreamError, StreamRequest, Subscriber
from natsbridge._command import check_command, publish_command
from natsbridge.options import headers_size
from natsbridge.server import EmbeddedServer

HEADERS = {"Name": "y" * 100}


@pytest.fixture
def shrinking(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """When it comes back, it has a smaller ``max_payload``."""
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 100000")
    with EmbeddedServer(config=config) as server:
        config.write_text("max_payload: 1000")
        yield server


def test_what_a_new_server_does_not_accept_is_dropped_and_told(
    shrinking: EmbeddedServer, unique: str, wait_for: WaitFor
) -> None:
    """Queued while there was no connection; sending it would end the next one for good."""
    told: List[Exception] = []
    outcomes: List[BaseException] = []

    def catch(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            outcomes.append(error)

    threads: List[threading.Thread] = []
    with Pool(shrinking.url, timeout=LONG, error_callback=told.append) as pool:
        with pool.subscribe(unique) as sub:
            shrinking.kill()
            wait_for(lambda: pool.stats().connected == 0)
            pool.publish(unique, b"x" * 1000)
            pool.publish(unique, b"x" * 1001)
            pool.publish(unique, b"x" * 900, headers=HEADERS)
            asked = (
                lambda: pool.request(unique, b"x" * 1001),
                lambda: list(pool.request_many(unique, b"x" * 1001)),
                lambda: list(pool.stream(unique, b"x" * 1001)),
            )
            for call in asked:
                threads.append(threading.Thread(target=catch, args=(call,), daemon=True))
                threads[-1].start()
                wait_for(lambda: pool.stats().connections[0].outbox_messages == 3 + len(threads))
            pool.publish(unique, b"last")
            shrinking.restart()
            assert [len(sub.next_msg(LONG).data) for _ in range(2)] == [1000, 4]
            assert sub.pending == 0
        for thread in threads:
            thread.join(LONG)
        assert len(outcomes) == len(threads)
        for error in outcomes:
            assert isinstance(error, MaxPayloadError)
            assert (error.limit, error.subject) == (1000, unique)
        wait_for(lambda: len(told) >= 2)
        with pytest.raises(MaxPayloadError, match=rf"to '{unique}' was dropped after a reconnect.*1001 bytes.*1000 \("):
            pool.flush()
        pool.flush()
        assert [error.size for error in told if isinstance(error, MaxPayloadError)] == [1001, 900 + headers_size(HEADERS)]
        assert pool.stats().connections[0].reconnects == 1


def test_a_stream_whose_chunks_a_new_server_does_not_accept_says_so(
    shrinking: EmbeddedServer, unique: str, wait_for: WaitFor
) -> None:
    down = threading.Event()
    senders: List[ResponseSender] = []
    outcome: List[BaseException] = []

    def send(request: StreamRequest, sender: ResponseSender) -> None:
        senders.append(sender)
        try:
            sender.send(b"first")
            down.wait(LONG)
            for size in (10, 1001, 10):
                sender.send(b"x" * size)
            while not sender.wait_offline(0.01):
                sender.send(b"later")
        except BaseException as error:
            outcome.append(error)
            raise

    with Pool(shrinking.url) as pool, Pool(shrinking.url) as worker, Subscriber(worker) as subscriber:
        subscriber.stream_subscribe_handler(unique, send)
        stream = pool.stream(unique, resume=LONG, timeout=LONG)
        assert next(stream) == b"first"
        shrinking.kill()
        wait_for(lambda: worker.stats().connected == 0)
        down.set()
        wait_for(lambda: senders and senders[0]._sink._outgoing.pushed >= 4)
        shrinking.restart()
        assert next(stream) == b"x" * 10
        with pytest.raises(StreamError, match="a chunk of 1001 bytes exceeds the 1000"):
            next(stream)
        wait_for(lambda: outcome)
        assert isinstance(outcome[0], MaxPayloadError)
        assert [connection.reconnects for connection in worker.stats().connections] == [1]


@settings(deadline=None)
@given(
    data=st.binary(max_size=300),
    reply=st.sampled_from(["", "some.reply"]),
    headers=st.none() | st.dictionaries(st.sampled_from(["A", "Name"]), st.text("xü", max_size=40), min_size=1),
    limit=st.integers(1, 400),
)
def test_a_commands_size_is_what_the_server_counts(
    data: bytes, reply: str, headers: Optional[Dict[str, str]], limit: int
) -> None:
    size = len(data) + headers_size(headers)
    error = check_command(publish_command("some.subject", data, reply, headers), limit)
    assert (error is None) == (size <= limit)
    if error is not None:
        assert (error.size, error.limit, error.subject) == (size, limit, "some.subject")
