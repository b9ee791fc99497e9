"""``JetStream``: streams, consumers and their messages, blocking."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Sequence, TypeVar, Union

from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.manager import JetStreamManager

from ._blocking import Channel, Facade, blocking
from ._context import INACTIVE_THRESHOLD, Binding, Context, Settings
from ._deadline import Deadline
from .options import check_subscription
from .ordered import OrderedConsumer, ordered_config
from .pulling import PullSubscription

if TYPE_CHECKING:
    from .pool import Pool

S = TypeVar("S", bound=PullSubscription)


def _pull(js: JetStream, binding: Any) -> PullSubscription:
    found: Binding = binding
    subscription = PullSubscription(
        js, found.stream, found.consumer, owned=found.owned, deadline=found.deadline, inbox=found.inbox
    )
    return _started(js, subscription, found.deadline)


def _started(js: JetStream, subscription: S, deadline: Deadline) -> S:
    js._pool._attach_weakly(subscription)
    try:
        subscription.start(deadline)
    except BaseException:
        subscription.unsubscribe()
        raise
    return subscription


class JetStream(Facade):
    """JetStream through a pool; made by ``Pool.jetstream``, thread-safe, works on in a forked child."""

    def __init__(self, pool: Pool, *, settings: Settings, timeout: Optional[float]) -> None:
        super().__init__(pool, timeout)
        self._settings = settings

    def _native(self, channel: Channel) -> Context:
        return Context(channel, self._settings)

    publish = blocking(Context.publish)

    account_info = blocking(JetStreamManager.account_info)
    find_stream_name_by_subject = blocking(JetStreamManager.find_stream_name_by_subject)
    stream_info = blocking(JetStreamManager.stream_info)
    delete_stream = blocking(JetStreamManager.delete_stream)
    purge_stream = blocking(JetStreamManager.purge_stream)

    consumers_info = blocking(JetStreamManager.consumers_info)
    delete_consumer = blocking(JetStreamManager.delete_consumer)
    pause_consumer = blocking(JetStreamManager.pause_consumer)
    resume_consumer = blocking(JetStreamManager.resume_consumer)
    reset_consumer = blocking(JetStreamManager.reset_consumer)

    get_msg = blocking(JetStreamManager.get_msg)
    get_last_msg = blocking(JetStreamManager.get_last_msg)
    delete_msg = blocking(JetStreamManager.delete_msg)

    def add_stream(self, config: Optional[api.StreamConfig] = None, **params: Any) -> api.StreamInfo:
        """Create a stream. ``params``: fields of ``StreamConfig``, over those of ``config``."""
        return self._call(JetStreamManager.add_stream, config, **params)

    def streams_info(self, offset: int = 0) -> List[api.StreamInfo]:
        """Up to 256 streams, from number ``offset`` on."""
        return self._call(JetStreamManager.streams_info, offset)

    def streams_info_iterator(self, offset: int = 0) -> Iterator[api.StreamInfo]:
        """All streams from number ``offset`` on; asks for the next 256 when they are wanted, and may then raise."""
        while True:
            streams = self.streams_info(offset)
            yield from streams
            offset += len(streams)
            if not streams:
                return

    def update_stream(self, config: Optional[api.StreamConfig] = None, **params: Any) -> api.StreamInfo:
        """Change a stream. ``params`` as in ``add_stream``; what is not given is reset."""
        return self._call(JetStreamManager.update_stream, config, **params)

    def consumer_info(self, stream: str, consumer: str, timeout: Optional[float] = None) -> api.ConsumerInfo:
        """A consumer's configuration and state. ``timeout``: seconds for this call, this object's if None."""
        info: api.ConsumerInfo = self._call(JetStreamManager.consumer_info, stream, consumer, limit=timeout)
        return info

    def add_consumer(
        self, stream: str, config: Optional[api.ConsumerConfig] = None, timeout: Optional[float] = None, **params: Any
    ) -> api.ConsumerInfo:
        """Create a consumer. ``params``: fields of ``ConsumerConfig``, over those of ``config``.

        timeout: seconds for this call, this object's if None.
        """
        return self._call(JetStreamManager.add_consumer, stream, config, limit=timeout, **params)

    # -- reading ------------------------------------------------------------------------------------------------------

    pull_subscribe = blocking(JetStreamContext.pull_subscribe, _pull)
    pull_subscribe_bind = blocking(JetStreamContext.pull_subscribe_bind, _pull)

    def ordered_consumer(
        self,
        stream: str,
        *,
        filter_subjects: Union[str, Sequence[str]] = (),
        deliver_policy: api.DeliverPolicy = api.DeliverPolicy.ALL,
        opt_start_seq: Optional[int] = None,
        opt_start_time: Optional[datetime.datetime] = None,
        headers_only: bool = False,
        inactive_threshold: float = INACTIVE_THRESHOLD,
        timeout: Optional[float] = None,
    ) -> OrderedConsumer:
        """Read a stream in order and without gaps, acknowledging nothing (ADR-17).

        filter_subjects: one subject, or several (nats-server 2.10 and later); all if none is given.
        deliver_policy, opt_start_seq, opt_start_time, headers_only: as in nats-py's ``ConsumerConfig``.
        inactive_threshold: seconds without a reader after which the server forgets it; it is then made anew.
        timeout: seconds for this call, this object's if None.

        Raises nats-py's errors (NotFoundError for a missing stream), TypeError, ValueError, and what every call raises.
        """
        subjects = [filter_subjects] if isinstance(filter_subjects, str) else list(filter_subjects)
        for subject in subjects:
            check_subscription(subject)
        config = ordered_config(
            filter_subject=subjects[0] if len(subjects) == 1 else None,
            filter_subjects=subjects if len(subjects) > 1 else None,
            deliver_policy=deliver_policy,
            opt_start_seq=opt_start_seq,
            opt_start_time=opt_start_time,
            headers_only=headers_only,
            inactive_threshold=inactive_threshold,
        )
        deadline = Deadline(self._timeout if timeout is None else self._pool._limit(timeout))
        return _started(self, OrderedConsumer(self, stream, config, deadline), deadline)
