"""A worker whose handlers answer in different manners, and tell how they end.

Options: ``url``; ``subject``: below it each manner is one more token; ``pool``, ``subscriber``: arguments of ``Pool`` and
``Subscriber``; ``listen``: start the client-offline listener; ``run``: serve with ``Subscriber.run`` and these arguments,
rather than take orders; ``size``: bytes of a chunk; ``count``: chunks of the manners that end.

Each request's data is the key that its facts carry.
"""

from __future__ import annotations

import itertools
import threading
import time
from typing import Callable, Dict, Iterator, Optional

from lines import Facts, options, orders, tell

import natsbridge
from natsbridge import ClientOfflineError, Message, Pool, ResponseSender, StreamError, StreamRequest, Subscriber

PATIENCE = 60.0  # seconds: longer than any test
SECRET = "the secret of the handler"


class Run:
    """One request that is being served. ``sent``: chunks; ``last``: when ``send`` returned last."""

    def __init__(self, key: str, size: int) -> None:
        self.key = key
        self.sent = 0
        self.last = 0.0
        self.proceed = threading.Event()  # the order to go on, or to come to an end
        self.error: Optional[str] = None  # what to raise at the end
        self._size = size

    def chunk(self) -> bytes:
        return b"%d" % self.sent if self._size == 0 else (b"%d " % self.sent).ljust(self._size, b".")

    def count(self) -> None:
        self.sent += 1
        self.last = time.monotonic()

    def send(self, sender: ResponseSender) -> None:
        sender.send(self.chunk())
        self.count()

    def wait(self, sender: ResponseSender) -> None:
        """Until the order comes, or the stream is over."""
        while not self.proceed.is_set() and sender.is_online():
            sender.wait_offline(0.02)

    def facts(self) -> Facts:
        return {"sent": self.sent, "last": self.last}


