"""A program of greenlets; ``patched.py`` runs it, which has gevent patch first.

Options: ``url``; ``subject``: what the test serves is below it; ``way``: the name of a function below, and ``other``: a
second server's URL, or the first argument of that function.
"""

from __future__ import annotations

import gc
import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import gevent
from gevent import monkey
from gevent.hub import get_hub
from lines import options, tell

from natsbridge import (
    ConnectError,
    NatsBridgeError,
    Pool,
    RequestTimeoutError,
    ResponseSender,
    ResponseStream,
    StreamRequest,
    Subscriber,
)

PATIENCE = 30.0
PAUSE = 1.0  # seconds for which each of the calls has to wait

given = options()
subject = given["subject"]
pool = Pool(given["url"], name=subject)

real_ident: Callable[[], int] = monkey.get_original("_thread", "get_ident")
MAIN = real_ident()


class Ticker:
    """A greenlet that wants to run all the time; ``gap``: the longest pause that it had, in seconds."""

    def __init__(self) -> None:
        self.gap = 0.0
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(0.002)
            now = time.monotonic()
            self.gap = max(self.gap, now - before)
            before = now

    def stop(self) -> float:
        self._greenlet.kill()
        return self.gap


def wait_until(predicate: Callable[[], object]) -> None:
    with gevent.Timeout(PATIENCE):
        while not predicate():
            time.sleep(0.005)


def on_a_real_thread(call: Callable[[], Any]) -> Any:
    """Run it there while this greenlet waits; what it returns, or raises."""
    return get_hub().threadpool.apply(call)


def order() -> None:
    """Wait until the test says so."""
    sys.stdin.readline()


# -- calls that wait ------------------------------------------------------------------------------------------------------


