"""``KeyValue``: a key-value bucket of JetStream, blocking."""

from __future__ import annotations

import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Coroutine,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
    cast,
)

import nats.js.errors
from nats.js import api
from nats.js.kv import KV_DEL, KV_MARKER_REASON, KV_OP, KV_PURGE
from nats.js.kv import KeyValue as NatsKeyValue

from ._arguments import check_arguments
from ._blocking import Channel, blocking
from ._bucket import Bucket
from ._deadline import Deadline, check_timeout
from ._waiter import Abandoned
from ._watching import Watcher
from .errors import BadSubjectError, RequestTimeoutError
from .jsmessage import JetStreamMessage
from .options import check_count, check_handler, check_subject

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from .jetstream import JetStream

T = TypeVar("T")

if TYPE_CHECKING:

    class KeyValueEntry(NatsKeyValue.Entry):
        """nats-py's own, which declares an int."""

        created: Optional[datetime.datetime]  # type: ignore[assignment]

else:
    KeyValueEntry = NatsKeyValue.Entry

EntryHandler = Callable[[KeyValueEntry], object]
Keys = Union[str, List[str], Tuple[str, ...]]

# The server's own markers say why: a value was too old, or was removed with a purge or by itself.
_MARKERS = {"MaxAge": KV_PURGE, "Purge": KV_PURGE, "Remove": KV_DEL}
_DELETED = (KV_DEL, KV_PURGE)


class KeyWatcher(Watcher[KeyValueEntry]):
    __doc__ = Watcher.__doc__