class Worker:
    def __init__(self, given: Facts) -> None:
        self.given = given
        self.runs: Dict[str, Run] = {}
        self.pool = Pool(given["url"], **given.get("pool", {}))
        self.subscriber = Subscriber(self.pool, **given.get("subscriber", {}))
        endless = (self.fast, self.slow, self.mute, self.quiet, self.silent, self.callback)
        for manner in (*endless, self.some, self.paced, self.wait, self.ending, self.broken, self.refusing):
            self.subscriber.stream_subscribe_handler(f"{given['subject']}.{manner.__name__}", self.watched(manner))
        self.subscriber.stream_subscribe_handler(f"{given['subject']}.generator", self.generator)
        self.pool.subscribe(f"{given['subject']}.bare", handler=self.bare)
        if given.get("listen"):
            self.subscriber.start_client_offline_listener()

    def begin(self, request: StreamRequest) -> Run:
        key = request.data.decode()
        run = self.runs[key] = Run(key, self.given.get("size", 0))
        tell("started", key=key, connect_id=request.connect_id, remaining=request.remaining())
        return run

    def watched(self, manner: Callable[[Run, ResponseSender], None]) -> Callable[[StreamRequest, ResponseSender], None]:
        def handler(request: StreamRequest, sender: ResponseSender) -> None:
            run = self.begin(request)
            ended: Facts = {"reason": None, "error": None}
            try:
                manner(run, sender)
                if run.error is not None:
                    raise StreamError(418, "short and stout") if run.error == "StreamError" else ValueError(SECRET)
                ended["reason"] = sender.offline_reason
            except ClientOfflineError as error:
                ended = {"reason": error.reason, "error": type(error).__name__, "connect_id": error.connect_id}
                raise
            except BaseException as error:
                ended["error"] = type(error).__name__
                raise
            finally:
                tell("ended", key=request.data.decode(), **run.facts(), **ended)

        return handler

    # -- manners ------------------------------------------------------------------------------------------------------

    def fast(self, run: Run, sender: ResponseSender) -> None:
        while not run.proceed.is_set():
            run.send(sender)

    def slow(self, run: Run, sender: ResponseSender) -> None:
        while not run.proceed.is_set():
            run.send(sender)
            time.sleep(0.05)

    def mute(self, run: Run, sender: ResponseSender) -> None:
        """Nothing, until it is ordered; then a chunk."""
        run.wait(sender)
        run.send(sender)

    def quiet(self, run: Run, sender: ResponseSender) -> None:
        """A chunk, and nothing more until it is ordered; then another one."""
        run.send(sender)
        run.wait(sender)
        run.send(sender)

    def ending(self, run: Run, sender: ResponseSender) -> None:
        """As ``quiet``, and then it stays to see whether the requester gets the end."""
        self.quiet(run, sender)
        sender.end()
        self.pool.flush()  # it has been written
        tell("ending", key=run.key)
        sender.wait_offline(PATIENCE)

    def silent(self, run: Run, sender: ResponseSender) -> None:
        run.send(sender)
        if not sender.wait_offline(PATIENCE):
            raise TimeoutError("the client did not go offline")
        tell("noticed", reason=sender.offline_reason, online=sender.is_online())
        run.send(sender)  # which raises

    def callback(self, run: Run, sender: ResponseSender) -> None:
        run.send(sender)
        called = threading.Event()
        sender.add_offline_callback(called.set)
        if not called.wait(PATIENCE):
            raise TimeoutError("the offline callback was not called")
        run.send(sender)  # which raises

    def some(self, run: Run, sender: ResponseSender) -> None:
        """A number of chunks, and the end."""
        for _ in range(self.given.get("count", 3)):
            run.send(sender)

    def paced(self, run: Run, sender: ResponseSender) -> None:
        """As ``some``, with a pause before each."""
        for _ in range(self.given.get("count", 3)):
            time.sleep(0.02)
            run.send(sender)

    def wait(self, run: Run, sender: ResponseSender) -> None:
        """As ``some``, but after the first chunk it takes an order to go on."""
        run.send(sender)
        if not run.proceed.wait(PATIENCE):
            raise TimeoutError("no order came")
        self.some(run, sender)

    def broken(self, run: Run, sender: ResponseSender) -> None:
        self.some(run, sender)
        raise ValueError(SECRET)

    def refusing(self, run: Run, sender: ResponseSender) -> None:
        self.some(run, sender)
        raise StreamError(418, "short and stout")

    def generator(self, request: StreamRequest, sender: ResponseSender) -> Iterator[bytes]:
        run = self.begin(request)
        closed = False
        try:
            for _ in itertools.count():
                yield run.chunk()
                run.count()
        except GeneratorExit:
            closed = True
            raise
        finally:
            thread = threading.current_thread().name
            reason = sender.offline_reason
            tell("ended", key=request.data.decode(), **run.facts(), reason=reason, closed=closed, thread=thread)

    def bare(self, message: Message) -> None:
        """As ``slow``, but by hand: a responder that is not natsbridge."""
        run = self.runs[message.data.decode()] = Run(message.data.decode(), 0)
        while not run.proceed.is_set():
            message.respond(run.chunk())
            run.count()
            time.sleep(0.05)
        message.respond(b"")

    # -- orders -------------------------------------------------------------------------------------------------------

    def obey(self, order: Facts) -> Facts:
        do = order["do"]
        if do == "offline":
            natsbridge.mark_client_offline(order["connect_id"])
        elif do == "online":
            natsbridge.mark_client_online(order["connect_id"])
        elif do == "proceed":
            run = self.runs[order["key"]]
            run.error = order.get("error")
            run.proceed.set()
        elif do != "look":
            raise ValueError(f"unknown order {do!r}")
        return {
            "stats": {stats.subject: stats._asdict() for stats in self.subscriber.stats()},
            "runs": {key: run.facts() for key, run in list(self.runs.items())},
            "connected": self.pool.stats().connected,
            "streams": self.pool.stats().streams,
        }


def main() -> None:
    worker = Worker(options())
    tell("ready")
    if "run" in worker.given:
        worker.subscriber.run(**worker.given["run"])
        tell("through")
        return
    for order in orders():
        tell("answer", ask=order.get("ask"), **worker.obey(order))


if __name__ == "__main__":
    main()
