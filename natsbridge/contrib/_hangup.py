"""Notices that an HTTP client is gone while nothing is being sent to it, which a WSGI server tells nobody.

Where the server shows the client's socket, an epoll of our own waits for its hang-up, and the pool's loop waits for that
epoll. It asks for nothing but hang-ups: with requests that a client pipelined, or anything else it sent, the socket is
readable all the time, which would keep a loop that watched the socket itself busy. Nothing is read, so what was sent stays
there for the server. Without epoll (macOS) the socket is looked at now and then, and waitress, which shows no socket, is
asked. Elsewhere only writing shows it: that is what heartbeats are for.

A client that closes only its sending half (``shutdown(SHUT_WR)``) counts as gone: nothing tells it from one that left, and
HTTP clients that do so and read on are rare.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import sys
from contextlib import suppress
from typing import Any, Callable, Dict, List, Mapping, Optional

from .._loop import LoopThread
from .._waiter import Lock

logger = logging.getLogger("natsbridge")

Callback = Callable[[], object]

TICK = 0.05  # seconds between two looks
_LONGEST_PAUSE = 1.0  # seconds between two looks at a socket on which nothing has happened for long


def _original_epoll() -> Any:
    """``select.epoll``, or what it was before gevent removed it; None where there is none."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or hasattr(select, "epoll"):
        return getattr(select, "epoll", None)
    return monkey.get_original("select", "epoll")


def watch(loop: LoopThread, environ: Mapping[str, Any], on_gone: Callback) -> Optional[Callback]:
    """Call ``on_gone()``, once and on the loop's thread, when the client of this request is gone.

    environ: the WSGI environ. Call it from the thread that serves the request (uWSGI knows the request by that).

    Returns the function that ends the watch; once it has returned the socket is let go of, whose descriptor the next client
    may get. None where the server shows nothing to watch. Raises ClosedError.
    """
    descriptor = _descriptor(environ)
    if descriptor is not None:
        if _original_epoll() is not None:
            return loop.companion(_Hangups).watch(descriptor, on_gone)
        if hasattr(socket, "MSG_DONTWAIT"):
            return loop.companion(_Looks).watch(_Peek(descriptor), on_gone)
    asks = _waitress(environ)
    return None if asks is None else loop.companion(_Looks).watch(asks, on_gone)


def _descriptor(environ: Mapping[str, Any]) -> Optional[int]:
    for key in ("gunicorn.socket", "werkzeug.socket"):
        shown = environ.get(key)
        if shown is not None:
            number: int = shown.fileno()
            return number if number >= 0 else None
    if "uwsgi.version" in environ:
        import uwsgi  # there in uWSGI's processes only

        number = uwsgi.connection_fd()
        return number if number >= 0 else None
    return None


class _Hangups:
    """The epoll of one loop: descriptors, and whom to call when they hang up. Thread-safe."""

    def __init__(self, loop: LoopThread) -> None:
        self._epoll = _original_epoll()()
        # Guards everything below and every use of the epoll: an event is taken from it and acted on in one piece, so that
        # none can be meant for a descriptor that has been closed and given to another client meanwhile.
        self._lock = Lock()
        self._callbacks: Dict[int, List[Callback]] = {}
        self._ended = False
        loop.post(self._begin)

    def _begin(self) -> None:
        asyncio.get_event_loop().add_reader(self._epoll.fileno(), self._on_ready)

    def watch(self, descriptor: int, on_gone: Callback) -> Callback:
        def call() -> None:  # one of its own, so that two watches with the same callback are two
            on_gone()

        # Once only: a descriptor whose file is still open in another process cannot be taken out after it was closed here.
        events = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT
        with self._lock:
            if not self._ended:
                self._callbacks.setdefault(descriptor, []).append(call)
                with suppress(FileExistsError):  # a second watch of the same socket
                    self._epoll.register(descriptor, events)
        return lambda: self._unwatch(descriptor, call)

    def _unwatch(self, descriptor: int, call: Callback) -> None:
        with self._lock:
            calls = self._callbacks.get(descriptor, [])
            if call in calls:
                calls.remove(call)
                if not calls:
                    self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        """Inside the lock. A socket that the server has closed has left the epoll by itself."""
        self._callbacks.pop(descriptor, None)
        with suppress(OSError):
            self._epoll.unregister(descriptor)

    def _on_ready(self) -> None:
        """On the loop's thread."""
        gone: List[Callback] = []
        with self._lock:
            for descriptor, _ in self._epoll.poll(0):
                gone += self._callbacks.get(descriptor, ())
                self._forget(descriptor)
        for call in gone:
            call()

    def end(self) -> None:
        """On the loop's thread, which ends."""
        with self._lock:
            self._ended = True
            self._callbacks.clear()
            asyncio.get_event_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()


