"""``OrderedConsumer``: every message of a stream in order, each once, through lost messages, connections and servers."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional

import nats.errors
import nats.js.errors
from nats.js import api

from . import _wire
from ._deadline import Deadline
from ._pulls import Pulls
from ._reading import MOMENT
from .jsmessage import JetStreamMessage
from .manager import Manager
from .pulling import PullSubscription

_ATTEMPT = 2.0  # seconds after which making another consumer is tried anew: a restart may have swallowed the request


class OrderedPulls(Pulls):
    """Takes only what comes next: a message of an earlier consumer is dropped, and so is one behind a gap."""

    gives_back = False  # nothing is acknowledged
    passing = (*Pulls.passing, "Consumer Deleted")  # by whomever: another one is made
    consumer = ""
    consumer_seq = stream_seq = 0  # of the last message taken
    # Where the next consumer has to begin: behind this message of the stream, 0 for its beginning. None while the latest
    # message of each subject is read: one that is replaced meanwhile moves, so the next consumer begins as the first did.
    behind: Optional[int] = None

    def accepts(self, message: JetStreamMessage) -> bool:
        metadata = message.metadata
        if metadata.consumer != self.consumer:
            return False
        if metadata.sequence.consumer != self.consumer_seq + 1:
            self.trouble = f"message {self.consumer_seq + 1} was lost"
            self.cond.notify_all()
            return False
        self.consumer_seq, sequence = metadata.sequence.consumer, metadata.sequence.stream
        repeated = self.behind is None and sequence <= self.stream_seq
        if self.behind is not None or metadata.num_pending == 0:
            self.behind = sequence
        if repeated:
            self.cond.notify()  # the reader may have to ask for more
            return False
        self.stream_seq = sequence
        return True

    def caught_up(self, info: api.ConsumerInfo) -> bool:
        """Whether all that was there has come, by what the server says of the consumer. Call it with ``cond`` held."""
        if info.name != self.consumer or info.num_pending or info.delivered is None:
            return False
        if info.delivered.consumer_seq != self.consumer_seq:
            return False
        self.behind = info.delivered.stream_seq
        return True


class OrderedConsumer(PullSubscription):
    """The messages of a stream in order and without gaps; made by ``JetStream.ordered_consumer``.

    Read it like a ``PullSubscription``; what was read ahead when an iteration ends waits for whoever reads next. It
    acknowledges nothing and keeps nothing on the server: whenever a message, the connection or its consumer is lost, it
    makes itself a new consumer behind the last message that was read (ADR-17). Reading ends with nats-py's NotFoundError
    when the stream is gone.
    """

    _pulls: OrderedPulls

    def __init__(self, js: Manager, stream: str, config: api.ConsumerConfig, deadline: Deadline) -> None:
        super().__init__(js, stream, "", owned=True, deadline=deadline)
        self._config = config
        #: For natsbridge itself: called by a reading thread when another consumer was made; raises to end reading.
        self.on_recreated: Optional[Callable[[Deadline], None]] = None
        #: Messages that the stream held for this consumer when it was made.
        self.initial_pending = 0

    _pulls_class = OrderedPulls

    def start(self, deadline: Deadline) -> None:
        """Subscribe and make the first consumer. Raises nats-py's errors, and what ``PullSubscription`` raises."""
        super().start(deadline)
        info = self._create(deadline)
        self.initial_pending = info.num_pending or 0
        if self._config.deliver_policy != api.DeliverPolicy.LAST_PER_SUBJECT and info.delivered is not None:
            # Not what the policy says: "new", for one, would mean something else to a consumer made later.
            self._pulls.behind = info.delivered.stream_seq

    def _create(self, deadline: Deadline) -> api.ConsumerInfo:
        pulls = self._pulls
        name = f"ordered_{_wire.stream_token()}"
        behind: Any = {}
        if pulls.behind is not None:
            behind = {
                "deliver_policy": api.DeliverPolicy.BY_START_SEQUENCE,
                "opt_start_seq": pulls.behind + 1,
                "opt_start_time": None,
            }
        config = dataclasses.replace(self._config, name=name, **behind)
        with pulls.cond:
            deletion, self.consumer = self._deletion(), name
            pulls.address(self._next_subject())
            pulls.consumer, pulls.consumer_seq, pulls.trouble = name, 0, None
        if deletion is not None:
            self._link.outbox.control(deletion)
        within = self._js.with_timeout(deadline.at_most(self._js.timeout))
        info = within.add_consumer(self.stream, config)
        with pulls.cond:
            pulls.caught_up(info)
        return info

    def _deletion(self) -> Optional[bytes]:
        return super()._deletion() if self.consumer else None

    def _look(self, deadline: Deadline) -> None:
        """Something was lost: go on with a new consumer."""
        if self._pulls.shutdown:
            self._pulls.shutdown = False
            self._reader.pause(deadline)
        try:
            self._create(Deadline(deadline.at_most(_ATTEMPT)))
        except nats.js.errors.NotFoundError:
            if self._missing:
                raise
            self._missing = True  # a server that has just started may not know all of its streams yet
        except (nats.js.errors.ServiceUnavailableError, nats.errors.TimeoutError):
            if deadline.at_most(1.0) <= MOMENT:
                raise
        else:
            self._missing = False
            if self.on_recreated is not None:
                self.on_recreated(deadline)
            return
        self._pulls.trouble = "there is no consumer"
        self._reader.pause(deadline)

    _missing = False


def ordered_config(**given: Any) -> api.ConsumerConfig:
    """The configuration of an ordered consumer (ADR-17)."""
    return api.ConsumerConfig(
        ack_policy=api.AckPolicy.NONE,
        max_deliver=1,
        mem_storage=True,
        num_replicas=1,
        **given,
    )
