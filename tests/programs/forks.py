"""A program that uses a pool, forks in the way it is told, and tells how its children fare.

Options: ``url``; ``subject``: the test serves ``echo`` (requests), ``some`` (a stream of three chunks) and ``slow`` (one
without end) below it; ``way``: the name of a function below.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import warnings
from functools import partial
from importlib.abc import MetaPathFinder
from typing import Callable, List, NoReturn

from lines import options, tell

from natsbridge import ClosedError, Error, ForkedError, Pool, ResponseSender, ResponseStream, StreamRequest, Subscriber

# To fork with threads running is what this is about; Python 3.12 and later warn of it.
warnings.filterwarnings("ignore", r"This process \(pid=\d+\) is multi-threaded", DeprecationWarning)

PATIENCE = 30.0

given = options()
subject = given["subject"]
pool = Pool(given["url"], name=f"{subject}-parent")


def use(pool: Pool) -> None:
    """A request, a stream to its end, and one that is left early; on behalf of a client."""
    data = b"%d" % os.getpid()
    assert pool.request(f"{subject}.echo", data, timeout=PATIENCE).data == data
    with pool.client(f"client-{os.getpid()}") as client:
        with pool.stream(f"{subject}.some", connect_id=client, timeout=PATIENCE) as stream:
            assert list(stream) == [b"0", b"1", b"2"]
    with pool.stream(f"{subject}.slow", timeout=PATIENCE) as stream:
        assert next(stream) == b"0"


def refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except ForkedError:
        return True
    return False


def fork(child: Callable[[], object], *, leave: Callable[[int], NoReturn] = os._exit) -> int:
    """Run ``child`` in a forked process, which leaves in the given way; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.alarm(int(PATIENCE))
        child()
    except BaseException:
        tell("failed", why=traceback.format_exc())
        os._exit(1)
    return leave(0)


def gather(pids: List[int]) -> None:
    """Wait for children; each has to end in the regular way."""
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    tell("children", statuses=statuses)


def read_on(stream: ResponseStream, first: int, count: int = 5) -> int:
    for number, chunk in enumerate(itertools.islice(stream, count), first):
        assert chunk == b"%d" % number, (chunk, number)
    return first + count


def serve(subscriber: Subscriber) -> None:
    def handler(_: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"of the parent")

    subscriber.stream_subscribe_handler(f"{subject}.parent", handler)


# -- ways to fork ---------------------------------------------------------------------------------------------------------


def four_children() -> None:
    """Each asks the test and the parent, while the parent's stream goes on."""
    serve(Subscriber(pool))
    stream = pool.stream(f"{subject}.slow")
    number = read_on(stream, 0)

    def child() -> None:
        use(pool)
        assert list(pool.stream(f"{subject}.parent", timeout=PATIENCE)) == [b"of the parent"]
        pool.close()

    pids = [fork(child) for _ in range(4)]
    number = read_on(stream, number)
    gather(pids)
    read_on(stream, number)
    use(pool)


def inherited() -> None:
    """What belongs to the parent refuses to work in a child, and goes on in the parent."""
    subscriber = Subscriber(pool)
    serve(subscriber)
    stream = pool.stream(f"{subject}.slow")
    unread = pool.stream(f"{subject}.some")
    messages = pool.subscribe(f"{subject}.messages")
    senders: List[ResponseSender] = []
    subscriber.stream_subscribe_handler(f"{subject}.detached", lambda _, sender: senders.append(sender.detach()))
    detached = pool.stream(f"{subject}.detached")
    number = read_on(stream, 0)

    def child() -> None:
        tell(
            "refused",
            next=refused(lambda: next(stream)),
            messages=refused(lambda: list(unread.messages())),
            cancel=refused(stream.cancel),
            subscribe=refused(lambda: subscriber.stream_subscribe_handler(f"{subject}.more", lambda request, sender: None)),
            listener=refused(subscriber.start_client_offline_listener),
            start=refused(subscriber.start),
            run=refused(subscriber.run),
            subscription=refused(lambda: messages.next_msg(1.0)),
            iteration=refused(lambda: next(messages)),
            send=refused(lambda: senders[0].send(b"of the child")),
            end=refused(senders[0].end),
        )
        for thing in (subscriber, messages):  # what cleans up does nothing, and raises nothing
            thing.close()
        subscriber.drain()
        assert pool.stats().streams == 0
        use(pool)  # a pool is for every process
        with Subscriber(pool) as own:
            own.stream_subscribe_handler(f"{subject}.child", lambda _, sender: sender.send(b"of the child"))
            assert list(pool.stream(f"{subject}.child", timeout=PATIENCE)) == [b"of the child"]

    while not senders:
        threading.Event().wait(0.01)
    gather([fork(child)])
    read_on(stream, number)
    assert list(unread) == [b"0", b"1", b"2"]
    senders[0].send(b"of the parent")
    senders[0].end()
    assert list(detached) == [b"of the parent"]
    assert list(pool.stream(f"{subject}.parent", timeout=PATIENCE)) == [b"of the parent"]
    pool.publish(f"{subject}.messages", b"still")
    assert messages.next_msg(PATIENCE).data == b"still"


