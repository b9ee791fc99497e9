"""A thousand lives of a pool: none of them hangs, and nothing is left of any."""

from __future__ import annotations

import gc
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Callable, Iterator, List

import psutil
import pytest
from procs import LONG, WaitFor

from natsbridge import (
    ClosedError,
    Error,
    Message,
    NoRespondersError,
    Pool,
    RequestTimeoutError,
    ResponseSender,
    StreamRequest,
    Subscriber,
)
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.slow

PROCESS = psutil.Process()


@pytest.fixture(scope="module")
def own() -> Iterator[EmbeddedServer]:
    """A server of this module's own, so that all it counts is the cycles'."""
    with EmbeddedServer(http=True) as server:
        yield server


def descriptors() -> int:
    count: Callable[[], int] = getattr(
        PROCESS, "num_fds" if hasattr(PROCESS, "num_fds") else "num_handles"
    )  # Windows has handles
    return count()


def ours() -> List[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("natsbridge"))


@contextmanager
def nothing_left(server: EmbeddedServer, wait_for: WaitFor) -> Iterator[None]:
    from conftest import Monitor

    monitor = Monitor(server)

    def counts() -> List[int]:
        return [len(monitor.connections()), monitor.get("varz")["subscriptions"]]

    with Pool(server.url) as warm:  # whatever is made once for all
        warm.flush()
    wait_for(lambda: counts()[0] == 0)
    gc.collect()
    threads, open_files, before = ours(), descriptors(), counts()
    yield
    wait_for(lambda: ours() == threads, what=f"the threads to go, {ours()}")
    wait_for(lambda: counts() == before, what="the server's connections and subscriptions to go")
    gc.collect()
    wait_for(lambda: descriptors() <= open_files, what="the descriptors to be closed")


@contextmanager
def switching(interval: float) -> Iterator[None]:
    """Make threads take turns as often as they can, so that they meet everywhere."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def cycle(count: int, life: Callable[[int], object], limit: float) -> None:
    began = time.monotonic()
    for n in range(count):
        at = time.monotonic()
        life(n)
        assert time.monotonic() - at < limit, f"life {n} took {time.monotonic() - at:.1f} s"
        assert time.monotonic() - began < 50, f"only {n} lives in 50 s"


def test_open_and_close(own: EmbeddedServer, wait_for: WaitFor) -> None:
    def life(n: int) -> None:
        with Pool(own.url) as pool:
            if n % 2:
                pool.publish("cycles", b"x")
            if n % 4 == 3:
                pool.flush()

    with nothing_left(own, wait_for):
        cycle(500, life, 5.0)


def test_close_at_once(own: EmbeddedServer, wait_for: WaitFor) -> None:
    """Closed before, while or after it opens, by whoever is faster."""

    def life(n: int) -> None:
        pool = Pool(own.url)

        def use() -> None:
            with suppress(ClosedError):
                pool.publish("cycles", b"x")

        thread = threading.Thread(target=use, daemon=True)
        thread.start()
        thread.join(n % 10 / 1000)
        pool.close()
        thread.join(LONG)
        assert not thread.is_alive()

    with nothing_left(own, wait_for), switching(1e-5):
        cycle(200, life, 5.0)


def test_close_under_load(own: EmbeddedServer, wait_for: WaitFor) -> None:
    """Eight threads ask, publish, flush and subscribe while the pool is closed: each ends with ClosedError, none hangs."""
    ended: List[BaseException] = []

    def life(n: int) -> None:
        pool = Pool(own.url).open()
        pool.subscribe("cycles.echo", handler=lambda message: message.respond(message.data))
        ready = threading.Barrier(9)

        def work(kind: int) -> None:
            ready.wait(LONG)
            while True:
                try:
                    if kind < 4:
                        assert pool.request("cycles.echo", b"%d" % kind, timeout=LONG).data == b"%d" % kind
                    elif kind == 4:
                        pool.publish("cycles.nobody", b"x")
                    elif kind == 5:
                        pool.flush(LONG)
                    elif kind == 6:
                        pool.subscribe("cycles.sub").unsubscribe()
                    else:
                        pool.stats()
                        list(pool.stream("cycles.echo", b"x", idle_timeout=0.001))
                except ClosedError:
                    return
                except NoRespondersError:
                    pass  # the service goes first, which is the pool's own
                except RequestTimeoutError:
                    if kind != 7:  # only a stream from a plain echo service has no end
                        raise

        def watched(kind: int) -> None:
            try:
                work(kind)
            except BaseException as error:
                ended.append(error)

        threads = [threading.Thread(target=watched, args=(kind,), daemon=True) for kind in range(8)]
        for thread in threads:
            thread.start()
        ready.wait(LONG)
        threading.Event().wait(n % 5 / 500)
        pool.close()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive(), "a caller hangs"

    with nothing_left(own, wait_for), switching(1e-5):
        cycle(150, life, 8.0)
    assert ended == []


def test_streams_and_their_workers(own: EmbeddedServer, wait_for: WaitFor) -> None:
    """Subscriber and requester come and go, in either order, with streams under way."""

    def endless(request: StreamRequest, sender: ResponseSender) -> None:
        while True:
            sender.send(b"x")

    outcomes: List[object] = []

    def life(n: int) -> None:
        worker, pool = Pool(own.url), Pool(own.url)
        subscriber = Subscriber(worker)
        subscriber.stream_subscribe_handler("cycles.stream", endless)

        def read() -> None:
            try:
                for _ in pool.stream("cycles.stream"):
                    pass
                outcomes.append("end")
            except Error as error:
                outcomes.append(type(error).__name__)

        threads = [threading.Thread(target=read, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        threading.Event().wait(n % 4 / 200)
        closing: List[Callable[[], object]] = (
            [worker.close, pool.close] if n % 2 else [pool.close, subscriber.close, worker.close]
        )
        for close in closing:
            close()
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive(), "a reader hangs"

    with nothing_left(own, wait_for):
        cycle(100, life, 8.0)
    assert set(outcomes) <= {"ClosedError", "ResponderLostError", "NoRespondersError"}
    assert len(outcomes) == 300


def test_dropped_without_closing(own: EmbeddedServer, wait_for: WaitFor) -> None:
    def life(n: int) -> None:
        pool = Pool(own.url).open()
        pool.publish("cycles", b"x")
        stream = pool.stream("cycles") if n % 2 else None
        del pool, stream
        if n % 10 == 9:
            gc.collect()

    with nothing_left(own, wait_for):
        cycle(50, life, 5.0)
        gc.collect()


def test_handlers_of_closed_pools_are_gone(own: EmbeddedServer, wait_for: WaitFor) -> None:
    """What a pool was given to call does not outlive it."""
    import weakref

    class Handler:
        def __call__(self, message: Message) -> None:
            message.respond(b"x")

    references: List[weakref.ref[Handler]] = []

    def life(n: int) -> None:
        handler = Handler()
        references.append(weakref.ref(handler))
        with Pool(own.url) as pool:
            pool.subscribe("cycles.handler", handler=handler)
            assert pool.request("cycles.handler").data == b"x"

    with nothing_left(own, wait_for):
        cycle(20, life, 5.0)
    gc.collect()
    wait_for(lambda: [reference for reference in references if reference() is not None] == [])