def each_call() -> None:
    """Each of the blocking calls at the same time, in a greenlet of its own."""
    pools = [Pool(given["other"], outbox_bytes=10_000).open() for _ in range(3)]
    publishing, flushing, closing = pools
    draining = Pool(given["url"]).open()
    waited: Dict[str, float] = {}

    def wait_offline(_: StreamRequest, sender: ResponseSender) -> None:
        timed("wait_offline", lambda: sender.wait_offline(PAUSE))

    def send(_: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        timed("send", lambda: sender.send(b"two"))

    def slow(_: StreamRequest, sender: ResponseSender) -> None:
        time.sleep(PAUSE)

    def timed(name: str, call: Callable[[], object]) -> None:
        since = time.monotonic()
        with suppress(RequestTimeoutError, ConnectError):
            call()
        waited[name] = time.monotonic() - since

    def publish() -> None:
        while True:
            publishing.publish("subject", bytes(100_000), timeout=PAUSE)

    def close() -> None:
        closing.publish("subject", b"data")
        closing.close(PAUSE)

    def drain() -> None:
        Subscriber(draining).stream_subscribe_handler(f"{subject}.slow", slow)
        stream = pool.stream(f"{subject}.slow")
        wait_until(lambda: draining.stats().streams)
        draining.drain(PATIENCE)
        assert list(stream) == []

    def read_late() -> None:
        with pool.stream(f"{subject}.send", window=1) as stream:
            time.sleep(PAUSE)
            assert list(stream) == [b"one", b"two"]

    subscriber = Subscriber(pool)
    subscriber.stream_subscribe_handler(f"{subject}.wait-offline", wait_offline)
    subscriber.stream_subscribe_handler(f"{subject}.send", send)
    messages = pool.subscribe(f"{subject}.nothing")
    deaf = socket.create_server(("127.0.0.1", 0))
    deaf_pool = Pool(f"nats://127.0.0.1:{deaf.getsockname()[1]}")
    tell("open")
    order()  # the other server stands still now
    calls: Dict[str, Callable[[], object]] = {
        "request": lambda: pool.request(f"{subject}.late-1", timeout=PATIENCE),
        "request on a real thread": lambda: on_a_real_thread(lambda: pool.request(f"{subject}.late-2", timeout=PATIENCE)),
        "stream": lambda: list(pool.stream(f"{subject}.late-stream")),
        "next_chunks": lambda: pool.stream(f"{subject}.mute").next_chunks(PAUSE),
        "next_msg": lambda: messages.next_msg(PAUSE),
        "publish": publish,
        "flush": lambda: flushing.flush(PAUSE),
        "close": close,
        "drain": drain,
        "open": lambda: deaf_pool.open(PAUSE),
    }
    ticker = Ticker()
    greenlets = [gevent.spawn(timed, name, call) for name, call in calls.items()]
    greenlets += [gevent.spawn(read_late), gevent.spawn(list, pool.stream(f"{subject}.wait-offline"))]
    gevent.joinall(greenlets, raise_error=True)
    deaf.close()
    tell("waited", gap=ticker.stop(), **waited)


def many() -> None:
    """Greenlets and real threads by the dozen; also the figures of the process meanwhile."""
    done: List[int] = []

    def ask(count: int) -> None:
        for number in range(count):
            data = b"%d" % number
            assert pool.request(f"{subject}.echo", data, timeout=PATIENCE).data == data
            with pool.stream(f"{subject}.some", timeout=PATIENCE) as stream:
                assert list(stream) == [b"0", b"1", b"2"]
            done.append(number)

    pool.open()
    ticker = Ticker()
    greenlets = [gevent.spawn(ask, 5) for _ in range(100)]
    greenlets += [gevent.spawn(on_a_real_thread, lambda: ask(50)) for _ in range(4)]
    gevent.joinall(greenlets, raise_error=True)
    tell("done", gap=ticker.stop(), count=len(done), streams=pool.stats().streams)


def elsewhere() -> None:
    """Nothing of natsbridge is used in the main thread, whose hub need not run then."""

    def use() -> bytes:
        own = Pool(given["url"])
        subscriber = Subscriber(own)
        subscriber.stream_subscribe_handler(f"{subject}.own", lambda _, sender: sender.send(b"of a real thread"))
        time.sleep(0.001)  # which makes a hub for this thread
        (chunk,) = own.stream(f"{subject}.own", timeout=PATIENCE)
        own.close()
        return chunk

    results: List[bytes] = []
    ended = monkey.get_original("_thread", "allocate_lock")()
    ended.acquire()

    def run() -> None:
        results.append(use())
        ended.release()

    monkey.get_original("_thread", "start_new_thread")(run, ())
    ended.acquire(True, PATIENCE)
    tell("done", results=[chunk.decode() for chunk in results])


# -- calls that are left --------------------------------------------------------------------------------------------------


def timeouts() -> None:
    """``gevent.Timeout`` in each kind of call: nothing is left behind, and a stream can be read on."""

    def ask_in_vain() -> None:
        with suppress(RequestTimeoutError):
            pool.request(f"{subject}.silent", timeout=0.3)

    messages = pool.subscribe(f"{subject}.nothing")
    held = pool.stream(f"{subject}.held")
    assert next(held) == b"one"
    calls: List[Callable[[], object]] = [
        lambda: pool.request(f"{subject}.silent", timeout=PATIENCE),
        lambda: next(held),
        lambda: held.next_chunks(PATIENCE),
        lambda: messages.next_msg(PATIENCE),
        lambda: on_a_real_thread(ask_in_vain),
    ]
    figures: List[Any] = []
    for _ in range(4):
        for call in calls:
            with gevent.Timeout(0.05, False):
                call()
                raise AssertionError("it should have waited longer")
        time.sleep(0.4)  # until those on real threads are through
        gc.collect()
        figures.append([len(pool._runtime.links[0]._ends), get_hub().loop.activecnt])  # type: ignore[union-attr]
    pool.publish(f"{subject}.release")
    rest = [chunk.decode() for chunk in held]
    tell("left", figures=figures, rest=rest, streams=pool.stats().streams)


def killed() -> None:
    """Readers that are killed while they wait; their greenlets are kept, and with these what they were at."""

    def iterate(stream: ResponseStream) -> None:
        for _ in stream:
            reading.append(stream)

    def messages(stream: ResponseStream) -> None:
        for _ in stream.messages():
            reading.append(stream)

    def next_chunks(stream: ResponseStream) -> None:
        while stream.next_chunks():
            reading.append(stream)

    def with_client() -> None:
        pool.stream_request_with_client(f"{subject}.held", b"with_client", "me", lambda _: reading.append(None))

    reading: List[object] = []
    readers = (iterate, messages, next_chunks)
    greenlets = [gevent.spawn(read, pool.stream(f"{subject}.held", read.__name__.encode())) for read in readers]
    greenlets.append(gevent.spawn(with_client))
    wait_until(lambda: len(reading) == len(greenlets))
    since = time.monotonic()
    gevent.killall(greenlets)
    tell("killed", since=since, streams=pool.stats().streams)
    order()


# -- handlers -------------------------------------------------------------------------------------------------------------


def serves() -> None:
    """Handlers of every kind tell where they run; those of streams wait, and others run meanwhile."""
    subscriber = Subscriber(pool)
    waiting = threading.Semaphore(0)
    all_there = threading.Event()

    def here() -> bytes:
        return b"main" if real_ident() == MAIN else b"elsewhere"

    def handler(_: StreamRequest, sender: ResponseSender) -> None:
        waiting.release()
        all_there.wait()
        sender.send(here())

    def offline(_: StreamRequest, sender: ResponseSender) -> None:
        sender.add_offline_callback(lambda: tell("callback", where=here().decode()))
        sender.send(b"added")
        sender.wait_offline()

    subscriber.stream_subscribe_handler(f"{subject}.served", handler, max_workers=50)
    subscriber.stream_subscribe_handler(f"{subject}.offline", offline)
    pool.subscribe(f"{subject}.where", handler=lambda message: message.respond(here()))
    ticker = Ticker()
    tell("ready")
    for _ in range(50):
        waiting.acquire()
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 0
    all_there.set()
    order()
    tell("served", gap=ticker.stop(), threads=threads)


def waits_for_a_handler() -> None:
    """Nothing but the handler can wake the main greenlet, and no other greenlet is there."""
    subscriber = Subscriber(pool)
    called = threading.Event()
    subscriber.stream_subscribe_handler(f"{subject}.served", lambda request, sender: called.set())
    tell("ready")
    called.wait()
    subscriber.close()
    pool.close()
    gevent.wait()  # until the hub has nothing to do any more
    tell("called")


def logs() -> None:
    """What the loop's thread logs is handled in the main thread."""
    seen: List[Tuple[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.name, "main" if real_ident() == MAIN else "elsewhere"))

    logging.basicConfig(level=logging.INFO, handlers=[Handler()])
    other = Pool(given["other"]).open()
    other._loop().post(lambda: 1 / 0)  # which asyncio logs
    wait_until(lambda: seen)
    tell("open")
    order()  # the other server is gone now
    wait_until(lambda: not other.stats().connected and ("natsbridge", "main") in seen)
    tell("logged", where=sorted(set(seen)))


# -- patched when? --------------------------------------------------------------------------------------------------------


def use(pool: Pool) -> None:
    assert pool.request(f"{subject}.echo", b"x", timeout=PATIENCE).data == b"x"
    assert list(pool.stream(f"{subject}.some", timeout=PATIENCE)) == [b"0", b"1", b"2"]


def used() -> None:
    use(pool)
    tell("used")


def used_early() -> None:
    """A pool that was open while gevent patched: ``patched.py`` has left it here."""
    early: Pool = globals()["early"]
    refused: List[str] = []
    calls: List[Callable[[], object]] = [
        lambda: early.request(f"{subject}.echo"),
        lambda: list(early.stream(f"{subject}.some")),
        lambda: early.flush(),
        lambda: early.subscribe(f"{subject}.nothing"),
    ]
    for call in calls:
        try:
            call()
        except NatsBridgeError as error:
            refused.append(str(error))
    early.close()
    use(pool)
    tell("used", refused=refused)


def without_uvloop() -> None:
    try:
        Pool(given["url"], uvloop=False).open()
    except NatsBridgeError as error:
        tell("refused", why=str(error))


if __name__ == "__main__":
    globals()[given["way"]]()
    sys.exit(0)
