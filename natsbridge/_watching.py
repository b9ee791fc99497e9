"""``Watcher``: the changes of a bucket, for an iterator or a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Generic, Iterator, Optional, TypeVar, Union

import nats.js.errors

from ._bucket import Bucket, Tail
from ._deadline import Deadline, check_timeout
from ._handling import Consuming
from ._waiter import Abandoned, Condition
from .errors import ClosedError, RequestTimeoutError
from .jsmessage import JetStreamMessage
from .ordered import OrderedConsumer

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class _End:
    """The watcher was stopped."""


_END = _End()


class Watcher(Generic[T]):
    """What changes in a bucket, in order; made by ``watch``.

    First come the values that are there, then ``None`` once, then every change as it happens. Iterate it, or call
    ``updates``, unless it has a handler. Survives reconnects and restarts of the server without losing or repeating a
    change that the bucket still holds; of changes before the ``None``, the latest of a key may then come alone. Ends after
    ``stop``; when nobody holds it any more (one with a handler lives as long as the pool); and with nats-py's
    BucketNotFoundError when the bucket is deleted. Thread-safe; in a forked child every use raises ``ForkedError``.
    """

    def __init__(
        self,
        bucket: Bucket,
        consumer: OrderedConsumer,
        decode: Callable[[JetStreamMessage], Optional[T]],
        *,
        updates_only: bool = False,
        handler: Optional[Callable[[T], object]] = None,
        follows: bool = True,
    ) -> None:
        """``decode``: makes an update of a message, None to leave it out. ``follows``: it is there to stay."""
        self._name, self._pool = bucket._name, bucket._pool
        self._consumer = consumer
        self._tail = Tail(bucket, consumer)
        self._decode = decode
        self._cond = Condition()  # guards _marked
        self._marked = updates_only  # the None behind the first values was handed out
        if updates_only:
            self._tail.caught_up = True
        if follows:
            consumer.on_recreated = bucket._same_as_now()
        self._consuming: Optional[Consuming] = None
        if handler is not None:
            self._consuming = Consuming.start(
                self._pool,
                self._name,
                self._for_handler,
                handler,
                max_workers=1,
                ack=False,
                nak=False,
                nak_delay=None,
                on_error=self._pool._report,
                finish=consumer._finish,
            )

    # -- reading ------------------------------------------------------------------------------------------------------

    def updates(self, timeout: Optional[float] = 5.0) -> Optional[T]:
        """The next update, waiting at most ``timeout`` seconds (None: no limit); None behind the first values.

        Raises RequestTimeoutError when none came, ClosedError after ``stop`` or when the pool was closed,
        BucketNotFoundError, ForkedError.
        """
        self._check_reader()
        try:
            update = self.take(Deadline(check_timeout(timeout)))
        except Abandoned:
            raise RequestTimeoutError(f"no update came from bucket {self._name!r} within {timeout} s") from None
        if isinstance(update, _End):
            raise ClosedError(f"the watcher of bucket {self._name!r} was stopped")
        return update

    def __iter__(self) -> Self:
        self._check_reader()
        return self

    def __next__(self) -> Optional[T]:
        """Waits for as long as it takes; ends after ``stop``. Raises ClosedError when the pool was closed."""
        self._check_reader()
        update = self.take(Deadline(None))
        if isinstance(update, _End):
            raise StopIteration
        return update

    def _check_reader(self) -> None:
        if self._consuming is not None:
            raise ClosedError(f"the watcher of bucket {self._name!r} has a handler, which gets its updates")

    def take(self, deadline: Deadline) -> Union[T, _End, None]:
        """For natsbridge itself. Raises ``Abandoned`` at the deadline."""
        tail = self._tail
        while True:
            with self._cond:
                if tail.caught_up and not self._marked:
                    self._marked = True
                    self._cond.notify_all()
                    return None
            try:
                message = tail.next(deadline)
            except Abandoned:
                if tail.caught_up and not self._marked:
                    continue
                raise
            except nats.js.errors.BucketNotFoundError as error:
                self._consumer._finish(error)
                raise
            if message is None:
                return _END
            try:
                update = self._decode(message)
            except nats.js.errors.BadObjectMetaError as error:
                self._pool._report(error)
                continue
            if update is not None:
                return update

    def _for_handler(self) -> Iterator[T]:
        while True:
            update = self.take(Deadline(None))
            if isinstance(update, _End):
                return
            if update is not None:
                yield update

    def wait_initial(self, timeout: Optional[float] = 5.0) -> None:
        """Wait until the handler has had, or the reader was given, all values that were there when the watch began.

        Raises RequestTimeoutError after ``timeout`` seconds (None: no limit), ClosedError when it has ended before.
        """
        deadline = Deadline(check_timeout(timeout))
        self._consumer._reader.check()
        with self._cond:
            while not self._marked:
                if not self.active:
                    raise ClosedError(f"the watcher of bucket {self._name!r} has ended")
                if deadline.passed():
                    raise RequestTimeoutError(f"the first values of bucket {self._name!r} had not come after {timeout} s")
                self._cond.wait_slice(deadline.at_most(0.2))

    # -- the end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End it: readers stop, and a handler that runs may finish. Does not wait. Idempotent, any thread."""
        if self._consuming is not None:
            self._consuming.stop()
        self._consumer.unsubscribe()

    @property
    def active(self) -> bool:
        """False once it has ended, in whatever way."""
        return self._consumer.active

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name!r} {'active' if self.active else 'ended'}>"
