"""How a service is found: it answers ``$SRV.PING``, ``$SRV.INFO`` and ``$SRV.STATS`` (ADR-32)."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional

from nats.aio.msg import Msg
from nats.micro.service import ServiceVerb, control_subject

from . import _wire
from ._client import LinkSubscription
from ._command import publish_command
from ._deadline import Deadline
from ._link import Link
from ._workers import Workers
from .errors import Error

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("natsbridge")

_CLOSE_TIMEOUT = 1.0  # seconds for the server to confirm, when closing, that no more questions will come
_MAX_QUEUED = 64  # questions that wait for the thread on which the user's code answers

Answer = Callable[[], Dict[str, Any]]


class Discovery:
    """The nine subscriptions of one service. Questions are answered on the loop, so that no busy handler delays them."""

    def __init__(self, pool: Pool, name: str, id: str, answers: Dict[ServiceVerb, Answer], *, user_code: bool) -> None:
        """``user_code``: STATS calls the user's function, which gets a thread: it must not run on the loop."""
        self.subject = control_subject(ServiceVerb.PING, name, id)  # stands for all of them in messages
        self._pool = pool
        self._answers, self._user_code = answers, user_code
        self._workers = Workers(f"natsbridge-{name}-stats", 1, _MAX_QUEUED)
        self._link: Optional[Link] = None
        self._subscriptions: List[LinkSubscription] = [
            LinkSubscription(control_subject(verb, *level), "", self._on_question(verb))
            for verb in answers
            for level in ((), (name,), (name, id))
        ]

    def start(self, deadline: Deadline) -> None:
        """Subscribe; returns once the server knows. Raises PermissionDeniedError, RequestTimeoutError, ClosedError."""
        link = self._pool._link(deadline)
        link.loop.call(
            self._subscribe,
            link,
            deadline=deadline,
            what=f"subscribing to {self.subject!r} and the like",
            undo=lambda _: link.spawn(self._unsubscribe(link)),
        )
        self._link = link

    async def _subscribe(self, link: Link) -> None:
        each = map(link.connection.subscribe, self._subscriptions)
        refused = [error for error in await asyncio.gather(*each, return_exceptions=True) if isinstance(error, Exception)]
        if refused:
            await self._unsubscribe(link)
            raise refused[0]

    async def _unsubscribe(self, link: Link) -> None:
        for subscription in self._subscriptions:
            await link.connection.unsubscribe(subscription)

    # -- questions, on the loop ---------------------------------------------------------------------------------------

    def _on_question(self, verb: ServiceVerb) -> Callable[[Msg], Any]:
        def answer(msg: Msg) -> None:
            link = self._link
            if link is None or not _wire.acceptable_reply(msg.reply):
                return
            if not (self._user_code and verb is ServiceVerb.STATS):
                self._answer(link, verb, msg.reply)
            elif not self._workers.submit(lambda: self._answer(link, verb, msg.reply)):
                headers = _wire.encode_failure(_wire.library_failure("busy"))
                link.outbox.control(publish_command(msg.reply, headers=headers))

        return answer

    def _answer(self, link: Link, verb: ServiceVerb, reply: str) -> None:
        try:
            data, headers = json.dumps(self._answers[verb]()).encode(), None
            if len(data) > link.connection.max_payload:  # the server would hang up on us
                failure = _wire.Failure(500, f"the answer has {len(data)} bytes, which is more than the server takes")
                data, headers = b"", _wire.encode_failure(failure)
            link.outbox.control(publish_command(reply, data, headers=headers))
        except Exception:  # must not end nats-py's task, and every later answer with it
            logger.exception("%s could not be answered", verb.value)

    # -- the end ------------------------------------------------------------------------------------------------------

    def stop_intake(self, deadline: Deadline) -> None:
        """Be found no more; what was asked before is answered."""
        link = self._link
        if link is not None:
            link.loop.call(self._drain, link, deadline=deadline, what=f"draining {self.subject!r}")

    async def _drain(self, link: Link) -> None:
        await asyncio.gather(*(link.connection.drain(subscription) for subscription in self._subscriptions))

    def wait_idle(self, deadline: Deadline) -> bool:
        """Wait until every question is answered."""
        return self._workers.wait_idle(deadline)

    def unfinished(self) -> str:
        """What ``wait_idle`` would still wait for, in words."""
        return "the stats_handler has not returned"

    def close(self, deadline: Deadline) -> None:
        """Answer nothing more, and wait for the thread."""
        with suppress(Error):
            self.stop_intake(Deadline(deadline.at_most(_CLOSE_TIMEOUT)))
        self._workers.close(deadline)
