"""A soak: many short streams and some cancelled ones, while the server is restarted at random; prints what is left.

``python -m benchmarks.soak [--streams 10000] [--cancelled 200] [--restarts 10]``. Every stream must be complete and in
order, or raise; after all of them threads, descriptors, tasks and tokens must be where they were. Exit code 1 otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List

import psutil

from natsbridge import ClientOfflineError, Error, Pool, ResponseSender, StreamRequest, Subscriber
from natsbridge.server import EmbeddedServer

CHUNKS = 20
READERS = 16
RESUME = 10.0


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


def counts(pools: List[Pool]) -> Dict[str, int]:
    """What could grow: this process's threads and descriptors, and what the pools keep."""
    gc.collect()
    links = [link for pool in pools if pool._runtime is not None for link in pool._runtime.links]

    async def tasks() -> int:
        return len(asyncio.all_tasks())

    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "descriptors": process.num_fds() if hasattr(process, "num_fds") else 0,
        "tokens": sum(len(link._ends) for link in links),
        "granted bytes": sum(link._granted for link in links),
        "tasks": sum(
            asyncio.run_coroutine_threadsafe(tasks(), link.loop._loop).result(5) for link in links if link.loop._loop
        ),
        "RSS MiB": process.memory_info().rss // 2**20,
    }


def settle(pools: List[Pool], before: Dict[str, int], seconds: float) -> Dict[str, int]:
    """The counts once nothing but memory is above what it was, or after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        now = counts(pools)
        if all(now[key] <= before[key] for key in before if key != "RSS MiB") or time.monotonic() >= until:
            return now
        time.sleep(0.2)


def main() -> int:
    """Run the soak and print what came of it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--cancelled", type=int, default=200)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    given = parser.parse_args()
    chance = random.Random(given.seed)
    print(f"seed {given.seed}: {given.streams} streams, {given.cancelled} cancelled, {given.restarts} restarts")
    with EmbeddedServer() as server, Pool(server.url, reconnect_time_wait=0.2) as pool, Pool(
        server.url, reconnect_time_wait=0.2
    ) as worker, Subscriber(worker, max_workers=2 * READERS, max_queued=1000) as subscriber:
        subscriber.stream_subscribe_handler("soak", handler)
        with ThreadPoolExecutor(READERS) as readers:  # whatever is made once for all
            list(readers.map(lambda _: one_stream(pool, 0.0), range(200)))
        before = settle([pool, worker], dict.fromkeys(counts([pool, worker]), 0), 15.0)
        jobs = [one_stream] * given.streams + [one_cancelled] * given.cancelled
        chance.shuffle(jobs)
        turns = sorted(chance.sample(range(len(jobs)), min(given.restarts, len(jobs))))
        outcomes: Counter[str] = Counter()
        lock = threading.Lock()
        done = 0

        def work(index: int) -> None:
            nonlocal done
            job = jobs[index]
            outcome = one_cancelled(pool) if job is one_cancelled else one_stream(pool, RESUME if index % 2 else 0.0)
            with lock:
                outcomes[outcome] += 1
                done += 1
                restart = bool(turns) and done >= turns[0]
                if restart:
                    turns.pop(0)
            if restart:
                server.restart()

        began = time.monotonic()
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(work, range(len(jobs))))
        print(f"{len(jobs)} streams in {time.monotonic() - began:.1f} s: {dict(outcomes)}")
        after = settle([pool, worker], before, 20.0)
        for key, value in after.items():
            print(f"{key:>14}: {before[key]} before, {value} after")
        stats = subscriber.stats()[0]
        print(f"       handlers: {stats.running} running, {stats.queued} queued, {stats.ending} streams ending")
    wrong = outcomes["WRONG ORDER"] + outcomes["TRUNCATED"]
    grown = [key for key in after if key != "RSS MiB" and after[key] > before[key]]
    if wrong or grown or stats.running or stats.queued or stats.ending:
        print(f"FAILED: {wrong} wrong streams; grown: {grown}")
        return 1
    print("flat: nothing was left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
