"""The servers of a cluster are restarted one after the other, while streams are under way."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Iterator, List, Optional

import pytest
from procs import LONG, wait_until

from natsbridge import Error, NoRespondersError, Pool, ResponderLostError, ResponseSender, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

from .servers import start_cluster, wait_for_routes
from .streams import QUICK

pytestmark = pytest.mark.slow

STREAMS = 10
DOWN = 0.3  # seconds that a server is away
PAUSE = 0.0005  # seconds between the chunks of a stream


class Reader(threading.Thread):
    """Reads a stream, whose chunks have to count up. ``last``: the newest of them; ``error``: what ended the reading."""

    def __init__(self, stream: Iterator[bytes], chunks: int) -> None:
        super().__init__(daemon=True)
        self.chunks = chunks
        self.last = b""
        self.error: Optional[Exception] = None
        self._stream = stream
        self.start()

    def run(self) -> None:
        try:
            for chunk in self._stream:
                assert int(chunk.split()[0]) == self.chunks
                self.last = chunk
                self.chunks += 1
        except (Error, AssertionError) as error:
            self.error = error


class Load:
    """Streams that count until it is ``enough``, between a requester and a worker on different servers at first."""

    def __init__(self, cluster: List[EmbeddedServer], stack: ExitStack) -> None:
        urls = [server.url for server in cluster]
        self.enough = threading.Event()
        self.reasons: List[Optional[str]] = []  # of the handlers that have ended
        self.requester = stack.enter_context(self._pool(urls))
        self.worker = stack.enter_context(self._pool([*urls[1:], *urls[:1]]))
        self.subscriber = stack.enter_context(Subscriber(self.worker, max_workers=STREAMS))
        self.subscriber.stream_subscribe_handler("count", self._count)
        self._stack = stack

    @staticmethod
    def _pool(urls: List[str]) -> Pool:
        """It connects to the first of the servers that it can."""
        in_turn = {"dont_randomize": True}
        return Pool(urls, probe_interval=QUICK, reconnect_time_wait=0.2, nats_options=in_turn)

    def _count(self, request: StreamRequest, sender: ResponseSender) -> None:
        number = 0
        try:
            while not self.enough.is_set():
                sender.send(b"%d" % number)
                number += 1
                time.sleep(PAUSE)
            sender.send(b"%d last" % number)
        finally:
            self.reasons.append(sender.offline_reason)

    def uses(self, server: EmbeddedServer) -> bool:
        """Whether the requester or the worker is connected to that server."""
        return server.url in (pool.stats().connections[0].server for pool in (self.requester, self.worker))

    def start(self, resume: float) -> List[Reader]:
        """Streams of which each has begun to arrive."""
        self.enough.clear()
        self.reasons.clear()
        return [self._start_one(resume) for _ in range(STREAMS)]

    def _start_one(self, resume: float) -> Reader:
        def begun() -> Optional[Reader]:
            stream = self._stack.enter_context(self.requester.stream("count", resume=resume))
            try:
                assert next(stream) == b"0"
            except (NoRespondersError, ResponderLostError):  # the worker's subscription has not spread yet
                return None
            return Reader(stream, 1)

        reader = wait_until(begun, what="a stream")
        assert reader is not None
        return reader

    def finish(self, readers: List[Reader]) -> None:
        """Every stream goes on, and ends with its last chunk; the readers have seen that none was missing or came twice."""
        wait_for_more(readers)
        self.enough.set()
        for reader in readers:
            reader.join(LONG)
            assert not reader.is_alive()
            assert reader.error is None
            assert reader.last == b"%d last" % (reader.chunks - 1)
        wait_until(lambda: len(self.reasons) >= STREAMS, what="the handlers' end")
        assert set(self.reasons) == {None}


@pytest.fixture
def cluster() -> Iterator[List[EmbeddedServer]]:
    with ExitStack() as stack:
        yield start_cluster(stack)


@pytest.fixture
def load(cluster: List[EmbeddedServer]) -> Iterator[Load]:
    with ExitStack() as stack:
        load = Load(cluster, stack)
        yield load
        load.enough.set()


def wait_for_more(readers: List[Reader]) -> None:
    before = [reader.chunks for reader in readers]

    def going_on() -> bool:
        return all(reader.error or reader.chunks > chunks for reader, chunks in zip(readers, before))

    wait_until(going_on, what="further chunks")


def restart(cluster: List[EmbeddedServer], server: EmbeddedServer, kill: bool) -> None:
    if kill:
        server.kill()
    server.restart(DOWN)
    wait_for_routes(cluster)


@pytest.mark.parametrize("kill", [False, True], ids=["shutdown", "kill"])
def test_resumed_streams_lose_nothing(cluster: List[EmbeddedServer], load: Load, kill: bool) -> None:
    readers = load.start(resume=20.0)
    for server in cluster:
        restart(cluster, server, kill)
        wait_for_more(readers)
    load.finish(readers)
    assert load.requester.stats().connections[0].reconnects > 0
    assert load.worker.stats().connections[0].reconnects > 0


@pytest.mark.parametrize("kill", [False, True], ids=["shutdown", "kill"])
def test_other_streams_are_lost_and_say_so(cluster: List[EmbeddedServer], load: Load, kill: bool) -> None:
    """Those whose requester or worker was connected to the server are; no others."""
    for server in cluster:
        readers = load.start(resume=0.0)
        interrupted = load.uses(server)
        restart(cluster, server, kill)
        if not interrupted:
            load.finish(readers)
            continue
        for reader in readers:
            reader.join(LONG)
            assert type(reader.error) is ResponderLostError
            assert b"last" not in reader.last
        wait_until(lambda: len(load.reasons) == STREAMS, what="the handlers' end")
        assert None not in load.reasons
