"""However a stream is abandoned, within a second nothing is left of it: threads, tasks, subscriptions, or at the server."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import ExitStack, suppress
from typing import Callable, Dict, Generator, Iterator, List

import pytest
from conftest import Monitor
from procs import LONG, wait_until

from natsbridge import Pool, ResponseSender, ResponseStream, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

SOON = 1.0  # seconds
MANNERS = ["fast", "slow", "silent"]
STREAMS = 5  # at a time: what is left of one could be overlooked


def never_iterated(open_stream: Callable[[], ResponseStream]) -> None:
    open_stream().close()


def closed_at_once(open_stream: Callable[[], ResponseStream]) -> None:
    """Perhaps before the worker has heard of it."""
    open_stream().close()


def dropped(open_stream: Callable[[], ResponseStream]) -> None:
    stream = open_stream()
    next(stream)


def dropped_in_a_cycle(open_stream: Callable[[], ResponseStream]) -> None:
    cycle: List[object] = [open_stream()]
    cycle.append(cycle)
    del cycle
    gc.collect()


def closed_twice(open_stream: Callable[[], ResponseStream]) -> None:
    stream = open_stream()
    next(stream)
    stream.close()
    stream.close()


def closed_from_another_thread(open_stream: Callable[[], ResponseStream]) -> None:
    """While this one waits for the next chunk."""
    stream = open_stream()
    next(stream)
    closing = threading.Timer(0.01, stream.close)
    closing.start()
    for _ in stream:
        pass
    closing.join(LONG)


def left_by_break(open_stream: Callable[[], ResponseStream]) -> None:
    """Without a ``with``: dropping the last reference is all there is."""
    for _ in open_stream():
        break


def left_by_an_exception(open_stream: Callable[[], ResponseStream]) -> None:
    with suppress(ZeroDivisionError), open_stream() as stream:
        for _ in stream:
            raise ZeroDivisionError


def left_by_a_generator(open_stream: Callable[[], ResponseStream]) -> None:
    """As a web framework does it: the generator is closed, or never started."""

    def view(stream: ResponseStream) -> Generator[bytes, None, None]:
        with stream:
            yield from stream

    view(open_stream()).close()
    started = view(open_stream())
    next(started)
    started.close()


WAYS = [
    never_iterated,
    closed_at_once,
    dropped,
    dropped_in_a_cycle,
    closed_twice,
    closed_from_another_thread,
    left_by_break,
    left_by_an_exception,
    left_by_a_generator,
]


class Both:
    """Two pools that stay open, a worker on one of them, and a server that nobody else uses."""

    def __init__(self, server: EmbeddedServer, requester: Pool, worker: Pool, subscriber: Subscriber) -> None:
        self.server, self.requester, self.worker, self.subscriber = server, requester, worker, subscriber
        self._monitor = Monitor(server)
        self.started = 0
        self.before: Dict[str, int] = {}
        for manner in MANNERS:
            subscriber.stream_subscribe_handler(manner, getattr(self, manner))

    def fast(self, request: StreamRequest, sender: ResponseSender) -> None:
        self.started += 1
        while True:
            sender.send(b"chunk")

    def slow(self, request: StreamRequest, sender: ResponseSender) -> None:
        self.started += 1
        while not sender.wait_offline(0.01):
            sender.send(b"chunk")

    def silent(self, request: StreamRequest, sender: ResponseSender) -> None:
        self.started += 1
        sender.send(b"chunk")
        sender.wait_offline(LONG)

    def counts(self) -> Dict[str, int]:
        """Whatever could be left. Threads that idle, of a registration that has worked, are not."""
        connections = self._monitor.connections()
        stats = self.subscriber.stats()
        left = {
            "connections": len(connections),
            "subscriptions of connections": sum(connection["subscriptions"] for connection in connections),
            "subscriptions": self._monitor.get("subsz")["num_subscriptions"],
            "threads": threading.active_count(),
            "busy threads": sum(figures.running + figures.queued for figures in stats),
            "streams": sum(pool.stats().streams for pool in (self.requester, self.worker)),
            "ends of streams": sum(figures.ending for figures in stats),
        }
        for pool in (self.requester, self.worker):
            assert pool._runtime is not None
            (link,) = pool._runtime.links
            loop = link.loop._loop
            assert loop is not None
            left[f"tasks of {link.name}"] = asyncio.run_coroutine_threadsafe(_tasks(), loop).result(LONG)
            left[f"ends of {link.name}"] = len(link._ends) + len(link._ticking)
            left[f"bytes granted by {link.name}"] = link.incoming.taken + link.outgoing.taken
            left[f"waiting in {link.name}"] = link.stats().outbox_messages
        return left

    def settle(self) -> None:
        """Take what there is now, with no stream open and everything used once, for what is there in any case."""
        wait_until(lambda: self.counts()["streams"] == 0)
        samples = []
        for _ in range(20):  # tasks come and go, a few of them, in idle pools too
            samples.append(self.counts())
            time.sleep(0.02)
        self.before = {what: max(sample[what] for sample in samples) for what in samples[0]}

    def left(self) -> Dict[str, int]:
        """What there is more than before any of the streams."""
        return {what: count for what, count in self.counts().items() if count > self.before[what]}


async def _tasks() -> int:
    return len(asyncio.all_tasks())


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with EmbeddedServer(http=True) as server, Pool(server.url) as requester, Pool(server.url) as worker:
        with Subscriber(worker) as subscriber:
            both = Both(server, requester, worker, subscriber)
            for manner in MANNERS:  # the threads that it takes, which idle for a while
                with ExitStack() as streams:
                    for _ in range(2 * STREAMS):
                        next(streams.enter_context(requester.stream(manner)))
            both.settle()
            yield both


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_nothing_is_left(both: Both, way: Callable[[Callable[[], ResponseStream]], None], manner: str) -> None:
    def open_stream() -> ResponseStream:
        started = both.started
        stream = both.requester.stream(manner)
        if way is not closed_at_once:
            wait_until(lambda: both.started > started or stream.end_reason, what="the handler")
        return stream

    for _ in range(STREAMS):
        way(open_stream)
    abandoned = time.monotonic()
    wait_until(lambda: not both.left(), what=f"nothing of it, {both.left()}")
    assert time.monotonic() - abandoned < SOON
