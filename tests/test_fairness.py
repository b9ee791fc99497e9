"""One stream, or one publisher, may take all that a link can carry; whatever else is on it waits for a few frames only.

Counted on the wire, not timed: a worker's connection is held up until its writer waits, and what it sends from then on
is read off the wire. And what is on its way to a requester, ahead of whatever else comes there, is a part of the window.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from typing import Iterator, List, NamedTuple

import pytest
from procs import LONG, wait_until
from proxy import Proxy

from natsbridge import Error, Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge._outbox import _BATCH_BYTES
from natsbridge._outgoing import FRAME_BYTES
from natsbridge.server import EmbeddedServer

MIB = 1024 * 1024
SIZE = 16 * 1024  # bytes of each of the flood's chunks and messages
MUCH = 16 * MIB  # more than sockets hold, and about the most that a stream is granted
FEW = 3 * FRAME_BYTES


class Sent(NamedTuple):
    """A message on the wire, and behind how many bytes it came."""

    subject: str
    payload: bytes
    behind: int


def published(wire: bytes) -> Iterator[Sent]:
    at = 0
    while at < len(wire):
        begin, end = at, wire.index(b"\r\n", at)
        words = wire[at:end].decode().split()
        at = end + 2
        if words[0] in ("PUB", "HPUB"):
            size = int(words[-1])
            if at + size > len(wire):
                return
            yield Sent(words[1], wire[at : at + size], begin)
            at += size + 2


class HeldUp:
    """A worker whose connection is held up, with a stream that waits for ``go`` to send a chunk."""

    def __init__(self, server: EmbeddedServer, unique: str, stack: ExitStack) -> None:
        self.unique = unique
        self.go = threading.Event()
        self.proxy = stack.enter_context(closing(Proxy(server.url, record=True, receive_buffer=256 * 1024)))
        # Nobody is to be given up while nothing comes through.
        options = {"window": 100_000, "window_bytes": MUCH, "probe_interval": LONG}
        self.pool = stack.enter_context(Pool(server.url, **options))  # type: ignore[arg-type]
        self.worker = stack.enter_context(Pool(self.proxy.url, outbox_bytes=MUCH, **options))  # type: ignore[arg-type]
        subscriber = stack.enter_context(Subscriber(self.worker))
        subscriber.stream_subscribe_handler(f"{unique}.flood", self._flood)
        subscriber.stream_subscribe_handler(f"{unique}.other", self._other)
        self.pool.subscribe(f"{unique}.echo", handler=lambda message: message.respond(message.data))
        self.other = stack.enter_context(self.pool.stream(f"{unique}.other", window_bytes=SIZE))
        assert next(self.other) == b"first"
        stack.callback(self.go.set)

    def _flood(self, request: StreamRequest, sender: ResponseSender) -> None:
        while True:
            sender.send(b"f" * SIZE)

    def _other(self, request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"first")
        self.go.wait(LONG)
        sender.send(b"second")

    def written(self) -> int:
        """Bytes that the worker's writer has handed over."""
        return self.worker.stats().connections[0].out_bytes

    def wait_until_stuck(self) -> int:
        """Wait until the writer does not get rid of anything any more; what it had handed over by then."""
        seen, since = self.written(), time.monotonic()

        def stuck() -> bool:
            nonlocal seen, since
            now = self.written()
            if now != seen:
                seen, since = now, time.monotonic()
            return time.monotonic() - since > 1.0  # on a busy machine it may merely have had no turn

        wait_until(stuck, what="a writer that waits")
        return seen


@pytest.fixture
def held_up(server: EmbeddedServer, unique: str) -> Iterator[HeldUp]:
    with ExitStack() as stack:
        yield HeldUp(server, unique, stack)


@pytest.mark.parametrize("flood", ["stream", "publisher"])
def test_a_flood_delays_others_by_a_few_frames(held_up: HeldUp, flood: str) -> None:
    replies = []
    asking = threading.Thread(target=lambda: replies.append(held_up.worker.request(f"{held_up.unique}.echo", b"ask")))
    with ExitStack() as stack:
        if flood == "stream":
            stream = stack.enter_context(held_up.pool.stream(f"{held_up.unique}.flood", window_bytes=MUCH))
            assert len(next(stream)) == SIZE
            held_up.proxy.swallow()
        else:
            held_up.proxy.swallow()
            with pytest.raises(Error, match="outbox was full"):
                while True:
                    held_up.worker.publish(f"{held_up.unique}.sink", b"f" * SIZE, timeout=0.5)
        written = held_up.wait_until_stuck()
        held_up.go.set()
        if flood == "stream":  # messages that were published earlier go first, as they must
            asking.start()
            wait_until(lambda: held_up.worker.stats().connections[0].outbox_messages == 1, what="the queued request")
        threading.Event().wait(0.05)
        assert held_up.written() == written
        held_up.proxy.restore()
        assert list(held_up.other) == [b"second"]
        if flood == "stream":
            asking.join(LONG)
            assert [reply.data for reply in replies] == [b"ask"]
            for _ in range(MUCH // SIZE):  # the whole window had waited
                next(stream)
        else:
            held_up.worker.flush(LONG)
    wire = b"".join(held_up.proxy.sent)
    (second,) = [sent for sent in published(wire) if sent.payload == b"second"]
    piece = FEW if flood == "stream" else _BATCH_BYTES + FEW
    assert second.behind - written <= piece
    if flood == "stream":
        (asked,) = [sent for sent in published(wire) if sent.payload == b"ask"]
        assert asked.behind - written <= FEW
    after = sum(len(sent.payload) for sent in published(wire) if sent.behind > second.behind)
    assert after > 10 * piece, "nothing was waiting"


def test_a_flood_has_only_a_share_on_its_way_while_its_requester_does_something_else(
    server: EmbeddedServer, unique: str
) -> None:
    senders: List[ResponseSender] = []

    def flood(request: StreamRequest, sender: ResponseSender) -> None:
        senders.append(sender)
        while True:
            sender.send(b"f" * SIZE)

    def other(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"first")
        sender.wait_offline(LONG)

    with ExitStack() as stack:
        pool, worker = (stack.enter_context(Pool(server.url)) for _ in range(2))
        subscriber = stack.enter_context(Subscriber(worker))
        subscriber.stream_subscribe_handler(f"{unique}.flood", flood)
        subscriber.stream_subscribe_handler(f"{unique}.other", other)
        stream = stack.enter_context(pool.stream(f"{unique}.flood"))

        def most(seconds: float) -> int:
            """Read for so long; the bytes that were on their way at most."""
            bytes_on_the_way = []
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                next(stream)
                sent = senders[0]._sink._outgoing.pushed  # read first: what comes meanwhile makes the difference smaller
                source = stream._source
                with source._lock:
                    source._look_how_far()
                    bytes_on_the_way.append((sent - source._incoming.consumed) * SIZE)
            return max(bytes_on_the_way)

        assert most(1.0) > MIB * 3 // 2, "it has the connection to itself"
        with pool.stream(f"{unique}.other") as beside:
            next(beside)
            assert beside._source._max_bytes == MIB
            with pool.stream(f"{unique}.other", window_bytes=2 * MIB) as asking:
                assert asking._source._max_bytes == 2 * MIB, "its caller has asked for it"
            most(0.5)  # what was on its way already
            assert most(1.0) <= MIB
        assert most(0.5) <= MIB, "another one may follow"
        most(1.5)
        assert most(1.0) > MIB * 3 // 2, "it is alone again"
