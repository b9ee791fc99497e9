"""A bounded queue from the loop thread to threads that wait: the loop never blocks on it, but learns when there is room."""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, Generic, Optional, TypeVar

from ._deadline import Deadline
from ._waiter import Abandoned, Condition

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Items in order, each taken once. After ``close`` what is left can still be taken, then ``ended`` is raised."""

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        """``on_room``: called in the taker's thread when a full mailbox has room again."""
        self._limit = limit
        self._on_room = on_room
        self._cond = Condition()  # guards everything below
        self._items: Deque[T] = deque()
        self._was_full = False
        self._closed = False
        self._error: Optional[Exception] = None

    def offer(self, item: T) -> bool:
        """Add an item; False when there is no room (``on_room`` will tell), dropped silently once closed."""
        with self._cond:
            if self._closed:
                return True
            if len(self._items) >= self._limit:
                self._was_full = True
                return False
            self._items.append(item)
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
            item = self._items.popleft()
            room, self._was_full = self._was_full, False
        if room:
            self._on_room()
        return item

    def close(self, error: Optional[Exception] = None, *, discard: bool = False) -> None:
        """Take nothing more in, and wake whoever waits. ``discard``: also drop what is left. The first call counts."""
        with self._cond:
            if discard:
                self._items.clear()
            if not self._closed:
                self._closed, self._error = True, error
            room, self._was_full = self._was_full, False
            self._cond.notify_all()
        if room:
            self._on_room()

    @property
    def closed(self) -> bool:
        return self._closed

    def __len__(self) -> int:
        return len(self._items)
