"""Threads as the rest sees them: where code runs, and what it waits for. The one module that knows gevent.

After ``gevent.monkey.patch_all()`` the threads of a program are greenlets, which share one thread of the operating system
and its hub. The event loop gets a thread of the operating system to itself even so, and the locks it shares with others are
those of the operating system: nothing yields while it holds one. Only waiting is different: a greenlet that waits lets its
hub run, and is woken through it.

Whether gevent has patched is asked when it matters, so it may do so before or after natsbridge is imported.
"""

from __future__ import annotations

import _thread
import logging
import os
import sys
import threading
from contextlib import suppress
from typing import Any, Callable, ClassVar, List, Optional, Protocol, Set, Union


def _original(name: str) -> Any:
    """What ``_thread`` has under that name, or had before gevent replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    return getattr(_thread, name) if monkey is None else monkey.get_original("_thread", name)


allocate_lock: Callable[[], _thread.LockType] = _original("allocate_lock")
get_ident: Callable[[], int] = _original("get_ident")
_start_new_thread: Callable[[Callable[[], object], Any], int] = _original("start_new_thread")

# Re-entrant, because a signal handler may run inside any critical section of the main thread. gevent does not replace it
# (threading.RLock, a function, is another matter).
Lock = _thread.RLock


_main = threading.main_thread().ident


def _find_main_thread() -> None:
    global _main
    _main = get_ident()  # a forked child goes on in the thread that forked


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_find_main_thread)


def in_main_thread() -> bool:
    """Where signal handlers run."""
    return get_ident() == _main


_patched = False
_home: Any = None  # the hub of the main thread, once natsbridge was used there
_keeper: Any = None  # what keeps it running, while there are threads that may call for it


def patched() -> bool:
    """Whether threads are greenlets. Once true, it stays so."""
    global _patched
    if not _patched:
        monkey = sys.modules.get("gevent.monkey")
        _patched = monkey is not None and monkey.is_module_patched("threading")
    return _patched


def _hub_here() -> Any:
    """This thread's hub; None where there is none, and so no greenlet that a wait could hold up."""
    global _home
    from gevent._hub_local import get_hub_if_exists
    from gevent.hub import MAIN_THREAD_IDENT, get_hub

    if get_ident() != MAIN_THREAD_IDENT:
        return get_hub_if_exists()
    if _home is None:
        _home = get_hub()
        _in_main_hub(_keep_home_running)
    return _home


def _keep_home_running() -> None:
    """In the main thread: a hub ends with LoopExit when all greenlets wait and nothing else can come, so far as it knows.

    While there are loops it can: they call handlers.
    """
    global _keeper
    if _keeper is None:
        _keeper = _home.loop.async_()
    if RealThread.running:
        _keeper.start(int)  # any function: nobody calls it
    else:
        _keeper.stop()


def _after_fork_in_child() -> None:
    global _home, _keeper
    _home = _keeper = None  # the thread that forked is the main thread now, and may be another one
    RealThread.running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def is_kill(error: BaseException) -> bool:
    """Whether this ends the greenlet in which it is raised."""
    if not patched():
        return False
    from gevent import GreenletExit

    return isinstance(error, GreenletExit)


# -- waiting ----------------------------------------------------------------------------------------------------------


class Event(Protocol):
    """Waited for by the thread (or greenlet) that made it, for ``timeout`` seconds; released once, by any."""

    def acquire(self, blocking: bool, timeout: float) -> bool: ...
    def release(self) -> None: ...


def new_event() -> Event:
    hub = _hub_here() if patched() else None
    if hub is not None:
        return _HubEvent(hub)
    lock = allocate_lock()
    lock.acquire()
    return lock


