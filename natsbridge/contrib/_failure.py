"""What a browser is told when a stream fails: nothing that only the server's log should hold."""

from __future__ import annotations

import json
from typing import List, NamedTuple, Tuple, Type

from .. import (
    BusyError,
    ClientOfflineError,
    ClosedError,
    ConnectError,
    DisconnectedError,
    MaxPayloadError,
    NoRespondersError,
    RequestTimeoutError,
    ResponderLostError,
    StreamError,
    StreamGapError,
)


class Failure(NamedTuple):
    """``name``: for programs; ``status``: the HTTP status that fits; ``message``: for people."""

    name: str
    status: int
    message: str

    def as_json(self) -> str:
        return json.dumps({"error": self.name, "code": self.status, "message": self.message})


NOT_TEXT = Failure("not_text", 502, "the answer is not text")
_FAILED = Failure("failed", 500, "the request failed")

# The first that fits; subclasses before their bases.
_FAILURES: List[Tuple[Type[BaseException], Failure]] = [
    (ClientOfflineError, Failure("offline", 410, "the client was marked offline")),
    (BusyError, Failure("busy", 503, "every worker is busy")),
    (NoRespondersError, Failure("no_responders", 503, "no worker is there")),
    (RequestTimeoutError, Failure("timeout", 504, "the answer took too long")),
    (ResponderLostError, Failure("lost", 502, "the worker is gone before its answer was complete")),
    (StreamGapError, Failure("lost", 502, "a part of the answer was lost")),
    (ClosedError, Failure("closed", 503, "the service is shutting down")),
    (ConnectError, Failure("unavailable", 503, "the service cannot be reached")),
    (MaxPayloadError, Failure("too_large", 413, "the request is too large")),
    (DisconnectedError, Failure("unavailable", 503, "the service cannot be reached")),
]


def is_mistake(error: Exception) -> bool:
    """Whether it is the program that is wrong: its developer has to see that, and nobody else can do anything about it."""
    return isinstance(error, ValueError) and not isinstance(error, MaxPayloadError)


def failure_of(error: BaseException) -> Failure:
    """The words of a worker (``StreamError``) are passed on, every other error has words of its own."""
    if isinstance(error, StreamError):
        status = error.code if 400 <= error.code <= 599 else 502
        return Failure("worker", status, error.description)
    if isinstance(error, UnicodeError):
        return NOT_TEXT
    return next((failure for kind, failure in _FAILURES if isinstance(error, kind)), _FAILED)
