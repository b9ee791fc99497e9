"""The worker process of the web demo: it answers word by word, and reports how each of its handlers fares."""

from __future__ import annotations

import json
import os
import threading
from typing import Callable, Iterator, NamedTuple, Tuple

from .._demo_process import clock
from .._types import Data
from ..errors import ClientOfflineError
from ..pool import Pool
from ..responder import ResponseSender, StreamRequest
from ..subscriber import Subscriber

# subjects, below a prefix of each demo's own
ANSWER = "answer"
REPORT = "report"

# paces
BRISK = "brisk"
SILENT = "silent"
PACES = (BRISK, SILENT)

COMPLETED = "completed"
FAILED = "failed"

MAX_HANDLERS = 16
_PAUSE = 0.06
_SILENCE = 60.0
_THINKING = (
    "Let me think about that for a minute, without a word: so no write can fail. Stop me, or close my tab, meanwhile. …"
)


class Topic(NamedTuple):
    """What a stream is about."""

    question: str
    answer: str


TOPICS = (
    Topic(
        "What if I close this tab?",
        "The browser closes its connection, and says nothing else. Most web servers find out when they next write to it, "
        "and as long as there is nothing to write they do not find out at all. So the work goes on: a model produces "
        "tokens, a database scans, a report is rendered, and nobody is there to read it. Here the gateway watches the "
        "connection itself. The moment it is closed, the gateway cancels what it asked the worker for. That is one small "
        "message through NATS. In the worker, the next call of send raises ClientOfflineError, the handler's loop ends "
        "as loops do on an exception, and its finally blocks run. The thread is free for somebody who is still there. "
        "Try it before this answer is finished: stop the stream, or open one in a tab and close that. Then look at the "
        "table. A row turns from running to ended, and its last figure is the time between your going and the end of the "
        "loop, in another process, at the far end of two connections and a message broker. If you let me finish instead, "
        "the row says that the answer was completed. That is the other half of the promise: an answer that looks "
        "complete is complete.",
    ),
    Topic(
        "What is between us?",
        "Four programs, each with one task. Your browser reads server-sent events, a plain HTTP answer that does not end "
        "until there is nothing more to say. The gateway is a small WSGI application; Flask or Django would do the same. "
        "For each request it opens a stream with natsbridge and passes on what comes. The nats-server carries messages "
        "between programs that know nothing of each other but a subject. The worker has subscribed to that subject; it "
        "runs a handler for each request, in threads that are bounded in number. Every word that you read here is a "
        "message of its own, and came the moment it was sent. If you read too slowly, the worker's send waits, and nothing "
        "piles up in between. If the nats-server is restarted, both ends keep the stream for two seconds and go on where "
        "they were, without losing a word: press the button and watch this text hesitate. And if the worker is killed, "
        "you are told so. A broken answer never looks like a finished one.",
    ),
    Topic(
        "How does the worker know?",
        "It is told, by whoever notices first. If you stop the stream, the gateway sees your connection close and sends a "
        "cancel. If the gateway itself is killed, it sends nothing, but the server knows that nobody subscribes to the "
        "answer any more, and says so when the worker sends the next word. If a machine freezes or a cable is cut, no one "
        "says anything at all, and three probes without an answer are the verdict. If somebody is there and reads no "
        "more, a timer decides. The handler need not care which it was: its next send raises ClientOfflineError, and the "
        "reason is an attribute of that. It need not check anything either, nor ask a database whether the client is still "
        "there. It is an ordinary function with an ordinary loop. Where it would be busy for long without sending, it can "
        "wait with wait_offline instead of sleeping, or leave a callback. You see all of it below, in the worker's own "
        "code, which is the code that runs right now to write this.",
    ),
)


def script(request: StreamRequest) -> Iterator[Tuple[bytes, float]]:
    """The words of the answer, each with the seconds to wait after it."""
    asked = json.loads(request.data)
    answer = TOPICS[asked["topic"]].answer
    if asked["pace"] == SILENT:
        *thinking, last = _THINKING.split()
        yield from ((word.encode(), _PAUSE) for word in thinking)
        yield last.encode(), _SILENCE
    yield from ((word.encode(), _PAUSE) for word in answer.split())


def answer(request: StreamRequest, sender: ResponseSender) -> None:
    for word, pause in script(request):
        sender.send(word)  # raises once nobody listens
        sender.wait_offline(pause)  # a pause that ends then


def work(url: str, prefix: str) -> None:
    """Serve until killed."""
    with Pool(url, name="demo-worker") as pool, Subscriber(pool, max_workers=MAX_HANDLERS) as subscriber:

        def report(**facts: object) -> None:
            pool.publish(f"{prefix}.{REPORT}", json.dumps({"at": clock(), "pid": os.getpid(), **facts}).encode())

        subscriber.start_client_offline_listener()
        subscriber.stream_subscribe_handler(f"{prefix}.{ANSWER}", _Observed(report))
        report(event="ready")
        threading.Event().wait()


class _Observed:
    """The handler, with a report when it starts, for each word, and when it ends."""

    def __init__(self, report: Callable[..., None]) -> None:
        self._report = report

    def __call__(self, request: StreamRequest, sender: ResponseSender) -> None:
        key = str(json.loads(request.data)["key"])
        self._report(event="started", key=key)
        reason = FAILED
        try:
            answer(request, _Counted(sender, lambda: self._report(event="sent", key=key)))
            reason = COMPLETED
        except ClientOfflineError as error:
            reason = error.reason
            raise
        finally:
            self._report(event="ended", key=key, reason=reason)


class _Counted(ResponseSender):
    def __init__(self, sender: ResponseSender, on_sent: Callable[[], None]) -> None:
        super().__init__(sender._sink)
        self._on_sent = on_sent

    def send(self, data: Data) -> None:
        super().send(data)
        self._on_sent()
