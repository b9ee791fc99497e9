"""One subject that is served with streams: requests come in on the loop, handlers run on threads, the figures of both."""

from __future__ import annotations

import inspect
import logging
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Set

from nats.aio.msg import Msg

from . import _fork, _wire
from ._command import publish_command
from ._deadline import Deadline
from ._intake import HANDLER_FAILED, NO_REPLY, Counts, Intake, chosen_failure
from ._sink import StreamSink
from .errors import ClientOfflineError, ClosedError
from .options import check_ran
from .registry import OnlineRegistry
from .responder import ResponseSender, StreamRequest

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")

# handler(request, sender), or a generator function of (request) or (request, sender) that yields the chunks
StreamHandler = Callable[..., Any]


class RegistrationStats(NamedTuple):
    """A snapshot of one registration; ``served``, ``refused`` and ``failed`` are totals."""

    subject: str
    queue: str
    threads: int
    running: int
    queued: int
    detached: int
    ending: int
    served: int
    refused: int
    failed: int


class Registration(Intake):
    """One subscription of stream handlers."""

    def __init__(
        self,
        pool: Pool,
        registry: OnlineRegistry,
        subject: str,
        queue: str,
        handler: StreamHandler,
        *,
        max_workers: int,
        max_queued: int,
        max_detached: int,
        stall_timeout: Optional[float],
        max_resume: float,
    ) -> None:
        super().__init__(pool, subject, queue, max_workers=max_workers, max_queued=max_queued)
        self._registry = registry
        self._handler = handler
        self._takes_sender = _takes_sender(handler)
        self._max_detached = max_detached
        self._stall_timeout, self._max_resume = stall_timeout, max_resume
        self._sinks: Set[StreamSink] = set()  # guarded by _cond, as the next one is
        self._detached = 0

    # -- requests, on the loop ----------------------------------------------------------------------------------------

    def _on_request(self, msg: Msg, counts: Counts) -> None:
        headers = msg.headers or {}
        if not _wire.acceptable_reply(msg.reply):
            logger.debug("a request on %s without an acceptable reply subject was dropped", msg.subject)
            counts.refuse(NO_REPLY)
            return
        value = headers.get(_wire.STREAM)
        params = None if value is None else _wire.parse_params(value)
        connect_id = headers.get(_wire.CONNECT_ID) or None
        if value is not None and (params is None or params.version > _wire.VERSION):
            self._refuse(msg, counts, "version")
        elif self._registry.is_offline(connect_id, None if params is None else params.lease):
            self._refuse(msg, counts, "offline")
        else:
            self._accept(msg, counts, headers, connect_id, params)

    def _accept(
        self,
        msg: Msg,
        counts: Counts,
        headers: Dict[str, str],
        connect_id: Optional[str],
        params: Optional[_wire.StreamParams],
    ) -> None:
        link, runtime, pool = self._link, self._runtime, self._pool
        assert link is not None
        assert runtime is not None
        timeout = None if params is None or params.timeout_ms is None else params.timeout_ms / 1000
        deadline = Deadline(timeout)
        sink = StreamSink(
            link,
            self._registry,
            runtime.callbacks,
            msg.reply,
            connect_id=connect_id,
            params=params,
            deadline=deadline,
            window=pool._window,
            max_bytes=pool._window_bytes,
            probe_interval=pool._probe_interval,
            stall_timeout=self._stall_timeout,
            max_resume=self._max_resume,
            on_failure=counts.error,
            on_done=self._on_done,
        )
        request = StreamRequest(msg.subject, msg.data, headers, connect_id, deadline)
        with self._cond:
            closed = self._closed
            if not closed:
                self._sinks.add(sink)
        if closed:
            counts.refuse(_wire.library_failure("shutdown"))
            sink.give_up("shutdown")
            return
        sink.open()
        if sink.done:
            counts.refuse(_wire.library_failure("offline"))
        elif self._workers.submit(lambda: self._serve(request, sink, counts)):
            sink.accept()
        else:
            counts.refuse(_wire.library_failure("busy"))
            sink.give_up("busy")

    def _refuse(self, msg: Msg, counts: Counts, word: str) -> None:
        assert self._link is not None
        failure = _wire.library_failure(word)
        counts.refuse(failure)
        control = f"{self._link.prefix}.{_wire.stream_token()}"
        headers = _wire.encode_failure(failure)
        reply = _wire.reply_subject(control, _wire.END, 0)
        self._link.outbox.control(publish_command(msg.reply, reply=reply, headers=headers))

    def _on_done(self, sink: StreamSink) -> None:
        with self._cond:
            if sink in self._sinks:
                self._sinks.discard(sink)
                self._detached -= sink.detached
            self._cond.notify_all()

    # -- handlers, on this registration's threads ---------------------------------------------------------------------

    def _serve(self, request: StreamRequest, sink: StreamSink, counts: Counts) -> None:
        if sink.done or sink.deadline.passed():
            logger.debug("a request on %s was not started: its client has left", request.subject)
            return
        counts.start()
        sender = ResponseSender(sink, self._admit_detached)
        began = time.perf_counter_ns()
        try:
            self._call(request, sender)
        except BaseException as error:
            counts.finish(time.perf_counter_ns() - began)
            self._on_error(error, request, sink, counts)
        else:
            counts.finish(time.perf_counter_ns() - began)
            if not sink.detached and sink.generation == _fork.generation:
                sink.end()

    def _on_error(self, error: BaseException, request: StreamRequest, sink: StreamSink, counts: Counts) -> None:
        if isinstance(error, (ClientOfflineError, ClosedError)) and sink.done:
            logger.debug("the handler of %s stopped: %s", request.subject, error)
            return
        if sink.generation != _fork.generation:
            logger.debug("the handler of %s ended in a forked child: the parent's goes on", request.subject)
            return
        chosen = chosen_failure(error)
        if chosen is not None:
            sink.end(chosen)
            return
        self._failed(error, request.subject, counts)
        # Another client's is this handler's failure like any other. An exception's text stays in this process: it may hold
        # what is nobody else's business.
        another = isinstance(error, ClientOfflineError)
        sink.end(_wire.Failure(500, "a client that the handler depends on is gone" if another else HANDLER_FAILED))

    def _call(self, request: StreamRequest, sender: ResponseSender) -> None:
        result: Any = self._handler(request, sender) if self._takes_sender else self._handler(request)
        if inspect.isgenerator(result):
            chunks: Any = result
            with closing(chunks):  # its own clean-up runs now, in this thread
                for chunk in chunks:
                    sender.send(chunk)
        else:
            check_ran(result)

    def _admit_detached(self, sink: StreamSink) -> bool:
        with self._cond:
            if self._detached >= self._max_detached:
                return False
            if sink in self._sinks:  # else it has ended meanwhile, and counts no more
                self._detached += 1
                sink.detached = True
            return True

    # -- the end ------------------------------------------------------------------------------------------------------

    def wait_idle(self, deadline: Deadline) -> bool:
        """Wait until every handler is through and every requester has its end."""
        if not super().wait_idle(deadline):
            return False
        with self._cond:
            while self._sinks:
                if deadline.passed():
                    return False
                self._cond.wait_slice(deadline.remaining())
        return True

    def unfinished(self) -> str:
        return f"{super().unfinished()}, {self.stats().ending} streams ending"

    def _end_open(self) -> None:
        with self._cond:
            sinks = list(self._sinks)
        for sink in sinks:
            if sink.running:
                sink.give_up("shutdown")

    def stats(self) -> RegistrationStats:
        threads, running, queued = self._workers.counts()
        with self._cond:
            ending = sum(not sink.running for sink in self._sinks)
            return RegistrationStats(
                self.subject,
                self.queue,
                threads,
                running,
                queued,
                self._detached,
                ending,
                self.counts.served,
                self.counts.refused,
                self.counts.failed,
            )


def _takes_sender(handler: StreamHandler) -> bool:
    """Whether the handler wants the sender too. Raises TypeError for one that cannot take the request."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # some built-in callables have none
        return True
    for arguments in ((None, None), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        if len(arguments) == 1 and not inspect.isgeneratorfunction(handler):
            break
        return len(arguments) == 2
    raise TypeError(
        f"handler {handler!r} must take (request, sender), or be a generator function of (request): it takes {signature}"
    )
