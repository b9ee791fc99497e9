"""The parts of an object in a store: what is known of it, and its chunks."""

from __future__ import annotations

import base64
import binascii
import datetime
import json
from collections import deque
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Callable, Deque, Optional, Tuple

import nats.js.errors
from nats.js import api
from nats.js.object_store import OBJ_CHUNKS_PRE_TEMPLATE, OBJ_DIGEST_TEMPLATE, OBJ_DIGEST_TYPE

from ._acks import PublishFuture
from ._files import Source
from .errors import ClosedError, Error, NatsBridgeError, RequestTimeoutError

if TYPE_CHECKING:
    from .jetstream import JetStream

Progress = Callable[[int, Optional[int]], object]

_LOOK = 1.0  # seconds without an acknowledgement after which the server is asked whether the stream is still there
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


def left_over(info: api.ObjectInfo, error: Error) -> NatsBridgeError:
    """What is reported of chunks that could not be removed."""
    return NatsBridgeError(
        f"chunks of object {info.name!r} are left in bucket {info.bucket!r}, on subject {chunks_of(info)!r}: {error}"
    )


def insist(step: Callable[[], None]) -> None:
    """Do what may be done twice; an interrupt in its middle is raised when it has been done."""
    try:
        step()
    except Exception:
        raise
    except BaseException:
        step()
        raise


class Upload:
    """The chunks of one object on their way to the store; one thread's."""

    def __init__(self, js: JetStream, stream: str, info: api.ObjectInfo, progress: Optional[Progress]) -> None:
        """``info``: gets size, chunks and digest."""
        # One of its own: whoever waits for the caller's publishes does not wait for these.
        self._js = type(js)(js._pool, settings=js._settings, timeout=js.timeout)
        self._stream, self._info, self._progress = stream, info, progress
        self._pending: Deque[Tuple[PublishFuture, int]] = deque()
        self._size = self._chunks = self._last = 0  # of what is stored; the sequence number of its last message
        self._interrupted = False  # in the middle of publishing a chunk, which may be on its way

    def send(self, content: Source) -> None:
        """Read and publish all of it; returns once every chunk is stored. Raises what reading and publishing raise."""
        info, digest = self._info, sha256()
        assert info.options is not None
        assert info.options.max_chunk_size is not None
        size = info.options.max_chunk_size
        ahead = max(2, _UNACKNOWLEDGED // size)
        while True:
            chunk = content.read(size)
            if not chunk:
                break
            digest.update(chunk)
            self._publish(chunk)
            self._await(ahead - 1, content.size)
        self._await(0, content.size)
        info.size, info.chunks = self._size, self._chunks
        info.digest = OBJ_DIGEST_TEMPLATE.format(digest=base64.urlsafe_b64encode(digest.digest()).decode())

    def _publish(self, chunk: bytes) -> None:
        self._interrupted = True
        try:
            future = self._js.publish_async(chunks_of(self._info), chunk)
        except ClosedError:
            raise ClosedError(f"the pool was closed before object {self._info.name!r} was stored") from None
        self._pending.append((future, len(chunk)))
        self._interrupted = False

    def _await(self, most: int, total: Optional[int]) -> None:
        """Until no more than ``most`` chunks are on their way."""
        while len(self._pending) > most:
            future, length = self._pending[0]
            self._wait(future)
            seq = future.result().seq
            if seq <= self._last:  # one had to be sent again, because the stream did not answer
                raise NatsBridgeError(f"the chunks of object {self._info.name!r} were not stored in order: put it again")
            self._last = seq
            self._size += length
            self._chunks += 1
            self._pending.popleft()  # last, so that an interrupt does not make undo() miss it
            if self._progress is not None:
                self._progress(self._size, total)

    def _wait(self, future: PublishFuture) -> None:
        """Until it is settled. Raises nats-py's NotFoundError when there is no stream any more, which nobody else tells."""
        while not future.done():
            try:
                future.exception(_LOOK)
            except RequestTimeoutError:
                with suppress(RequestTimeoutError):
                    self._js.with_timeout(min(_LOOK, self._js.timeout)).stream_info(self._stream)

    def undo(self) -> None:
        """Remove what is stored of it, once nothing is on its way any more; reports what cannot be removed."""
        stored = self._chunks > 0
        for future, _ in self._pending:
            future.withdraw()  # it would be sent after the connection is back, and after the others are removed
        try:
            if self._interrupted:
                self._publish(b"")  # comes behind a chunk that nobody waits for
            for future, _ in self._pending:
                self._wait(future)
                stored = stored or not isinstance(future.exception(), nats.js.errors.APIError)
            if stored:
                remove_chunks(self._js, self._stream, self._info)
        except nats.js.errors.NotFoundError:
            pass  # and the stream with them
        except Error as error:
            self._js._pool._report(left_over(self._info, error))
