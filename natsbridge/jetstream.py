"""``JetStream``: what a program publishes to streams with, and reads them."""

from __future__ import annotations

import datetime
from typing import Any, Literal, Optional, Sequence, Tuple, TypeVar, Union, overload

from nats.js import api
from nats.js.client import (
    DEFAULT_JS_SUB_PENDING_BYTES_LIMIT,
    DEFAULT_JS_SUB_PENDING_MSGS_LIMIT,
    JetStreamContext,
)
from nats.js.manager import JetStreamManager

from ._arguments import check_arguments
from ._blocking import blocking
from ._context import INACTIVE_THRESHOLD, Binding, check_names
from ._deadline import Deadline, check_life, check_timeout
from ._handling import JetStreamHandler
from .buckets import Buckets
from .options import check_count, check_handler, check_subscription
from .ordered import OrderedConsumer, ordered_config
from .pulling import PullSubscription
from .pushing import PushSubscription

S = TypeVar("S", PullSubscription, OrderedConsumer, PushSubscription)


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


def _check_limits(messages: int, size: int) -> Tuple[int, int]:
    return check_count(messages, "pending_msgs_limit"), check_count(size, "pending_bytes_limit")


class JetStream(Buckets):
    """JetStream through a pool: streams, consumers and their messages, blocking; made by ``Pool.jetstream``.

    Methods, parameters and errors are those of nats-py's ``JetStreamContext``. Each call has a deadline, ``timeout``
    seconds from its beginning; ``with_timeout`` gives the same object with another. Thread-safe; in a forked child it
    works on, but for what was subscribed to before.
    """

    # -- reading ------------------------------------------------------------------------------------------------------

    pull_subscribe = blocking(JetStreamContext.pull_subscribe, _pull)
    pull_subscribe_bind = blocking(JetStreamContext.pull_subscribe_bind, _pull)

    @overload
    def subscribe(
        self,
        subject: str,
        *,
        cb: Optional[JetStreamHandler] = None,
        stream: Optional[str] = None,
        config: Optional[api.ConsumerConfig] = None,
        ordered_consumer: Literal[True],
        deliver_policy: Optional[api.DeliverPolicy] = None,
        headers_only: Optional[bool] = None,
        inactive_threshold: Optional[float] = None,
        timeout: Optional[float] = None,
    ) -> OrderedConsumer: ...
    @overload
    def subscribe(
        self,
        subject: str,
        queue: Optional[str] = None,
        cb: Optional[JetStreamHandler] = None,
        durable: Optional[str] = None,
        stream: Optional[str] = None,
        config: Optional[api.ConsumerConfig] = None,
        manual_ack: bool = False,
        ordered_consumer: Literal[False] = False,
        idle_heartbeat: Optional[float] = None,
        flow_control: bool = False,
        pending_msgs_limit: int = DEFAULT_JS_SUB_PENDING_MSGS_LIMIT,
        pending_bytes_limit: int = DEFAULT_JS_SUB_PENDING_BYTES_LIMIT,
        deliver_policy: Optional[api.DeliverPolicy] = None,
        headers_only: Optional[bool] = None,
        inactive_threshold: Optional[float] = None,
        *,
        max_workers: int = 1,
        nak_on_error: bool = True,
        nak_delay: Optional[float] = None,
        timeout: Optional[float] = None,
    ) -> PushSubscription: ...
    def subscribe(
        self,
        subject: str,
        queue: Optional[str] = None,
        cb: Optional[JetStreamHandler] = None,
        durable: Optional[str] = None,
        stream: Optional[str] = None,
        config: Optional[api.ConsumerConfig] = None,
        manual_ack: bool = False,
        ordered_consumer: bool = False,
        idle_heartbeat: Optional[float] = None,
        flow_control: bool = False,
        pending_msgs_limit: int = DEFAULT_JS_SUB_PENDING_MSGS_LIMIT,
        pending_bytes_limit: int = DEFAULT_JS_SUB_PENDING_BYTES_LIMIT,
        deliver_policy: Optional[api.DeliverPolicy] = None,
        headers_only: Optional[bool] = None,
        inactive_threshold: Optional[float] = None,
        *,
        max_workers: int = 1,
        nak_on_error: bool = True,
        nak_delay: Optional[float] = None,
        timeout: Optional[float] = None,
    ) -> Union[PushSubscription, OrderedConsumer]:
        """Subscribe to a push consumer, which is made if there is none of that name; parameters as in nats-py.

        cb: ``cb(message)``, called on threads of its own; without one, iterate the subscription or call ``next_msg``. A
            message is acknowledged when ``cb`` returns, and given back when it raises, unless it did either itself.
        manual_ack: True to leave acknowledging to ``cb``.
        ordered_consumer: True for what ``JetStream.ordered_consumer`` gives: no queue, no durable, nothing to acknowledge.
        max_workers: how many threads may call ``cb`` at a time; beyond one, messages overtake each other.
        nak_on_error: False to say nothing when ``cb`` raises; the message comes again after the consumer's ``ack_wait``.
        nak_delay: seconds after which a message whose ``cb`` failed is delivered again; at once if None.
        timeout: seconds for this call, this object's if None.

        Raises nats-py's errors (a bound or unfit consumer, no stream for the subject), PermissionDeniedError, TypeError,
        ValueError, and what every call raises.
        """
        if cb is not None:
            check_handler(cb, "cb")
        check_count(max_workers, "max_workers")
        check_timeout(nak_delay, "nak_delay", finite=True)
        limits = (
            check_count(pending_msgs_limit, "pending_msgs_limit"),
            check_count(pending_bytes_limit, "pending_bytes_limit"),
        )
        if ordered_consumer:
            check_arguments(JetStreamContext.subscribe, (subject,), {"stream": stream, "config": config})
            if queue or durable or flow_control:
                raise ValueError("an ordered consumer has no queue, no durable name, and needs no flow control")
            return self._subscribe_ordered(
                subject,
                cb,
                stream,
                config or api.ConsumerConfig(),
                deliver_policy,
                headers_only,
                inactive_threshold,
                timeout,
            )
        binding: Any = self._call(
            JetStreamContext.subscribe,
            subject,
            queue,
            durable=durable,
            stream=stream,
            config=config,
            idle_heartbeat=idle_heartbeat,
            flow_control=flow_control,
            deliver_policy=deliver_policy,
            headers_only=headers_only,
            inactive_threshold=inactive_threshold,
            limit=timeout,
        )
        return self._pushed(binding, limits, cb, manual_ack, max_workers, nak_on_error, nak_delay)

    def subscribe_bind(
        self,
        stream: str,
        config: api.ConsumerConfig,
        consumer: str,
        cb: Optional[JetStreamHandler] = None,
        manual_ack: bool = False,
        pending_msgs_limit: int = DEFAULT_JS_SUB_PENDING_MSGS_LIMIT,
        pending_bytes_limit: int = DEFAULT_JS_SUB_PENDING_BYTES_LIMIT,
        *,
        max_workers: int = 1,
        nak_on_error: bool = True,
        nak_delay: Optional[float] = None,
    ) -> PushSubscription:
        """Subscribe to a push consumer that exists, without asking the server for it; parameters as in ``subscribe``."""
        if cb is not None:
            check_handler(cb, "cb")
        check_count(max_workers, "max_workers")
        check_timeout(nak_delay, "nak_delay", finite=True)
        limits = (
            check_count(pending_msgs_limit, "pending_msgs_limit"),
            check_count(pending_bytes_limit, "pending_bytes_limit"),
        )
        binding: Any = self._call(JetStreamContext.subscribe_bind, stream, config, consumer)
        return self._pushed(binding, limits, cb, manual_ack, max_workers, nak_on_error, nak_delay)

    def _pushed(
        self,
        binding: Binding,
        limits: Tuple[int, int],
        cb: Optional[JetStreamHandler],
        manual_ack: bool,
        max_workers: int,
        nak_on_error: bool,
        nak_delay: Optional[float],
    ) -> PushSubscription:
        assert binding.config is not None
        acks = binding.config.ack_policy not in (api.AckPolicy.NONE, api.AckPolicy.FLOW_CONTROL)
        subscription = _started(self, PushSubscription(self, binding, limits), binding.deadline)
        if cb is not None:
            subscription.handle(
                cb,
                max_workers=max_workers,
                ack=acks and not manual_ack,
                nak=acks and nak_on_error,
                nak_delay=nak_delay,
            )
        return subscription

    def _subscribe_ordered(
        self,
        subject: str,
        cb: Optional[JetStreamHandler],
        stream: Optional[str],
        config: api.ConsumerConfig,
        deliver_policy: Optional[api.DeliverPolicy],
        headers_only: Optional[bool],
        inactive_threshold: Optional[float],
        timeout: Optional[float],
    ) -> OrderedConsumer:
        consumer = self.ordered_consumer(
            stream or self.find_stream_name_by_subject(subject),
            filter_subjects=config.filter_subjects or subject,
            deliver_policy=deliver_policy or config.deliver_policy or api.DeliverPolicy.ALL,
            opt_start_seq=config.opt_start_seq,
            opt_start_time=config.opt_start_time,
            headers_only=bool(headers_only or config.headers_only),
            inactive_threshold=inactive_threshold or config.inactive_threshold or INACTIVE_THRESHOLD,
            timeout=timeout,
        )
        if cb is not None:
            consumer.consume(cb)
        return consumer

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
        if not isinstance(filter_subjects, Sequence):
            raise TypeError(f"filter_subjects must be a subject or a list of them, not {filter_subjects!r}")
        subjects = [filter_subjects] if isinstance(filter_subjects, str) else list(filter_subjects)
        for subject in subjects:
            check_subscription(subject)
        if not subjects and deliver_policy == api.DeliverPolicy.LAST_PER_SUBJECT:
            subjects = [">"]  # the server wants one
        config = ordered_config(
            filter_subject=subjects[0] if len(subjects) == 1 else None,
            filter_subjects=subjects if len(subjects) > 1 else None,
            deliver_policy=deliver_policy,
            opt_start_seq=opt_start_seq,
            opt_start_time=opt_start_time,
            headers_only=headers_only,
            inactive_threshold=check_life(inactive_threshold, "inactive_threshold"),
        )
        check_arguments(JetStreamManager.add_consumer, (stream, config), {})
        check_names(self._settings.prefix, stream, "ordered")
        deadline = Deadline(self._timeout if timeout is None else self._pool._limit(timeout))
        return _started(self, OrderedConsumer(self, stream, config, deadline), deadline)
