"""A bounded queue from the loop thread to threads that wait: the loop never blocks on it, but is told when it is full."""

from __future__ import annotations

from collections import deque
from typing import Deque, Generic, Optional, Tuple, TypeVar

from ._deadline import Deadline
from ._waiter import Abandoned, Condition

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items in order, each taken once. After ``close`` what is left can still be taken, then the end is told."""

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items, self._max_bytes = max_items, max_bytes
        self._cond = Condition()  # guards everything below
        self._items: Deque[Tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._error: Optional[Exception] = None

    def offer(self, item: T, size: int) -> bool:
        """Add an item; False when there is no room for it. Once closed, it is dropped silently."""
        with self._cond:
            if self._closed:
                return True
            if len(self._items) >= self._max_items or (self._items and self._bytes + size > self._max_bytes):
                return False
            self._items.append((item, size))
            self._bytes += size
            self._cond.notify()
        return True

    def take(self, deadline: Deadline) -> Optional[T]:
        """The next item; None when closed without an error and empty.

        Raises the error it was closed with, or ``Abandoned`` at the deadline.
        """
        with self._cond:
            while not self._items:
                if self._closed:
                    if self._error is not None:
                        raise self._error
                    return None
                if deadline.passed():
                    raise Abandoned
                self._cond.wait_slice(deadline.remaining())
            item, size = self._items.popleft()
            self._bytes -= size
            return item

    def close(self, error: Optional[Exception] = None, *, discard: bool = False) -> None:
        """Take nothing more in, and wake whoever waits. ``discard``: also drop what is left. The first call counts."""
        with self._cond:
            if discard:
                self._items.clear()
                self._bytes = 0
            if not self._closed:
                self._closed, self._error = True, error
            self._cond.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._items)
