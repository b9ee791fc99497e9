"""Who is written when: the turns of streams and publishers that share a connection."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Callable, List, Tuple

import pytest

from natsbridge._loop import LoopThread
from natsbridge._outbox import Outbox
from natsbridge._outgoing import FRAME_BYTES
from natsbridge._relay import Relay
from natsbridge._waiter import Waiter
from natsbridge.errors import MaxPayloadError, RequestTimeoutError

FEW = 8  # frames that may go first: what was taken already, and a turn
FRAME = b"f" * FRAME_BYTES


class Line:
    """A connection that writes down what it is given. ``after``: what happens behind so many commands."""

    max_payload = 1 << 20

    def __init__(self) -> None:
        self.up = True
        self.busy = False  # a thread cannot write
        self.written: List[bytes] = []
        self.after: Callable[[int], None] = lambda count: None

    async def write(self, commands: List[bytes]) -> bool:
        self.written.extend(commands)
        self.after(len(self.written))
        await asyncio.sleep(0)
        return True

    def write_at_once(self, commands: List[bytes]) -> bool:
        if self.up and not self.busy:
            self.written.extend(commands)
        self.after(len(self.written))
        return self.up and not self.busy

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


# -- a thread in the loop's place -------------------------------------------------------------------------------------


class Loop:
    """A loop thread that is told what to do and does it when asked."""

    def __init__(self) -> None:
        self.posted: List[Callable[[], object]] = []
        self.relay = Relay()

    def post_quietly(self, call: Callable[..., object], *args: Any) -> None:
        self.posted.append(lambda: call(*args))

    def is_current(self) -> bool:
        return False

    def refuse_here(self) -> None: ...


def resting(line: Line) -> Tuple[Outbox, Loop]:
    """An outbox whose writer went to rest a while ago, so that a thread may write."""
    loop = Loop()
    outbox = Outbox(loop, 1 << 20, line)  # type: ignore[arg-type]

    async def rest() -> None:
        outbox.open()
        outbox._wake.clear()
        assert outbox._rests()

    asyncio.run(rest())
    outbox._busy -= 1.0
    return outbox, loop


def test_a_thread_writes_while_the_loop_rests() -> None:
    line = Line()
    outbox, loop = resting(line)
    outbox.publish(b"request", 1.0)
    assert outbox.ready(Once()) is False, "so soon after that it is better collected"
    assert (line.written, len(loop.posted)) == ([b"request"], 1)


def test_what_comes_while_a_thread_writes_is_the_loops() -> None:
    line = Line()
    outbox, loop = resting(line)
    line.after = lambda count: outbox.control(b"cancel")
    outbox.publish(b"request", 1.0)
    assert line.written == [b"request"]
    assert len(loop.posted) == 1
    assert not outbox._rests()


@pytest.mark.parametrize("up", [True, False], ids=["busy", "disconnected"])
def test_what_a_thread_cannot_write_is_the_loops(up: bool) -> None:
    line = Line()
    line.busy, line.up = True, up
    outbox, loop = resting(line)
    outbox.publish(b"request", 1.0)
    assert (line.written, len(loop.posted)) == ([], 1)
    assert outbox.waiting() == (1, len(b"request"))


def test_frames_that_a_thread_cannot_write_keep_their_place() -> None:
    """Ahead of what their stream says after them, behind what it has said before."""
    line = Line()
    line.busy = True
    outbox, loop = resting(line)
    outbox._control.append(b"accepted")
    assert outbox.ready(Once())
    line.after = lambda count: outbox.control(b"end")
    outbox.write_here()
    assert (list(outbox._control), len(loop.posted)) == ([b"accepted", b"chunk", b"end"], 1)


def test_behind_what_was_deferred_everything_is_the_loops() -> None:
    line = Line()
    outbox, loop = resting(line)
    done: List[str] = []
    outbox.defer(done.append, "unsubscribed")
    outbox.publish(b"request", 1.0)
    assert (line.written, done) == ([], [])

    async def run() -> None:
        while loop.posted:
            loop.posted.pop(0)()
        await asyncio.sleep(0)

    asyncio.run(run())
    assert done == ["unsubscribed"]
    assert not outbox._rests()
    outbox._queue.clear()
    assert outbox._rests()
    outbox.publish(b"another", 1.0, Guarding(), urgent=True)
    assert line.written == [b"another"]


def test_what_is_queued_behind_a_deferral_waits_for_it_while_the_loop_writes() -> None:
    """It may be a subscription, and what is queued behind it asks for messages."""
    line = Line()
    loop = Loop()
    outbox = Outbox(loop, 1 << 20, line)  # type: ignore[arg-type]

    def defer(count: int) -> None:
        if count == 1:
            outbox.defer(line.written.append, b"subscribe")
            outbox.publish(b"ask", 1.0)

    line.after = defer

    async def run() -> None:
        outbox.open()
        outbox.publish(b"first", 1.0)
        writing = asyncio.ensure_future(outbox.write())
        for _ in range(20):
            await asyncio.sleep(0)
        while loop.posted:
            loop.posted.pop(0)()
        while len(line.written) < 3:
            await asyncio.sleep(0)
        writing.cancel()

    asyncio.run(run())
    assert line.written == [b"first", b"subscribe", b"ask"]


@pytest.mark.parametrize("again", [lambda outbox: outbox.publish(b"x", 1.0), lambda outbox: outbox.control(b"x")])
def test_a_signal_handler_on_top_of_a_thread_that_writes_may_wait_for_the_loop(again: Start) -> None:
    """It comes in the same thread, which cannot go on before the handler is through: the loop takes over."""
    line = Line()
    outbox, loop = resting(line)
    line.busy = True
    line.after = lambda count: again(outbox)
    outbox._busy -= 1.0
    outbox.publish(b"request", 1.0, Guarding(), urgent=True)
    assert loop.posted
    assert not outbox._rests()


def test_a_look_wakes_the_writer_that_nobody_has_woken() -> None:
    """What a signal handler raised may come between the decision to wake the loop and doing it."""
    outbox, _ = resting(Line())
    outbox._queue.append(b"forgotten")
    outbox.check(10.0)
    assert outbox._wake.is_set()
    assert not outbox._rests()


def test_a_stream_that_is_accepted_while_something_is_written_begins_behind_that() -> None:
    line = Line()
    outbox = Outbox(LoopThread("test-loop"), 1 << 20, line)

    def accept(count: int) -> None:
        if count == 1:
            outbox.control(b"accepted")
            outbox.ready(Once())

    line.after = accept

    async def run() -> None:
        outbox.open()
        outbox.publish(b"message", 0.0)
        writing = asyncio.ensure_future(outbox.write())
        while len(line.written) < 3:
            await asyncio.sleep(0)
        writing.cancel()

    asyncio.run(run())
    assert line.written == [b"message", b"accepted", b"chunk"]


class Guarding:
    gone = sent = False

    def refuse(self, error: MaxPayloadError) -> None: ...


def test_a_thread_that_was_interrupted_before_it_wrote_is_made_up_for() -> None:
    """Ctrl-C may come between the decision and the ``try`` of ``write_here``."""
    line = Line()
    outbox, loop = resting(line)
    assert outbox.ready(Once()), "which it is told to write, and never does"
    another = threading.Thread(target=outbox.control, args=(b"ack",))
    another.start()
    another.join()
    assert not loop.posted
    for clock in (10.0, 10.9):
        outbox.check(clock)
        assert not outbox._wake.is_set()
    outbox.check(11.0)
    assert outbox._wake.is_set()
    assert not outbox._rests()
    outbox.write_here()  # should it come back after all: not while somebody else writes
    assert (len(outbox._control), len(outbox._ready)) == (1, 1)
