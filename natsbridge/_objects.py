"""The parts of an object in a store: what is known of it, and its chunks."""

from __future__ import annotations

import base64
import binascii
import datetime
import json
from collections import deque
from hashlib import sha256
from typing import TYPE_CHECKING, Callable, Deque, Optional, Tuple

import nats.js.errors
from nats.js import api
from nats.js.object_store import OBJ_CHUNKS_PRE_TEMPLATE, OBJ_DIGEST_TEMPLATE, OBJ_DIGEST_TYPE

from ._acks import PublishFuture
from ._deadline import Deadline
from ._files import Source
from .errors import Error, NatsBridgeError

if TYPE_CHECKING:
    from .jetstream import JetStream

Progress = Callable[[int, Optional[int]], object]

_UNACKNOWLEDGED = 1024 * 1024  # bytes of chunks that may be on their way


def check_meta(meta: object) -> None:
    """What nats-py would store, whatever it is, for other clients to stumble over. Raises TypeError."""
    if not isinstance(meta, api.ObjectMeta):
        raise TypeError(f"meta must be an ObjectMeta (of nats.js.api), not {meta!r} ({type(meta).__name__})")
    check_kind(meta.options, api.ObjectMetaOptions, "meta.options")
    check_kind(meta.description, str, "meta.description")
    check_kind(meta.headers, dict, "meta.headers")
    for name, value in (meta.headers or {}).items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in (name, *values)):
            raise TypeError(f"meta.headers must have a str, or a list of them, for each name, not {{{name!r}: {value!r}}}")


def check_kind(value: object, kind: type, name: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be of type {kind.__name__}, or None, not {value!r} ({type(value).__name__})")


def parse_info(data: Optional[bytes], stored: Optional[datetime.datetime]) -> api.ObjectInfo:
    """``stored``: the time of the message, which is the object's (ADR-20). Raises nats-py's BadObjectMetaError."""
    try:
        info: api.ObjectInfo = api.ObjectInfo.from_response(json.loads(data or b""))
    except Exception as error:
        raise nats.js.errors.BadObjectMetaError(f"this is no description of an object: {str(data)[:200]}") from error
    if stored is not None:
        info.mtime = stored.isoformat()
    return info


def digest_of(info: api.ObjectInfo) -> Optional[bytes]:
    """The SHA-256 that an object must have; None for one that was deleted. Raises nats-py's BadObjectMetaError."""
    if info.deleted:
        return None
    kind, _, value = (info.digest or "").partition("=")
    try:
        if f"{kind.upper()}=" == OBJ_DIGEST_TYPE:
            return base64.urlsafe_b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4))
    except (binascii.Error, ValueError):
        pass
    raise nats.js.errors.BadObjectMetaError(f"object {info.name!r} has no SHA-256 digest, but {info.digest!r}")


def chunks_of(info: api.ObjectInfo) -> str:
    """The subject of an object's chunks."""
    return OBJ_CHUNKS_PRE_TEMPLATE.format(bucket=info.bucket, obj=info.nuid)


def remove_chunks(js: JetStream, stream: str, info: api.ObjectInfo) -> None:
    """Raises what ``purge_stream`` raises."""
    if info.nuid:
        js.purge_stream(stream, subject=chunks_of(info))


class Upload:
    """The chunks of one object on their way to the store; one thread's."""

    def __init__(self, js: JetStream, stream: str, info: api.ObjectInfo, progress: Optional[Progress]) -> None:
        """``info``: gets size, chunks and digest."""
        # One of its own: whoever waits for the caller's publishes does not wait for these.
        self._js = type(js)(js._pool, settings=js._settings, timeout=js.timeout)
        self._stream, self._info, self._progress = stream, info, progress
        self._pending: Deque[Tuple[PublishFuture, int]] = deque()
        self._size = self._chunks = self._last = 0  # of what is stored; the sequence number of its last message

    def send(self, content: Source) -> None:
        """Read and publish all of it; returns once every chunk is stored. Raises what reading and publishing raise."""
        info, digest = self._info, sha256()
        assert info.options is not None
        assert info.options.max_chunk_size is not None
        size, subject = info.options.max_chunk_size, chunks_of(info)
        ahead = max(2, _UNACKNOWLEDGED // size)
        while True:
            chunk = content.read(size)
            if not chunk:
                break
            digest.update(chunk)
            self._pending.append((self._js.publish_async(subject, chunk), len(chunk)))
            self._await(ahead - 1, content.size)
        self._await(0, content.size)
        info.size, info.chunks = self._size, self._chunks
        info.digest = OBJ_DIGEST_TEMPLATE.format(digest=base64.urlsafe_b64encode(digest.digest()).decode())

    def _await(self, most: int, total: Optional[int]) -> None:
        """Until no more than ``most`` chunks are on their way."""
        while len(self._pending) > most:
            future, length = self._pending[0]
            seq = future.result().seq
            self._pending.popleft()
            if seq <= self._last:  # one had to be sent again, because the stream did not answer
                raise NatsBridgeError(f"the chunks of object {self._info.name!r} were not stored in order: put it again")
            self._last = seq
            self._size += length
            self._chunks += 1
            if self._progress is not None:
                self._progress(self._size, total)

    def undo(self) -> None:
        """Remove what is stored of it, once nothing is on its way any more; reports what cannot be removed."""
        deadline = Deadline(self._js.timeout)
        stored = self._chunks > 0
        for future, _ in self._pending:
            future.withdraw()  # it would be sent after the connection is back, and after the others are removed
        try:
            for future, _ in self._pending:
                refused = isinstance(future.exception(deadline.remaining()), nats.js.errors.APIError)
                stored = stored or not refused
            if stored:
                remove_chunks(self._js, self._stream, self._info)
        except nats.js.errors.NotFoundError:
            pass  # and the stream with them
        except Error as error:
            self._js._pool._report(
                NatsBridgeError(f"chunks of object {self._info.name!r}, which was not stored, are left: {error}")
            )
