"""``ObjectStore``: objects of any size in JetStream, blocking."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import io
from hashlib import sha256
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Tuple

import nats.js.errors
from nats.js import api
from nats.js.object_store import OBJ_ALL_META_PRE_TEMPLATE, OBJ_DEFAULT_CHUNK_SIZE, OBJ_META_PRE_TEMPLATE
from nats.js.object_store import ObjectStore as NatsObjectStore
from nats.nuid import NUID

from ._blocking import Channel, blocking
from ._bucket import Bucket, Tail
from ._changes import Change, Found, find, take_away
from ._deadline import Deadline
from ._files import Content, Target, source, target
from ._objects import Progress, Upload, check_meta, chunks_of, digest_of, insist, left_over, parse_info, remove_chunks
from ._waiter import Abandoned
from ._watching import Watcher
from .errors import Error, NatsBridgeError, RequestTimeoutError
from .jsmessage import JetStreamMessage
from .options import MAX_SUBJECT_BYTES, check_count, check_handler

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from .jetstream import JetStream

_MOST_LINKS = 8
_MOST_READS = 10  # of an object that is replaced each time

_REPLACED = "it was replaced while it was read, so get it again"

InfoHandler = Callable[[api.ObjectInfo], object]


class ObjectWatcher(Watcher[api.ObjectInfo]):
    __doc__ = Watcher.__doc__


class ObjectStore(Bucket):
    """An object store; made by ``JetStream.object_store`` and ``create_object_store``.

    Methods, parameters and errors are those of nats-py's ``ObjectStore``, blocking. Each call has a deadline, ``timeout``
    seconds from its beginning; only ``put`` and ``get`` take as long as they need, but may not stand still for so long.
    ``with_timeout`` gives the same object with another. Thread-safe; works on in a forked child. When the bucket itself is
    gone, every method raises nats-py's BucketNotFoundError.
    """

    ObjectResult: TypeAlias = NatsObjectStore.ObjectResult
    ObjectStoreStatus: TypeAlias = NatsObjectStore.ObjectStoreStatus

    def __init__(self, js: JetStream, name: str, stream: str) -> None:
        """Made by ``JetStream``."""
        super().__init__(js, name, stream)

    def _native(self, channel: Channel) -> NatsObjectStore:
        return NatsObjectStore(self._name, self._stream, self._js._native(channel))

    # -- what is there ------------------------------------------------------------------------------------------------

    def get_info(self, name: str, show_deleted: Optional[bool] = False) -> api.ObjectInfo:
        """What is known of an object; ``mtime`` is when it was stored, by the server's clock.

        show_deleted: also of one that was deleted. Raises nats-py's ObjectNotFoundError, BadObjectMetaError,
        InvalidObjectNameError, and what every call raises.
        """
        info = self._find(name).info
        if info is None or (info.deleted and not show_deleted):
            raise self._no_object(name, info)
        return info

    def _find(self, name: str) -> Found:
        subject = self._meta(name)
        with self._explaining():
            return find(self._api, self._stream, subject)

    def list(self, ignore_deletes: bool = False) -> List[api.ObjectInfo]:
        """All objects, in the order of their last change, with those that were deleted unless ``ignore_deletes``.

        Raises nats-py's NotFoundError when there are none, RequestTimeoutError, and what every call raises.
        """
        deadline = Deadline(self._timeout)
        found: Dict[str, api.ObjectInfo] = {}  # in order
        with self._watch(deadline, None, what="list", follows=False) as watcher:
            while True:
                try:
                    info = watcher.take(deadline)
                except Abandoned:
                    raise RequestTimeoutError(
                        f"ObjectStore.list was not through within {self._timeout:g} s: with_timeout allows more"
                    ) from None
                if not isinstance(info, api.ObjectInfo):
                    break
                found.pop(info.name, None)  # one that is changed meanwhile comes again
                if not (ignore_deletes and info.deleted):
                    found[info.name] = info
        if not found:
            raise nats.js.errors.NotFoundError(404, f"there are no objects in bucket {self._name!r}")
        return [*found.values()]

    def watch(
        self,
        ignore_deletes: bool = False,
        include_history: bool = False,
        meta_only: bool = False,
        updates_only: bool = False,
        *,
        handler: Optional[InfoHandler] = None,
    ) -> ObjectWatcher:
        """Follow the store: an ``ObjectInfo`` for each object there is, then None once, then one for every change.

        ignore_deletes: leave out deletions.
        include_history: as in nats-py; a store keeps one ``ObjectInfo`` for each object.
        meta_only: as in nats-py, without effect: the contents never come.
        updates_only: only changes from now on, and no None.
        handler: ``handler(info)``, called for one at a time, in order, on a thread of its own; without the None (see
            ``ObjectWatcher.wait_initial``). What it raises is logged and goes to the pool's ``error_callback``.

        Raises TypeError, and what every call raises.
        """
        return self._watch(
            Deadline(self._timeout),
            handler,
            ignore_deletes=ignore_deletes,
            include_history=include_history,
            updates_only=updates_only,
        )

    def _watch(
        self,
        deadline: Deadline,
        handler: Optional[InfoHandler],
        *,
        what: str = "watch",
        ignore_deletes: bool = False,
        include_history: bool = False,
        updates_only: bool = False,
        follows: bool = True,
    ) -> ObjectWatcher:
        if handler is not None:
            check_handler(handler)
        policy = api.DeliverPolicy.ALL if include_history else api.DeliverPolicy.LAST_PER_SUBJECT
        consumer = self._read(
            OBJ_ALL_META_PRE_TEMPLATE.format(bucket=self._name),
            deadline,
            what=f"ObjectStore.{what}",
            deliver_policy=api.DeliverPolicy.NEW if updates_only else policy,
        )

        def decode(message: JetStreamMessage) -> Optional[api.ObjectInfo]:
            info = parse_info(message.data, message.metadata.timestamp)
            return None if ignore_deletes and info.deleted else info

        return ObjectWatcher(self, consumer, decode, updates_only=updates_only, handler=handler, follows=follows)

    status = blocking(NatsObjectStore.status)

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(
        self,
        name: str,
        writeinto: Optional[Target] = None,
        show_deleted: Optional[bool] = False,
        *,
        progress: Optional[Progress] = None,
    ) -> NatsObjectStore.ObjectResult:
        """Fetch an object; its digest is checked. Links are followed.

        One that is replaced meanwhile is read anew, ten times at most, and ``progress`` begins anew with it; not when some
        of the former one was already given to a file that the caller has opened.

        writeinto: a path, which gets the content when it is complete and checked, and is left alone otherwise; or a file
            that is open for writing, which is given the content as it comes. Without one, it is in the result's ``data``.
        progress: ``progress(bytes so far, bytes in all)``, called by this thread after each chunk; what it raises ends the
            call.

        Memory: about 4 MiB, whatever the size, when it is written to a file. Raises nats-py's ObjectNotFoundError,
        DigestMismatchError (also when chunks are missing; it says why), BadObjectMetaError, LinkIsABucketError;
        RequestTimeoutError when nothing comes for ``timeout`` seconds; what writing raises; TypeError, and what every call
        raises.
        """
        if progress is not None:
            check_handler(progress, "progress")
        for left in reversed(range(_MOST_READS)):
            store, info = self._resolve(name, show_deleted)
            memory = io.BytesIO()
            try:
                with target(memory if writeinto is None else writeinto) as sink:
                    store._fetch(info, sink.write, progress)
            except nats.js.errors.DigestMismatchError as error:
                cause = store._what_became_of(info)
                if cause == _REPLACED and left and (writeinto is None or not sink.begun):
                    continue
                raise nats.js.errors.DigestMismatchError(f"{error.description}: {cause}") from None
            break
        return self.ObjectResult(info, memory.getvalue()) if writeinto is None else self.ObjectResult(info)

    def _resolve(self, name: str, show_deleted: Optional[bool]) -> Tuple[ObjectStore, api.ObjectInfo]:
        """What is to be read, and the store that holds it."""
        store, info = self, self.get_info(name, show_deleted)
        for _ in range(_MOST_LINKS):
            link = info.options.link if info.options is not None else None
            if link is None:
                break
            if not link.name:
                raise nats.js.errors.LinkIsABucketError(f"{name!r} links to bucket {link.bucket!r}, not to an object")
            store = self._js.object_store(link.bucket).with_timeout(self._timeout)
            info = store.get_info(link.name)
        else:
            raise nats.js.errors.BadObjectMetaError(f"{name!r} is a link to a link and so on, {_MOST_LINKS} times")
        if not info.nuid:
            raise nats.js.errors.BadObjectMetaError(f"object {name!r} has no nuid, so nobody knows where its chunks are")
        return store, info

    def _what_became_of(self, info: api.ObjectInfo) -> str:
        """Why an object could not be read whole."""
        now = self._find(info.name).info
        if now is None or now.deleted:
            return "it was deleted while it was read"
        if now.nuid != info.nuid:
            return _REPLACED
        return "some of its chunks have expired, or were removed or changed"

    def _fetch(self, info: api.ObjectInfo, write: Callable[[bytes], object], progress: Optional[Progress]) -> None:
        """Read the object, check it, and write its chunks."""
        digest, done = sha256(), 0
        wanted = digest_of(info)
        if info.size:
            with self._read(chunks_of(info), Deadline(self._timeout), what="ObjectStore.get") as consumer:
                tail = Tail(self, consumer)
                while done < info.size:
                    chunk = self._next_chunk(tail, info, done)
                    write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, info.size)
        if wanted is not None and digest.digest() != wanted:
            raise nats.js.errors.DigestMismatchError(f"object {info.name!r} is damaged, its digest is another one")

    def _next_chunk(self, tail: Tail, info: api.ObjectInfo, done: int) -> bytes:
        deadline = Deadline(self._timeout)
        while not tail.caught_up:
            try:
                message = tail.next(deadline)
            except Abandoned:
                if deadline.passed() and not tail.caught_up:
                    raise RequestTimeoutError(
                        f"nothing of object {info.name!r} came for {self._timeout:g} s, after {done} of {info.size} bytes"
                    ) from None
                continue
            assert message is not None, "nobody else ends this consumer"
            return message.data
        raise nats.js.errors.DigestMismatchError(f"object {info.name!r} is incomplete, {done} of {info.size} bytes")

    # -- writing ------------------------------------------------------------------------------------------------------

    def put(
        self,
        name: str,
        data: Content,
        meta: Optional[api.ObjectMeta] = None,
        *,
        progress: Optional[Progress] = None,
    ) -> api.ObjectInfo:
        """Store an object, in place of the one of that name if there is one; readers see the old one or the new one.

        Of several changes at once each one replaces the one before it: the last one stays, and no chunks of the others.

        data: bytes; a file that is open for reading, which is read to its end from where it stands; a ``pathlib.Path`` to
            a file; or a str, which is stored as UTF-8 (it is no path).
        meta: ``description``, ``headers``, and ``options`` with ``max_chunk_size`` (128 KiB by default); it stays as it is.
        progress: ``progress(bytes stored, bytes in all or None)``, called by this thread after each chunk; what it raises
            ends the call.

        Memory: a few MiB, whatever the size of a file. When it fails or is interrupted, the chunks that were stored are
        removed and a former object is untouched; but an interrupt (Ctrl-C) in the very last step is raised when that is
        done. When the store does not say whether it has the object, no chunks are removed, and ``error_callback`` is told.
        Raises RequestTimeoutError when nothing is acknowledged for ``timeout`` seconds; nats-py's APIError when the store
        is full or sealed; what reading raises; InvalidObjectNameError, MaxPayloadError (a chunk size beyond the server's),
        TypeError, ValueError, and what every call raises.
        """
        if progress is not None:
            check_handler(progress, "progress")
        if meta is not None:
            check_meta(meta)
        meta = dataclasses.replace(meta) if meta is not None else api.ObjectMeta()
        meta.name = name if name or meta.name is None else meta.name
        subject = self._meta(meta.name)
        options = meta.options or api.ObjectMetaOptions()
        if options.link is not None:
            raise ValueError("meta.options.link is for links, which have no content")
        if options.max_chunk_size is None:
            most = self._pool._link(Deadline(self._timeout)).connection.max_payload
            options = dataclasses.replace(options, max_chunk_size=min(OBJ_DEFAULT_CHUNK_SIZE, most))
        check_count(options.max_chunk_size, "max_chunk_size")
        info = api.ObjectInfo(
            name=meta.name,
            description=meta.description,
            headers=meta.headers,
            options=options,
            bucket=self._name,
            nuid=NUID().next().decode(),
        )
        with source(data) as content, self._explaining():
            upload = Upload(self._api, self._stream, info, progress)
            change = self._change(subject, lambda former: info)
            try:
                upload.send(content)
                self._make(change)
            except BaseException:
                if change.stored is False:
                    insist(upload.undo)
                raise
        info.mtime = datetime.datetime.now(datetime.timezone.utc).isoformat()
        return info

    def _change(self, subject: str, describe: Callable[[Optional[api.ObjectInfo]], api.ObjectInfo]) -> Change:
        return Change(self._api, self._stream, subject, describe)

    def _make(self, change: Change) -> None:
        """Make the change, and remove the chunks that nobody can find any more; once it is begun, an interrupt comes after.

        Chunks are removed when it is certain that no description names them: some that are left over do less harm than an
        object without.
        """
        try:
            change.make(Deadline(self._timeout))
            self._remove_former(change)
        except BaseException as error:
            if change.stored is None:
                self._settle(change)
            if not change.stored:
                raise
            self._remove_former(change)
            if not isinstance(error, Error):
                raise

    def _settle(self, change: Change) -> None:
        try:
            change.settle(Deadline(self._timeout))
        except nats.js.errors.NotFoundError:
            change.stored = False
            raise  # with the bucket, all of it is gone
        except Error as error:
            assert change.info is not None
            self._pool._report(
                NatsBridgeError(
                    f"nobody knows whether object {change.info.name!r} in bucket {self._name!r} was changed, so all chunks "
                    f"are kept, of the former one too: {error}"
                )
            )

    def _remove_former(self, change: Change) -> None:
        former, info = change.former, change.info
        assert info is not None
        if former is None or former.deleted or (former.nuid == info.nuid and not info.deleted):
            return
        try:
            insist(lambda: remove_chunks(self._api, self._stream, former))
        except Error as error:  # too late to fail
            self._pool._report(left_over(former, error))

    def delete(self, name: str) -> None:
        """Delete an object; a marker remains, which watchers see.

        Raises ObjectNotFoundError, InvalidObjectNameError, RequestTimeoutError (it may be deleted or not), and what every
        call raises.
        """

        def marker(info: Optional[api.ObjectInfo]) -> api.ObjectInfo:
            if info is None or info.deleted:
                raise self._no_object(name, info)
            return dataclasses.replace(info, deleted=True, size=0, chunks=0, digest="")

        subject = self._meta(name)
        with self._explaining():
            self._make(self._change(subject, marker))

    def update_meta(self, name: str, meta: api.ObjectMeta) -> None:
        """Change an object's ``description``, ``headers`` and, if ``meta.name`` is another one, its name.

        Raises nats-py's ObjectDeletedError when there is no object ``name``, ObjectAlreadyExists when there is one of the
        new name, InvalidObjectNameError, RequestTimeoutError (it may be changed or not), TypeError, and what every call
        raises.
        """
        check_meta(meta)
        new_name = name if meta.name is None else meta.name
        subject, new_subject = self._meta(name), self._meta(new_name)

        def changed(info: Optional[api.ObjectInfo]) -> api.ObjectInfo:
            if info is None or info.deleted:
                raise nats.js.errors.ObjectDeletedError(404, f"there is no object {name!r} in bucket {self._name!r}")
            return dataclasses.replace(info, name=new_name, description=meta.description, headers=meta.headers)

        with self._explaining():
            if new_name == name:
                self._make(self._change(subject, changed))
            else:
                self._rename(name, subject, new_subject, changed)

    def _rename(
        self, name: str, subject: str, new_subject: str, changed: Callable[[Optional[api.ObjectInfo]], api.ObjectInfo]
    ) -> None:
        """The chunks stay where they are, so that in the end only one of two descriptions may name them."""
        deadline = Deadline(self._timeout)
        while True:
            old = find(self._api, self._stream, subject)
            info = changed(old.info)

            def renamed(other: Optional[api.ObjectInfo], info: api.ObjectInfo = info) -> api.ObjectInfo:
                if other is not None and not other.deleted:
                    raise nats.js.errors.ObjectAlreadyExists(f"there is an object {info.name!r} in bucket {self._name!r}")
                return info

            change = self._change(new_subject, renamed)
            try:
                self._make(change)
                if self._take_away(old.seq):
                    return
            except BaseException:
                if change.stored and not self._take_away(old.seq) and find(self._api, self._stream, subject).seq:
                    self._take_away(change.seq)
                raise
            self._take_away(change.seq)  # somebody has changed the old one meanwhile, and may have removed the chunks
            if deadline.passed():
                raise RequestTimeoutError(
                    f"others changed object {name!r} all the time, for {self._timeout:g} s: it still has this name"
                )

    def _take_away(self, seq: int) -> bool:
        return take_away(self._api, self._stream, seq)

    def seal(self) -> None:
        """Let nobody change the store any more, for good; reading goes on."""
        self._call(NatsObjectStore.seal)

    # -- names --------------------------------------------------------------------------------------------------------

    def _meta(self, name: object) -> str:
        """The subject of an object's ``ObjectInfo``. Names may be anything: they travel encoded."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {name!r} ({type(name).__name__})")
        if not name:
            raise nats.js.errors.InvalidObjectNameError("'': an object needs a name")
        try:
            encoded = base64.urlsafe_b64encode(name.encode()).decode()
        except UnicodeEncodeError:
            raise nats.js.errors.InvalidObjectNameError(f"{name!r} cannot be encoded as UTF-8") from None
        if len(encoded) > MAX_SUBJECT_BYTES - 200:
            raise nats.js.errors.InvalidObjectNameError(f"{name[:40]!r}… is {len(name.encode())} bytes long, 2,100 at most")
        return OBJ_META_PRE_TEMPLATE.format(bucket=self._name, obj=encoded)

    def _no_object(self, name: str, info: Optional[api.ObjectInfo]) -> nats.js.errors.ObjectNotFoundError:
        more = "" if info is None else " any more: it was deleted"
        return nats.js.errors.ObjectNotFoundError(404, f"there is no object {name!r} in bucket {self._name!r}{more}")
