"""One subject that is served: requests come in on the loop, handlers run on threads, the figures of both."""

from __future__ import annotations

import inspect
import logging
from contextlib import closing, suppress
from typing import Any, Callable, Dict, NamedTuple, Optional, Set

from nats.aio.msg import Msg

from . import _fork, _wire
from ._connection import LinkSubscription
from ._deadline import Deadline
from ._link import Link
from ._outbox import publish_command
from ._runtime import Runtime
from ._waiter import Condition
from ._workers import Workers
from .errors import ClientOfflineError, ClosedError, Error, StreamError
from .pool import Pool
from .registry import OnlineRegistry
from .responder import ResponseSender, StreamRequest, StreamSink

logger = logging.getLogger("natsbridge")

_INTAKE_TIMEOUT = 1.0  # seconds for the server to confirm, when closing, that no more requests will come

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


class Registration:
    """One subscription with its own threads, so that registrations never wait for each other."""

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
        self.subject, self.queue = subject, queue
        self._registry = registry
        self._handler = handler
        self._takes_sender = _takes_sender(handler)
        self._max_detached = max_detached
        self._stall_timeout, self._max_resume = stall_timeout, max_resume
        self._workers = Workers(f"natsbridge-{subject}", max_workers, max_queued)
        self._cond = Condition()  # guards everything below
        self._sinks: Set[StreamSink] = set()
        self._detached = 0
        self._served = self._refused = self._failed = 0
        self._closed = False
        self._link: Optional[Link] = None
        self._runtime: Optional[Runtime] = None
        self._pool = pool
        self._subscription: Optional[LinkSubscription] = None

    def start(self, deadline: Deadline) -> None:
        link = self._pool._link(deadline)
        self._link, self._runtime = link, self._pool._runtime
        subscription = LinkSubscription(self.subject, self.queue, self._on_request)
        link.loop.call(
            link.connection.subscribe,
            subscription,
            deadline=deadline,
            what=f"subscribing to {self.subject!r}",
            undo=lambda _: link.spawn(link.connection.unsubscribe(subscription)),
        )
        self._subscription = subscription

    # -- requests, on the loop ----------------------------------------------------------------------------------------

    async def _on_request(self, msg: Msg) -> None:
        headers = msg.headers or {}
        if _wire.STATUS in headers and not msg.data:
            return
        if not _wire.acceptable_reply(msg.reply):
            logger.debug("a request on %s without an acceptable reply subject was dropped", msg.subject)
            with self._cond:
                self._refused += 1
            return
        value = headers.get(_wire.STREAM)
        params = None if value is None else _wire.parse_params(value)
        connect_id = headers.get(_wire.CONNECT_ID) or None
        if value is not None and (params is None or params.version > _wire.VERSION):
            self._refuse(msg, "version")
        elif self._registry.is_offline(connect_id, None if params is None else params.lease):
            self._refuse(msg, "offline")
        else:
            self._accept(msg, headers, connect_id, params)

    def _accept(
        self, msg: Msg, headers: Dict[str, str], connect_id: Optional[str], params: Optional[_wire.StreamParams]
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
            on_done=self._on_done,
        )
        request = StreamRequest(msg.subject, msg.data, headers, connect_id, deadline)
        with self._cond:
            closed = self._closed
            if not closed:
                self._sinks.add(sink)
        if closed:
            self._refuse(msg, "shutdown")
            return
        sink.open()
        if sink.done:
            with self._cond:
                self._refused += 1
        elif self._workers.submit(lambda: self._serve(request, sink)):
            sink.accept()
        else:
            with self._cond:
                self._refused += 1
            sink.give_up("busy")

    def _refuse(self, msg: Msg, word: str) -> None:
        assert self._link is not None
        with self._cond:
            self._refused += 1
        control = f"{self._link.prefix}.{_wire.stream_token()}"
        headers = _wire.encode_failure(_wire.library_failure(word))
        reply = _wire.reply_subject(control, _wire.END, 0)
        self._link.outbox.control(publish_command(msg.reply, reply=reply, headers=headers))

    def _on_done(self, sink: StreamSink) -> None:
        with self._cond:
            if sink in self._sinks:
                self._sinks.discard(sink)
                self._detached -= sink.detached
            self._cond.notify_all()

    # -- handlers, on this registration's threads ---------------------------------------------------------------------

    def _serve(self, request: StreamRequest, sink: StreamSink) -> None:
        if sink.done or sink.deadline.passed():
            logger.debug("a request on %s was not started: its client has left", request.subject)
            return
        with self._cond:
            self._served += 1
        sender = ResponseSender(sink, self._admit_detached)
        try:
            self._call(request, sender)
        except ClientOfflineError as error:
            if not sink.done:  # another client's: it is this handler's failure like any other
                self._fail(sink, request, error, "a client that the handler depends on is gone")
            else:
                logger.debug("the handler of %s stopped: its client is gone (%s)", request.subject, sink.reason)
        except StreamError as error:
            try:
                sender.fail(error.code, error.description)
            except (TypeError, ValueError):
                self._fail(sink, request, error, "the handler failed")
        except BaseException as error:
            if sink.generation != _fork.generation:
                logger.debug("the handler of %s ended in a forked child: the parent's goes on", request.subject)
            elif isinstance(error, ClosedError) and sink.done:
                logger.debug("the handler of %s stopped: %s", request.subject, error)
            else:
                # The text may hold what is nobody else's business: it stays in this process.
                self._fail(sink, request, error, "the handler failed")
        else:
            if not sink.detached:
                sink.end()

    def _fail(self, sink: StreamSink, request: StreamRequest, error: BaseException, description: str) -> None:
        logger.error("the handler of %s failed", request.subject, exc_info=error)
        with self._cond:
            self._failed += 1
        sink.end(_wire.Failure(500, description))

    def _call(self, request: StreamRequest, sender: ResponseSender) -> None:
        result: Any = self._handler(request, sender) if self._takes_sender else self._handler(request)
        if inspect.isgenerator(result):
            chunks: Any = result
            with closing(chunks):  # its own clean-up runs now, in this thread
                for chunk in chunks:
                    sender.send(chunk)

    def _admit_detached(self, sink: StreamSink) -> bool:
        with self._cond:
            if self._detached >= self._max_detached:
                return False
            if sink in self._sinks:  # else it has ended meanwhile, and counts no more
                self._detached += 1
                sink.detached = True
            return True

    # -- the end ------------------------------------------------------------------------------------------------------

    def stop_intake(self, deadline: Deadline) -> None:
        """Take in no new requests; those that had arrived are served."""
        link, subscription = self._link, self._subscription
        if link is not None and subscription is not None:
            what = f"draining {self.subject!r}"
            link.loop.call(link.connection.drain, subscription, deadline, deadline=deadline, what=what)

    def wait_idle(self, deadline: Deadline) -> bool:
        """Wait until every handler is through and every requester has its end."""
        if not self._workers.wait_idle(deadline):
            return False
        with self._cond:
            while self._sinks:
                if deadline.passed():
                    return False
                self._cond.wait_slice(deadline.remaining())
        return True

    def close(self, deadline: Deadline) -> None:
        """Refuse what still arrives, end what is open, and wait for the handlers."""
        with self._cond:
            self._closed = True
            sinks = list(self._sinks)
        with suppress(Error):
            self.stop_intake(Deadline(deadline.at_most(_INTAKE_TIMEOUT)))
        for sink in sinks:
            if sink.running:
                sink.give_up("shutdown")
        self._workers.close(deadline)

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
                self._served,
                self._refused,
                self._failed,
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
