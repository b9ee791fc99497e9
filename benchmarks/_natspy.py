"""The side of bare nats-py: ``python -m benchmarks._natspy ROLE SERVER asyncio|uvloop``, with commands from ``_peer``."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Coroutine, Dict, List

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from ._peer import serve, serve_async


class Plain:
    """Everything on one event loop in the main thread, as an asyncio program would do it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._wanted = self._received = 0
        self._first = self._last = 0.0
        self._done: asyncio.Future[None]
        self._ages: List[float] = []

    async def publish(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Publish ``count`` messages one after another, then flush."""
        payload = b"x" * size
        client = self.client
        begin = time.perf_counter()
        for _ in range(count):
            await client.publish(subject, payload)
        await client.flush(60)
        return {"seconds": time.perf_counter() - begin}

    async def request(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Make ``count`` requests one after another."""
        payload = b"x" * size
        client = self.client
        took: List[float] = []
        for _ in range(count):
            begin = time.perf_counter()
            await client.request(subject, payload, timeout=10)
            took.append(time.perf_counter() - begin)
        return {"seconds": took}

    async def echo(self, subject: str) -> Dict[str, Any]:
        """Answer every request with its own payload from now on."""

        async def answer(msg: Msg) -> None:
            await self.client.publish(msg.reply, msg.data)

        await self.client.subscribe(subject, cb=answer)
        await self.client.flush()
        return {}

    async def listen(self, subject: str) -> Dict[str, Any]:
        """Subscribe with a callback that only counts, and with no limit to what nats-py buffers."""

        async def count(_: Msg) -> None:
            self._received += 1
            if self._received == 1:
                self._first = time.perf_counter()
            if self._received == self._wanted:
                self._last = time.perf_counter()
                self._done.set_result(None)

        await self.client.subscribe(subject, cb=count, pending_msgs_limit=0, pending_bytes_limit=0)
        await self.client.flush()
        return {}

    async def expect(self, count: int) -> Dict[str, Any]:
        """Get ready for ``count`` messages."""
        self._done = asyncio.get_event_loop().create_future()
        self._wanted, self._received = count, 0
        return {}

    async def received(self) -> Dict[str, Any]:
        """Wait for all that is expected: seconds from the first to the last."""
        await self._done
        return {"seconds": self._last - self._first}

    async def tick(self, subject: str, count: int, pause: float) -> Dict[str, Any]:
        """Publish the time every ``pause`` seconds."""
        for _ in range(count):
            await self.client.publish(subject, b"%.9f" % time.monotonic())
            await asyncio.sleep(pause)
        return {}

    async def clock(self, subject: str, count: int) -> Dict[str, Any]:
        """Have a callback note how old ``count`` messages of ``tick`` are when it gets them; ``ages`` waits for them."""
        ages: List[float] = []
        self._ages = ages
        self._done = done = asyncio.get_event_loop().create_future()

        async def note(msg: Msg) -> None:
            ages.append(time.monotonic() - float(msg.data))
            if len(ages) == count:
                await subscription.unsubscribe()
                done.set_result(None)

        subscription = await self.client.subscribe(subject, cb=note)
        await self.client.flush()
        return {}

    async def ages(self) -> Dict[str, Any]:
        """What ``clock`` has noted, once it is complete."""
        await self._done
        return {"seconds": self._ages}


class Threaded:
    """A loop in a thread, and one ``run_coroutine_threadsafe`` for each call: what synchronous programs do by hand."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: Client) -> None:
        self.loop, self.client = loop, client
        self._handlers = ThreadPoolExecutor(16)

    def _run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coro, self.loop).result()

    def answer(self, subject: str) -> Dict[str, Any]:
        """Answer every request from a thread, with its own payload and an empty message for the end."""

        def handle(msg: Msg) -> None:
            self._run(self.client.publish(msg.reply, msg.data))
            self._run(self.client.publish(msg.reply, b""))

        async def dispatch(msg: Msg) -> None:
            self._handlers.submit(handle, msg)

        async def listen() -> None:
            await self.client.subscribe(subject, cb=dispatch)
            await self.client.flush()

        self._run(listen())
        return {}

    def first_chunks(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Read ``count`` streams of ``answer``, one after another: the time from the call to the first chunk of each."""
        payload = b"x" * size
        took: List[float] = []
        for _ in range(count):
            chunks: queue.Queue[bytes] = queue.Queue()

            async def collect(msg: Msg, chunks: queue.Queue[bytes] = chunks) -> None:
                chunks.put(msg.data)

            async def ask(collect: Any = collect) -> Any:
                inbox = self.client.new_inbox()
                subscription = await self.client.subscribe(inbox, cb=collect)
                await self.client.publish(subject, payload, reply=inbox)
                return subscription

            begin = time.perf_counter()
            subscription = self._run(ask())
            chunks.get()
            took.append(time.perf_counter() - begin)
            while chunks.get():
                pass
            self._run(subscription.unsubscribe())
        return {"seconds": took}

    def publish(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Publish ``count`` messages one after another, then flush."""
        payload = b"x" * size
        begin = time.perf_counter()
        for _ in range(count):
            self._run(self.client.publish(subject, payload))
        self._run(self.client.flush(60))
        return {"seconds": time.perf_counter() - begin}


def new_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "uvloop":
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop
    return asyncio.new_event_loop()


async def _plain(server: str) -> None:
    client = await nats.connect(server)
    await serve_async(Plain(client))
    await client.close()


def main(role: str, server: str, kind: str) -> None:
    loop = new_loop(kind)
    if role == "plain":
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_plain(server))
    else:
        threading.Thread(target=loop.run_forever, daemon=True).start()
        client = asyncio.run_coroutine_threadsafe(nats.connect(server), loop).result()
        serve(Threaded(loop, client))
        asyncio.run_coroutine_threadsafe(client.close(), loop).result()


if __name__ == "__main__":
    main(*sys.argv[1:])
