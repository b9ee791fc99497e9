"""The loop thread: start it, hand work over, stop it."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Awaitable, Callable, Coroutine, Dict, Optional, Protocol, TypeVar

from . import _fork
from ._deadline import Deadline
from ._relay import Relay
from ._threads import AnyThread, RealThread, get_ident, patched, real_thread
from ._waiter import Abandoned, Lock, Waiter
from .errors import ClosedError, ForkedError, LoopThreadError, NatsBridgeError, RequestTimeoutError

# Not when it is needed, on the loop thread: the lock of a module that is being imported during a fork is never released
# in the child, which would wait for it for ever.
try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

T = TypeVar("T")
logger = logging.getLogger("natsbridge")

# Once cancelled, leftover tasks get this long before the loop ends without them.
_CANCEL_GRACE = 1.0


class Companion(Protocol):
    """What shares the life of a loop thread."""

    def end(self) -> None:
        """Called on the loop's thread, after everything else and before the loop is closed."""


C = TypeVar("C", bound=Companion)


def _new_event_loop(use_uvloop: Optional[bool]) -> asyncio.AbstractEventLoop:
    if patched() and (use_uvloop is False or uvloop is None):
        raise NatsBridgeError(
            "under gevent.monkey.patch_all() natsbridge needs uvloop, because asyncio's own loop is made of what gevent "
            "replaces: pip install 'natsbridge[gevent]', and do not switch it off with uvloop=False"
        )
    if use_uvloop is False or (uvloop is None and use_uvloop is None):
        return asyncio.new_event_loop()
    if uvloop is None:
        raise NatsBridgeError("uvloop is not installed: pip install 'natsbridge[uvloop]'")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


