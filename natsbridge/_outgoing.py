"""The responder's end of a stream as a state table: what was sent, what was acknowledged, whether anybody still listens.

Pure: no threads, no clock, no I/O. The owner holds a lock around every call, hands in the time, and publishes what comes
back. The table below and the one in docs/protocol.md are the same; the tests walk both.

States: ``running`` (the handler may send), ``ending`` (the handler is through, the end is on its way), ``done``.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Tuple

from . import _wire
from ._wire import ACCEPTED, BATCH, CHUNK, END, PROBE, Failure

RUNNING, ENDING, DONE = "running", "ending", "done"

CONFIRM_AFTER = 0.010  # seconds between a first 503 and the probe whose 503 confirms it
_CLOCK_SLACK = 0.001
_BLOCKED_PROBES = 0.1  # seconds between probes while a sender has just begun to wait for the window,
_BLOCKED_PROBING = 1.0  # and for how many seconds it is probed so often
_SUSPECT_PROBES = 0.25  # seconds between probes of a requester that is missing but may come back, or has stalled
_REFUSALS = 0.5  # seconds between saying that there is no room for a larger window, while that does not change

FRAME_BYTES = 32 * 1024  # the longest batch, and what a stream may write before it is another one's turn


class Frame:
    """Consecutive chunks that travel together: all work but ``push`` is done per frame, not per chunk."""

    __slots__ = ("chunks", "first", "size")

    def __init__(self, first: int, chunks: List[bytes], size: int) -> None:
        """``first``: the sequence number of the first chunk. ``size``: bytes on the wire, each chunk's length included."""
        self.first, self.chunks, self.size = first, chunks, size

    @property
    def last(self) -> int:
        return self.first + len(self.chunks) - 1

    def cut(self, count: int) -> Frame:
        """Take the first ``count`` chunks out, as a frame of their own."""
        chunks = self.chunks[:count]
        size = sum(map(len, chunks)) + count * _wire.BATCH_OVERHEAD
        head = Frame(self.first, chunks, size)
        del self.chunks[:count]
        self.first += count
        self.size -= size
        return head

    def fitting(self, budget: int) -> int:
        """How many chunks fit ``budget`` bytes together: one at least."""
        if self.size <= budget:
            return len(self.chunks)
        size = 0
        for count, chunk in enumerate(self.chunks):
            size += len(chunk) + _wire.BATCH_OVERHEAD
            if size > budget:
                return max(count, 1)
        return len(self.chunks)


class Emit(NamedTuple):
    """A message for the requester: its kind and sequence number (in the reply subject), payload or failure."""

    kind: str
    seq: int
    payload: bytes = b""
    failure: Optional[Failure] = None