class _HubEvent:
    """An event that a greenlet waits for while its hub runs the others."""

    __slots__ = ("_hub", "_released", "_waiter")

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._released = False
        self._waiter: Any = None

    def acquire(self, blocking: bool, timeout: float) -> bool:
        from gevent.hub import Waiter

        # gevent's Waiter: whoever wakes it when the greenlet has left it, for a timeout or an exception, wakes nobody.
        waiter = self._waiter = Waiter(self._hub)
        try:
            if not self._released:  # looked at last: a release from now on finds the waiter
                with self._hub.loop.timer(timeout) as timer:
                    timer.start(waiter.switch, None)
                    waiter.get()
        finally:
            self._waiter = None
        return self._released

    def release(self) -> None:
        self._released = True
        waiter = self._waiter
        if waiter is not None:
            with suppress(ValueError):  # the hub is gone, with all its greenlets
                self._hub.loop.run_callback_threadsafe(waiter.switch, None)


# -- running ----------------------------------------------------------------------------------------------------------


def _in_main_hub(call: Callable[..., object], *args: object) -> bool:
    """From any thread: have the main thread run it soon, as a greenlet. Calls begin in order. False without such a hub."""
    home = _home
    if home is None:
        return False
    from gevent import spawn

    try:
        home.loop.run_callback_threadsafe(spawn, call, *args)
    except ValueError:  # it was destroyed
        return False
    return True


class RealThread:
    """A daemon thread of the operating system where ``threading.Thread`` is a greenlet: as much of it as is used here."""

    running: ClassVar[Set[int]] = set()  # idents

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self.name = name
        self.ident: Optional[int] = None
        self._target = target
        self._alive = False
        self._joining: List[Event] = []

    def start(self) -> None:
        _log_elsewhere()
        self._alive = True
        try:
            self.ident = _start_new_thread(self._run, ())
        except BaseException:
            self._alive = False
            raise

    def _run(self) -> None:
        ident = get_ident()
        self.running.add(ident)
        _in_main_hub(_keep_home_running)
        threading.current_thread().name = self.name  # for logs; gevent makes a stand-in of what it does not know
        try:
            self._target()
        finally:
            self.running.discard(ident)
            self._alive = False
            _in_main_hub(_keep_home_running)
            while self._joining:
                event = self._joining.pop()
                if not _in_main_hub(event.release):  # which comes behind what was logged here
                    event.release()

    def join(self, timeout: Optional[float] = None) -> None:
        event = new_event()
        self._joining.append(event)
        if self._alive:
            event.acquire(True, threading.TIMEOUT_MAX if timeout is None else timeout)

    def is_alive(self) -> bool:
        return self._alive


class _Elsewhere(logging.Filter):
    """Has the main thread handle what a real thread logs.

    The locks of the log's handlers are gevent's, and those do not hold between threads [measured: with a real thread and
    20 greenlets logging all the time, 1 run of 8 hung, and in another one logging raised an AttributeError].
    """

    def filter(self, record: logging.LogRecord) -> bool:
        here = get_ident() not in RealThread.running
        return here or not _in_main_hub(logging.getLogger(record.name).handle, record)


_elsewhere = _Elsewhere()


def _log_elsewhere() -> None:
    for name in ("natsbridge", "asyncio", "nats.aio.client"):  # who logs on the loop's thread
        logger = logging.getLogger(name)
        logger.addFilter(_elsewhere)  # only once, however often
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logger.isEnabledFor(level)  # takes a lock of the same kind, but remembers the answer


AnyThread = Union[threading.Thread, RealThread]


def real_thread(target: Callable[[], object], name: str) -> AnyThread:
    """A daemon thread that runs beside all others, whatever they are; not started yet."""
    return RealThread(target, name) if patched() else threading.Thread(target=target, name=name, daemon=True)


def user_thread(target: Callable[[], object], name: str) -> AnyThread:
    """A daemon thread for the user's code: under gevent a greenlet of the main thread; not started yet.

    Where natsbridge is not used in the main thread nobody knows whether its hub runs: then it is a real thread.
    """
    if patched() and _home is None:
        return RealThread(target, name)
    return threading.Thread(target=target, name=name, daemon=True)


def start(thread: AnyThread) -> None:
    """Start a thread, from any thread, without waiting for it. Raises RuntimeError where no thread can be started."""
    # A greenlet not here: this may be the loop's thread, and ``start`` waits until the other one runs.
    if isinstance(thread, RealThread) or not _in_main_hub(thread.start):
        thread.start()
