"""The processes of the demo besides its own: one worker, and a requester for each client that goes.

What they know they publish on ``REPORT``, a JSON object of facts about one client at a time.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from typing import Callable, Dict, Iterator, List, Set

from ._demo_process import clock
from .errors import ClientOfflineError, Error, RequestTimeoutError
from .message import Message
from .pool import Pool
from .responder import ResponseSender, StreamRequest
from .subscriber import Subscriber

# subjects
SPEAK = "demo.speak"  # a stream: the request's own words, one by one
COUNT = "demo.count"  # a stream without end
MARK_OFFLINE = "demo.mark-offline"  # asks the worker to mark a client offline; it answers with the moment
KNOWN = "demo.known"  # asks the worker what it knows of a client
REPORT = "demo.report"

WORKER = "worker"  # the id under which the worker reports about itself
WORD_PAUSE = 0.035
CHUNK_PAUSE = 0.001
ENOUGH = 400  # chunks after which a client goes
REQUEST_TIMEOUT = 0.5
_REPORT_EVERY = 25


def _report(pool: Pool, connect_id: str, **facts: object) -> None:
    pool.publish(REPORT, json.dumps({"id": connect_id, **facts}).encode())


# -- the worker -----------------------------------------------------------------------------------------------------------


def work(url: str, obedience: str) -> None:
    """Serve until killed. ``obedience``: "ignores-offline" for a worker that goes on when its client is gone."""
    with Pool(url, name="demo-worker") as pool, Subscriber(pool) as subscriber:
        worker = _Worker(pool, ignores_offline=obedience == "ignores-offline")
        subscriber.start_client_offline_listener()
        subscriber.stream_subscribe_handler(SPEAK, worker.speak)
        subscriber.stream_subscribe_handler(COUNT, worker.count)
        pool.subscribe(MARK_OFFLINE, handler=worker.mark_offline)
        pool.subscribe(KNOWN, handler=worker.tell_known)
        _report(pool, WORKER, ready=True)
        threading.Event().wait()


class _Worker:
    def __init__(self, pool: Pool, *, ignores_offline: bool) -> None:
        self._pool = pool
        self._ignores_offline = ignores_offline
        self._started: Set[str] = set()

    def speak(self, request: StreamRequest) -> Iterator[bytes]:
        for word in request.data.split():
            yield word
            time.sleep(WORD_PAUSE)

    def count(self, request: StreamRequest, sender: ResponseSender) -> None:
        connect_id = str(request.connect_id)
        self._started.add(connect_id)
        sent_at: List[float] = []
        try:
            self._count(sender, sent_at)
        except Error as error:
            ended_at = clock()
            reason = error.reason if isinstance(error, ClientOfflineError) else None
            _report(self._pool, connect_id, ended_at=ended_at, reason=reason, error=str(error), sent_at=sent_at)

    def _count(self, sender: ResponseSender, sent_at: List[float]) -> None:
        for number in itertools.count(1):
            try:
                sender.send(b"chunk %d" % number)
            except ClientOfflineError:
                if not self._ignores_offline:
                    raise
            else:
                sent_at.append(clock())
            time.sleep(CHUNK_PAUSE)

    def mark_offline(self, message: Message) -> None:
        moment = clock()
        self._pool.mark_client_offline(message.data.decode())
        message.respond(json.dumps(moment).encode())

    def tell_known(self, message: Message) -> None:
        connect_id = message.data.decode()
        known = {"offline": self._pool.registry.is_offline(connect_id), "started": connect_id in self._started}
        message.respond(json.dumps(known).encode())


# -- the requesters -------------------------------------------------------------------------------------------------------


def ask(url: str, manner: str, connect_id: str) -> None:
    """Ask the worker to count, and leave in the given manner: a key of ``MANNERS``."""
    with Pool(url, name="demo-requester") as pool:
        try:
            MANNERS[manner](pool, connect_id)
        except ClientOfflineError:
            _report(pool, connect_id, told_offline=True)
        pool.flush()


def _read_on(pool: Pool, connect_id: str) -> None:
    with pool.stream(COUNT, connect_id=connect_id) as stream:
        for number, _ in enumerate(stream, 1):
            _report_received(pool, connect_id, number)


def _leave_loop(pool: Pool, connect_id: str) -> None:
    with pool.stream(COUNT, connect_id=connect_id) as stream:
        for number, _ in enumerate(stream, 1):
            _report_received(pool, connect_id, number)
            if number == ENOUGH:
                moment = clock()
                break
    _report(pool, connect_id, gone_at=moment)


def _return_false(pool: Pool, connect_id: str) -> None:
    moments: List[float] = []
    numbers = itertools.count(1)

    def handler(_message: Message) -> bool:
        number = next(numbers)
        _report_received(pool, connect_id, number)
        if number < ENOUGH:
            return True
        moments.append(clock())
        return False

    pool.stream_request_with_client(COUNT, b"", connect_id, handler)
    _report(pool, connect_id, gone_at=moments[0])


def _let_deadline_pass(pool: Pool, connect_id: str) -> None:
    moment = clock() + REQUEST_TIMEOUT
    try:
        with pool.stream(COUNT, connect_id=connect_id, timeout=REQUEST_TIMEOUT) as stream:
            for number, _ in enumerate(stream, 1):
                _report_received(pool, connect_id, number)
    except RequestTimeoutError:
        _report(pool, connect_id, gone_at=moment)


def _report_received(pool: Pool, connect_id: str, number: int) -> None:
    if number % _REPORT_EVERY == 0:
        _report(pool, connect_id, received=number)


MANNERS: Dict[str, Callable[[Pool, str], None]] = {
    "read-on": _read_on,
    "leave-loop": _leave_loop,
    "return-false": _return_false,
    "let-deadline-pass": _let_deadline_pass,
}
