"""Bare nats-py for ``jetstream``: ``python -m benchmarks._js_natspy ROLE SERVER asyncio|uvloop``."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Dict

import nats
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from ._natspy import new_loop
from ._peer import serve_async


class Streams:
    """Publishes to streams and reads them."""

    def __init__(self, client: Client) -> None:
        self.js = client.jetstream(timeout=60)

    async def publish(self, stream: str, size: int, count: int, tasks: int) -> Dict[str, Any]:
        """Publish ``count`` messages from ``tasks`` tasks, each waiting for each acknowledgement."""
        payload = b"x" * size
        js = self.js

        async def work() -> None:
            for _ in range(count // tasks):
                await js.publish(stream, payload)

        begin = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(tasks)))
        return {"seconds": time.perf_counter() - begin}

    async def publish_async(self, stream: str, size: int, count: int) -> Dict[str, Any]:
        """Publish ``count`` messages, and wait for the acknowledgements together."""
        payload = b"x" * size
        js = self.js
        begin = time.perf_counter()
        futures = [await js.publish_async(stream, payload) for _ in range(count)]
        await js.publish_async_completed()
        for future in futures:
            future.result()
        return {"seconds": time.perf_counter() - begin}

    async def fetch(self, stream: str, count: int, batch: int) -> Dict[str, Any]:
        """Read ``count`` messages of the stream in batches, acknowledging each."""
        config = ConsumerConfig(max_ack_pending=count + 1)
        sub = await self.js.pull_subscribe(stream, stream=stream, config=config)
        begin = time.perf_counter()
        read = 0
        while read < count:
            for message in await sub.fetch(batch, timeout=10):
                await message.ack()
                read += 1
        took = time.perf_counter() - begin
        info = await sub.consumer_info()
        await sub.unsubscribe()
        await self.js.delete_consumer(stream, info.name or "")
        return {"seconds": took}


async def _serve(server: str) -> None:
    client = await nats.connect(server)
    await serve_async(Streams(client))
    await client.close()


def main(role: str, server: str, kind: str) -> None:
    loop = new_loop(kind)
    asyncio.set_event_loop(loop)
    loop.run_until_complete(_serve(server))


if __name__ == "__main__":
    main(*sys.argv[1:])
