"""Who is written when: the turns of streams and publishers that share a connection."""

from __future__ import annotations

import asyncio
from typing import Callable, List, Tuple

import pytest

from natsbridge._loop import LoopThread
from natsbridge._outbox import Outbox
from natsbridge._outgoing import FRAME_BYTES
from natsbridge._waiter import Waiter
from natsbridge.errors import RequestTimeoutError

FEW = 8  # frames that may go first: what was taken already, and a turn
FRAME = b"f" * FRAME_BYTES


class Line:
    """A connection that writes down what it is given. ``after``: what happens behind so many commands."""

    up = True
    max_payload = 1 << 20

    def __init__(self) -> None:
        self.written: List[bytes] = []
        self.after: Callable[[int], None] = lambda count: None

    async def write(self, commands: List[bytes]) -> bool:
        self.written.extend(commands)
        self.after(len(self.written))
        await asyncio.sleep(0)
        return True

    def write_at_once(self, commands: List[bytes]) -> bool:
        self.written.extend(commands)
        return True

    async def barrier(self, waiter: Waiter[None]) -> None:
        waiter.set(None)


class Flood:
    """A stream that always has more."""

    def take_frames(self, count: int) -> Tuple[List[bytes], bool]:
        return [FRAME] * count, True


class Once:
    """A stream with a single chunk."""

    def take_frames(self, count: int) -> Tuple[List[bytes], bool]:
        return [b"chunk"], False


Start = Callable[[Outbox], None]


def frames_before(start: Start, command: bytes, floods: int = 1) -> int:
    """How many frames of the flooding streams are written before ``command``, which is queued behind the tenth."""
    line = Line()
    outbox = Outbox(LoopThread("test-loop"), 1 << 20, line)

    async def run() -> int:
        outbox.open()
        for _ in range(floods):
            outbox.ready(Flood())
        queued: List[int] = []

        def queue(count: int) -> None:
            if count >= 10 and not queued:
                queued.append(count)
                start(outbox)

        line.after = queue
        writing = asyncio.ensure_future(outbox.write())
        while command not in line.written and len(line.written) < 1000:
            await asyncio.sleep(0)
        writing.cancel()
        return line.written.index(command) - queued[0]

    return asyncio.run(run())


@pytest.mark.parametrize("floods", [1, 3])
@pytest.mark.parametrize(
    ("start", "command"),
    [
        (lambda outbox: outbox.ready(Once()), b"chunk"),
        (lambda outbox: outbox.publish(b"request", 1.0), b"request"),
        (lambda outbox: outbox.control(b"ack"), b"ack"),
    ],
    ids=["chunk", "request", "control"],
)
def test_a_stream_that_floods_delays_nobody_by_more_than_a_few_frames(start: Start, command: bytes, floods: int) -> None:
    """Each other stream has its turn first, of one frame."""
    assert frames_before(start, command, floods) <= FEW


def test_streams_take_turns_of_one_frame() -> None:
    line = Line()
    outbox = Outbox(LoopThread("test-loop"), 1 << 20, line)

    class Named(Flood):
        def __init__(self, name: bytes) -> None:
            self.name = name

        def take_frames(self, count: int) -> Tuple[List[bytes], bool]:
            return [self.name] * count, True

    async def run() -> None:
        outbox.open()
        for name in (b"a", b"b", b"c"):
            outbox.ready(Named(name))
        writing = asyncio.ensure_future(outbox.write())
        while len(line.written) < 30:
            await asyncio.sleep(0)
        writing.cancel()

    asyncio.run(run())
    assert line.written[:30] == [b"a", b"b", b"c"] * 10


def test_a_full_outbox_holds_up_neither_the_protocol_nor_streams() -> None:
    line = Line()
    outbox = Outbox(LoopThread("test-loop"), 100, line)

    async def run() -> None:
        outbox.open()
        outbox.publish(b"x" * 100, 0.0)
        with pytest.raises(RequestTimeoutError, match="was full"):
            outbox.publish(b"x", 0.0)
        outbox.control(b"ack")
        outbox.ready(Once())
        writing = asyncio.ensure_future(outbox.write())
        while len(line.written) < 3:
            await asyncio.sleep(0)
        writing.cancel()

    asyncio.run(run())
    assert line.written == [b"ack", b"x" * 100, b"chunk"]
