"""What waits to be published on a link, and the one task that writes it.

Control messages of the stream protocol go first; then the outbox and the streams take turns, a bounded piece each.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Coroutine, Deque, List, Mapping, NamedTuple, Optional, Protocol, Sequence, Set, Tuple, Union

from ._deadline import Deadline
from ._loop import LoopThread
from ._waiter import Condition, Lock, Waiter
from .errors import ClosedError, MaxPayloadError, RequestTimeoutError
from .options import check_command

ALONE = 4  # frames that a stream may write at once while no other one waits: fewer, larger writes
_BATCH_MESSAGES = 512  # what the outbox may write before the loop gets to read again
_BATCH_BYTES = 256 * 1024


class Guard(Protocol):
    """Who stands behind a queued request: it is not sent once ``gone``, and learns when it was ``sent``."""

    sent: bool

    @property
    def gone(self) -> bool: ...
    def refuse(self, error: MaxPayloadError) -> None:
        """It cannot be sent any more."""


class Guarded(NamedTuple):
    """A queued command that somebody stands behind."""

    command: bytes
    guard: Guard


class Barrier(NamedTuple):
    """No command, but a marker for ``flush``."""

    waiter: Waiter[None]


Queued = Union[bytes, Guarded, Barrier]


def publish_command(subject: str, data: bytes = b"", reply: str = "", headers: Optional[Mapping[str, str]] = None) -> bytes:
    """A message as the server reads it. Building it here, in the caller's thread, halves what publishing costs.

    Everything in it has been checked (``options``) or came from the server: nothing can end a line early.
    """
    if not headers:
        return b"".join((f"PUB {subject} {reply} {len(data)}\r\n".encode(), data, b"\r\n"))
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    head = f"NATS/1.0\r\n{lines}\r\n".encode()
    return b"".join((f"HPUB {subject} {reply} {len(head)} {len(head) + len(data)}\r\n".encode(), head, data, b"\r\n"))


class Source(Protocol):
    """A stream with something to write."""

    def take_frames(self, count: int) -> Tuple[List[bytes], bool]:
        """Commands of up to ``count`` frames (at least one), and whether more is waiting."""


class Wire(Protocol):
    """The connection, as far as the writer sees it."""

    up: bool
    max_payload: int

    async def write(self, commands: List[bytes]) -> bool: ...
    async def barrier(self, waiter: Waiter[None]) -> None: ...


class Outbox:
    def __init__(self, loop: LoopThread, limit: int) -> None:
        """``limit``: bytes that may wait; beyond, ``publish`` blocks."""
        self._loop = loop
        self._limit = limit
        self._lock = Lock()  # guards everything below
        self._room = Condition(self._lock)  # the queue has shrunk, or the end
        self._queue: Deque[Queued] = deque()
        self._bytes = 0
        self._control: Deque[bytes] = deque()
        self._ready: Deque[Source] = deque()
        self._awake = True  # the writer will look at the queues without being told again
        self._piece: Sequence[Queued] = ()  # what the writer has taken out; on the loop only
        self._blocked = 0
        self._closed = False
        self._wake: asyncio.Event
        self._barriers: Set[asyncio.Task[None]] = set()  # on the loop only

    # -- any thread ---------------------------------------------------------------------------------------------------

    def publish(self, command: bytes, timeout: Optional[float], guard: Optional[Guard] = None) -> None:
        """Queue a command; blocks while the outbox is full, ``timeout`` seconds at most (None: no limit).

        Raises ClosedError, RequestTimeoutError.
        """
        size = len(command)
        with self._lock:
            if self._closed:
                raise ClosedError("the pool is closed: nothing was published")
            if self._bytes + size > self._limit and self._queue:
                self._wait_for_room(size, Deadline(timeout))
            self._queue.append(command if guard is None else Guarded(command, guard))
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

    def control(self, command: bytes) -> None:
        """Queue a command of the stream protocol ahead of everything else; never blocks."""
        self._enqueue(self._control, command)

    def ready(self, source: Source) -> None:
        """``source`` has something to write; called once until its ``take_frames`` said that nothing is left."""
        self._enqueue(self._ready, source)

    def flush(self, waiter: Waiter[None]) -> None:
        """Settle ``waiter`` once the server has processed everything queued before. Raises ClosedError."""
        self._enqueue(self._queue, Barrier(waiter), refusal="the pool is closed: there is nothing to flush")

    def _enqueue(self, queue: Deque[Any], item: object, *, refusal: str = "") -> None:
        """``refusal``: what to raise once the outbox is shut; without one, the writer's last round takes the item along."""
        with self._lock:
            if self._closed and refusal:
                raise ClosedError(refusal)
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
                    await self._write_frames(wire)
                    await self._write_control(wire)
                await asyncio.sleep(0)  # let the loop read

    def _rests(self) -> bool:
        with self._lock:
            self._awake = bool(self._control or self._queue or self._ready)
            return not self._awake

    async def _write_control(self, wire: Wire) -> None:
        while self._control and wire.up:
            commands = [self._control.popleft() for _ in range(len(self._control))]
            if not await wire.write(commands):
                self._control.extendleft(reversed(commands))

    async def _write_queue(self, wire: Wire) -> None:
        """Write a bounded piece of the queue; what the connection does not take goes back to its head."""
        piece = self._piece = self._take_piece()
        first = 0
        batch: List[bytes] = []
        guards: List[Guard] = []
        for done, item in enumerate(piece):
            if isinstance(item, bytes):
                batch.append(item)
            elif isinstance(item, Guarded):
                if not item.guard.gone:
                    error = check_command(item.command, wire.max_payload)
                    if error is not None:
                        item.guard.refuse(error)
                    else:
                        batch.append(item.command)
                        guards.append(item.guard)
            else:
                if not await self._write_batch(wire, batch, guards):
                    self._put_back(piece[first:])
                    return
                self._start_barrier(wire.barrier(item.waiter))
                first, batch, guards = done + 1, [], []
        if not await self._write_batch(wire, batch, guards):
            self._put_back(piece[first:])
        self._piece = ()

    @staticmethod
    async def _write_batch(wire: Wire, batch: List[bytes], guards: List[Guard]) -> bool:
        if batch and not await wire.write(batch):
            return False
        for guard in guards:
            guard.sent = True
        return True

    def _take_piece(self) -> List[Queued]:
        piece: List[Queued] = []
        if not self._queue:
            return piece
        with self._lock:
            room = _BATCH_BYTES
            while self._queue and room > 0 and len(piece) < _BATCH_MESSAGES:
                item = self._queue.popleft()
                piece.append(item)
                room -= _size(item)
            self._bytes -= _BATCH_BYTES - room
            if self._blocked:
                self._room.notify_all()
        return piece

    def _put_back(self, items: Sequence[Queued]) -> None:
        with self._lock:
            self._queue.extendleft(reversed(items))
            self._bytes += sum(_size(item) for item in items)

    def _start_barrier(self, barrier: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_event_loop().create_task(barrier)
        self._barriers.add(task)
        task.add_done_callback(self._barriers.discard)

    async def _write_frames(self, wire: Wire) -> None:
        source = self._ready.popleft()
        commands, more = source.take_frames(1 if self._ready else ALONE)
        if commands:
            await wire.write(commands)  # if that fails we are disconnected: the stream is told, and ends or resumes
        if more:
            self._ready.append(source)

    async def written(self, wire: Wire) -> bool:
        """Wait until the writer rests: nothing is queued, or half written; False when the connection went away."""
        while wire.up:
            with self._lock:
                if not self._awake:
                    return True
            await asyncio.sleep(0.002)
        return False

    def abandon(self) -> None:
        """Fail whoever waits for something that will never be written, after ``shut`` and the end of the writer."""
        with self._lock:
            items = [*self._piece, *self._queue]
            self._queue.clear()
        for item in items:
            if isinstance(item, Barrier):
                item.waiter.fail(ClosedError("the pool was closed before the flush was through"))


def _size(item: Queued) -> int:
    if isinstance(item, bytes):
        return len(item)
    return len(item.command) if isinstance(item, Guarded) else 0
