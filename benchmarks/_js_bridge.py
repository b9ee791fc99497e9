"""The side of natsbridge for ``jetstream``: ``python -m benchmarks._js_bridge ROLE SERVER asyncio|uvloop``."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Dict

from nats.js.api import ConsumerConfig, StorageType, StreamConfig

from natsbridge import Pool, PullSubscription

from ._peer import serve


class Streams:
    """Publishes to streams and reads them."""

    def __init__(self, pool: Pool) -> None:
        self.js = pool.jetstream(timeout=60)

    def make(self, stream: str, most: int) -> Dict[str, Any]:
        """A stream in memory that keeps the last ``most`` messages."""
        self.js.add_stream(StreamConfig(name=stream, subjects=[stream], storage=StorageType.MEMORY, max_msgs=most))
        return {}

    def publish(self, stream: str, size: int, count: int, threads: int) -> Dict[str, Any]:
        """Publish ``count`` messages from ``threads`` threads, each waiting for each acknowledgement."""
        payload = b"x" * size
        js = self.js

        def work() -> None:
            for _ in range(count // threads):
                js.publish(stream, payload)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return {"seconds": time.perf_counter() - begin}

    def publish_async(self, stream: str, size: int, count: int) -> Dict[str, Any]:
        """Publish ``count`` messages, and wait for the acknowledgements together."""
        payload = b"x" * size
        js = self.js
        begin = time.perf_counter()
        futures = [js.publish_async(stream, payload) for _ in range(count)]
        js.publish_async_completed()
        for future in futures:
            future.result()
        return {"seconds": time.perf_counter() - begin}

    def publish_many(self, stream: str, size: int, count: int) -> Dict[str, Any]:
        """Publish ``count`` messages in one call."""
        payload = b"x" * size
        begin = time.perf_counter()
        self.js.publish_many((stream, payload) for _ in range(count))
        return {"seconds": time.perf_counter() - begin}

    def _subscribe(self, stream: str, count: int) -> PullSubscription:
        config = ConsumerConfig(max_ack_pending=count + 1)
        return self.js.pull_subscribe(stream, stream=stream, config=config)

    def fetch(self, stream: str, count: int, batch: int) -> Dict[str, Any]:
        """Read ``count`` messages of the stream in batches, acknowledging each."""
        with self._subscribe(stream, count) as sub:
            begin = time.perf_counter()
            read = 0
            while read < count:
                for message in sub.fetch(batch, timeout=10):
                    message.ack()
                    read += 1
            return {"seconds": time.perf_counter() - begin}

    def consume(self, stream: str, count: int) -> Dict[str, Any]:
        """Read ``count`` messages of the stream by iterating, acknowledging each."""
        with self._subscribe(stream, count) as sub:
            begin = time.perf_counter()
            for read, message in enumerate(sub, 1):
                message.ack()
                if read == count:
                    break
            return {"seconds": time.perf_counter() - begin}


def main(role: str, server: str, kind: str) -> None:
    with Pool(server, uvloop=kind == "uvloop") as pool:
        serve({"streams": Streams}[role](pool))


if __name__ == "__main__":
    main(*sys.argv[1:])