class _Look:
    """Something that is looked at now and then, and says whether the client is gone. Not thread-safe."""

    longest = TICK  # seconds between two looks at most

    def gone(self) -> bool:
        raise NotImplementedError

    def close(self) -> None: ...


class _Peek(_Look):
    """A socket whose next byte is looked at without reading it. What waits to be read hides the end behind it."""

    longest = _LONGEST_PAUSE

    def __init__(self, descriptor: int) -> None:
        # Its mode, which is that of the server's socket too, must not be touched.
        self._socket = socket.socket(fileno=os.dup(descriptor))

    def gone(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()


class _Ask(_Look):
    """A function of the server that knows."""

    def __init__(self, function: Callable[[], bool]) -> None:
        self._function = function

    def gone(self) -> bool:
        return self._function()


_warned = False


def _waitress(environ: Mapping[str, Any]) -> Optional[_Look]:
    disconnected = environ.get("waitress.client_disconnected")
    if disconnected is None:
        return None
    settings = getattr(getattr(disconnected, "__self__", None), "adj", None)
    if getattr(settings, "channel_request_lookahead", 1) < 1:
        global _warned
        if not _warned:
            _warned = True
            logger.warning(
                "waitress does not look whether a client is gone while it serves its request, so that only heartbeats show "
                "it: start it with channel_request_lookahead=1 (--channel-request-lookahead=1)"
            )
        return None
    return _Ask(disconnected)


class _Looks:
    """The ticker of one loop: what it looks at, and whom to call. It ticks while there is anything. Thread-safe."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._lock = Lock()  # guards everything below; nothing is looked at outside it
        self._watched: Dict[_Look, _Turn] = {}
        self._ticking = False

    def watch(self, look: _Look, on_gone: Callback) -> Callback:
        with self._lock:
            self._watched[look] = _Turn(on_gone)
            start, self._ticking = not self._ticking, True
        if start:
            self._loop.post_quietly(self._tick)
        return lambda: self._forget(look)

    def _forget(self, look: _Look) -> None:
        with self._lock:
            if self._watched.pop(look, None) is not None:
                look.close()

    def _tick(self) -> None:
        """On the loop's thread."""
        loop = asyncio.get_event_loop()
        gone: List[Callback] = []
        with self._lock:
            for look, turn in list(self._watched.items()):
                if not turn.is_due(loop.time(), look.longest):
                    continue
                if look.gone():
                    gone.append(turn.on_gone)
                    self._forget(look)
            self._ticking = bool(self._watched)
            if self._ticking:
                loop.call_later(TICK, self._tick)
        for call in gone:
            call()

    def end(self) -> None:
        """On the loop's thread, which ends."""
        with self._lock:
            for look in list(self._watched):
                self._forget(look)


class _Turn:
    """When it is time to look again: after pauses that double from one tick on."""

    def __init__(self, on_gone: Callback) -> None:
        self.on_gone = on_gone
        self._pause = 0.0
        self._due = 0.0

    def is_due(self, now: float, longest: float) -> bool:
        if now < self._due:
            return False
        self._pause = min(longest, max(TICK, 2 * self._pause))
        self._due = now + self._pause * 0.9  # the tick nearest to it
        return True
