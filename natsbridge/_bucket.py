"""What key-value and object stores have in common: a stream that may be gone, and its messages read from the beginning."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Iterator, Optional, Sequence, TypeVar, Union

import nats.errors
import nats.js.errors
from nats.js import api

from ._blocking import Facade
from ._context import INACTIVE_THRESHOLD
from ._deadline import Deadline, check_life
from ._waiter import Abandoned
from .errors import Error, RequestTimeoutError
from .jsmessage import JetStreamMessage
from .ordered import OrderedConsumer

if TYPE_CHECKING:
    from .jetstream import JetStream

T = TypeVar("T")

_BUCKET = re.compile(r"[a-zA-Z0-9_-]+\Z")
_NO_STREAM = 10059  # JetStream's error code for a stream that is not there

_LOOK = 1.0  # seconds without a message after which the server is asked whether any is left
_HEARTBEAT = 5.0
_AHEAD_BYTES = 2 * 1024 * 1024  # what may be asked for ahead of the reader
_AHEAD_MESSAGES = 500


def check_bucket(name: object) -> str:
    """A bucket's name. Raises TypeError, or nats-py's InvalidBucketNameError."""
    if not isinstance(name, str):
        raise TypeError(f"bucket must be a str, not {name!r} ({type(name).__name__})")
    if not _BUCKET.match(name):
        raise nats.js.errors.InvalidBucketNameError(f"{name!r}: letters, digits, _ and - only")
    return name


class Bucket(Facade):
    """Base of ``KeyValue`` and ``ObjectStore``."""

    def __init__(self, js: JetStream, name: str, stream: str) -> None:
        super().__init__(js._pool, js.timeout)
        self._js, self._name, self._stream = js, name, stream

    @property
    def _api(self) -> JetStream:
        """JetStream with this object's timeout."""
        return self._js.with_timeout(self._timeout)

    def _call(
        self, native: Callable[..., Coroutine[Any, Any, T]], *args: Any, limit: Optional[float] = None, **kwargs: Any
    ) -> T:
        with self._explaining():
            return super()._call(native, *args, limit=limit, **kwargs)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """nats-py takes a bucket that is gone for a missing key, for JetStream being disabled, or does not say anything."""
        try:
            yield
        except nats.js.errors.Error as error:
            if self._is_gone(error):
                raise nats.js.errors.BucketNotFoundError(
                    404, f"bucket {self._name!r} is gone: there is no stream {self._stream!r}", _NO_STREAM
                ) from error
            raise

    def _is_gone(self, error: BaseException) -> bool:
        if isinstance(error, (nats.js.errors.ServiceUnavailableError, nats.js.errors.NoStreamResponseError)):
            try:
                self._api.stream_info(self._stream)
            except nats.js.errors.NotFoundError:
                return True
            except Error:
                return False
        if isinstance(error, nats.js.errors.BucketNotFoundError):
            return False  # it says so
        cause = error.__context__
        return _NO_STREAM in (getattr(error, "err_code", None), getattr(cause, "err_code", None))

    def _same_as_now(self) -> Callable[[Deadline], None]:
        """A check that the bucket is still this one, and no other of the same name, whose numbers begin anew."""
        with self._explaining():
            created = self._api.stream_info(self._stream).created
        js, name, stream = self._js, self._name, self._stream

        def check(deadline: Deadline) -> None:
            try:
                now = js.with_timeout(deadline.at_most(js.timeout)).stream_info(stream).created
            except nats.js.errors.NotFoundError:
                return  # the reader finds out
            except nats.errors.TimeoutError:
                return  # and will lose its consumer again
            if now != created:
                raise nats.js.errors.BucketNotFoundError(
                    404, f"bucket {name!r} was deleted and created again: watch it anew", _NO_STREAM
                )

        return check

    def _read(
        self,
        subjects: Union[str, Sequence[str]],
        deadline: Deadline,
        *,
        what: str = "reading",
        deliver_policy: api.DeliverPolicy = api.DeliverPolicy.ALL,
        headers_only: bool = False,
        inactive_threshold: Optional[float] = None,
    ) -> OrderedConsumer:
        """``what``: the call, for messages."""
        try:
            with self._explaining():
                return self._js.ordered_consumer(
                    self._stream,
                    filter_subjects=subjects,
                    deliver_policy=deliver_policy,
                    headers_only=headers_only,
                    inactive_threshold=check_life(inactive_threshold, "inactive_threshold") or INACTIVE_THRESHOLD,
                    timeout=deadline.remaining(),
                )
        except RequestTimeoutError as error:
            raise RequestTimeoutError(
                f"{what} of bucket {self._name!r} got no answer within {deadline.timeout:g} s: "
                "the server is unreachable or slow"
            ) from error

    def _deadline(self) -> Deadline:
        return Deadline(self._timeout)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}>"


class Tail:
    """The messages of an ordered consumer, and whether all that were there at the beginning have been read.

    Thread-safe, as the consumer is.
    """

    def __init__(self, bucket: Bucket, consumer: OrderedConsumer) -> None:
        self._bucket, self.consumer = bucket, consumer
        self.caught_up = consumer.initial_pending == 0
        self._largest = 64 * 1024  # bytes of a message; shrinks and grows with those that come

    def next(self, deadline: Deadline) -> Optional[JetStreamMessage]:
        """The next message, None after the end. Raises ``Abandoned`` at the deadline, or when ``caught_up`` became true."""
        while True:
            wait = deadline if self.caught_up else Deadline(deadline.at_most(_LOOK))
            window = max(1, min(_AHEAD_MESSAGES, _AHEAD_BYTES // (self._largest + 256)))
            try:
                with self._bucket._explaining():
                    message = self.consumer._reader.next(wait, window, _HEARTBEAT)
            except Abandoned:
                if not self.caught_up:
                    self.caught_up = self._nothing_left()
                    if not self.caught_up and not deadline.passed():
                        continue
                raise
            if message is not None:
                self._largest = max(len(message.data), self._largest * 3 // 4)
                if message.metadata.num_pending == 0:
                    self.caught_up = True
            return message

    def _nothing_left(self) -> bool:
        """The last of the messages may have been deleted before they came, and then none is told to be the last."""
        pulls = self.consumer._pulls
        try:
            info = self._bucket._api.consumer_info(self.consumer.stream, self.consumer.consumer)
        except Error:
            return False  # the reader finds out why
        with pulls.cond:
            return pulls.caught_up(info) and not pulls.messages
