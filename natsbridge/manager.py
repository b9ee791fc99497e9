"""``Manager``: streams, consumers and stored messages, managed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, List, Optional

from nats.js import api
from nats.js.manager import JetStreamManager

from ._blocking import Channel, Facade, blocking
from ._context import Context, Settings
from ._deadline import Deadline
from .options import check_count, check_subscription

if TYPE_CHECKING:
    from .pool import Pool


class Manager(Facade):
    """The part of ``JetStream`` that manages; as nats-py's ``JetStreamManager``."""

    def __init__(self, pool: Pool, *, settings: Settings, timeout: Optional[float]) -> None:
        super().__init__(pool, timeout)
        self._settings = settings

    def _native(self, channel: Channel) -> Context:
        return Context(channel, self._settings)

    account_info = blocking(JetStreamManager.account_info)
    find_stream_name_by_subject = blocking(JetStreamManager.find_stream_name_by_subject)
    stream_info = blocking(JetStreamManager.stream_info)
    delete_stream = blocking(JetStreamManager.delete_stream)

    consumers_info = blocking(JetStreamManager.consumers_info)
    delete_consumer = blocking(JetStreamManager.delete_consumer)
    pause_consumer = blocking(JetStreamManager.pause_consumer)
    resume_consumer = blocking(JetStreamManager.resume_consumer)

    get_msg = blocking(JetStreamManager.get_msg)
    get_last_msg = blocking(JetStreamManager.get_last_msg)
    delete_msg = blocking(JetStreamManager.delete_msg)

    def add_stream(self, config: Optional[api.StreamConfig] = None, **params: Any) -> api.StreamInfo:
        """Create a stream. ``params``: fields of ``StreamConfig``, over those of ``config``."""
        return self._call(JetStreamManager.add_stream, config, **params)

    def streams_info(self, offset: int = 0) -> List[api.StreamInfo]:
        """Up to 256 streams, from number ``offset`` on."""
        return self._call(JetStreamManager.streams_info, check_count(offset, "offset", least=0))

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

    def purge_stream(
        self, name: str, seq: Optional[int] = None, subject: Optional[str] = None, keep: Optional[int] = None
    ) -> bool:
        """Delete the messages of a stream: all that it holds, or less. Returns True.

        seq: only messages before this number.
        subject: only messages with such a subject; wildcards are allowed.
        keep: all but the last ``keep`` messages; not together with ``seq``.

        An empty subject and a ``seq`` of 0, with which nats-py deletes all, are a ValueError. Raises as every call does.
        """
        if subject == "":
            raise ValueError("subject is empty: to delete all messages of the stream, leave it out or pass None")
        if subject is not None:
            check_subscription(subject)
        if seq == 0:
            raise ValueError("seq is 0, and the first message is number 1: to delete all, leave it out or pass None")
        if seq is not None:
            check_count(seq, "seq")
        if keep is not None:
            check_count(keep, "keep", least=0)
        return self._call(JetStreamManager.purge_stream, name, seq, subject, keep)

    def consumer_info(self, stream: str, consumer: str, timeout: Optional[float] = None) -> api.ConsumerInfo:
        """A consumer's configuration and state. ``timeout``: seconds for this call, this object's if None."""
        info: api.ConsumerInfo = self._call(JetStreamManager.consumer_info, stream, consumer, limit=timeout)
        return info

    def reset_consumer(
        self, stream: str, consumer: str, seq: Optional[int] = None, timeout: Optional[float] = None
    ) -> api.ConsumerReset:
        """Make a consumer deliver again what it did not get acknowledged, or all from ``seq`` on (nats-server 2.12).

        timeout: seconds for this call, this object's if None. Raises nats-py's NotFoundError.
        """
        deadline = Deadline(self._timeout if timeout is None else self._pool._limit(timeout))
        self.consumer_info(stream, consumer, deadline.remaining())  # the server does not answer for one that is missing
        return self._call(JetStreamManager.reset_consumer, stream, consumer, seq, limit=deadline.remaining())

    def add_consumer(
        self, stream: str, config: Optional[api.ConsumerConfig] = None, timeout: Optional[float] = None, **params: Any
    ) -> api.ConsumerInfo:
        """Create a consumer. ``params``: fields of ``ConsumerConfig``, over those of ``config``.

        timeout: seconds for this call, this object's if None.
        """
        return self._call(JetStreamManager.add_consumer, stream, config, limit=timeout, **params)
