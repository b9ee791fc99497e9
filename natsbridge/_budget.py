"""What streams together may use of something, shared out as they come and go."""

from __future__ import annotations

from ._waiter import Lock

_LEAST = 16 * 1024  # nobody gets less, if it is too much in all
_PARTS = 3  # of what is left, the most that one may get: the next ones find something too


class Budget:
    """Bytes, of which every stream takes some as it begins, and gives them back when it is over. Any thread."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._lock = Lock()  # guards taken
        self.taken = 0

    def take(self, wanted: int) -> int:
        """As much of ``wanted`` as there is for a single one; less when little is left."""
        with self._lock:
            given = min(wanted, max(_LEAST, (self._total - self.taken) // _PARTS))
            self.taken += given
            return given

    def take_more(self, wanted: int) -> int:
        """For a stream that has some already: perhaps nothing."""
        with self._lock:
            given = min(wanted, max(0, (self._total - self.taken) // _PARTS))
            self.taken += given
            return given

    def give_back(self, given: int) -> None:
        with self._lock:
            self.taken -= given


class Portion:
    """What one stream has of a budget. Not thread-safe: for the stream's own lock to guard."""

    def __init__(self, budget: Budget, wanted: int) -> None:
        self._budget = budget
        self.bytes = budget.take(wanted)

    def adapt(self, wanted: int) -> int:
        """Take more, or give back what is more than that; what it is then."""
        if wanted > self.bytes:
            self.bytes += self._budget.take_more(wanted - self.bytes)
        elif wanted < self.bytes:
            self._budget.give_back(self.bytes - wanted)
            self.bytes = wanted
        return self.bytes

    def give_back(self) -> None:
        self.adapt(0)
