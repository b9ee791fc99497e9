"""What the tests here share: the programs they talk to, chunks that can be told apart, and a handler that can be asked."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from typing import Callable, List, NamedTuple, Optional, Protocol

import pytest
from procs import LONG, Child, Facts

from natsbridge import ClientOfflineError, ResponseSender, StreamRequest

SOON = 1.0  # seconds within which a requester that is gone has to be noticed; 15 ms are usual


def require(there: object, what: str) -> None:
    """Skip the test that needs what is not installed; in continuous integration, fail."""
    if there:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed")
    pytest.skip(f"{what} is not installed (where CI is set, this is an error)")


# -- chunks -----------------------------------------------------------------------------------------------------------


def chunk(number: int, size: int = 0) -> bytes:
    """The chunk of that number, from 0 on: no two are alike."""
    return f"{number} ".ljust(size, ".").encode()


def chunks(count: int, size: int = 0) -> List[bytes]:
    return [chunk(number, size) for number in range(count)]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def items(child: Child) -> List[str]:
    """The digests of the chunks that a requesting program has told of, in order."""
    return [facts["digest"] for facts in child.facts if facts["event"] == "item"]


# -- requesters -------------------------------------------------------------------------------------------------------


class Requester(NamedTuple):
    """A program that reads a stream. ``yields_sentinel``: its library hands the empty message to the user too."""

    name: str
    language: str
    options: Facts
    yields_sentinel: bool = False


PATIENT = 30.0  # seconds that a requester gives a stream in all

JS_MUX = Requester("js-mux", "js", {"many": {"strategy": "sentinel", "maxWait": PATIENT * 1000}}, True)
JS_NO_MUX = Requester("js-nomux", "js", {"many": {"strategy": "sentinel", "maxWait": PATIENT * 1000, "noMux": True}}, True)
NATSEXT = Requester("natsext", "python", {"via": "natsext", "timeout": PATIENT})
INBOX = Requester("nats-py", "python", {"via": "inbox", "timeout": PATIENT})


class StartPeer(Protocol):
    """What the fixture ``start_peer`` gives."""

    def __call__(self, language: str, program: str, **options: object) -> Child: ...


class Ask(Protocol):
    """What the fixture ``ask`` gives."""

    def __call__(self, requester: Requester, **options: object) -> Child: ...


# -- responders -------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How a plain responder shall answer: it is the request's payload.

    ``total`` chunks as ``chunk`` makes them, ``pause`` seconds apart, or ``signed`` with the responder's name instead; then
    an ``end``: "empty", "error" or "none".
    """

    total: int
    end: str = "empty"
    size: int = 0
    pause: float = 0.0
    signed: bool = False

    def encode(self) -> bytes:
        return json.dumps(self._asdict()).encode()


class StartResponder(Protocol):
    """What the fixture ``start_responder`` gives."""

    def __call__(self, language: str) -> Child: ...


# -- our own worker ---------------------------------------------------------------------------------------------------


class Worker:
    """A stream handler that sends in its ``manner`` to the one requester it is meant for, and knows how that ended."""

    def __init__(self, manner: Callable[[Worker, ResponseSender], None]) -> None:
        self._manner = manner
        self.sent = 0
        self.started, self.ended = threading.Event(), threading.Event()
        self.ended_at = 0.0
        self.reason: Optional[str] = None

    def __call__(self, request: StreamRequest, sender: ResponseSender) -> None:
        self.started.set()
        try:
            self._manner(self, sender)
        except ClientOfflineError as error:
            self.reason = error.reason
            raise
        finally:
            self.ended_at = time.monotonic()
            self.ended.set()

    def send(self, sender: ResponseSender, size: int = 0) -> None:
        sender.send(chunk(self.sent, size))
        self.sent += 1

    def why(self) -> Optional[str]:
        """Wait for the handler's end; the reason of its ClientOfflineError, None without one."""
        assert self.ended.wait(LONG), f"the handler is still running, {self.sent} chunks sent"
        return self.reason


Manner = Callable[[Worker, ResponseSender], None]


class Serve(Protocol):
    """What the fixture ``serve`` gives."""

    def __call__(self, manner: Manner) -> Worker: ...


def some(count: int, size: int = 0, pause: float = 0.0) -> Manner:
    """That many chunks, and the end."""

    def manner(worker: Worker, sender: ResponseSender) -> None:
        for number in range(count):
            if number and pause:
                time.sleep(pause)
            worker.send(sender, size)

    return manner


def endless(pause: float = 0.005) -> Manner:
    """Chunks until nobody wants them any more."""

    def manner(worker: Worker, sender: ResponseSender) -> None:
        while True:
            worker.send(sender)
            time.sleep(pause)

    return manner


def failing(count: int, error: Exception) -> Manner:
    """That many chunks, and a failure."""

    def manner(worker: Worker, sender: ResponseSender) -> None:
        some(count)(worker, sender)
        raise error

    return manner
