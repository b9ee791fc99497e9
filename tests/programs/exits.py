"""A program that ends without closing anything, in the way it is told.

Options: ``url``; ``subject``; ``way``: the name of a function below.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from typing import NoReturn

from lines import options, tell

from natsbridge import Error, Pool, ResponseSender, ResponseStream, StreamRequest, Subscriber
from natsbridge._threads import allocate_lock, get_ident, real_thread

given = options()
subject = given["subject"]
pool = Pool(given["url"])


def publish(count: int = 1000) -> None:
    for number in range(count):
        pool.publish(f"{subject}.last", b"%d" % number)


def read(stream: ResponseStream) -> None:
    with contextlib.suppress(Error):
        for _ in stream:
            pass


def call() -> None:
    """Tell of the call that comes next, once the main thread waits inside it."""
    main_thread = get_ident()
    pause = allocate_lock()
    pause.acquire()

    def watch() -> None:
        before = None
        while True:
            frame = sys._current_frames()[main_thread]
            now = (frame, frame.f_lasti)
            # Under gevent it is the hub that waits.
            if now == before and frame.f_code.co_filename.endswith(("threading.py", "_waiter.py", "_loop.py", "hub.py")):
                tell("calling")
                # Not ending here: under gevent that runs a weak reference's callback in the main thread, and Python drops
                # an interrupt that comes in there, whosever it is.
                pause.acquire()
            before = now
            pause.acquire(True, 0.01)

    real_thread(watch, "watch").start()


# -- ways to end ----------------------------------------------------------------------------------------------------------


def falls_off_the_end() -> None:
    publish()


def sys_exit() -> None:
    publish()
    sys.exit(3)


def exception() -> None:
    publish()
    raise RuntimeError("as expected")


def exit_inside_a_stream() -> None:
    publish()
    for count, _ in enumerate(pool.stream(f"{subject}.endless", b"key"), 1):
        if count == 3:
            sys.exit(3)


def exception_inside_a_stream() -> None:
    publish()
    stream = pool.stream(f"{subject}.endless", b"key")
    for count, _ in enumerate(stream, 1):
        if count == 3:
            raise RuntimeError("as expected")


def exit_with_everything_open() -> None:
    """A stream that is read in another thread, a handler that sends, one that waits, a subscription of each kind."""
    subscriber = Subscriber(pool)
    started = threading.Semaphore(0)

    def sends(_: StreamRequest, sender: ResponseSender) -> None:
        started.release()
        while True:
            sender.send(b"x" * 1000)

    def waits(_: StreamRequest, sender: ResponseSender) -> None:
        started.release()
        sender.wait_offline()

    subscriber.stream_subscribe_handler(f"{subject}.sends", sends)
    subscriber.stream_subscribe_handler(f"{subject}.waits", waits)
    subscriber.start_client_offline_listener()
    kept = [pool.subscribe(f"{subject}.some"), pool.subscribe(f"{subject}.others", handler=print)]
    streams = [pool.stream(f"{subject}.{name}") for name in ("sends", "waits")]
    for stream in streams:
        started.acquire()
        threading.Thread(target=read, args=(stream,), daemon=True).start()
    publish()
    tell("open", count=len(kept))
    sys.exit(3)


def exit_while_served() -> None:
    """A worker that ends while its handler is at work for another process."""
    subscriber = Subscriber(pool)
    started = threading.Event()

    def handler(_: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"one")
        started.set()
        sender.wait_offline()

    subscriber.stream_subscribe_handler(f"{subject}.served", handler)
    tell("ready")
    started.wait()
    sys.stdin.readline()
    sys.exit(3)


def exit_in_a_subscription() -> None:
    with pool.subscribe(f"{subject}.endless") as messages:
        publish()
        tell("reading")
        next(messages)
        sys.exit(3)


def terminated() -> None:
    publish()
    pool.flush()
    stream = pool.stream(f"{subject}.endless", b"key")
    next(stream)
    tell("calling")
    signal.pause()


# -- Ctrl-C during calls that wait ---------------------------------------------------------------------------------------


def request() -> None:
    publish()
    call()
    pool.request(f"{subject}.silent", timeout=60)


def next_chunk() -> None:
    publish()
    stream = pool.stream(f"{subject}.silent-stream", b"key")
    next(stream)
    call()
    next(stream)


def next_msg() -> None:
    publish()
    messages = pool.subscribe(f"{subject}.nothing")
    call()
    messages.next_msg(timeout=None)


def flush() -> None:
    pool.open()
    tell("open")
    sys.stdin.readline()  # the server stands still now
    pool.publish(f"{subject}.last", b"0")
    call()
    pool.flush(timeout=60)


def flush_without_server() -> None:
    pool.open()
    tell("open")
    sys.stdin.readline()  # the server is gone now
    while pool.stats().connected:
        time.sleep(0.01)
    pool.publish(f"{subject}.last", b"0")
    call()
    pool.flush(timeout=60)


def connect() -> None:
    call()
    pool.open(timeout=60)


def send() -> None:
    """In the main thread, on behalf of a handler that has returned."""
    senders = []
    subscriber = Subscriber(pool)
    subscriber.stream_subscribe_handler(f"{subject}.served", lambda _, sender: senders.append(sender.detach()))
    tell("ready")
    while not senders:
        threading.Event().wait(0.01)
    publish()
    call()
    while True:
        senders[0].send(b"x" * 1000)


def run() -> None:
    """Not Ctrl-C inside: ``run`` takes the signal, and returns."""
    subscriber = Subscriber(pool)
    subscriber.stream_subscribe_handler(f"{subject}.served", lambda _, sender: sender.send(b"one"))
    publish()
    call()
    subscriber.run()
    tell("returned")


def close() -> None:
    pool.open()
    tell("open")
    sys.stdin.readline()
    pool.publish(f"{subject}.last", b"0")
    call()
    pool.close(timeout=60)


def main() -> NoReturn:
    globals()[given["way"]]()
    sys.exit(0)


if __name__ == "__main__":
    main()
