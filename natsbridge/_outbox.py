"""What waits to be published on a link, and the one task that writes it.

Control messages of the stream protocol go first; then the outbox and the streams take turns, a bounded piece each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Coroutine, Deque, Dict, List, NamedTuple, Optional, Protocol, Set, Tuple

from ._deadline import Deadline
from ._loop import LoopThread
from ._waiter import Condition, Lock, Waiter
from .errors import ClosedError, RequestTimeoutError

FRAME_BYTES = 32 * 1024  # what one stream may write before it is the next one's turn
_BATCH_MESSAGES = 256  # what the outbox may write before the loop gets to read again
_BATCH_BYTES = 256 * 1024


class Guard(Protocol):
    """Who stands behind a queued request: it is not sent once ``gone``, and learns when it was ``sent``."""

    sent: bool

    @property
    def gone(self) -> bool: ...


class Entry(NamedTuple):
    """One message to publish; with ``barrier``, none but a marker for ``flush``."""

    subject: str
    data: bytes = b""
    reply: str = ""
    headers: Optional[Dict[str, str]] = None
    guard: Optional[Guard] = None
    barrier: Optional[Waiter[None]] = None


class Source(Protocol):
    """A stream with something to write."""

    def take_frame(self, budget: int) -> Tuple[List[Entry], bool]:
        """Up to ``budget`` bytes of messages (at least one), and whether more is waiting."""


class Wire(Protocol):
    """The connection, as far as the writer sees it."""

    up: bool

    async def publish(self, subject: str, data: bytes, reply: str, headers: Optional[Dict[str, str]]) -> bool: ...
    async def barrier(self, waiter: Waiter[None]) -> None: ...


class Outbox:
    def __init__(self, loop: LoopThread, limit: int) -> None:
        """``limit``: bytes that may wait; beyond, ``publish`` blocks."""
        self._loop = loop
        self._limit = limit
        self._lock = Lock()  # guards everything below
        self._room = Condition(self._lock)  # the queue has shrunk, or the end
        self._queue: Deque[Tuple[Entry, int]] = deque()
        self._bytes = 0
        self._control: Deque[Entry] = deque()
        self._ready: Deque[Source] = deque()
        self._awake = True  # the writer will look at the queues without being told again
        self._blocked = 0
        self._closed = False
        self._wake: asyncio.Event
        self._barriers: Set[asyncio.Task[None]] = set()  # on the loop only

    # -- any thread ---------------------------------------------------------------------------------------------------

    def publish(self, entry: Entry, size: int, timeout: Optional[float]) -> None:
        """Queue a message; blocks while the outbox is full, ``timeout`` seconds at most (None: no limit).

        Raises ClosedError, RequestTimeoutError.
        """
        with self._lock:
            if self._closed:
                raise ClosedError("the pool is closed: nothing was published")
            if self._bytes + size > self._limit and self._queue:
                self._wait_for_room(size, Deadline(timeout))
            self._queue.append((entry, size))
            self._bytes += size
            if self._awake:
                return
            self._awake = True
        self._loop.post_quietly(self._wake.set)

    def _wait_for_room(self, size: int, deadline: Deadline) -> None:
        self._loop.refuse_here()
        self._blocked += 1
        try:
            while self._bytes + size > self._limit and self._queue:
                if deadline.passed():
                    raise RequestTimeoutError(
                        f"the outbox was full ({self._bytes} bytes) for {deadline.timeout} s: the server is gone or reads "
                        "too slowly; the message was not queued"
                    )
                self._room.wait_slice(deadline.remaining())
                if self._closed:
                    raise ClosedError("the pool is closed: nothing was published")
        finally:
            self._blocked -= 1

    def control(self, entry: Entry) -> None:
        """Queue a message of the stream protocol ahead of everything else; never blocks."""
        self._enqueue(self._control, entry)

    def ready(self, source: Source) -> None:
        """``source`` has something to write; called once until its ``take_frame`` said that nothing is left."""
        self._enqueue(self._ready, source)

    def flush(self, waiter: Waiter[None]) -> None:
        """Settle ``waiter`` once the server has processed everything queued before. Raises ClosedError."""
        with self._lock:
            if self._closed:
                raise ClosedError("the pool is closed: there is nothing to flush")
        self._enqueue(self._queue, (Entry("", barrier=waiter), 0))

    def _enqueue(self, queue: Deque[Any], item: object) -> None:
        with self._lock:
            queue.append(item)
            if self._awake:
                return
            self._awake = True
        self._loop.post_quietly(self._wake.set)

    def shut(self) -> None:
        """Refuse further messages; what was accepted is still written."""
        with self._lock:
            self._closed = True
            self._room.notify_all()

    def waiting(self) -> Tuple[int, int]:
        """Messages and bytes that wait in the outbox (streams keep their own)."""
        with self._lock:
            return len(self._queue), self._bytes

    # -- the loop -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self._wake = asyncio.Event()
        self._wake.set()

    def wake(self) -> None:
        """The connection is (again) there to be written to."""
        self._wake.set()

    async def write(self, wire: Wire) -> None:
        """Write what is queued, whenever there is something and the connection is up; ends when cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while wire.up and not self._rests():
                await self._write_control(wire)
                await self._write_queue(wire)
                for _ in range(len(self._ready)):
                    await self._write_frame(wire)
                    await self._write_control(wire)
                await asyncio.sleep(0)  # let the loop read

    def _rests(self) -> bool:
        with self._lock:
            self._awake = bool(self._control or self._queue or self._ready)
            return not self._awake

    async def _write_control(self, wire: Wire) -> None:
        while self._control and wire.up:
            entry = self._control.popleft()
            if not await wire.publish(entry.subject, entry.data, entry.reply, entry.headers):
                self._control.appendleft(entry)
                return

    async def _write_queue(self, wire: Wire) -> None:
        if not self._queue:
            return
        batch: List[Tuple[Entry, int]] = []
        taken = 0
        with self._lock:
            while self._queue and len(batch) < _BATCH_MESSAGES and taken < _BATCH_BYTES:
                item = self._queue.popleft()
                taken += item[1]
                batch.append(item)
            self._bytes -= taken
            if self._blocked:
                self._room.notify_all()
        for done, (entry, _) in enumerate(batch):
            subject, data, reply, headers, guard, barrier = entry
            if barrier is not None:
                self._start_barrier(wire.barrier(barrier))
            elif guard is not None and guard.gone:
                continue
            elif not await wire.publish(subject, data, reply, headers):
                self._put_back(batch[done:])
                return
            elif guard is not None:
                guard.sent = True

    def _start_barrier(self, barrier: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_event_loop().create_task(barrier)
        self._barriers.add(task)
        task.add_done_callback(self._barriers.discard)

    def _put_back(self, batch: List[Tuple[Entry, int]]) -> None:
        with self._lock:
            self._queue.extendleft(reversed(batch))
            self._bytes += sum(size for _, size in batch)

    async def _write_frame(self, wire: Wire) -> None:
        source = self._ready.popleft()
        entries, more = source.take_frame(FRAME_BYTES)
        for entry in entries:
            if not await wire.publish(entry.subject, entry.data, entry.reply, entry.headers):
                break  # disconnected: the stream is told, and ends
        if more:
            self._ready.append(source)

    async def written(self, wire: Wire) -> bool:
        """Wait until nothing is queued any more; False when the connection went away meanwhile."""
        while wire.up:
            with self._lock:
                if not (self._control or self._queue or self._ready):
                    return True
            await asyncio.sleep(0.002)
        return False

    def abandon(self) -> None:
        """Fail whoever waits for something that will never be written."""
        with self._lock:
            entries = [entry for entry, _ in self._queue]
            self._queue.clear()
        for entry in entries:
            if entry.barrier is not None:
                entry.barrier.fail(ClosedError("the pool was closed before the flush was through"))