class LoopThread:
    """A daemon thread that runs one event loop.

    Submission and shutdown pass one gate: what entered before ``stop`` is carried out before the loop ends, what comes
    later is refused with ``ClosedError``. The gate's lock is re-entrant, since a signal handler may submit from inside it.
    """

    def __init__(self, name: str, *, use_uvloop: Optional[bool] = None) -> None:
        self.name = name
        self._generation = _fork.generation
        self._use_uvloop = use_uvloop
        self._gate = Lock()  # guards _closed and the order of submissions against the shutdown
        self._closed = False
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[AnyThread] = None
        self._ident: Optional[int] = None
        self._companions: Dict[Any, Companion] = {}
        self.relay = Relay(self._later)  # of the threads that wait for what the loop hands over

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, deadline: Deadline) -> None:
        """Start the thread and return once its loop runs. Raises NatsBridgeError if it does not come up in time."""
        ready: Waiter[None] = Waiter()
        self._thread = real_thread(lambda: self._main(ready), self.name)
        self._thread.start()
        try:
            ready.wait(deadline)
        except Abandoned:
            raise NatsBridgeError(
                f"thread {self.name!r} did not start within {deadline.timeout:g} s; does this host allow threads "
                "(uWSGI needs --enable-threads)?"
            ) from None
        except BaseException:  # an interrupt, perhaps just after the loop came up: nobody else would end it
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
            raise

    def _main(self, ready: Waiter[None]) -> None:
        try:
            loop = _new_event_loop(self._use_uvloop)
        except BaseException as error:
            ready.fail(error)
            return
        self._ident = get_ident()
        resolver: Optional[ThreadPoolExecutor] = None
        if not patched():  # under gevent its threads would be greenlets of this one, and uvloop resolves names without
            # Bounded and named: asyncio's own resolver pool is neither.
            resolver = ThreadPoolExecutor(2, thread_name_prefix=f"{self.name}-resolver")
            loop.set_default_executor(resolver)
        asyncio.set_event_loop(loop)
        try:
            self._loop = loop
            if ready.set(None):
                loop.run_forever()
        finally:
            try:
                self._cancel_leftovers(loop)
                for companion in self._companions.values():
                    companion.end()
            finally:
                self._ident = None  # the next thread may be given the same one
                if resolver is not None:
                    resolver.shutdown(wait=False)
                asyncio.set_event_loop(None)
                loop.close()

    @staticmethod
    def _cancel_leftovers(loop: asyncio.AbstractEventLoop) -> None:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=_CANCEL_GRACE))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(asyncio.sleep(0))  # sockets that were just aborted are closed in the next round

    def stop(self, farewell: Callable[[], Awaitable[None]], deadline: Deadline) -> None:
        """Refuse further work, run ``farewell`` after everything accepted so far, end the loop and join the thread.

        Idempotent and safe from any thread. Never waits beyond the deadline, plus a moment for cancelled tasks. Does
        nothing in a forked child, where greenlets come here that were opening a pool while their process was forked.
        """
        if self._generation != _fork.generation:
            return
        with self._gate:
            first, self._closed = not self._closed, True
            if first and self._loop is not None:
                self._loop.call_soon_threadsafe(self._begin_stop, farewell, deadline)
        if self._loop is None or self.is_current():
            return
        if self._thread is not None:
            self._thread.join(deadline.at_most(60.0) + 2 * _CANCEL_GRACE)
            if self._thread.is_alive():
                logger.warning("%s did not stop within %s s", self.name, deadline.timeout)

    def stop_soon(self, farewell: Callable[[], Awaitable[None]], deadline: Deadline) -> None:
        """As ``stop`` but without waiting and without the gate: for finalizers, which may run inside any lock."""
        self._closed = True
        self.post_quietly(self._begin_stop, farewell, deadline)

    def _begin_stop(self, farewell: Callable[[], Awaitable[None]], deadline: Deadline) -> None:
        loop = self._loop
        assert loop is not None

        async def run() -> None:
            try:
                await asyncio.wait_for(farewell(), deadline.at_most(60.0) + 0.05)
            except asyncio.TimeoutError:
                logger.warning("%s: closing took longer than %s s, what was left is cancelled", self.name, deadline.timeout)
            except Exception:
                logger.exception("%s: closing failed", self.name)
            finally:
                loop.stop()

        loop.create_task(run())

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def companion(self, kind: Callable[[LoopThread], C]) -> C:
        """This loop's only object of a kind, made by ``kind(loop_thread)`` on first use; it ends with the loop.

        Raises ClosedError after ``stop``.
        """
        with self._gate:
            if self._closed:
                raise ClosedError(f"{self.name} is closed")
            if kind not in self._companions:
                self._companions[kind] = kind(self)
            found: C = self._companions[kind]  # type: ignore[assignment]
            return found

    # -- handing work over --------------------------------------------------------------------------------------------

    def is_current(self) -> bool:
        return get_ident() == self._ident

    def refuse_here(self) -> None:
        """Raise LoopThreadError on the loop thread, where any blocking call would wait for itself.

        And NatsBridgeError where gevent has patched since the thread was started: what it uses was exchanged below it.
        """
        if get_ident() == self._ident:
            self.refuse_myself()
        if patched() and not isinstance(self._thread, RealThread):
            raise NatsBridgeError(
                f"gevent.monkey.patch_all() was called while {self.name} was running: call it before a pool is opened, "
                "best before anything else, or close the pool and make a new one"
            )

    def refuse_myself(self) -> None:
        """Raise LoopThreadError on the loop thread."""
        if self.is_current():
            raise LoopThreadError(
                "a blocking natsbridge call was made on the loop thread (in a credentials or reconnect callback?), where "
                "it would wait for itself for ever: make it on another thread"
            )

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Run ``callback(*args)`` on the loop, in order of posting, without waiting. Raises ClosedError after ``stop``."""
        if self._generation != _fork.generation:
            raise ForkedError(f"{self.name} belongs to the parent process: start anew here")
        with self._gate:
            if self._closed or self._loop is None:
                raise ClosedError(f"{self.name} is closed")
            self._loop.call_soon_threadsafe(callback, *args)

    def post_quietly(self, callback: Callable[..., object], *args: Any) -> None:
        """As ``post``, but also while the loop is being stopped, and silent once it has ended, or in a forked child.

        Takes no lock, so finalizers may use it.
        """
        try:
            if self.is_current():
                self._loop.call_soon(callback, *args)  # type: ignore[union-attr] # without the write that wakes a loop
            elif self._loop is not None and self._generation == _fork.generation:
                self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:  # the loop is closed already
            pass

    def _later(self, seconds: float, call: Callable[[], object]) -> bool:
        if not self.is_current():
            return False
        self._loop.call_later(seconds, call)  # type: ignore[union-attr]
        return True

    def call(
        self,
        coro_fn: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        deadline: Deadline,
        what: str,
        undo: Optional[Callable[[T], object]] = None,
    ) -> T:
        """Run a coroutine function on the loop and wait for its result.

        Raises RequestTimeoutError naming ``what`` when the deadline passes, ClosedError when the pool closes meanwhile; in
        both cases, and on KeyboardInterrupt, the coroutine is cancelled. If it had finished just then, ``undo`` (called on
        the loop) gets the result that nobody waits for any more.
        """
        self.refuse_here()
        waiter: Waiter[T] = Waiter()
        job = _Job(coro_fn, args, waiter, undo)
        self.post(job.start)
        try:
            return waiter.wait(deadline)
        except Abandoned:
            self.post_quietly(job.abandon)
            raise RequestTimeoutError(f"{what} did not finish within {deadline.timeout:g} s") from None
        except BaseException:
            self.post_quietly(job.abandon)
            raise


class _Job:
    """One coroutine run for a waiting thread; everything but the constructor runs on the loop."""

    def __init__(
        self,
        coro_fn: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,
        waiter: Waiter[Any],
        undo: Optional[Callable[[Any], object]],
    ) -> None:
        self._coro_fn, self._args, self._waiter, self._undo = coro_fn, args, waiter, undo
        self._task: Optional[asyncio.Task[Any]] = None
        self._handed_over = False

    def start(self) -> None:
        if not self._waiter.gone:
            self._task = asyncio.get_event_loop().create_task(self._coro_fn(*self._args))
            self._task.add_done_callback(self._done)

    def abandon(self) -> None:
        """The caller has left, perhaps just after the result was handed to it: undo what it will not use."""
        if self._task is None:
            return
        if not self._task.done():
            self._task.cancel()
        elif self._handed_over and self._undo is not None:
            self._undo(self._task.result())

    def _done(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._waiter.fail(ClosedError("the pool was closed while the call was under way"))
            return
        error = task.exception()
        if error is not None:
            self._waiter.fail(error)
        elif self._waiter.set(task.result()):
            self._handed_over = True
        elif self._undo is not None:
            self._undo(task.result())