def leaving_undisturbed() -> None:
    """Children that end without a word, with ``atexit`` or an exception, or drop what they inherited."""
    global pool
    stream = pool.stream(f"{subject}.slow")
    number = read_on(stream, 0)

    def nothing() -> None:
        pass

    def drop() -> None:
        global pool
        nonlocal stream
        del pool, stream
        gc.collect()

    def close() -> None:
        pool.close()
        try:
            pool.publish("x")
        except ClosedError:
            return
        raise AssertionError("a closed pool published")

    def publish() -> None:
        pool.publish(f"{subject}.last", b"%d" % os.getpid())  # written out at exit

    pids = [fork(child, leave=sys.exit) for child in (nothing, drop, close, publish)]
    number = read_on(stream, number)
    gather(pids)
    read_on(stream, number)
    use(pool)
    tell("last", pid=pids[-1])


def under_load() -> None:
    """Fork again and again while other threads hold and leave the pool's locks all the time."""
    pool.open()
    sys.setswitchinterval(1e-5)  # so that a fork finds as many of them as possible inside a lock
    stop = threading.Event()
    errors: List[str] = []

    def hammer(action: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                action()
        except Error:
            errors.append(traceback.format_exc())

    def cycle() -> None:
        with pool.stream(f"{subject}.some", timeout=PATIENCE) as stream:
            assert list(stream) == [b"0", b"1", b"2"]

    actions: List[Callable[[], object]] = [
        lambda: pool.publish(f"{subject}.nobody", b"x" * 100),
        lambda: pool.request(f"{subject}.echo", b"x", timeout=PATIENCE),
        cycle,
        lambda: pool.registry.mark_offline("somebody"),
        lambda: pool.registry.mark_online("somebody"),
        pool.stats,
    ]
    threads = [threading.Thread(target=hammer, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for _ in range(8):
        gather([fork(lambda: use(pool)) for _ in range(2)])
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert errors == [], errors
    use(pool)


def while_connecting() -> None:
    """Another thread is in the middle of opening the pool: its lock is held, and never released in the child."""
    for turn in range(4):
        fresh = Pool(given["url"], name=f"{subject}-{turn}")
        opening = threading.Thread(target=fresh.open)
        opening.start()
        gather([fork(partial(use, fresh))])
        opening.join(PATIENCE)
        use(fresh)


class Imports(MetaPathFinder):
    """Notes the first import of each module by a thread other than this one; the fork comes in the middle of it."""

    def __init__(self) -> None:
        self.names: List[str] = []
        self.begun = threading.Event()
        self.forked = threading.Event()
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if threading.get_ident() != self._thread:
            self.names.append(name)
            self.begun.set()
            self.forked.wait(PATIENCE)


def while_importing() -> None:
    """The lock of a module that another thread is importing is never released in the child."""
    imports = Imports()
    sys.meta_path.insert(0, imports)
    opening = threading.Thread(target=use, args=(pool,))
    opening.start()
    while opening.is_alive() and not imports.begun.is_set():
        imports.begun.wait(0.01)
    tell("imports", names=imports.names)
    pid = fork(partial(use, pool))
    imports.forked.set()
    gather([pid])
    opening.join(PATIENCE)


def never_opened() -> None:
    gather([fork(lambda: use(pool)) for _ in range(2)])
    use(pool)


def closed() -> None:
    use(pool)
    pool.close()

    def child() -> None:
        try:
            use(pool)
        except ClosedError:
            return
        raise AssertionError("a closed pool opened in a child")

    gather([fork(child)])


def grandchildren() -> None:
    stream = pool.stream(f"{subject}.slow")
    number = read_on(stream, 0)

    def child() -> None:
        own = pool.stream(f"{subject}.slow", timeout=PATIENCE)
        read_on(own, 0)

        def grandchild() -> None:
            assert refused(lambda: next(own))
            assert refused(lambda: next(stream))
            use(pool)

        gather([fork(grandchild)])
        read_on(own, 5)

    gather([fork(child)])
    read_on(stream, number)


def in_a_handler() -> None:
    """A stream handler forks: its child cannot answer, but can ask."""
    subscriber = Subscriber(pool)

    def handler(_: StreamRequest, sender: ResponseSender) -> None:
        def child() -> None:
            assert refused(lambda: sender.send(b"of the child"))
            use(pool)

        sender.send(b"before")
        gather([fork(child)])
        sender.send(b"after")

    subscriber.stream_subscribe_handler(f"{subject}.forks", handler)
    assert list(pool.stream(f"{subject}.forks", timeout=PATIENCE)) == [b"before", b"after"]


def work(number: int) -> int:
    use(pool)
    return number


def with_multiprocessing() -> None:
    stream = pool.stream(f"{subject}.slow")
    number = read_on(stream, 0)
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as processes:
        result = processes.map_async(work, range(6))
        number = read_on(stream, number)
        assert result.get(PATIENCE) == [*range(6)]
    process = context.Process(target=work, args=(0,))
    process.start()
    process.join(PATIENCE)
    tell("children", statuses=[process.exitcode])
    read_on(stream, number)


if __name__ == "__main__":
    globals()[given["way"]]()
    tell("done")
