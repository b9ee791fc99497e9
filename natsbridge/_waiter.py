"""Hand-over between threads: conditions, the hand-over of one value, and a lock for what takes long."""

from __future__ import annotations

import threading
from collections import deque
from typing import Deque, Generic, Optional, TypeVar

from . import _fork
from ._deadline import Deadline
from ._threads import Event, allocate_lock, new_event
from ._threads import Lock as Lock
from .errors import ForkedError

T = TypeVar("T")

# Waits are sliced: a thread that was not woken (a lost wake-up, a platform whose lock waits ignore signals) looks again.
SLICE = 1.0


def wait(event: Event, seconds: float) -> bool:
    """Whether it was released within so many seconds. Raises ForkedError in a child."""
    generation = _fork.generation
    released = event.acquire(True, seconds)
    if _fork.generation != generation:  # greenlets, unlike threads, go on in a forked child
        raise ForkedError("what was waited for belongs to the parent process: start anew here")
    return released


class Condition:
    """What ``threading.Condition`` is, over a re-entrant lock, its own or a shared one."""

    def __init__(self, lock: Optional[threading.RLock] = None) -> None:
        self._lock = Lock() if lock is None else lock
        self._waiting: Deque[Event] = deque()

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()

    def wait_slice(self, timeout: Optional[float] = None) -> None:
        """Wait to be notified, for at most ``timeout`` and at most a slice; the caller looks at its state again."""
        event = new_event()
        self._waiting.append(event)
        entered = self._lock._release_save()  # type: ignore[attr-defined]
        interrupted = True
        try:
            wait(event, SLICE if timeout is None else min(timeout, SLICE))
            interrupted = False
        finally:
            self._lock._acquire_restore(entered)  # type: ignore[attr-defined]
            try:
                self._waiting.remove(event)
            except ValueError:  # it was notified, but will not look: somebody else has to
                if interrupted:
                    self.notify()

    def notify(self) -> None:
        """Wake one that waits. Inside the lock, as ``notify_all``."""
        if self._waiting:
            self._waiting.popleft().release()

    def notify_all(self) -> None:
        while self._waiting:
            self._waiting.popleft().release()


class LongLock:
    """A re-entrant lock that may be held while waiting: greenlets, which share a thread, exclude each other too."""

    def __init__(self) -> None:
        self._cond = Condition()  # guards what is below
        self._owner: Optional[int] = None
        self._depth = 0

    def acquire(self, deadline: Deadline) -> bool:
        """False when somebody else held it until the deadline."""
        me = threading.get_ident()  # of the greenlet, where threads are greenlets
        with self._cond:
            while self._owner not in (None, me):
                if deadline.passed():
                    return False
                self._cond.wait_slice(deadline.remaining())
            self._owner = me
            self._depth += 1
        return True

    def release(self) -> None:
        with self._cond:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._cond.notify()


class Abandoned(Exception):
    """The waiter's deadline passed before anything was handed over."""


class Waiter(Generic[T]):
    """One value (or one exception) handed from one thread to another, at most once.

    ``set`` and ``fail`` say whether it was accepted: the first of {set, fail, a waiter that gives up} wins, so a value is
    never handed to somebody who has left. Nothing here takes a lock that could be held: signal handlers may call it.
    """

    __slots__ = ("_claim", "_error", "_event", "_settled", "_value", "gone")

    def __init__(self) -> None:
        self._claim = allocate_lock()  # held for good by whoever settles the hand-over
        self._settled = False  # there is something to take
        self._event: Optional[Event] = None  # what the one that waits is waiting for
        self._value: Optional[T] = None
        self._error: Optional[BaseException] = None
        self.gone = False

    def set(self, value: T) -> bool:
        if not self._claim.acquire(False):
            return False
        self._value = value
        self._wake()
        return True

    def fail(self, error: BaseException) -> bool:
        if not self._claim.acquire(False):
            return False
        self._error = error
        self._wake()
        return True

    def _wake(self) -> None:
        self._settled = True  # first: who makes an event from now on looks before it waits
        if self._event is not None:
            self._event.release()

    def give_up(self) -> bool:
        """Refuse whatever comes; False when something was handed over already."""
        if self._claim.acquire(False):
            self.gone = True
            return True
        return False

    def leave(self) -> None:
        """For whoever does not wait any more, or never did. Idempotent."""
        self.give_up()

    def wait(self, deadline: Deadline) -> T:
        """Return what was handed over, raise what was failed with, or ``Abandoned`` once the deadline has passed."""
        try:
            self._sleep(deadline)
        except BaseException:
            self.give_up()
            raise
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _sleep(self, deadline: Deadline) -> None:
        event = self._event = new_event()
        while not self._settled and not wait(event, deadline.at_most(SLICE)):
            if deadline.passed() and self.give_up():
                raise Abandoned
