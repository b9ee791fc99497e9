"""Hand-over between threads: the one place that knows how a thread waits.

Every lock that the loop thread shares with others comes from here, so that a cooperative runtime needs one change only.
"""

from __future__ import annotations

import _thread
import threading
from typing import Generic, Optional, TypeVar

from ._deadline import Deadline

T = TypeVar("T")

# Waits are sliced: a thread that was not woken (a lost wake-up, a platform whose lock waits ignore signals) looks again.
SLICE = 1.0

# Re-entrant, because a signal handler may run inside any critical section of the main thread.
Lock = threading.RLock


class Condition(threading.Condition):
    """A condition over a re-entrant lock, its own or a shared one."""

    def __init__(self, lock: Optional[threading.RLock] = None) -> None:
        super().__init__(Lock() if lock is None else lock)

    def wait_slice(self, timeout: Optional[float] = None) -> None:
        """Wait to be notified, for at most ``timeout`` and at most a slice; the caller looks at its state again."""
        self.wait(SLICE if timeout is None else min(timeout, SLICE))


class Abandoned(Exception):
    """The waiter's deadline passed before anything was handed over."""


class Waiter(Generic[T]):
    """One value (or one exception) handed from one thread to another, at most once.

    ``set`` and ``fail`` say whether it was accepted: the first of {set, fail, a waiter that gives up} wins, so a value is
    never handed to somebody who has left. Nothing here takes a lock that could be held: signal handlers may call it.
    """

    __slots__ = ("_claim", "_error", "_event", "_value", "gone")

    def __init__(self) -> None:
        self._claim = _thread.allocate_lock()  # held for good by whoever settles the hand-over
        self._event = _thread.allocate_lock()  # released when there is something to take
        self._event.acquire()
        self._value: Optional[T] = None
        self._error: Optional[BaseException] = None
        self.gone = False

    def set(self, value: T) -> bool:
        if not self._claim.acquire(False):
            return False
        self._value = value
        self._event.release()
        return True

    def fail(self, error: BaseException) -> bool:
        if not self._claim.acquire(False):
            return False
        self._error = error
        self._event.release()
        return True

    def give_up(self) -> bool:
        """Refuse whatever comes; False when something was handed over already."""
        if self._claim.acquire(False):
            self.gone = True
            return True
        return False

    def wait(self, deadline: Deadline) -> T:
        """Return what was handed over, raise what was failed with, or ``Abandoned`` once the deadline has passed."""
        try:
            while not self._event.acquire(True, deadline.at_most(SLICE)):
                if deadline.passed() and self.give_up():
                    raise Abandoned
        except BaseException:
            self.give_up()
            raise
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
