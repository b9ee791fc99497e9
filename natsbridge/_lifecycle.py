"""How a pool opens and closes, what ends with it, and what becomes of it in a forked child."""

from __future__ import annotations

import weakref
from typing import List, Optional, Protocol, TypeVar

from . import _fork
from ._deadline import Deadline, check_timeout
from ._link import Link
from ._loop import LoopThread
from ._runtime import Runtime
from ._waiter import Lock, LongLock
from .errors import ClosedError, RequestTimeoutError
from .options import ConnectOptions, ErrorCallback

L = TypeVar("L", bound="Lifecycle")

_NEW, _OPEN, _CLOSED = "new", "open", "closed"
_LATE_CLOSE_TIMEOUT = 2.0
_GRACE = 0.5  # seconds for handlers to see that it is over, where all the time that there was has passed


class Attached(Protocol):
    """What ends with the pool: subscriptions and subscribers."""

    def drain(self, timeout: Optional[float]) -> None: ...
    def pool_closes(self, deadline: Deadline) -> None: ...


def check_pool(value: object) -> None:
    """Raises TypeError."""
    if not isinstance(value, Lifecycle):
        raise TypeError(f"pool must be a Pool, not of type {type(value).__name__}: Pool(servers) makes one")


class Lifecycle:
    """The part of ``Pool`` that is about its beginning and its end."""

    def __init__(
        self,
        options: ConnectOptions,
        *,
        name: str,
        size: int,
        timeout: float,
        outbox_bytes: int,
        handler_threads: int,
        use_uvloop: Optional[bool],
        error_callback: Optional[ErrorCallback],
    ) -> None:
        self.name = name
        self._options = options
        self._size, self._timeout = size, timeout
        self._outbox_bytes, self._handler_threads = outbox_bytes, handler_threads
        self._use_uvloop, self._error_callback = use_uvloop, error_callback
        self._reset()
        _fork.watch(self)

    def _reset(self) -> None:
        self._opening = LongLock()  # held while connecting, so that concurrent first uses connect once
        self._lock = Lock()  # guards _state, _runtime and _attached; nothing waits inside it
        self._state = _NEW
        self._runtime: Optional[Runtime] = None
        self._attached: List[Attached] = []
        self._readers: weakref.WeakSet[Attached] = weakref.WeakSet()  # end when nobody holds them

    def _after_fork_in_child(self) -> None:
        _fork.park((self._runtime, self._attached, list(self._readers)))
        closed = self._state == _CLOSED
        self._reset()
        if closed:
            self._state = _CLOSED

    def open(self: L, timeout: Optional[float] = None) -> L:
        """Connect now rather than on first use, within ``timeout`` seconds (``connect_timeout`` if None); idempotent.

        Returns the pool. Raises ConnectError when no server lets us in, PermissionDeniedError when the inbox is refused,
        ClosedError after ``close``. A failed pool may be opened again.
        """
        given = check_timeout(timeout)
        self._opened(Deadline(self._options.connect_timeout if given is None else given))
        return self

    def _opened(self, deadline: Deadline) -> Runtime:
        runtime = self._runtime
        if runtime is not None and self._state == _OPEN:
            return runtime
        opening = self._opening  # a forked child gets another one, while a greenlet that was in here goes on there
        if not opening.acquire(deadline):
            raise RequestTimeoutError(f"another thread was still connecting after {deadline.timeout:g} s")
        try:
            with self._lock:
                self._check_not_closed()
                if self._runtime is not None:
                    return self._runtime
            runtime = self._make_runtime()
            runtime.open(deadline)
            with self._lock:
                late = self._state == _CLOSED
                if not late:
                    self._runtime, self._state = runtime, _OPEN
            if late:
                runtime.close(Deadline(_LATE_CLOSE_TIMEOUT))
                raise ClosedError(f"pool {self.name!r} was closed while it was opening")
            weakref.finalize(self, runtime.abandon).atexit = False
            self._on_open()
            return runtime
        finally:
            opening.release()

    def _make_runtime(self) -> Runtime:
        return Runtime(
            self.name,
            self._options,
            size=self._size,
            outbox_bytes=self._outbox_bytes,
            handler_threads=self._handler_threads,
            use_uvloop=self._use_uvloop,
            error_callback=self._error_callback,
        )

    def close(self, timeout: float = 5.0) -> None:
        """Close for good, within about ``timeout`` seconds; idempotent, any thread.

        What was published before is written out first, as far as the connection and the time allow. Open streams end:
        their readers and senders, and everyone else who waits here, get ``ClosedError``. Handlers that still run may
        finish, but cannot send any more.
        """
        limit = check_timeout(timeout, optional=False)
        deadline = Deadline(limit)
        with self._lock:
            first, self._state = self._state != _CLOSED, _CLOSED
            runtime, attached = self._runtime, [*self._attached, *self._readers]
            self._attached.clear()
        self._on_closed()
        if runtime is None:
            return
        runtime.loop.refuse_myself()
        if first:
            for thing in attached:
                thing.pool_closes(deadline)
        runtime.close(deadline)

    def drain(self, timeout: float = 30.0) -> None:
        """Take in nothing new, let handlers and streams that are under way finish, write everything out, and close.

        Raises RequestTimeoutError when that takes longer than ``timeout`` seconds; the pool is closed even so.
        """
        deadline = Deadline(check_timeout(timeout, optional=False))
        with self._lock:
            attached, runtime = [*self._attached, *self._readers], self._runtime
        try:
            for thing in attached:
                thing.drain(deadline.remaining())
            if runtime is not None and self._state == _OPEN:
                runtime.flush(deadline)
        except BaseException:
            self.close(_GRACE)
            raise
        self.close(max(deadline.at_most(5.0), _GRACE))

    def __enter__(self: L) -> L:
        return self.open()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _on_open(self) -> None:
        """It is open now."""

    def _on_closed(self) -> None:
        """It is to be used no longer, if ever it was."""

    def _attach(self, thing: Attached) -> None:
        """Keep ``thing`` and end it with the pool."""
        with self._lock:
            self._check_not_closed()
            self._attached.append(thing)

    def _attach_weakly(self, thing: Attached) -> None:
        """End ``thing`` with the pool if somebody still holds it then."""
        with self._lock:
            self._check_not_closed()
            self._readers.add(thing)

    def _report(self, error: Exception) -> None:
        """Log an error that has no caller to be raised to, and hand it to the ``error_callback``."""
        runtime = self._runtime
        if runtime is not None:
            runtime.report(error)

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` or ``drain`` was called."""
        return self._state == _CLOSED

    def _check_not_closed(self) -> None:
        if self._state == _CLOSED:
            raise ClosedError(f"pool {self.name!r} is closed: make a new Pool")

    def _detach(self, thing: Attached) -> None:
        with self._lock:
            if thing in self._attached:
                self._attached.remove(thing)

    def _link(self, deadline: Optional[Deadline] = None) -> Link:
        runtime = self._runtime
        if runtime is None or self._state != _OPEN:
            # Connecting has a limit of its own; the call's own deadline counts if it is nearer.
            limit = self._options.connect_timeout
            runtime = self._opened(Deadline(limit if deadline is None else deadline.at_most(limit)))
        return runtime.link()

    def _loop(self) -> LoopThread:
        """The loop thread; the pool opens if need be. Raises ConnectError, ClosedError."""
        return self._link().loop

    def _limit(self, timeout: Optional[float]) -> float:
        """The pool's default for None; infinity becomes a very long time, so that no wait is endless."""
        if timeout is None:
            return self._timeout
        checked = check_timeout(timeout)
        return 3600.0 * 24 * 365 if checked is None else checked
