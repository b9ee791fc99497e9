"""nats-py's ``JetStreamContext`` over a ``Channel``: what it does itself with asyncio is done anew here."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from email.parser import BytesParser
from typing import Any, Dict, Mapping, NamedTuple, Optional

import nats.js.errors
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.manager import _validate_consumer_name, _validate_stream_name

from . import _wire
from ._blocking import Channel, plain_headers
from ._deadline import LONGEST, Deadline, check_life
from ._types import Data
from .errors import BadSubjectError, NoRespondersError, NoStreamResponseError
from .options import MAX_PREFIX, check_data, check_headers, check_line, check_subject, check_subscription

INACTIVE_THRESHOLD = 300.0  # seconds without a reader after which the server deletes a consumer made for a subscription


# What a stream says when it has stored a message, and the message was new.
_PLAIN_ACK = re.compile(rb'\{"stream":"([^"\\]+)", ?"seq":(\d+)(?:, ?"domain":"([^"\\]+)")?\}\Z')
_HEADER_PARSER = BytesParser()


class Settings(NamedTuple):
    """What a ``JetStream`` hands on to everything that is made from it."""

    prefix: str = api.DEFAULT_PREFIX
    retries: int = 2  # how often a publish that no stream answered is repeated (ADR-22)
    retry_wait: float = 0.25  # seconds in between
    max_pending: int = 4000  # how many messages may wait for their acknowledgement at a time


def api_prefix(prefix: Optional[str], domain: Optional[str]) -> str:
    """Where JetStream's API is. Raises TypeError, BadSubjectError."""
    if domain is not None:
        return f"$JS.{check_subject(domain, 'domain')}.API"
    return api.DEFAULT_PREFIX if prefix is None else check_subject(prefix, "prefix")


class Binding(NamedTuple):
    """What nats-py found or made when it was asked to subscribe: the messages are read by ours."""

    stream: str
    consumer: str
    config: Optional[api.ConsumerConfig]  # of a push consumer
    owned: bool  # made for this subscription alone
    inbox: Optional[str]
    deadline: Deadline


class Context(JetStreamContext):
    """For one call. Its coroutines never suspend; what waits for messages is not here."""

    def __init__(self, channel: Channel, settings: Settings) -> None:
        # Not super().__init__(): it makes asyncio's locks, which on older Pythons need a loop in this thread.
        self._nc: Any = channel
        self._prefix = settings.prefix
        self._timeout = channel.deadline.timeout or 0.0  # nobody looks: the channel has the deadline
        self._hdr_parser = _HEADER_PARSER
        self._settings = settings

    async def publish(
        self,
        subject: str,
        payload: Data = b"",
        timeout: Optional[float] = None,
        stream: Optional[str] = None,
        headers: Optional[Dict[str, Any]] = None,
        msg_ttl: Optional[float] = None,
    ) -> api.PubAck:
        """As nats-py's, but: a 503 is tried again (ADR-22), and the caller's headers stay as they are."""
        channel: Channel = self._nc
        return publish(channel, self._settings, subject, payload, publish_headers(headers, stream, msg_ttl))

    async def find_stream_name_by_subject(self, subject: str) -> str:
        """As nats-py's, but no subject is not any subject."""
        found: str = await super().find_stream_name_by_subject(check_subscription(subject))
        return found

    async def subscribe(  # type: ignore[override]
        self,
        subject: str,
        queue: Optional[str] = None,
        durable: Optional[str] = None,
        stream: Optional[str] = None,
        config: Optional[api.ConsumerConfig] = None,
        **rest: Any,
    ) -> Binding:
        """As nats-py's, but the caller's configuration stays as it is."""
        check_subscription(subject)
        config = api.ConsumerConfig() if config is None else dataclasses.replace(config)
        _check_delivery(config)
        binding: Any = await super().subscribe(subject, queue, None, durable, stream, config, **rest)
        found: Binding = binding
        return found._replace(owned=not (durable or queue or config.durable_name or config.name))

    async def subscribe_bind(  # type: ignore[override]
        self, stream: str, config: api.ConsumerConfig, consumer: str, **_: Any
    ) -> Binding:
        """Only says what to bind to."""
        check_names(self._prefix, stream, consumer)
        if not config.deliver_subject:
            raise nats.js.errors.Error(f"consumer {consumer!r} is no push consumer: use pull_subscribe")
        _check_delivery(config)
        return Binding(stream, consumer, config, False, None, self._nc.deadline)

    async def pull_subscribe(  # type: ignore[override]
        self,
        subject: str,
        durable: Optional[str] = None,
        stream: Optional[str] = None,
        config: Optional[api.ConsumerConfig] = None,
        pending_msgs_limit: int = 0,
        pending_bytes_limit: int = 0,
        inbox_prefix: Optional[bytes] = None,
    ) -> Binding:
        """As nats-py's, but the caller's configuration stays as it is, and a consumer of ours outlives a slow reader."""
        if subject or not stream:
            check_subscription(subject)
        _inbox(inbox_prefix)  # before there is a consumer
        config = api.ConsumerConfig() if config is None else dataclasses.replace(config)
        durable = durable or config.durable_name
        if durable is None and config.inactive_threshold is None:
            config.inactive_threshold = INACTIVE_THRESHOLD
        binding: Any = await super().pull_subscribe(subject, durable, stream, config, inbox_prefix=inbox_prefix)
        found: Binding = binding
        return found._replace(owned=durable is None)  # a name in the configuration gives way to one of nats-py's own

    async def pull_subscribe_bind(  # type: ignore[override]
        self,
        consumer: Optional[str] = None,
        stream: Optional[str] = None,
        inbox_prefix: Optional[bytes] = None,
        pending_msgs_limit: int = 0,
        pending_bytes_limit: int = 0,
        name: Optional[str] = None,
        durable: Optional[str] = None,
    ) -> Binding:
        """Only says what to bind to. How much waits is bounded by what is asked for, so the limits are not needed."""
        consumer = durable or name or consumer
        check_names(self._prefix, stream, consumer)
        return Binding(str(stream), str(consumer), None, False, _inbox(inbox_prefix), self._nc.deadline)


