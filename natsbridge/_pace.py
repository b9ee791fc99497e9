"""How much of a stream may be on its way to a reader that has its connection to itself: what it reads in a short while.

So whatever else comes by the same connection waits for that while at most, however fast or slow the stream is. The windows
of TCP and gRPC begin small and follow the reader, too.
"""

from __future__ import annotations

# Bytes that may be on their way in the beginning, and while something else comes by the same connection.
SHARE = 1024 * 1024
_WHILE = 0.020  # seconds
_LONGEST_TRIP = 0.25  # seconds; a responder that takes longer to answer is busy, or was not there


class Pace:
    """Follows one reader. Times are in seconds, and real ones."""

    def __init__(self, most: int) -> None:
        """``most``: bytes that may ever be on their way."""
        self.bytes = self.least = min(SHARE, most)
        self._most = most
        self._while = _WHILE
        self._read = 0  # bytes, since
        self._since = 0.0

    def asked(self, now: float) -> None:
        """The request goes out."""
        self._since = now

    def answered(self, now: float) -> None:
        """The first answer is there. What comes in two round trips more keeps a responder going that is far away."""
        trip = now - self._since
        self._while = _WHILE + (2 * trip if trip <= _LONGEST_TRIP else 0)
        self._since = now

    def read(self, size: int, now: float) -> None:
        """So many bytes more have been read."""
        self._read += size
        took = now - self._since
        if took >= self._while or self._read >= self.bytes:
            in_a_while = int(self._read * self._while / max(took, 1e-6))
            self.bytes = min(self._most, max(self.least, min(in_a_while, 2 * self.bytes)))
            self._read, self._since = 0, now