class KeyValue(Bucket):
    """A key-value bucket; made by ``JetStream.key_value`` and ``create_key_value``.

    Methods, parameters and errors are those of nats-py's ``KeyValue``, blocking. Each call has a deadline, ``timeout``
    seconds from its beginning; ``with_timeout`` gives the same object with another. Thread-safe; works on in a forked
    child. When the bucket itself is gone, every method raises nats-py's BucketNotFoundError.
    """

    Entry: TypeAlias = KeyValueEntry
    BucketStatus: TypeAlias = NatsKeyValue.BucketStatus

    def __init__(self, js: JetStream, name: str, stream: str, pre: str, direct: bool) -> None:
        """Made by ``JetStream``."""
        super().__init__(js, name, stream)
        self._pre, self._direct = pre, direct

    def _native(self, channel: Channel) -> NatsKeyValue:
        return NatsKeyValue(self._name, self._stream, self._pre, self._js._native(channel), self._direct)

    def _call(
        self, native: Callable[..., Coroutine[Any, Any, T]], *args: Any, limit: Optional[float] = None, **kwargs: Any
    ) -> T:
        check_arguments(native, args, kwargs)
        key = self._check_key(args[0] if args else kwargs.get("key", "-"))
        try:
            return super()._call(native, *args, limit=limit, **kwargs)
        except nats.js.errors.KeyNotFoundError as error:
            error.message = error.message or f"{key!r} in bucket {self._name!r}"
            raise
        except nats.js.errors.InvalidKeyError as error:
            error.description = f"{key!r}: letters, digits and -/_=. only, no dot at either end"
            raise

    def _check_key(self, key: object) -> str:
        """One key, by whatever client it was put. Raises TypeError, InvalidKeyError."""
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, not {key!r} ({type(key).__name__})")
        try:
            check_subject(f"{self._pre}{key}")  # nats-py's purge takes wildcards, and other keys with them
        except BadSubjectError as error:
            raise nats.js.errors.InvalidKeyError(f"{key!r}: {str(error).rpartition(': ')[2]}") from None
        return key

    def get(self, key: str, revision: Optional[int] = None, validate_keys: bool = True) -> Entry:
        """The latest value of a key, or the one of a revision (None and 0: the latest).

        ``created`` and ``delta`` of the entry are None, as with nats-py.

        validate_keys: False for a key of another client's with other characters than nats-py allows.

        Raises nats-py's KeyNotFoundError and InvalidKeyError, TypeError, ValueError, and what every call raises.
        """
        _check_revision(revision, "revision")
        return cast("KeyValueEntry", self._call(NatsKeyValue.get, key, revision, validate_keys=validate_keys))

    put = blocking(NatsKeyValue.put)
    create = blocking(NatsKeyValue.create)

    def update(self, key: str, value: bytes, last: Optional[int] = None, validate_keys: bool = True) -> int:
        """Put a value if the latest revision of the key is ``last``, and return the new one.

        last: None and 0 if the key must not be there, nor a marker of its deletion.
        validate_keys: as in ``get``.

        Raises nats-py's KeyWrongLastSequenceError and InvalidKeyError, TypeError, ValueError, and what every call raises.
        """
        _check_revision(last, "last")
        return self._call(NatsKeyValue.update, key, value, last, validate_keys=validate_keys)

    def delete(
        self, key: str, last: Optional[int] = None, validate_keys: bool = True, msg_ttl: Optional[float] = None
    ) -> bool:
        """Put a marker in place of a key's value: the key is deleted, its history stays. Returns True.

        last: delete only if this is the key's latest revision; None for whatever is there. 0, which is no revision, raises
            ValueError: nats-py takes it for None.
        validate_keys: as in ``get``.
        msg_ttl: without effect, as in nats-py.

        Raises nats-py's BadRequestError (``last`` is not the latest revision) and InvalidKeyError, TypeError, ValueError,
        and what every call raises.
        """
        _check_revision(last, "last")
        if last == 0:
            raise ValueError("last is 0, which is no revision: leave it out to delete whatever is there")
        return self._call(NatsKeyValue.delete, key, last, validate_keys=validate_keys, msg_ttl=msg_ttl)

    purge = blocking(NatsKeyValue.purge)
    status = blocking(NatsKeyValue.status)

    # -- many keys ----------------------------------------------------------------------------------------------------

    def keys(self, filters: Optional[Keys] = None) -> List[str]:
        """The keys that have a value, in the order of their last change.

        filters: only keys that contain this text, or one of these, as in nats-py; no wildcards.

        Raises nats-py's NoKeysError when there are none, RequestTimeoutError, TypeError, and what every call raises.
        """
        texts = [] if filters is None else _several(filters, "filters")
        found: Dict[str, None] = {}  # in order
        for entry in self._present(">", "keys", meta_only=True):
            found.pop(entry.key, None)  # one that is changed meanwhile comes again
            if entry.operation not in _DELETED:
                found[entry.key] = None
        keys = [key for key in found if not texts or any(text in key for text in texts)]
        if not keys:
            raise nats.js.errors.NoKeysError
        return keys

    def history(self, key: str) -> List[KeyValueEntry]:
        """The values that the bucket still holds of a key, oldest first, with the markers of deletions.

        One key: for several at a time there is ``watch`` with ``include_history``.

        Raises nats-py's NoKeysError when there are none, InvalidKeyError, RequestTimeoutError, TypeError, and what every
        call raises.
        """
        entries = list(self._present(self._check_key(key), "history", include_history=True))
        if not entries:
            raise nats.js.errors.NoKeysError
        return entries

    def purge_deletes(self, olderthan: float = 30 * 60) -> bool:
        """Remove what is left of keys that were deleted: their history, and markers older than ``olderthan`` seconds.

        0 removes all markers. What is put meanwhile stays. Returns True. Raises RequestTimeoutError, and what every call
        raises.
        """
        limit = check_timeout(olderthan, "olderthan", optional=False)
        deadline = self._deadline()
        markers = [e for e in self._present(">", "purge_deletes", deadline, meta_only=True) if e.operation in _DELETED]
        now: Any = datetime.datetime.now(datetime.timezone.utc)
        for entry in markers:
            young = limit is None or (limit > 0 and (now - entry.created).total_seconds() < limit)
            marker: Any = entry.revision
            with self._explaining():
                within = self._js.with_timeout(deadline.at_most(self._timeout))
                # Up to the marker, not all but so many: the key may have been put again since.
                behind = marker if young else marker + 1
                within.purge_stream(self._stream, subject=f"{self._pre}{entry.key}", seq=behind)
        return True

    def _present(
        self, keys: str, what: str, deadline: Optional[Deadline] = None, **options: bool
    ) -> Iterator[KeyValueEntry]:
        """What is there now."""
        deadline = deadline or self._deadline()
        with self._watch(keys, deadline, None, what=what, follows=False, **options) as watcher:
            while True:
                try:
                    entry = watcher.take(deadline)
                except Abandoned:
                    raise RequestTimeoutError(
                        f"KeyValue.{what} was not through within {deadline.timeout:g} s: with_timeout allows more"
                    ) from None
                if not isinstance(entry, KeyValueEntry):
                    return
                yield entry

    # -- changes ------------------------------------------------------------------------------------------------------

    def watch(
        self,
        keys: Keys,
        headers_only: bool = False,
        include_history: bool = False,
        ignore_deletes: bool = False,
        meta_only: bool = False,
        inactive_threshold: Optional[float] = None,
        *,
        updates_only: bool = False,
        handler: Optional[EntryHandler] = None,
    ) -> KeyWatcher:
        """Follow keys: the value that each has now, then None once, then every change.

        keys: a key, a pattern with wildcards (``*`` for one part between dots, ``>`` for all further ones), or several.
        headers_only, meta_only: without the values (either name does it).
        include_history: begin with all values that the bucket holds, not with the latest of each key.
        ignore_deletes: leave out deletions.
        inactive_threshold: seconds without a reader after which the server forgets the watcher; it then remembers itself.
            300 if None or 0.
        updates_only: only changes from now on, and no None.
        handler: ``handler(entry)``, called for one entry at a time, in order, on a thread of its own; without the None (see
            ``KeyWatcher.wait_initial``). What it raises is logged and goes to the pool's ``error_callback``.

        Raises BucketNotFoundError, BadSubjectError, TypeError, ValueError, and what every call raises.
        """
        return self._watch(
            keys,
            self._deadline(),
            handler,
            include_history=include_history,
            ignore_deletes=ignore_deletes,
            meta_only=meta_only or headers_only,
            inactive_threshold=inactive_threshold,
            updates_only=updates_only,
        )

    def watchall(
        self,
        *,
        headers_only: bool = False,
        include_history: bool = False,
        ignore_deletes: bool = False,
        meta_only: bool = False,
        inactive_threshold: Optional[float] = None,
        updates_only: bool = False,
        handler: Optional[EntryHandler] = None,
    ) -> KeyWatcher:
        """Follow all keys; parameters and errors as in ``watch``."""
        return self.watch(
            ">",
            headers_only,
            include_history,
            ignore_deletes,
            meta_only,
            inactive_threshold,
            updates_only=updates_only,
            handler=handler,
        )

    def _watch(
        self,
        keys: Keys,
        deadline: Deadline,
        handler: Optional[EntryHandler],
        *,
        include_history: bool = False,
        ignore_deletes: bool = False,
        meta_only: bool = False,
        inactive_threshold: Optional[float] = None,
        updates_only: bool = False,
        what: str = "watch",
        follows: bool = True,
    ) -> KeyWatcher:
        if handler is not None:
            check_handler(handler)
        patterns = _several(keys, "keys")
        if not patterns:
            raise ValueError("keys is empty: pass a key, or '>' for all")
        policy = api.DeliverPolicy.ALL if include_history else api.DeliverPolicy.LAST_PER_SUBJECT
        consumer = self._read(
            [f"{self._pre}{pattern}" for pattern in patterns],
            deadline,
            what=f"KeyValue.{what}",
            deliver_policy=api.DeliverPolicy.NEW if updates_only else policy,
            headers_only=meta_only,
            inactive_threshold=inactive_threshold,
        )
        bucket, skip = self._name, len(self._pre)

        def decode(message: JetStreamMessage) -> Optional[KeyValueEntry]:
            operation = operation_of(message)
            if operation == "" or (ignore_deletes and operation in _DELETED):
                return None
            metadata: Any = message.metadata
            return KeyValueEntry(
                bucket=bucket,
                key=message.subject[skip:],
                value=message.data,
                revision=metadata.sequence.stream,
                delta=metadata.num_pending,
                created=metadata.timestamp,
                operation=operation,
            )

        return KeyWatcher(self, consumer, decode, updates_only=updates_only, handler=handler, follows=follows)


def _check_revision(value: object, name: str) -> None:
    """None, or what can be a revision: of a larger number the server takes the last 64 bits, which may be another one."""
    if value is not None and check_count(value, name, 0) >= 2**64:
        raise ValueError(f"{name} must be less than 2**64, not {value}: it is no revision")


def _several(texts: Keys, name: str) -> Sequence[str]:
    if not isinstance(texts, (str, list, tuple)):
        raise TypeError(f"{name} must be a str or a list of them, not {texts!r} ({type(texts).__name__})")
    several = [texts] if isinstance(texts, str) else texts
    for text in several:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be a str or several, not {text!r} ({type(text).__name__})")
    return several


def operation_of(message: JetStreamMessage) -> Optional[str]:
    """``DEL`` or ``PURGE`` for a marker, None for a value, "" for a marker of the server's that nobody knows yet."""
    headers = message.headers or {}
    operation = headers.get(KV_OP)
    if operation is not None or KV_MARKER_REASON not in headers:
        return operation
    return _MARKERS.get(headers[KV_MARKER_REASON], "")