def check_names(prefix: str, stream: Optional[str], consumer: Optional[str]) -> None:
    """What is read without asking the server for it first. Raises ValueError, BadSubjectError."""
    _validate_stream_name(stream)
    _validate_consumer_name(consumer)
    check_subject(f"{prefix}.CONSUMER.MSG.NEXT.{stream}.{consumer}")  # the longest with both


def _check_delivery(config: api.ConsumerConfig) -> None:
    subject, group = config.deliver_subject, config.deliver_group
    if subject is not None:
        check_subject(subject, "deliver_subject")
    if group:
        check_subject(group, "deliver_group")
    check_line(subject or "", group or "")


def _inbox(prefix: Optional[bytes]) -> Optional[str]:
    """An inbox of its own behind ``prefix``. Raises TypeError, BadSubjectError."""
    if prefix is None:
        return None
    data = check_data(prefix, "inbox_prefix")
    if len(data) > MAX_PREFIX:
        raise BadSubjectError(f"inbox_prefix is {len(data)} bytes long, {MAX_PREFIX} at most")
    try:
        return check_subject(f"{data.decode()}{_wire.stream_token()}", "inbox_prefix")
    except UnicodeDecodeError:
        raise BadSubjectError(f"bad inbox_prefix {data!r}: it is not UTF-8") from None


def publish(
    channel: Channel, settings: Settings, subject: str, payload: Data, headers: Optional[Dict[str, Any]]
) -> api.PubAck:
    """Publish, and wait for the acknowledgement; on a 503 again, for a stream may be electing its leader (ADR-22)."""
    check_subject(subject)
    data, checked = check_data(payload, "payload"), check_headers(plain_headers(headers))
    retries = settings.retries
    while True:
        try:
            return parse_ack(channel.ask_checked(subject, data, checked).data)
        except NoRespondersError:
            left = channel.deadline.remaining()
            if retries <= 0 or (left is not None and left <= settings.retry_wait):
                raise NoStreamResponseError(subject) from None
        retries -= 1
        time.sleep(settings.retry_wait)


def publish_headers(
    headers: Optional[Dict[str, Any]], stream: Optional[str], msg_ttl: Optional[float]
) -> Optional[Dict[str, Any]]:
    """The headers with the expected stream and the message's time to live. Raises TypeError, ValueError."""
    if (stream is None and msg_ttl is None) or not isinstance(headers or {}, Mapping):
        return headers  # whoever checks them says what is wrong with them
    headers = dict(headers or {})
    if stream is not None:
        headers[str.__str__(api.Header.EXPECTED_STREAM)] = stream
    if msg_ttl is not None:
        given: Any = msg_ttl
        if isinstance(given, (int, float)) and not given >= 1:  # nor is NaN
            raise ValueError(f"msg_ttl must be one second or more, not {msg_ttl!r}: the server knows no shorter life")
        seconds = check_life(msg_ttl, "msg_ttl")
        headers[str.__str__(api.Header.MSG_TTL)] = "never" if seconds == LONGEST else f"{int(msg_ttl)}s"
    return headers


def parse_ack(data: bytes) -> api.PubAck:
    """A stream's answer to a publish. Raises the error that it holds."""
    plain = _PLAIN_ACK.match(data)
    if plain is not None:  # what nats-py does in general costs ten times as much
        stream, seq, domain = plain.groups()
        return api.PubAck(stream=stream.decode(), seq=int(seq), domain=None if domain is None else domain.decode())
    answer = json.loads(data.decode())
    if "error" in answer:
        raise nats.js.errors.APIError.from_error(answer["error"])
    return api.PubAck.from_response(answer)