class Outgoing:
    def __init__(
        self,
        *,
        native: bool,
        batches: bool = True,
        window: int,
        max_bytes: int,
        probe_interval: float,
        max_probes: int = 3,
        speak_interval: Optional[float] = None,
        stall_timeout: Optional[float] = None,
        resume: float = 0.0,
        room: Optional[Callable[[int], int]] = None,
        clock: float = 0.0,
    ) -> None:
        """``native``: the requester speaks this protocol, so it acknowledges and answers probes; with ``batches`` too.

        ``window``, ``max_bytes``: un-acknowledged chunks and bytes at most. For a requester that is not native they bound
        what is not written yet. ``probe_interval``: after so much silence the requester is probed; ``speak_interval``:
        this end is never silent for longer (``probe_interval`` if None). All times are seconds of the owner's clock.
        ``room``: told how many bytes are needed from now on, it returns how many there is room for; None for always as many
        as ``max_bytes``.
        """
        self.native, self.window, self.max_bytes = native, window, max_bytes
        self._room = room or (lambda needed: max_bytes)
        self._refused: Tuple[int, float] = (0, 0.0)  # the room that there was when there was too little, and when
        self._batches = batches and native
        self.state = RUNNING
        self.reason: Optional[str] = None  # why it is done: "ended", or the reason of ClientOfflineError
        self.failure: Optional[Failure] = None  # what the end will say
        self.pushed = self.sent = self.acked = 0
        self._highest = 0  # ever sent; a rewind takes ``sent`` back, not this
        self.ignored = 0
        self._unsent: Deque[Frame] = deque()
        self._unacked: Deque[Frame] = deque()  # sent: kept, because they may be asked for again
        self._bytes = 0  # un-acknowledged, sent or not
        self._end_written = False
        self._rewound: Tuple[int, float] = (0, 0.0)  # the last rewind: to which chunk, and when
        self._stall_timeout = stall_timeout
        self._full_since: Optional[float] = None  # when a chunk first had to wait for the window
        self._resume = resume if native else 0.0
        self._down_since: Optional[float] = None  # when the own connection was lost
        self._probe_interval, self._max_probes = probe_interval, max_probes
        self._speak_interval = probe_interval if speak_interval is None else speak_interval
        self._heard = self._said = self._probed = clock
        self._probes = 0  # own probes since anything was heard
        self._suspected: Optional[float] = None  # real time of a 503 that nothing has contradicted since,
        self._suspected_clock = clock  # the same by the owner's clock,
        self._confirming = False  # whether the confirming probe has been sent,
        self._missed = 0  # and the newest message that drew one, by its number

    # -- the handler's side -------------------------------------------------------------------------------------------

    def push(self, chunk: bytes, clock: float) -> bool:
        """Take a chunk in; False where it does not fit the window now. It always does when nothing is un-acknowledged."""
        size = len(chunk)
        unacked = self.pushed - self.acked
        if unacked and (unacked >= self.window or self._bytes + size > self.max_bytes):
            if self._full_since is None:
                self._full_since = clock
            return False
        self.pushed += 1
        self._bytes += size
        size += _wire.BATCH_OVERHEAD
        unsent = self._unsent
        if unsent and self._batches:
            frame = unsent[-1]
            if frame.size + size <= FRAME_BYTES:
                frame.chunks.append(chunk)
                frame.size += size
                return True
        unsent.append(Frame(self.pushed, [chunk], size))
        return True

    def end(self, failure: Optional[Failure] = None) -> bool:
        """The handler is through; False when the stream is over already."""
        if self.state != RUNNING:
            return False
        self.state = ENDING
        self.failure = failure
        return True

    # -- the writer's side --------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        if self.state == DONE or self._down_since is not None:
            return False
        if self._suspected is not None and self.native:
            return False  # nobody is there, or the server drops what its client is too slow for: either way, wait
        return bool(self._unsent) or (self.state == ENDING and not self._end_written)

    def take(self, limit: int, clock: float, count: int = 1) -> List[Emit]:
        """The next messages to write: chunks of up to ``count`` frames, then the end if it is its turn.

        ``limit``: bytes that a message may have. A frame is one batch, or as many lone chunks as fit it.
        """
        emits: List[Emit] = []
        if not self.has_work:
            return emits
        longest = min(limit, FRAME_BYTES)
        budget = count * longest
        while self._unsent and (not emits or len(self._unsent[0].chunks[0]) <= budget):
            emit = self._next_frame(min(longest, budget))
            budget -= longest if emit.kind == BATCH else len(emit.payload)
            emits.append(emit)
        if self.state == ENDING and not self._unsent and not self._end_written:
            self._end_written = True
            self._probed = clock
            emits.append(self._end())
            if not self.native:
                self._finish("ended")
        self._said = clock
        return emits

    def _next_frame(self, budget: int) -> Emit:
        """One chunk, or as many of those that wait already as fit the budget together."""
        frame = self._unsent[0]
        fitting = frame.fitting(budget)
        if fitting == len(frame.chunks):
            self._unsent.popleft()
        else:
            frame = frame.cut(fitting)
        self.sent = frame.last
        self._highest = max(self._highest, self.sent)
        if self.native:
            self._unacked.append(frame)
        else:
            self._bytes -= len(frame.chunks[0])
            self.acked = self.sent
        if len(frame.chunks) == 1:
            return Emit(CHUNK, frame.first, frame.chunks[0])
        return Emit(BATCH, frame.first, _wire.encode_batch(frame.chunks))

    def cut_short(self, seq: int, failure: Failure) -> List[Emit]:
        """Chunk ``seq``, which was taken just now, cannot be sent: end behind the one before it."""
        self._take_back(seq)
        self._bytes -= sum(len(chunk) for frame in self._unsent for chunk in frame.chunks)
        self._unsent.clear()
        self.pushed = self.sent = self._highest = seq - 1
        self.acked = min(self.acked, self.sent)
        self.state = ENDING
        self.failure = failure
        self._end_written = True
        if not self.native:
            self._finish("ended")
        return [self._end()]

    def _take_back(self, seq: int) -> None:
        while self._unacked and self.sent >= seq:
            frame = self._unacked.pop()
            if frame.first < seq:
                self._unacked.append(frame.cut(seq - frame.first))
            self._unsent.appendleft(frame)
            self.sent = frame.first - 1

    def accept(self) -> Emit:
        return Emit(ACCEPTED, 0)

    def _end(self) -> Emit:
        return Emit(END, self._highest, failure=self.failure)

    # -- local events -------------------------------------------------------------------------------------------------

    def give_up(self, reason: str) -> List[Emit]:
        """Any state but done: stop now; the requester is told where it does not know yet."""
        if self.state == DONE:
            return []
        self._finish(reason)
        if reason not in _wire.LIBRARY_ENDS:
            return []  # the requester knows already, or is gone
        self.failure = _wire.library_failure(reason)
        return [self._end()]

    def on_disconnect(self, clock: float) -> List[Emit]:
        """The own connection is lost: wait for it where that was agreed, give up otherwise."""
        if self._resume <= 0:
            return self.give_up("disconnected")
        if self._down_since is None and self.state != DONE:
            self._down_since = clock
        return []

    def on_reconnect(self, clock: float) -> List[Emit]:
        """The own connection is back: say where we are, so that the requester can ask for what it lacks."""
        if self.state == DONE or self._down_since is None:
            return []
        self._down_since = None
        self._hear(clock)  # silence so far is nobody's fault
        self._full_since = None
        return self._speak(clock)

    def on_tick(self, clock: float) -> List[Emit]:
        """Time passes. Whoever has heard nothing, or said nothing, for a probe interval speaks."""
        if self.state == DONE or not self.native:
            return []
        if self._down_since is not None:
            return self.give_up("disconnected") if clock - self._down_since >= self._resume else []
        if clock - max(self._heard, self._probed) >= self._probe_interval:
            if self._probes >= self._max_probes and clock - self._heard >= self._resume + self._probe_interval:
                self._finish("unreachable")
                return []
            self._probes += 1
            self._probed = clock
            return self._speak(clock)
        return self._speak(clock) if clock - self._said >= self._pause(clock) else []

    def _pause(self, clock: float) -> float:
        """For how long this end may be silent now."""
        if self._stalled(clock) or (self._suspected is not None and self._resume):
            return min(_SUSPECT_PROBES, self._speak_interval)
        if self._full_since is not None and clock - self._full_since < _BLOCKED_PROBING:
            # Everything sent had arrived before the requester went: only something new can bring the 503 about.
            return min(_BLOCKED_PROBES, self._speak_interval)
        return self._speak_interval

    def _stalled(self, clock: float) -> bool:
        if self._full_since is None or self._stall_timeout is None:
            return False
        return clock - self._full_since >= self._stall_timeout

    # -- events from the other end: the table ---------------------------------------------------------------------------

    def on_control(self, control: _wire.Control, clock: float) -> List[Emit]:
        """An ``ack``, ``nak`` or ``cancel`` arrived."""
        emits = _TABLE[self.state, control.verb](self, control.seq, control.why, clock)
        if control.verb == _wire.ACK and control.seq == self.acked and self.state == RUNNING and self.native:
            emits = [*emits, *self._resize(control.max_bytes or self.max_bytes, clock)]
        return emits

    def _resize(self, asked: int, clock: float) -> List[Emit]:
        """The window is to be that from now on; where there is no room for it, say so now and then."""
        room = self._room(max(asked, self._bytes))
        self.max_bytes = min(asked, room)
        before, at = self._refused
        if asked <= room or (room == before and clock - at < _REFUSALS):
            return []
        self._refused = (room, clock)
        return [self.accept()]

    def on_no_responders(self, seq: int, clock: float, now: float) -> bool:
        """A 503 for message ``seq``; True when a confirming probe is due after CONFIRM_AFTER seconds."""
        if self.state == DONE:
            return False
        missed, self._missed = self._missed, seq
        if self._suspected is None or (not self.native and seq > missed + 1):  # what was in between has arrived
            self._suspected, self._suspected_clock = now, clock
            self._confirming = not self.native
            return self.native
        confirmed = self._confirming and now - self._suspected >= CONFIRM_AFTER - _CLOCK_SLACK
        if confirmed and clock - self._suspected_clock >= self._resume:
            self._finish("no_interest")
        return False

    def on_confirm(self, clock: float) -> List[Emit]:
        """The confirming probe is due."""
        if self.state == DONE or self._suspected is None:
            return []
        self._confirming = True
        return self._speak(clock)

    # -- actions ------------------------------------------------------------------------------------------------------

    def _speak(self, clock: float) -> List[Emit]:
        """A probe; the end is its own probe once it has been written."""
        self._said = clock
        return [self._end() if self._end_written else Emit(PROBE, self.sent)]

    def _hear(self, clock: float) -> None:
        self._heard = clock
        self._probes = 0
        self._suspected = None

    def _acknowledge(self, seq: int, _why: str, clock: float) -> List[Emit]:
        self._hear(clock)
        if not self.native or not self.acked <= seq <= self._highest:
            self.ignored += 1
            return []
        if seq > self.acked:
            self._full_since = None
        elif self._stalled(clock):  # it is there, and has read nothing
            return self.give_up("stalled")
        while self.acked < seq:
            # Where a rewind took chunks back, and they have arrived after all, they are not sent again.
            frames = self._unacked or self._unsent
            frame = frames[0]
            if frame.last <= seq:
                frames.popleft()
            else:
                frame = frame.cut(seq + 1 - frame.first)
            self.acked = frame.last
            self._bytes -= frame.size - len(frame.chunks) * _wire.BATCH_OVERHEAD
        self.sent = max(self.sent, self.acked)
        return []

    def _acknowledge_ending(self, seq: int, why: str, clock: float) -> List[Emit]:
        if seq == self.pushed + 1 and self._end_written:
            self._finish("ended")
            return []
        return self._acknowledge(seq, why, clock)

    def _rewind(self, seq: int, _why: str, clock: float) -> List[Emit]:
        """Send again from ``seq`` on; for the same only as often as this end speaks, or it could go on for ever."""
        self._hear(clock)
        again, at = self._rewound
        if not self.acked < seq <= self.sent or (seq == again and clock - at < self._speak_interval):
            self.ignored += 1
            return []
        self._rewound = (seq, clock)
        self._full_since = None if self._full_since is None else clock  # it could not read what it did not get
        self._take_back(seq)
        self._end_written = False
        return []

    def _cancelled(self, _seq: int, why: str, _clock: float) -> List[Emit]:
        self._finish(why if why in _wire.CANCEL_REASONS else "cancelled")
        return []

    def _ended(self, *_: object) -> List[Emit]:
        self._finish("ended")  # the requester has forgotten the stream: it has its end, or wants none
        return []

    def _ignore(self, *_: object) -> List[Emit]:
        self.ignored += 1
        return []

    def _finish(self, reason: str) -> None:
        self.state = DONE
        self.reason = reason
        self._unsent.clear()
        self._unacked.clear()
        self._bytes = 0


_TABLE: Dict[Tuple[str, str], Callable[..., List[Emit]]] = {
    (RUNNING, "ack"): Outgoing._acknowledge,
    (RUNNING, "nak"): Outgoing._rewind,
    (RUNNING, "cancel"): Outgoing._cancelled,
    (ENDING, "ack"): Outgoing._acknowledge_ending,
    (ENDING, "nak"): Outgoing._rewind,
    (ENDING, "cancel"): Outgoing._ended,
    (DONE, "ack"): Outgoing._ignore,
    (DONE, "nak"): Outgoing._ignore,
    (DONE, "cancel"): Outgoing._ignore,
}
