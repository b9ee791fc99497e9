"""A TCP link whose faults a test decides: it can be cut, and it can swallow what is sent over it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any, Awaitable, Callable, List, Optional, Set
from urllib.parse import urlsplit, urlunsplit

from procs import LONG

_READ_BYTES = 64 * 1024


class Proxy:
    """Passes connections on to a server until it is told otherwise. ``url``: where clients connect to.

    ``sent``: pieces of what clients have sent and was passed on, in order, if ``record``. ``receive_buffer``: bytes that
    the system keeps of what a client sends, as many as it likes if None. All methods may be called from any thread.
    """

    def __init__(self, server_url: str, *, record: bool = False, receive_buffer: Optional[int] = None) -> None:
        parts = urlsplit(server_url)
        self._host, self._port = parts.hostname, parts.port
        self.sent: List[bytes] = []
        self._record, self._receive_buffer = record, receive_buffer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._writers: Set[asyncio.StreamWriter] = set()
        self._tasks: Set[asyncio.Task[Any]] = set()
        self._passing: asyncio.Event
        self._server: asyncio.AbstractServer
        self._thread.start()
        port = self._call(self._start)
        place = parts.netloc.rpartition("@")
        self.url = urlunsplit(parts._replace(netloc=f"{place[0]}{place[1]}{parts.hostname}:{port}"))

    def cut(self) -> None:
        """End every connection; new ones are accepted."""
        self._call(self._cut)

    def swallow(self) -> None:
        """From now on nothing comes through in either direction, and nobody is told."""
        self._call(self._swallow)

    def restore(self) -> None:
        """Pass on again. As with real links, TCP has kept what it could, and sends it now."""
        self._call(self._restore)

    def close(self) -> None:
        self._call(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG)
        self._loop.close()

    # -- on the proxy's own loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, function: Callable[[], Awaitable[Any]]) -> Any:
        async def called() -> Any:
            return await function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(LONG)

    async def _start(self) -> int:
        self._passing = asyncio.Event()
        self._passing.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        if self._receive_buffer is not None:  # those that are accepted inherit it
            self._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = [writer]
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._passing.wait()
            upstream_reader, upstream = await asyncio.open_connection(self._host, self._port)
            pair.append(upstream)
            self._writers.add(upstream)
            pumps = [self._pump(reader, upstream, self._record), self._pump(upstream_reader, writer, False)]
            await asyncio.wait([self._loop.create_task(pump) for pump in pumps], return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):  # no server there
            pass
        finally:
            self._tasks.discard(task)
            for each in pair:
                self._writers.discard(each)
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                await self._passing.wait()
                data = await reader.read(_READ_BYTES)
                await self._passing.wait()
                if not data:
                    return
                if record:
                    self.sent.append(data)
                writer.write(data)
                await writer.drain()

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _swallow(self) -> None:
        self._passing.clear()

    async def _restore(self) -> None:
        self._passing.set()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for task in tuple(asyncio.all_tasks()):
            if task is not asyncio.current_task():
                task.cancel()
        await asyncio.sleep(0)
        for task in tuple(self._tasks):
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.sleep(0.01)  # aborted transports close their sockets in the loop's next rounds
