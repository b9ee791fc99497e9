"""The side of natsbridge: ``python -m benchmarks._bridge ROLE SERVER asyncio|uvloop``, with commands from ``_peer``."""

from __future__ import annotations

import queue
import sys
import threading
import time
from array import array
from contextlib import suppress
from typing import Any, Callable, Dict, List, Tuple

from natsbridge import (
    ClientOfflineError,
    ClosedError,
    Error,
    Pool,
    ResponseSender,
    ResponseStream,
    StreamRequest,
    Subscriber,
)

from ._paced import beats
from ._peer import serve
from ._process import resident_bytes, threads


class Requester:
    """Publishes, requests and reads streams, all from one thread unless a command says otherwise."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._streams: List[ResponseStream] = []

    def publish(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Publish ``count`` messages one after another, then flush."""
        payload = b"x" * size
        pool = self.pool
        begin = time.perf_counter()
        for _ in range(count):
            pool.publish(subject, payload)
        pool.flush(60)
        return {"seconds": time.perf_counter() - begin}

    def request(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Make ``count`` requests one after another."""
        payload = b"x" * size
        pool = self.pool
        took: List[float] = []
        for _ in range(count):
            begin = time.perf_counter()
            pool.request(subject, payload, timeout=10)
            took.append(time.perf_counter() - begin)
        return {"seconds": took}

    def first_chunks(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Read ``count`` streams one after another: the time from the call to the first chunk of each."""
        payload = b"x" * size
        took: List[float] = []
        for _ in range(count):
            begin = time.perf_counter()
            stream = self.pool.stream(subject, payload)
            next(stream)
            took.append(time.perf_counter() - begin)
            for _ in stream:
                pass
        return {"seconds": took}

    def read(self, subject: str, size: int, count: int) -> Dict[str, Any]:
        """Read one stream of ``count`` chunks: seconds from the first to the last."""
        stream = self.pool.stream(subject, b"%d %d" % (size, count))
        next(stream)
        begin = time.perf_counter()
        chunks = 1 + sum(1 for _ in stream)
        seconds = time.perf_counter() - begin
        if chunks != count:
            raise RuntimeError(f"{chunks} chunks arrived instead of {count}")
        return {"seconds": seconds}

    def ages(self, subject: str, count: int, pause: float) -> Dict[str, Any]:
        """Read one stream of ``count`` chunks that hold their time, ``pause`` seconds apart: how old each is when read."""
        stream = self.pool.stream(subject, b"%d %f" % (count, pause))
        return {"seconds": [time.monotonic() - float(chunk) for chunk in stream]}

    def read_many(self, subject: str, streams: int, count: int, pause: float) -> Dict[str, Any]:
        """Read so many streams at once, each in a thread of its own: how old the chunks were, and the seconds of it all.

        Every stream has ``count`` chunks that hold their time, ``pause`` seconds apart. ``bytes``: of memory before, and
        half-way; ``open``: streams then.
        """
        ages = [array("d") for _ in range(streams)]
        faults: List[str] = []
        before = resident_bytes()

        def read(number: int) -> None:
            try:
                for chunk in self.pool.stream(subject, b"%d %f" % (count, pause), idle_timeout=30.0):
                    ages[number].append(time.monotonic() - float(chunk))
            except Error as error:
                faults.append(f"{type(error).__name__}: {error}")

        readers = [threading.Thread(target=read, args=(number,)) for number in range(streams)]
        begin = time.monotonic()
        for reader in readers:
            reader.start()
        time.sleep(max(0.0, begin + count * pause / 2 - time.monotonic()))
        halfway, opened = resident_bytes(), self.pool.stats().streams
        for reader in readers:
            reader.join()
        seconds = time.monotonic() - begin
        complete = sum(len(each) == count for each in ages)
        every = sorted(age for each in ages for age in each)
        return {
            "open": opened,
            "complete": complete,
            "seconds": seconds,
            "median": every[len(every) // 2],
            "late": every[len(every) * 99 // 100],
            "bytes": [before, halfway],
            "faults": faults[:3],
        }

    def read_on(self, subject: str) -> Dict[str, Any]:
        """Read a stream for ever, in a thread; returns once it is under way."""
        under_way = threading.Event()

        def read() -> None:
            for number, _ in enumerate(self.pool.stream(subject)):
                if number == 20:
                    under_way.set()

        threading.Thread(target=read, daemon=True).start()
        if not under_way.wait(30):
            raise RuntimeError("the stream did not start")
        return {}

    def open_streams(self, subject: str, count: int) -> Dict[str, Any]:
        """Have ``count`` more streams open, of each of which this thread has read a chunk."""
        for _ in range(count):
            stream = self.pool.stream(subject)
            next(stream)
            self._streams.append(stream)
        return {"streams": len(self._streams), "threads": threads()}

    def read_streams(self, readers: int) -> Dict[str, Any]:
        """Have ``readers`` threads wait for the next chunk of a stream each."""

        def read(stream: ResponseStream) -> None:
            with suppress(ClosedError):
                for _ in stream:
                    pass

        for stream in self._streams[:readers]:
            threading.Thread(target=read, args=(stream,), daemon=True).start()
        time.sleep(0.2)
        return {"threads": threads()}

    def request_check(self, arguments: str) -> Dict[str, Any]:
        """Have the worker measure in its handler, and read what it sends meanwhile."""
        for _ in self.pool.stream("bench.check", arguments.encode()):
            pass
        return {}

    def threads(self) -> Dict[str, Any]:
        return {"threads": threads()}


class Worker:
    """Serves the streams that ``Requester`` reads."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._ends: queue.Queue[Tuple[str, float]] = queue.Queue()
        self._checks: queue.Queue[Dict[str, Any]] = queue.Queue()
        handlers: Dict[str, Callable[[StreamRequest, ResponseSender], None]] = {
            "bench.tick": self._tick,
            "bench.one": self._one,
            "bench.many": self._many,
            "bench.hold": self._hold,
            "bench.check": self._check,
            "bench.clock": self._clock,
        }
        for subject, handler in handlers.items():
            subscriber.stream_subscribe_handler(subject, handler, max_workers=100)
        subscriber.stream_subscribe_handler("bench.pace", self._pace, max_workers=1000)

    # -- handlers -----------------------------------------------------------------------------------------------------

    def _tick(self, _: StreamRequest, sender: ResponseSender) -> None:
        """Send every millisecond, and note when that ended."""
        reason = "ended"
        try:
            while True:
                sender.send(b"tick")
                time.sleep(0.001)
        except ClientOfflineError as error:
            reason = error.reason
            raise
        finally:
            self._ends.put((reason, time.monotonic()))

    @staticmethod
    def _one(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(request.data)

    @staticmethod
    def _many(request: StreamRequest, sender: ResponseSender) -> None:
        size, count = map(int, request.data.split())
        chunk = b"x" * size
        for _ in range(count):
            sender.send(chunk)

    @staticmethod
    def _clock(request: StreamRequest, sender: ResponseSender) -> None:
        count, pause = request.data.split()
        for _ in range(int(count)):
            sender.send(b"%.9f" % time.monotonic())
            time.sleep(float(pause))

    @staticmethod
    def _pace(request: StreamRequest, sender: ResponseSender) -> None:
        count, pause = request.data.split()
        for _ in beats(int(count), float(pause)):
            sender.send(b"%.9f" % time.monotonic())

    @staticmethod
    def _hold(_: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"first")
        sender.wait_offline()

    def _check(self, request: StreamRequest, sender: ResponseSender) -> None:
        """What a look at the client costs, and a whole ``send``, where neither waits for anything.

        Chunks are sent in bursts that fit the window, with pauses in which they are written. Time is this thread's own:
        the loop's thread writes at the same moment.
        """
        looks, bursts, burst, size = map(int, request.data.split())
        sender.send(b"started")
        chunk = b"x" * size
        is_online = sender.is_online
        nothing = _nothing
        begin = time.thread_time()
        for _ in range(looks):
            nothing()
        middle = time.thread_time()
        for _ in range(looks):
            is_online()
        end = time.thread_time()
        spent = 0.0
        for _ in range(bursts):
            time.sleep(0.02)
            sent = time.thread_time()
            for _ in range(burst):
                sender.send(chunk)
            spent += time.thread_time() - sent
        self._checks.put(
            {"look": (end - middle) / looks, "call": (middle - begin) / looks, "send": spent / (bursts * burst)}
        )

    # -- commands -----------------------------------------------------------------------------------------------------

    def next_end(self) -> Dict[str, Any]:
        """Why and when a handler of ``bench.tick`` ended; the clock is the same in all processes of a machine."""
        reason, at = self._ends.get(timeout=60)
        return {"reason": reason, "at": at}

    def next_check(self) -> Dict[str, Any]:
        return self._checks.get(timeout=60)

    def threads(self) -> Dict[str, Any]:
        return {"threads": threads()}

    def memory(self) -> Dict[str, Any]:
        return {"bytes": resident_bytes()}


def _nothing() -> None:
    """What a call alone costs."""


def main(role: str, server: str, kind: str) -> None:
    with Pool(server, uvloop=kind == "uvloop") as pool:
        if role == "requester":
            serve(Requester(pool))
        else:
            with Subscriber(pool) as subscriber:
                serve(Worker(subscriber))


if __name__ == "__main__":
    main(*sys.argv[1:])
