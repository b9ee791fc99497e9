"""A soak: many short streams and some cancelled ones, while the server is restarted at random; prints what is left.

``python -m benchmarks.soak [--streams 10000] [--cancelled 200] [--restarts 10]``. Every stream must be complete and in
order, or raise; after all of them threads, descriptors, tasks, tokens, the server's subscriptions and memory must be where
they were. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from typing import Dict, List, NamedTuple

import psutil

from natsbridge import ClientOfflineError, Error, Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

CHUNKS = 20
READERS = 16
RESUME = 10.0
MEMORY = "RSS MiB"
ROOM_MIB = 10  # what memory may grow by: allocators keep some of what was free in between


def handler(request: StreamRequest, sender: ResponseSender) -> None:
    """As many numbers as are asked for; None for an endless answer."""
    count = int(request.data)
    number = 0
    try:
        while count < 0 or number < count:
            sender.send(b"%d" % number)
            number += 1
    except ClientOfflineError:
        pass


def one_stream(pool: Pool, resume: float) -> str:
    for _ in range(100):
        outcome = try_stream(pool, resume)
        if outcome != "NoRespondersError":
            return outcome
        time.sleep(0.05)  # after a restart the requester may be back before the worker is
    return "NoRespondersError"


def try_stream(pool: Pool, resume: float) -> str:
    got = 0
    try:
        for chunk in pool.stream("soak", b"%d" % CHUNKS, resume=resume):
            if int(chunk) != got:
                return "WRONG ORDER"
            got += 1
    except Error as error:
        return type(error).__name__
    return "complete" if got == CHUNKS else "TRUNCATED"


def one_cancelled(pool: Pool) -> str:
    try:
        with pool.stream("soak", b"-1") as stream:
            for chunk in stream:
                if int(chunk) >= 10:
                    break
    except Error as error:
        return type(error).__name__
    return "cancelled"


def counts(pools: List[Pool], server: EmbeddedServer) -> Dict[str, int]:
    """What could grow: in this process, in what the pools keep, and at the server."""
    gc.collect()
    links = [link for pool in pools if pool._runtime is not None for link in pool._runtime.links]

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    process = psutil.Process()
    with urllib.request.urlopen(f"{server.monitor_url}/subsz", timeout=5) as page:
        subscriptions = int(json.load(page)["num_subscriptions"])
    return {
        "threads": threading.active_count(),
        "descriptors": process.num_fds() if hasattr(process, "num_fds") else 0,
        "tokens": sum(len(link._ends) for link in links),
        "granted bytes": sum(link.incoming.taken for link in links),
        "tasks": sum(
            asyncio.run_coroutine_threadsafe(tasks(), link.loop._loop).result(5) for link in links if link.loop._loop
        ),
        "subscriptions": subscriptions,
        MEMORY: process.memory_info().rss // 2**20,
    }


def grown(before: Dict[str, int], now: Dict[str, int]) -> List[str]:
    """The names of the counts that are above what they were; memory may be, by a little."""
    return [key for key, value in now.items() if value > before[key] + (ROOM_MIB if key == MEMORY else 0)]


def settle(pools: List[Pool], server: EmbeddedServer, before: Dict[str, int], seconds: float) -> Dict[str, int]:
    """The counts once none is above what it was, or after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        now = counts(pools, server)
        if not grown(before, now) or time.monotonic() >= until:
            return now
        time.sleep(0.2)


class Size(NamedTuple):
    streams: int
    cancelled: int
    restarts: int


WARM_UP = Size(500, 50, 1)


class Round:
    """Streams in random order, read by a few threads, with a restart of the server now and then."""

    def __init__(self, server: EmbeddedServer, pool: Pool, chance: random.Random, size: Size) -> None:
        self.outcomes: Counter[str] = Counter()
        self._server, self._pool = server, pool
        cancelled = set(chance.sample(range(size.streams + size.cancelled), size.cancelled))
        self._jobs = ((number, number in cancelled) for number in range(size.streams + size.cancelled))
        self._restarts = set(chance.sample(range(size.streams + size.cancelled), size.restarts))
        self._lock = threading.Lock()  # guards the jobs and the outcomes
        self._restarting = threading.Lock()

    def play(self) -> float:
        """Do it all; the seconds that it took."""
        began = time.monotonic()
        readers = [threading.Thread(target=self._read) for _ in range(READERS)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return time.monotonic() - began

    def _read(self) -> None:
        while True:
            with self._lock:
                number, cancel = next(self._jobs, (-1, False))
            if number < 0:
                return
            if number in self._restarts:
                with self._restarting:
                    self._server.restart()
            outcome = one_cancelled(self._pool) if cancel else one_stream(self._pool, RESUME if number % 2 else 0.0)
            with self._lock:
                self.outcomes[outcome] += 1


def main() -> int:
    """Run the soak and print what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--cancelled", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = parser.parse_args()
    size = Size(given.streams, given.cancelled, given.restarts)
    chance = random.Random(given.seed)
    print(f"seed {given.seed}: {size.streams} streams, {size.cancelled} cancelled, {size.restarts} restarts", flush=True)
    with EmbeddedServer(http=True) as server, Pool(server.url, reconnect_time_wait=0.2) as pool, Pool(
        server.url, reconnect_time_wait=0.2
    ) as worker, Subscriber(worker, max_workers=2 * READERS, max_queued=1000) as subscriber:
        subscriber.stream_subscribe_handler("soak", handler)
        pools = [pool, worker]
        Round(server, pool, chance, WARM_UP).play()  # whatever is made once for all
        before = settle(pools, server, dict.fromkeys(counts(pools, server), 0), 12.0)  # idle handler threads end meanwhile
        main_round = Round(server, pool, chance, size)
        seconds = main_round.play()
        print(f"{size.streams + size.cancelled} streams in {seconds:.1f} s: {dict(main_round.outcomes)}")
        after = settle(pools, server, before, 20.0)
        for key, value in after.items():
            print(f"{key:>14}: {before[key]} before, {value} after")
        stats = subscriber.stats()[0]
        print(f"      handlers: {stats.running} running, {stats.queued} queued, {stats.ending} streams ending")
    wrong = main_round.outcomes["WRONG ORDER"] + main_round.outcomes["TRUNCATED"]
    more = grown(before, after)
    if wrong or more or stats.running or stats.queued or stats.ending:
        print(f"FAILED: {wrong} wrong streams; grown: {more}")
        return 1
    print("flat: nothing was left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
