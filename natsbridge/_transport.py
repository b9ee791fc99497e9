"""nats-py's TCP transport, to which any thread may write while nothing waits to be written.

nats-py and asyncio write on the loop thread. A thread that has something to write has to wake it, and the loop has to win
the interpreter from that thread: [measured] 0.05 to 0.1 ms until the bytes are on their way, every time. A write from here
takes the time of a system call.
"""

from __future__ import annotations

import _socket  # not socket: gevent replaces what is in there, and its sockets wait where these say that they would
import asyncio
import socket
import ssl
from contextlib import suppress
from functools import partial
from operator import methodcaller
from typing import List, Optional, Union, cast
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport

from . import _fork
from ._receiver import Messages, Receiver
from ._waiter import Lock

# Windows has none, and its sockets are not written to like that.
_POSSIBLE = hasattr(socket.socket, "sendmsg")
_call = methodcaller("__call__")


class _Write:
    """One system call of a thread's, and what came of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.results: List[int] = []  # how much was sent, once it was; then what releasing the lock returned


class SharedTransport(TcpTransport):
    """What says nothing runs on the loop."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._loop = asyncio.get_event_loop()
        self._generation = _fork.generation
        self._lock = Lock()  # held for each write, so that none comes in the middle of another; guards what is below
        # A descriptor of our own: asyncio's is closed behind our back, and its number given to the next file.
        self._own: Optional[_socket.socket] = None
        self._busy: Optional[_Write] = None  # what a thread is at: others meanwhile, and handlers on top of it, are refused
        self._last: Optional[_Write] = None  # whose outcome nobody has looked at yet
        self._rest = b""  # of what another thread wrote, and the socket did not take: goes ahead of anything else
        self._clogged = False  # something may be left of what the loop wrote last
        # On the loop only, as what follows: who takes the messages out of what comes, once somebody is to.
        self.messages: Optional[Messages] = None
        self._receiver: Optional[Receiver] = None

    def __bool__(self) -> bool:
        return True  # or nats-py would put one of its own in this one's place

    # -- any thread ---------------------------------------------------------------------------------------------------

    def write_at_once(self, data: bytes) -> bool:
        """Write all of ``data``, unless it would have to wait, for what is ahead of it or for the socket: False.

        Never blocks. What the socket does not take at once follows ahead of anything else.
        """
        if self._generation != _fork.generation:
            return False
        write, size = _Write(data), len(data)
        held: List[bool] = []  # that the lock was taken, and released
        try:
            # Signal handlers run between two steps of Python, most likely just after a system call. So it is noted in one
            # step with the call what was sent, and with each that the lock was taken, or released: neither does a handler
            # that raises leave it locked, or a message in the middle, nor is the loop held up by one that waits for it.
            held.extend(map(_call, (self._lock.acquire,)))
            if self._busy is not None:
                return False
            self._busy = write  # before anything is looked at, or a handler on top might write in between
            try:
                if not self._idle():
                    return False
                self._last = write
                write.results.extend(map(_call, (partial(self._own.send, data), self._lock.release)))  # type: ignore[union-attr]
            except (OSError, RuntimeError):  # it would block, or is broken, which the loop will find out
                if not write.results:
                    return False
            finally:
                if self._busy is write:
                    self._busy = None  # other threads were refused until now
        finally:
            try:
                self._unlock(held, write)
            finally:  # also where a handler raised before that had done anything
                self._unlock(held, write)
                if write.results and write.results[0] < size:
                    with suppress(RuntimeError):  # the loop has ended
                        self._loop.call_soon_threadsafe(self._write_rest)
        return True

    def _unlock(self, held: List[bool], write: _Write) -> None:
        if len(held) == 1 and len(write.results) < 2:
            held.extend(map(_call, (self._lock.release,)))

    def _idle(self) -> bool:
        """Inside the lock: nothing waits to be written."""
        self._settle()
        if self._own is None or self._rest or self._clogged:
            return False
        return self._io_writer is not None and not self._io_writer.transport.get_write_buffer_size()

    def _settle(self) -> None:
        """Inside the lock: look at what came of the last write, whoever made it."""
        last, self._last = self._last, None
        if last is not None and last.results and last.results[0] < len(last.data):
            self._rest += last.data[last.results[0] :]

    # -- the loop -----------------------------------------------------------------------------------------------------

    def share(self) -> None:
        """From now on other threads may write: nats-py has said what it has to on a fresh connection."""
        writer = self._io_writer
        shared: Optional[socket.socket] = None if writer is None else writer.get_extra_info("socket")
        if not _POSSIBLE or writer is None or shared is None or writer.get_extra_info("sslcontext") is not None:
            return  # with TLS only the loop can write
        with self._lock:
            self._let_go()
            # Else, with no descriptor left, or none any more, only the loop writes.
            with suppress(OSError, RuntimeError):
                self._own = _socket.socket(shared.family, shared.type, shared.proto, fileno=_socket.dup(shared.fileno()))
                self._own.setblocking(False)

    def _let_go(self) -> None:
        """Inside the lock."""
        if self._own is not None:
            self._own.close()
            self._own = None
        self._last, self._rest, self._busy, self._clogged = None, b"", None, False

    @property
    def reads_on(self) -> bool:
        """Of what has come, more follows at once than the message that is being handed over."""
        return self._receiver is not None and self._receiver.more

    async def read(self, buffer_size: int) -> bytes:
        """For nats-py's read loop: what the receiver leaves to it."""
        receiver = self._receiver
        if receiver is not None:
            receiver.open = True
        try:
            data: bytes = await super().read(buffer_size)
        finally:
            if receiver is not None:
                receiver.open = False
        if receiver is None and 0 < len(data) < buffer_size:  # so nothing is left in asyncio's buffer
            self._receive()
        return data

    def _receive(self) -> None:
        if self.messages is None or self._io_writer is None:
            return
        transport = cast(asyncio.Transport, self._io_writer.transport)
        behind = transport.get_protocol()
        if isinstance(behind, asyncio.StreamReaderProtocol):
            self._receiver = Receiver(self._loop, transport, behind, self.messages)
            transport.set_protocol(self._receiver)

    def _stop_receiving(self) -> None:
        if self._receiver is not None:
            self._receiver.stop()
            self._receiver = None

    def _write_rest(self) -> None:
        with self._lock:
            self._settle()
            if self._rest and self._io_writer is not None:
                rest, self._rest = self._rest, b""
                with suppress(RuntimeError):  # uvloop has closed it
                    self._io_writer.write(rest)
                self._look()

    def _look(self) -> None:
        """Inside the lock, after writing: whether asyncio has sent it all.

        Since Python 3.12 its buffer is empty for a moment while it sends a part of what is left in there, so that other
        threads must not go by its size. uvloop says how it is.
        """
        if self._io_writer is not None:
            transport = self._io_writer.transport
            self._clogged = hasattr(transport, "_adjust_leftover_buffer") and transport.get_write_buffer_size() > 0

    def write(self, payload: bytes) -> None:
        with self._lock:
            self._write_rest()
            super().write(payload)  # type: ignore[no-untyped-call]
            self._look()

    def writelines(self, payload: List[bytes]) -> None:
        with self._lock:
            self._write_rest()
            super().writelines(payload)  # type: ignore[no-untyped-call]
            self._look()

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        self._stop_receiving()
        await super().connect(uri, buffer_size, connect_timeout)

    async def connect_tls(
        self, uri: Union[str, ParseResult], ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        with self._lock:
            self._let_go()
        self._stop_receiving()
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)

    def close(self) -> None:
        with self._lock:
            self._write_rest()
            self._let_go()
        self._stop_receiving()
        super().close()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """Close at once, whatever still waits to be written."""
        with self._lock:
            self._let_go()
        self._stop_receiving()
        if self._io_writer is not None:
            self._io_writer.transport.abort()
