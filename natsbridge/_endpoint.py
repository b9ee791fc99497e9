"""One endpoint of a service: ``ServiceRequest``, and the handlers that answer it on threads."""

from __future__ import annotations

import inspect
import logging
import re
import time
from typing import TYPE_CHECKING, Callable, Set

from nats.aio.msg import Msg
from nats.micro.request import ServiceError as NatsServiceError

from . import _fork, _wire
from ._command import publish_command
from ._intake import HANDLER_FAILED, NO_REPLY, Counts, Intake, chosen_failure
from ._types import Data, Headers
from .errors import ClosedError, Error, ForkedError, MaxPayloadError, ServiceError
from .message import Message
from .options import check_data, check_failure, check_ran

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")


class ServiceRequest(Message):
    """What the handler of an endpoint is asked: ``subject``, ``data``, ``headers``, and ``reply``, "" for nowhere.

    It may be answered at any time, by any thread, once or several times, also after its handler has returned. In a forked
    child answering raises ``ForkedError``.
    """

    __slots__ = ("_counts", "_generation", "_pool", "_told")

    def __init__(self, pool: Pool, counts: Counts, msg: Msg) -> None:
        super().__init__(msg.subject, msg.data, msg.reply, msg.headers, respond=pool._respond)
        self._pool, self._counts = pool, counts
        self._generation = _fork.generation
        self._told = False  # of an error; guarded by the lock of the counts

    def respond(self, data: Data = b"", headers: Headers = None) -> None:
        """Answer with ``data``; returns once it is queued (see ``Pool.publish``).

        Raises NatsBridgeError when the requester expects no answer, ForkedError, and whatever ``Pool.publish`` raises.
        """
        if self._generation != _fork.generation:
            raise ForkedError("this request belongs to the parent process, which alone can answer it")
        super().respond(check_data(data), headers)

    def respond_error(self, code: int, description: str, data: Data = b"", headers: Headers = None) -> None:
        """Answer with an error, which is counted: the requester's ``raise_for_error`` raises ``ServiceError``.

        code: 0 to 999999, after HTTP status codes. description: for people; shortened to one line of at most 1,024
        characters. Raises what ``respond`` raises, TypeError and ValueError.
        """
        failure = check_failure(code, description)
        if self._generation == _fork.generation:
            self._count(failure)
        self.respond(data, {**(headers or {}), **_wire.encode_failure(failure)})

    def _count(self, failure: _wire.Failure) -> None:
        """A request is one error at most, whatever it is answered."""
        with self._counts.lock:
            if not self._told:
                self._told = True
                self._counts.error(failure)

    def __repr__(self) -> str:
        return f"<ServiceRequest {self.subject!r} {len(self.data)} bytes>"


ServiceHandler = Callable[[ServiceRequest], object]


class Endpoint(Intake):
    """A subscription of handlers that answer requests one by one."""

    def __init__(
        self, pool: Pool, subject: str, queue: str, handler: ServiceHandler, *, max_workers: int, max_queued: int
    ) -> None:
        super().__init__(pool, subject, queue, max_workers=max_workers, max_queued=max_queued)
        _check_signature(handler)
        self._handler = handler
        self._waiting: Set[ServiceRequest] = set()  # for a thread; guarded by _cond

    # -- requests, on the loop ----------------------------------------------------------------------------------------

    def _on_request(self, msg: Msg, counts: Counts) -> None:
        if msg.reply and not _wire.acceptable_reply(msg.reply):
            logger.debug("a request on %s without an acceptable reply subject was dropped", msg.subject)
            counts.refuse(NO_REPLY)
            return
        request = ServiceRequest(self._pool, counts, msg)
        with self._cond:
            closed = self._closed
            if not closed:
                self._waiting.add(request)
        if closed:
            self._refuse(request, "shutdown")
        elif not self._workers.submit(lambda: self._serve(request, counts)) and self._take(request):
            self._refuse(request, "busy")

    def _take(self, request: ServiceRequest) -> bool:
        """Whether the request is the caller's to deal with: it was not begun, and not refused either."""
        with self._cond:
            there = request in self._waiting
            self._waiting.discard(request)
            return there

    def _refuse(self, request: ServiceRequest, word: str) -> None:
        """Any thread; never waits."""
        assert self._link is not None
        failure = _wire.library_failure(word)
        request._counts.refuse(failure)
        if request.reply:
            self._link.outbox.control(publish_command(request.reply, headers=_wire.encode_failure(failure)))

    # -- handlers, on this endpoint's threads -------------------------------------------------------------------------

    def _serve(self, request: ServiceRequest, counts: Counts) -> None:
        if not self._take(request):
            return
        counts.start()
        began = time.perf_counter_ns()
        try:
            check_ran(self._handler(request))
        except BaseException as error:
            counts.finish(time.perf_counter_ns() - began)
            self._on_error(error, request)
        else:
            counts.finish(time.perf_counter_ns() - began)

    def _on_error(self, error: BaseException, request: ServiceRequest) -> None:
        if isinstance(error, ClosedError) and self._closed:
            logger.debug("the handler of %s stopped: %s", request.subject, error)
            return
        failure = chosen_failure(_as_ours(error))
        data = error.data if failure is not None and isinstance(error, ServiceError) else b""
        if failure is None:
            self._failed(error, request.subject, request._counts)
            failure = _wire.Failure(500, HANDLER_FAILED)
        request._count(failure)
        if not request.reply:
            return
        try:
            try:
                request.respond_error(failure.code, failure.description, data)
            except (MaxPayloadError, TypeError) as unfit:
                logger.warning("the data of an error on %s is left out: %s", request.subject, unfit)
                request.respond_error(failure.code, failure.description)
        except Error as unsent:
            logger.warning("the error of a request on %s could not be sent: %s", request.subject, unsent)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _end_open(self) -> None:
        with self._cond:
            waiting = list(self._waiting)
        for request in waiting:
            if self._take(request):
                self._refuse(request, "shutdown")


def _as_ours(error: BaseException) -> BaseException:
    """An error that was raised with nats-py's class, whose code is a string, as ours."""
    if isinstance(error, NatsServiceError) and re.fullmatch("[0-9]{1,6}", str(error.code)):
        return ServiceError(int(error.code), error.description)
    return error


def _check_signature(handler: ServiceHandler) -> None:
    """Raises TypeError for a handler that cannot take the request alone, or yields."""
    if inspect.isgeneratorfunction(handler):
        raise TypeError(f"handler {handler!r} is a generator function, which is for streams: use add_stream_endpoint")
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some built-in callables have none
        return
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(
            f"handler {handler!r} must take (request): it takes {signature}; one that takes (request, sender) is for "
            "streams: use add_stream_endpoint"
        ) from None
