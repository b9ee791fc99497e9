"""What waits to be published on a link, and who writes it.

That is one task on the loop: control messages of the stream protocol go first; then the outbox and the streams take turns,
a bounded piece each. While it rests, a thread with something to write may do so in its place.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Protocol, Set, Tuple, Union

from . import _fork
from ._command import check_command
from ._deadline import Deadline
from ._loop import LoopThread
from ._threads import get_ident
from ._waiter import Condition, Lock, Waiter
from .errors import ClosedError, MaxPayloadError, RequestTimeoutError

ALONE = 8  # frames that a stream may write at once while no other one waits: fewer, larger writes
_BATCH_MESSAGES = 512  # what the outbox may write before the loop gets to read again
_BATCH_BYTES = 256 * 1024
# Seconds. Where the last write is less long ago, and nobody waits for an answer, the loop is better: until it is awake more
# comes together, and a system call for each message would cost more than the message does.
_FAST = 0.0002
# Seconds that what begins an answer waits for its first chunk, and what acknowledges its end for another request: one
# write, and one packet, for both.
SOON = 0.002
_LOST = 1.0  # seconds of the link's clock; a write here takes no time, but its thread may have to wait for the interpreter


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


Message = Union[bytes, Guarded]
Queued = Union[Message, Barrier]


class Loan:
    """A thread's leave to write in the loop's place."""

    def __init__(self) -> None:
        self.thread = get_ident()


class Source(Protocol):
    """A stream with something to write."""

    def take_frames(self, count: int) -> Tuple[List[bytes], bool]:
        """Commands of up to ``count`` frames (at least one), and whether more is waiting."""


class Wire(Protocol):
    """The connection, as far as the writer sees it."""

    up: bool
    max_payload: int

    async def write(self, commands: List[bytes]) -> bool: ...
    def write_at_once(self, commands: List[bytes]) -> bool: ...
    async def barrier(self, waiter: Waiter[None]) -> None: ...


class Outbox:
    def __init__(self, loop: LoopThread, limit: int, wire: Wire) -> None:
        """``limit``: bytes that may wait; beyond, ``publish`` blocks."""
        self._loop = loop
        self._generation = _fork.generation
        self._wire = wire
        self._limit = limit
        self._lock = Lock()  # guards everything below
        self._room = Condition(self._lock)  # the queue has shrunk, or the end
        self._queue: Deque[Queued] = deque()
        self._bytes = 0
        self._control: Deque[bytes] = deque()
        self._ready: Deque[Source] = deque()
        self._awake = True  # whoever writes will look at the queues without being told again
        self._lent: Optional[Loan] = None  # a thread writes in the loop's place
        self._busy = 0.0  # when there last was something to write
        self._deferrals: Deque[None] = deque()  # one for each call to carry out first; changed without the lock
        self._blocked = 0
        self._closed = False
        self._wake: asyncio.Event
        self._barriers: Set[asyncio.Task[None]] = set()  # on the loop only, as what follows
        self._stirring = False  # a look at what is to be written soon is due
        self._seen: Tuple[Optional[Loan], float] = (None, 0.0)  # the loan that ``check`` saw last, and when it first did

    # -- any thread ---------------------------------------------------------------------------------------------------

    def publish(
        self, command: bytes, timeout: Optional[float], guard: Optional[Guard] = None, *, urgent: bool = False
    ) -> None:
        """Queue a command; blocks while the outbox is full, ``timeout`` seconds at most (None: no limit).

        ``urgent``: the caller does nothing else before it has an answer, so there is no more to collect.

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
            if self._told():
                return
            here = self._begin(urgent=urgent)
        if here:
            self.write_here()
        elif self._loop.relay.more and not self._loop.is_current():
            self._loop.relay.at_end(self._call)  # whoever is woken meanwhile may have something to publish too
        else:
            self._call()

    def _call(self) -> None:
        """Have the loop write what is queued."""
        self._loop.post_quietly(self._wake.set)

    def _told(self) -> bool:
        """Inside the lock: whoever writes will look at the queues without being told."""
        lent = self._lent
        if lent is not None and lent.thread == get_ident():
            # A signal handler, on top of ``write_here``, which goes on when it is through: it may wait for this.
            self._lent, self._awake = None, False
        return self._awake

    def _begin(self, *, urgent: bool) -> bool:
        """Inside the lock: there is something to write. True if this thread is to ``write_here``, as nobody else will."""
        self._awake = True
        before, self._busy = self._busy, time.monotonic()
        if self._deferrals or self._loop.relay.more or self._loop.is_current():
            return False
        if not (urgent or self._busy - before > _FAST):
            return False
        if self._generation != _fork.generation:
            return False  # the socket is the parent's
        self._lent = Loan()
        return True

    def defer(self, call: Callable[..., object], *args: Any) -> None:
        """Run ``call`` on the loop soon: what is queued from now on is written behind what it, or its task, writes first.

        Takes no lock, so finalizers may use it.
        """
        self._deferrals.append(None)
        self._loop.post_quietly(self._carry_out, call, args)

    def _wait_for_room(self, size: int, deadline: Deadline) -> None:
        self._loop.refuse_here()
        self._blocked += 1
        try:
            while self._bytes + size > self._limit and self._queue:
                if deadline.passed():
                    raise RequestTimeoutError(
                        f"the outbox was full ({self._bytes} bytes) for {deadline.timeout:g} s: the server is gone or "
                        "reads too slowly; the message was not queued"
                    )
                self._room.wait_slice(deadline.remaining())
                if self._closed:
                    raise ClosedError("the pool is closed: nothing was published")
        finally:
            self._blocked -= 1

    def control(self, command: bytes) -> None:
        """Queue a command of the stream protocol ahead of everything else; never blocks."""
        with self._lock:
            self._control.append(command)
            if self._told():
                return
            self._awake = True
        self._call()

    def ready(self, source: Source) -> bool:
        """``source`` has something to write; called once until its ``take_frames`` said that nothing is left.

        True if the caller has to ``write_here``, once it has left its locks.
        """
        with self._lock:
            self._ready.append(source)
            if self._told():
                return False
            if self._begin(urgent=False):
                return True
        self._call()
        return False

    def flush(self, waiter: Waiter[None]) -> None:
        """Settle ``waiter`` once the server has processed everything queued before. Raises ClosedError."""
        with self._lock:
            if self._closed:
                raise ClosedError("the pool is closed: there is nothing to flush")
            self._queue.append(Barrier(waiter))
            if self._told():
                return
            self._awake = True
        self._call()

    def shut(self) -> None:
        """Refuse further messages; what was accepted is still written."""
        with self._lock:
            self._closed = True
            self._room.notify_all()

    def waiting(self) -> Tuple[int, int]:
        """Messages and bytes that wait in the outbox (streams keep their own)."""
        with self._lock:
            return len(self._queue), self._bytes

    # -- whoever writes -----------------------------------------------------------------------------------------------

    def write_here(self) -> None:
        """Write in the loop's place, without waiting: what cannot be written at once, or came meanwhile, is left to it.

        For the thread, outside its locks, that was told to. ``check`` makes up for one that was interrupted before it came.
        """
        loan = self._lent
        if loan is None or loan.thread != get_ident():
            return  # it took so long to come here that the loop has it back
        try:
            # Of the queue its own message alone, the oldest: an interrupt in here loses nobody else's.
            control, piece = self._take_control(), self._take_piece(1)
            commands, guards = self._commands(piece)
            frames = self._take_frames() if self._ready and not piece else []
            batch = [*control, *commands, *frames]
            for guard in guards:
                guard.sent = True  # before it is: the connection may be lost before this thread is on again
            if batch and not self._wire.write_at_once(batch):
                for guard in guards:
                    guard.sent = False
                self._put_back(piece)
                # The frames ahead of what their stream may have said since; without a connection it knows, or will.
                self._control.extendleft(reversed([*control, *(frames if self._wire.up else ())]))
        finally:
            with self._lock:
                wake = self._lent is loan and self._return()
            if wake:
                self._call()

    def _return(self) -> bool:
        """Inside the lock: nobody writes in the loop's place any more. True if there is something left for it."""
        self._lent = None
        self._awake = bool(self._control or self._queue or self._ready)
        self._busy = time.monotonic()
        return self._awake

    def _take_control(self) -> List[bytes]:
        commands: List[bytes] = []
        with suppress(IndexError):
            while True:
                commands.append(self._control.popleft())
        return commands

    def _take_piece(self, most: int = _BATCH_MESSAGES) -> List[Message]:
        """From the head of the queue, up to a barrier."""
        piece: List[Message] = []
        if not self._queue:
            return piece
        with self._lock:
            # What was deferred is written first, and the writer looks again for as long as something is queued.
            room = 0 if self._deferrals else _BATCH_BYTES
            while self._queue and room > 0 and len(piece) < most:
                item = self._queue[0]
                if isinstance(item, Barrier):
                    break
                size = _size(item)
                self._bytes -= size
                piece.append(self._queue.popleft())  # type: ignore[arg-type] # no barrier
                room -= size
            if self._blocked:
                self._room.notify_all()
        return piece

    def _commands(self, piece: List[Message]) -> Tuple[List[bytes], List[Guard]]:
        """What of it is to be sent, and who stands behind that."""
        batch: List[bytes] = []
        guards: List[Guard] = []
        limit = self._wire.max_payload
        for item in piece:
            if isinstance(item, bytes):
                batch.append(item)
            elif not item.guard.gone:
                error = check_command(item.command, limit)
                if error is not None:
                    item.guard.refuse(error)
                else:
                    batch.append(item.command)
                    guards.append(item.guard)
        return batch, guards

    def _take_frames(self) -> List[bytes]:
        source = self._ready.popleft()
        commands, more = source.take_frames(1 if self._ready else ALONE)
        if more:
            self._ready.append(source)
        return commands

    def _put_back(self, items: List[Message]) -> None:
        with self._lock:
            self._queue.extendleft(reversed(items))
            self._bytes += sum(_size(item) for item in items)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        self._wake = asyncio.Event()
        self._wake.set()

    def wake(self) -> None:
        """The connection is (again) there to be written to."""
        self._wake.set()

    def control_soon(self, command: bytes) -> None:
        """As ``control``: with what is written within ``SOON`` seconds, or by itself then."""
        self._control.append(command)
        if not self._stirring:
            self._stirring = True
            asyncio.get_event_loop().call_later(SOON, self._stir)

    def _stir(self) -> None:
        self._stirring = False
        with self._lock:
            if self._awake or not self._control:
                return
            self._awake = True
        self._wake.set()

    async def write(self) -> None:
        """Write what is queued, whenever there is something and the connection is up; ends when cancelled."""
        wire = self._wire
        while True:
            await self._wake.wait()
            self._wake.clear()
            while wire.up and not self._rests():
                await self._write_control()
                await self._write_queue()
                for _ in range(len(self._ready)):
                    await self._write_control()  # first: a stream may have been accepted while something was written
                    commands = self._take_frames()
                    if commands:  # if that fails we are disconnected: the stream is told, and ends or resumes
                        await wire.write(commands)
                await asyncio.sleep(0)  # let the loop read

    def _rests(self) -> bool:
        with self._lock:
            return self._lent is not None or not self._return()  # who it is lent to wakes us if need be

    async def _write_control(self) -> None:
        while self._control and self._wire.up:
            commands = self._take_control()
            if not await self._wire.write(commands):
                self._control.extendleft(reversed(commands))

    async def _write_queue(self) -> None:
        """Write a bounded piece of the queue, and start the barriers behind it; what is not taken goes back to the head."""
        piece = self._take_piece()
        batch, guards = self._commands(piece)
        if batch and not await self._wire.write(batch):
            self._put_back(piece)
            return
        for guard in guards:
            guard.sent = True
        while self._queue:
            head = self._queue[0]
            if not isinstance(head, Barrier):
                break
            self._queue.popleft()
            task = asyncio.get_event_loop().create_task(self._wire.barrier(head.waiter))
            self._barriers.add(task)
            task.add_done_callback(self._barriers.discard)

    def _carry_out(self, call: Callable[..., object], args: Any) -> None:
        try:
            call(*args)
        finally:  # once more through the loop, for the tasks that it has started
            asyncio.get_event_loop().call_soon(self._deferrals.pop)

    def check(self, clock: float) -> None:
        """Now and then: make up for threads that were interrupted, by what a signal handler raised.

        One may never have come to write, or not have woken the loop.
        """
        loan, seen = self._seen
        with self._lock:
            if self._lent is not None:
                if self._lent is not loan:
                    self._seen = (self._lent, clock)
                elif clock - seen >= _LOST and self._return():
                    self._wake.set()
            elif self._awake or self._control or self._queue or self._ready:
                self._awake = True
                self._wake.set()

    async def written(self) -> bool:
        """Wait until nothing is queued, or half written; False when the connection went away."""
        while self._wire.up:
            with self._lock:
                if not self._awake and not self._control:
                    return True
            await asyncio.sleep(0.002)
        return False

    def abandon(self) -> None:
        """Fail whoever waits for something that will never be written, after ``shut`` and the end of the writer."""
        with self._lock:
            items = [*self._queue]
            self._queue.clear()
        for item in items:
            if isinstance(item, Barrier):
                item.waiter.fail(ClosedError("the pool was closed before the flush was through"))


def _size(item: Message) -> int:
    return len(item) if isinstance(item, bytes) else len(item.command)
