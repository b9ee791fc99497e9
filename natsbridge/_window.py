"""The window of a stream, as its requester keeps it: what may be on its way, what was acknowledged, and when that is due.

Pure: no threads, no clock, no I/O. Times are seconds of the owner's clock.
"""

from __future__ import annotations

from typing import Optional, Sequence

from . import _wire

PARCELS = 8  # parts of the window in which the reader is handed what has arrived

_ACK_DELAY = 0.1  # seconds of the owner's clock: the longest that a consumed chunk stays un-acknowledged
_ASK_AGAIN = 1.0  # seconds after which a responder that had no room for a larger window is asked again


class Window:
    def __init__(self, chunks: int, size: int, clock: float) -> None:
        """``chunks``, ``size`` (in bytes): what the request grants."""
        self.chunks = chunks
        self.bytes = size  # as the reader wants it, as far as there is room
        self.told = size  # the same, as far as the responder knows
        self.acked = 0  # chunks
        self.acked_at = clock
        self._tells = False  # other bytes than agreed; from then on in each acknowledgement, as one may be lost
        self._room: Optional[int] = None  # bytes: the responder has no more,
        self._room_at = clock  # or had none then
        self._unacked = 0  # bytes, handed to the reader and not acknowledged
        self._largest = 0  # bytes, of the chunks that are large for the window

    def agree(self, chunks: int, size: int, clock: float) -> None:
        """The responder accepts the request; it may grant less than it was asked for."""
        self.chunks = min(self.chunks, chunks)
        if size < self.told:
            self._room, self._room_at = size, clock
        self._shrink(size)

    def refuse(self, room: int, clock: float) -> None:
        """More was asked for than the responder has: so many bytes."""
        if self._tells:
            self._room, self._room_at = room, clock
            self._shrink(room)

    def _shrink(self, room: int) -> None:
        self.told = min(self.told, room)
        self.bytes = min(self.bytes, room)

    def wanted(self, size: Optional[int], consumed: int, clock: float) -> int:
        """Before the reader is handed something: the bytes that may be on their way, of ``size`` (None: as before)."""
        if consumed == self.acked:
            self.acked_at = clock  # the delay counts from the first un-acknowledged one
        size = self.bytes if size is None else size
        if self._room is None:
            return size
        if clock - self._room_at >= _ASK_AGAIN:
            self._room = None
            return size
        return min(size, self._room)

    def hand(self, chunks: Sequence[bytes], size: int, consumed: int, wanted: int) -> bool:
        """The reader is handed ``chunks``, ``size`` bytes in all. Whether an acknowledgement is due."""
        certain = min(wanted, self.told)
        self._unacked += size
        self.bytes = wanted
        if size > certain // PARCELS:
            self._largest = max(self._largest, max(map(len, chunks)))
        few = 4 * (consumed - self.acked) < self.chunks and 4 * self._unacked < certain
        return not few or wanted < self.told

    def pinches(self, consumed: int) -> bool:
        """Whether a responder may wait for room for a large chunk until ``consumed`` is acknowledged."""
        return consumed != self.acked and self._unacked + self._largest > self.told

    def narrow(self, size: Optional[int]) -> bool:
        """Nobody reads, and ``size`` bytes may be on their way. Whether the responder has to be told."""
        if size is None or size >= self.told:
            return False
        self.bytes = size
        return True

    def overdue(self, consumed: int, clock: float) -> bool:
        """Whether something consumed has waited for its acknowledgement for too long."""
        return consumed > self.acked and clock - self.acked_at >= _ACK_DELAY

    def acknowledge(self, consumed: int, clock: float, ahead: int = 0) -> bytes:
        """The acknowledgement of ``consumed`` chunks; the reader has been handed ``ahead`` bytes more."""
        self.acked, self.acked_at = consumed, clock
        self._unacked = ahead
        self._tells = self._tells or self.bytes != self.told
        self.told = self.bytes
        return _wire.encode_ack(consumed, self.bytes if self._tells else None)
