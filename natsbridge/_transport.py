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
from typing import List, Optional, Union
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport

from ._waiter import Lock

# Where asyncio has sendmsg() it takes nothing out of its buffer before it is sent: an empty buffer means that nothing is on
# its way. (And where it has not, on Windows, a socket is not written to like that at all.)
_POSSIBLE = hasattr(socket.socket, "sendmsg")


class SharedTransport(TcpTransport):
    """What says nothing runs on the loop."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._loop = asyncio.get_event_loop()
        self._lock = Lock()  # held for each write, so that none comes in the middle of another; guards what is below
        # A descriptor of our own: asyncio's is closed behind our back, and its number given to the next file.
        self._own: Optional[_socket.socket] = None
        self._rest = b""  # of what another thread wrote, and the socket did not take: goes ahead of anything else

    def __bool__(self) -> bool:
        return True  # or nats-py would put one of its own in this one's place

    # -- any thread ---------------------------------------------------------------------------------------------------

    def write_at_once(self, data: bytes) -> bool:
        """Write all of ``data``, unless it would have to wait, for what is ahead of it or for the socket: False.

        Never blocks. What the socket does not take at once follows ahead of anything else.
        """
        with self._lock:
            if self._own is None or self._rest or self._io_writer is None:
                return False
            try:
                if self._io_writer.transport.get_write_buffer_size():
                    return False
                sent = self._own.send(data)
            except (OSError, RuntimeError):  # it would block, or is broken, which the loop will find out
                return False
            if sent == len(data):
                return True
            self._rest = data[sent:]
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._write_rest)
        return True

    # -- the loop -----------------------------------------------------------------------------------------------------

    def share(self) -> None:
        """From now on other threads may write: nats-py has said what it has to on a fresh connection."""
        writer = self._io_writer
        shared: Optional[socket.socket] = None if writer is None else writer.get_extra_info("socket")
        if not _POSSIBLE or writer is None or shared is None or writer.get_extra_info("sslcontext") is not None:
            return  # with TLS only the loop can write
        with self._lock:
            self._let_go()
            self._own = _socket.socket(shared.family, shared.type, shared.proto, fileno=_socket.dup(shared.fileno()))
            self._own.setblocking(False)

    def _let_go(self) -> None:
        """Inside the lock."""
        if self._own is not None:
            self._own.close()
            self._own = None
        self._rest = b""

    def _write_rest(self) -> None:
        with self._lock:
            if self._rest and self._io_writer is not None:
                rest, self._rest = self._rest, b""
                self._io_writer.write(rest)

    def write(self, payload: bytes) -> None:
        with self._lock:
            self._write_rest()
            super().write(payload)  # type: ignore[no-untyped-call]

    def writelines(self, payload: List[bytes]) -> None:
        with self._lock:
            self._write_rest()
            super().writelines(payload)  # type: ignore[no-untyped-call]

    async def connect_tls(
        self, uri: Union[str, ParseResult], ssl_context: ssl.SSLContext, buffer_size: int, connect_timeout: int
    ) -> None:
        with self._lock:
            self._let_go()
        await super().connect_tls(uri, ssl_context, buffer_size, connect_timeout)

    def close(self) -> None:
        with self._lock:
            self._write_rest()
            self._let_go()
        super().close()  # type: ignore[no-untyped-call]

    def abort(self) -> None:
        """Close at once, whatever still waits to be written."""
        with self._lock:
            self._let_go()
        if self._io_writer is not None:
            self._io_writer.transport.abort()
