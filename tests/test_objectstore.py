"""Object stores: what goes in comes out, with bounded memory; what fails leaves nothing behind."""

from __future__ import annotations

import asyncio
import inspect
import io
import itertools
import json
import os
import socket
import sys
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, cast

import nats
import nats.js.errors
import pytest
from nats.js.api import ObjectLink, ObjectMeta, ObjectMetaOptions, ObjectStoreConfig, StorageType
from nats.js.object_store import ObjectStore as NatsObjectStore
from procs import LONG, WaitFor
from proxy import Proxy

import natsbridge
from natsbridge import (
    ClosedError,
    DisconnectedError,
    JetStream,
    MaxPayloadError,
    NatsBridgeError,
    ObjectStore,
    ObjectWatcher,
    Pool,
    RequestTimeoutError,
)
from natsbridge.server import EmbeddedServer

BLOB = os.urandom(1_000_003)
SMALL = ObjectMeta(options=ObjectMetaOptions(max_chunk_size=1000))


@pytest.fixture
def store(js: JetStream, unique: str) -> Iterator[ObjectStore]:
    """An empty object store in memory."""
    yield js.create_object_store(unique, storage=StorageType.MEMORY)
    with suppress(natsbridge.Error):  # the test may have deleted it, or closed the pool
        js.delete_object_store(unique)


def messages(store: ObjectStore) -> int:
    """Chunks and descriptions that the store holds."""
    return store.status().stream_info.state.messages


def content(store: ObjectStore, name: str) -> Optional[bytes]:
    return store.get(name).data


# -- in and out --------------------------------------------------------------------------------------------------------


def test_signatures_are_those_of_nats_py() -> None:
    for name in ("get_info", "get", "put", "status", "seal", "update_meta", "watch", "delete", "list"):
        ours = list(inspect.signature(getattr(ObjectStore, name)).parameters.values())
        theirs = list(inspect.signature(getattr(NatsObjectStore, name)).parameters.values())
        assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs], name
        assert all(p.kind is p.KEYWORD_ONLY for p in ours[len(theirs) :]), name


@pytest.mark.parametrize("data", [b"", b"x", BLOB, bytearray(b"ab"), memoryview(b"abc")[1:]], ids=len)
def test_bytes(store: ObjectStore, data: Any) -> None:
    info = store.put("a name. with/anything é", data)
    assert (info.size, info.chunks) == (len(data), -(-len(data) // (128 * 1024)))
    result = store.get("a name. with/anything é")
    assert result.data == bytes(data)
    assert (result.info.digest, result.info.nuid, result.info.size) == (info.digest, info.nuid, info.size)


def test_text_is_stored_as_utf_8(store: ObjectStore) -> None:
    store.put("a", "é")
    assert content(store, "a") == "é".encode()


def test_files_and_paths(store: ObjectStore, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(BLOB)
    store.put("path", source)
    with source.open("rb") as file:
        assert file.read(3) == BLOB[:3]
        store.put("rest of a file", file)
        assert not file.closed
    store.put("in memory", io.BytesIO(BLOB))
    with source.open("r", encoding="latin-1") as text:  # as in nats-py: what is below it counts
        store.put("text file", text)
    assert content(store, "rest of a file") == BLOB[3:]
    assert [content(store, name) == BLOB for name in ("path", "in memory", "text file")] == [True] * 3

    assert store.get("path", target).data == b""
    assert target.read_bytes() == BLOB
    store.get("path", str(target))
    into = io.BytesIO()
    store.get("path", into)
    assert into.getvalue() == BLOB
    with target.open("wb", buffering=0) as unbuffered:
        store.get("path", unbuffered)
    assert target.read_bytes() == BLOB
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
def test_a_targets_links_and_mode_are_kept(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a", b"new")
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    store.get("a", link)
    assert link.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o640)
    store.get("a", os.devnull)
    assert not Path(os.devnull).is_file()


def test_a_source_that_gives_little_at_a_time(store: ObjectStore) -> None:
    near, far = socket.socketpair()
    progress: List[Tuple[int, Optional[int]]] = []
    with near, far, near.makefile("rb", buffering=0) as file:

        def write() -> None:
            for _ in range(5):
                far.sendall(b"x" * 700)
            far.close()

        writer = threading.Thread(target=write)
        writer.start()
        info = store.put("a", file, SMALL, progress=lambda *args: progress.append(args))
        writer.join()
    assert (info.size, info.chunks) == (3500, 4)
    assert progress == [(1000, None), (2000, None), (3000, None), (3500, None)]


def test_a_target_that_takes_little_at_a_time(store: ObjectStore) -> None:
    taken: List[bytes] = []

    class Pipe(io.RawIOBase):
        def write(self, data: Any) -> int:
            taken.append(bytes(data[:1000]))
            return len(taken[-1])

    store.put("a", BLOB)
    store.get("a", Pipe())
    assert b"".join(taken) == BLOB


@pytest.mark.parametrize("written", [0, -1, 11, True, 1.5], ids=repr)
def test_a_target_that_does_not_say_how_much_it_took(store: ObjectStore, written: Any) -> None:
    class File:
        def write(self, data: Any) -> Any:
            return written

    store.put("a", b"0123456789")
    with pytest.raises(OSError, match=f"says that it wrote {written} of 10 bytes"):
        store.get("a", cast(Any, File()))


def test_a_target_that_says_nothing_took_all(store: ObjectStore) -> None:
    taken: List[bytes] = []

    class File:
        def write(self, data: Any) -> None:
            taken.append(bytes(data))

    store.put("a", BLOB)
    store.get("a", cast(Any, File()))
    assert b"".join(taken) == BLOB


@pytest.mark.skipif(os.name != "posix", reason="POSIX pipes")
def test_a_target_that_would_block(store: ObjectStore) -> None:
    store.put("a", BLOB)
    near, far = os.pipe()
    os.set_blocking(far, False)
    with open(near, "rb"), open(far, "wb", buffering=0) as file, pytest.raises(BlockingIOError, match="is not ready"):
        store.get("a", file)


def test_progress(store: ObjectStore) -> None:
    up: List[Tuple[int, Optional[int]]] = []
    down: List[Tuple[int, Optional[int]]] = []
    store.put("a", io.BytesIO(b"x" * 2500), SMALL, progress=lambda *args: up.append(args))
    store.get("a", progress=lambda *args: down.append(args))
    assert up == down == [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert SMALL.name is None, "the caller's meta is the caller's"


def test_nats_py_and_natsbridge_read_each_others_objects(store: ObjectStore, server: EmbeddedServer, unique: str) -> None:
    store.put("ours", BLOB, ObjectMeta(description="from here"))

    async def other() -> List[Any]:
        client = await nats.connect(server.url)
        theirs = await client.jetstream().object_store(unique)
        await theirs.put("theirs", BLOB)
        result = await theirs.get("ours")
        await client.close()
        return [result.data == BLOB, result.info.description]

    assert asyncio.run(other()) == [True, "from here"]
    assert content(store, "theirs") == BLOB


@pytest.mark.parametrize("way", ["put", "get"])
def test_memory_does_not_grow_with_the_object(store: ObjectStore, way: str) -> None:
    size = 24 * 1024 * 1024

    class Zeros(io.RawIOBase):
        """Nothing but zeros, and none of them kept."""

        left = size

        def read(self, count: int = -1) -> bytes:
            given = min(count, self.left)
            self.left -= given
            return bytes(given)

        def write(self, data: Any) -> int:
            return len(data)

    if way == "get":
        store.put("a", Zeros())
    tracemalloc.start()
    try:
        if way == "put":
            assert store.put("a", Zeros()).size == size
        else:
            store.get("a", Zeros())
        assert tracemalloc.get_traced_memory()[1] < size / 3
    finally:
        tracemalloc.stop()


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_arguments_of_the_wrong_kind(js: JetStream, store: ObjectStore) -> None:
    store.put("a", b"x")
    wrong: List[Tuple[Callable[[], object], type, str]] = [
        (lambda: js.create_object_store(), TypeError, "needs a bucket"),
        (lambda: js.create_object_store("a b"), nats.js.errors.InvalidBucketNameError, "letters, digits"),
        (lambda: js.create_object_store("b", ttl="1"), TypeError, "ttl must be a number"),
        (lambda: js.create_object_store("b", "text"), TypeError, "config must be of type ObjectStoreConfig, not 'text'"),  # type: ignore[arg-type]
        (lambda: js.object_store("a.b"), nats.js.errors.InvalidBucketNameError, "letters, digits"),
        (lambda: js.object_store("nope"), nats.js.errors.BucketNotFoundError, "there is no object bucket 'nope'"),
        (lambda: js.delete_object_store("nope"), nats.js.errors.BucketNotFoundError, "no object bucket 'nope'"),
        (lambda: store.put(5, b""), TypeError, "name must be a str"),  # type: ignore[arg-type]
        (lambda: store.put("", b""), nats.js.errors.InvalidObjectNameError, "needs a name"),
        (lambda: store.put("x" * 4000, b""), nats.js.errors.InvalidObjectNameError, "4000 bytes long"),
        (lambda: store.put("\ud800", b""), nats.js.errors.InvalidObjectNameError, "UTF-8"),
        (lambda: store.put("b", 5), TypeError, "data must be bytes, a str, a path or a file"),  # type: ignore[arg-type]
        (lambda: store.put("b", io.StringIO("x")), TypeError, "binary mode"),
        (lambda: store.put("b", Path("/no/such/file")), FileNotFoundError, "no/such"),
        (lambda: store.put("b", b"", progress=5), TypeError, "progress must be callable"),  # type: ignore[arg-type]
        (lambda: store.put("b", b"x", meta_of(max_chunk_size=0)), ValueError, "max_chunk_size"),
        (lambda: store.put("b", bytes(2_000_000), meta_of(max_chunk_size=2_000_000)), MaxPayloadError, "max_payload"),
        (lambda: store.put("b", b"x", meta_of(link=ObjectLink("c"))), ValueError, "link"),
        (lambda: store.put("b", b"x", "text"), TypeError, "meta must be an ObjectMeta.*, not 'text'"),  # type: ignore[arg-type]
        (lambda: store.put("b", b"x", {}), TypeError, "meta must be an ObjectMeta.*, not {}"),  # type: ignore[arg-type]
        (lambda: store.put("b", b"x", wrong_meta(options={})), TypeError, "meta.options must be .*, not {}"),
        (lambda: store.put("b", b"x", wrong_meta(description=5)), TypeError, "meta.description must be .*, not 5"),
        (lambda: store.put("b", b"x", wrong_meta(headers=["c"])), TypeError, r"meta.headers must be .*, not \['c'\]"),
        (lambda: store.put("b", b"x", wrong_meta(headers={"c": 5})), TypeError, "meta.headers must have .*, not {'c': 5}"),
        (lambda: store.get("b"), nats.js.errors.ObjectNotFoundError, "there is no object 'b'"),
        (lambda: store.get("a", 5), TypeError, "writeinto must be a path or a file"),  # type: ignore[arg-type]
        (lambda: store.get("a", io.StringIO()), TypeError, "binary mode"),
        (lambda: store.delete("b"), nats.js.errors.ObjectNotFoundError, "there is no object 'b'"),
        (lambda: store.update_meta("b", ObjectMeta(name="c")), nats.js.errors.ObjectDeletedError, "there is no object 'b'"),
        (lambda: store.update_meta("a", None), TypeError, "meta must be an ObjectMeta.*, not None"),  # type: ignore[arg-type]
        (
            lambda: store.update_meta("a", wrong_meta(headers={5: "c"})),
            TypeError,
            "meta.headers must have .*, not {5: 'c'}",
        ),
        (lambda: store.watch(handler=5), TypeError, "handler must be callable"),  # type: ignore[arg-type]
    ]
    for call, error, text in wrong:
        with pytest.raises(error, match=text):
            call()
    assert [info.name for info in store.list()] == ["a"]
    assert messages(store) == 2


def wrong_meta(**fields: Any) -> ObjectMeta:
    return ObjectMeta(**fields)


def meta_of(**options: Any) -> ObjectMeta:
    return ObjectMeta(options=ObjectMetaOptions(**options))


def test_stores_are_found_and_created(js: JetStream, unique: str) -> None:
    config = ObjectStoreConfig(bucket=unique, description="files", storage=StorageType.MEMORY)
    js.create_object_store(config=config).put("a", b"1")
    assert content(js.object_store(unique), "a") == b"1"
    other = ObjectStoreConfig(description="files", storage=StorageType.MEMORY)
    js.create_object_store(unique, other)
    assert other.bucket is None, "the caller's configuration is the caller's"
    assert js.object_store(unique).status().description == "files"
    assert js.delete_object_store(unique) is True


def test_a_store_that_is_gone(js: JetStream, store: ObjectStore, unique: str) -> None:
    watcher = store.watch()
    assert watcher.updates() is None
    js.delete_object_store(unique)
    calls: List[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.put("a", b""),
        lambda: store.delete("a"),
        store.list,
        store.watch,
        store.status,
        store.seal,
        lambda: watcher.updates(LONG),
    ]
    for call in calls:
        with pytest.raises(nats.js.errors.BucketNotFoundError, match=f"bucket '{unique}' is gone"):
            call()


# -- failures ----------------------------------------------------------------------------------------------------------


class FailingFile(io.BytesIO):
    """Cannot be read to its end."""

    def read(self, size: Optional[int] = -1) -> bytes:
        if self.tell() > 500_000:
            raise OSError("the disk is gone")
        return super().read(size)


def test_a_put_that_fails_leaves_nothing_and_a_former_object_alone(store: ObjectStore) -> None:
    store.put("a", b"former")
    before = messages(store)

    def interrupted(done: int, total: Optional[int]) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    for name in ("a", "b"):
        with pytest.raises(OSError, match="the disk is gone"):
            store.put(name, FailingFile(BLOB))
        with pytest.raises(KeyboardInterrupt):
            store.put(name, BLOB, progress=interrupted)
    assert messages(store) == before
    assert content(store, "a") == b"former"
    with pytest.raises(nats.js.errors.ObjectNotFoundError):
        store.get("b")


def test_a_store_that_is_full(js: JetStream, unique: str) -> None:
    store = js.create_object_store(unique, max_bytes=500_000, storage=StorageType.MEMORY)
    with pytest.raises(nats.js.errors.Error, match="maximum bytes exceeded"):
        store.put("a", BLOB)
    assert messages(store) == 0
    store.put("a", BLOB[:100_000])
    js.delete_object_store(unique)


def test_a_new_object_replaces_the_former_and_its_chunks(store: ObjectStore) -> None:
    store.put("a", BLOB)
    store.put("a", b"new")
    assert content(store, "a") == b"new"
    assert messages(store) == 2


def test_an_answer_that_is_lost_does_not_lose_the_object(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The description is stored, and its acknowledgement comes too late."""
    publish = JetStream.publish

    def deaf(self: JetStream, *args: Any, **kwargs: Any) -> Any:
        publish(self, *args, **kwargs)
        raise RequestTimeoutError("too late")

    monkeypatch.setattr(JetStream, "publish", deaf)
    store.put("a", BLOB)
    assert content(store, "a") == BLOB


def test_an_answer_that_never_comes_removes_nothing(server: EmbeddedServer, store: ObjectStore, wait_for: WaitFor) -> None:
    """What was sent may still arrive, and does: with the chunks removed, neither object would be there."""
    errors: List[Exception] = []
    store.put("a", b"former")
    proxy = Proxy(server.url)
    with Pool(proxy.url, error_callback=errors.append) as pool, pytest.MonkeyPatch.context() as patch:
        cut_off = pool.jetstream(timeout=0.5).object_store(store._name)
        before_publishing(patch, proxy.swallow)
        with pytest.raises(RequestTimeoutError):
            cut_off.put("a", BLOB)
        wait_for(lambda: [e for e in errors if "whether object 'a'" in str(e)], what="a report")
        assert content(store, "a") == b"former"
        proxy.restore()
        wait_for(lambda: content(store, "a") == BLOB, what="what TCP has kept")
    proxy.close()


def test_a_store_that_is_deleted_during_a_put(js: JetStream, unique: str) -> None:
    """What is on its way then is never answered."""
    store = js.create_object_store(unique, storage=StorageType.FILE)

    def delete(done: int, total: Optional[int]) -> None:
        if done < 200_000:
            js.delete_object_store(unique)

    with pytest.raises(nats.js.errors.BucketNotFoundError, match=f"bucket '{unique}' is gone"):
        store.put("a", bytes(3_000_000), progress=delete)


def test_a_pool_that_is_closed_during_a_put(server: EmbeddedServer, store: ObjectStore) -> None:
    with Pool(server.url) as pool, pytest.raises(ClosedError, match="the pool was closed before object 'a' was stored"):
        pool.jetstream().object_store(store._name).put("a", bytes(3_000_000), progress=lambda done, total: pool.close())
    with pytest.raises(nats.js.errors.ObjectNotFoundError):
        store.get("a")


def before_publishing(patch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Once, between the question what there is of an object and the publish that depends on the answer."""
    publish, actions = JetStream.publish, [action]

    def late(self: JetStream, *args: Any, **kwargs: Any) -> Any:
        if actions:
            actions.pop()()
        return publish(self, *args, **kwargs)

    patch.setattr(JetStream, "publish", late)


CHANGES: Dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put("a", b"first", SMALL),
    "put another": lambda store: store.put("a", b"second", SMALL),
    "put over b": lambda store: store.put("b", b"third", SMALL),
    "delete": lambda store: store.delete("a"),
    "describe": lambda store: store.update_meta("a", ObjectMeta(description="d")),
    "rename": lambda store: store.update_meta("a", ObjectMeta(name="b")),
    "rename to c": lambda store: store.update_meta("a", ObjectMeta(name="c")),
}


@pytest.mark.parametrize(
    ("change", "meanwhile", "left"),
    [
        ("put", "put another", {"a": b"first"}),
        ("put", "delete", {"a": b"first"}),
        ("put", "describe", {"a": b"first"}),
        ("put", "rename", {"a": b"first", "b": b"former"}),
        ("delete", "put", {}),
        ("delete", "describe", {}),
        ("describe", "put", {"a": b"first"}),
        ("describe", "delete", {}),
        ("describe", "rename", {"b": b"former"}),
        ("rename", "put", {"b": b"first"}),
        ("rename", "delete", {}),
        ("rename", "describe", {"b": b"former"}),
        ("rename", "rename to c", {"c": b"former"}),
        ("rename", "put over b", {"a": b"former", "b": b"third"}),
    ],
)
def test_of_two_changes_one_comes_after_the_other(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, change: str, meanwhile: str, left: Dict[str, bytes]
) -> None:
    store.put("a", b"former")
    before_publishing(monkeypatch, lambda: CHANGES[meanwhile](store))
    with suppress(nats.js.errors.ObjectDeletedError, nats.js.errors.ObjectAlreadyExists):
        CHANGES[change](store)
    assert everything(store) == left


def everything(store: ObjectStore) -> Dict[str, Optional[bytes]]:
    """The objects that are there; but for markers, the store must hold nothing else."""
    try:
        infos = store.list()
    except nats.js.errors.NotFoundError:
        infos = []
    assert messages(store) == len(infos) + sum(info.chunks or 0 for info in infos)
    return {info.name: content(store, info.name) for info in infos if not info.deleted}


def test_changes_during_the_upload(store: ObjectStore) -> None:
    changes = itertools.cycle([CHANGES["put another"], CHANGES["delete"]])
    for data in (b"x" * 500, b"y" * 2500):
        store.put("a", data, SMALL, progress=lambda done, total: next(changes)(store))
        assert everything(store) == {"a": data}


def test_a_rename_and_a_put_to_the_old_name(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The put comes between the two steps of the rename, and removes the chunks that both names have."""
    store.put("a", b"former")
    publish = JetStream.publish

    def followed(self: JetStream, *args: Any, **kwargs: Any) -> Any:
        acknowledgement = publish(self, *args, **kwargs)
        monkeypatch.setattr(JetStream, "publish", publish)
        store.put("a", b"newer")
        return acknowledgement

    monkeypatch.setattr(JetStream, "publish", followed)
    store.update_meta("a", ObjectMeta(name="b"))
    assert everything(store) == {"b": b"newer"}


def test_many_changes_at_once_leave_one_object(store: ObjectStore, fast_switching: None) -> None:
    failures: List[BaseException] = []

    def change(number: int) -> None:
        try:
            for _ in range(5):
                store.put("a", bytes([number]) * 2500, SMALL)
                store.update_meta("a", ObjectMeta(description=str(number)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert everything(store) in [{"a": bytes([number]) * 2500} for number in range(6)]


class Interrupt:
    """Raises KeyboardInterrupt in this thread, once, at the n-th line that it runs of what a change consists of.

    Of modules without locks: no interrupt comes between the end of a ``with`` block and what that calls, but this would.
    """

    FILES = ("objectstore.py", "_changes.py", "_objects.py", "_context.py", "_asking.py")

    def __init__(self, line: int) -> None:
        self.left = line

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        path = frame.f_code.co_filename
        if "natsbridge" not in path or not path.endswith(self.FILES):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize(
    ("change", "after"),
    [("put", {"a": b"first"}), ("delete", {}), ("rename", {"b": b"former"})],
)
def test_an_interrupt_at_any_line_leaves_the_one_or_the_other(
    store: ObjectStore, change: str, after: Dict[str, bytes]
) -> None:
    for line in itertools.count(1):
        store.put("a", b"former")
        with suppress(KeyboardInterrupt), Interrupt(line) as interrupt:
            CHANGES[change](store)
        assert everything(store) in ({"a": b"former"}, after), line
        if interrupt.left > 0:
            break
        for name in everything(store):
            store.delete(name)
    assert line > 50


def test_a_damaged_object(js: JetStream, store: ObjectStore, unique: str, tmp_path: Path) -> None:
    """nats-py hangs when chunks are missing."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    info = store.put("a", b"x" * 3000, SMALL)
    chunks = f"$O.{unique}.C.{info.nuid}"
    js.purge_stream(f"OBJ_{unique}", subject=chunks, keep=2)
    with pytest.raises(nats.js.errors.DigestMismatchError, match="incomplete, 2000 of 3000 bytes"):
        store.get("a", target)
    js.publish(chunks, b"y" * 1000)
    with pytest.raises(nats.js.errors.DigestMismatchError, match="its digest is another one: some of its chunks"):
        store.get("a", target)
    js.purge_stream(f"OBJ_{unique}", subject=chunks)
    with pytest.raises(nats.js.errors.DigestMismatchError, match="incomplete, 0 of 3000 bytes"):
        store.get("a")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_chunks_that_are_removed_while_they_are_read(js: JetStream, store: ObjectStore, unique: str) -> None:
    size = 8_000_000
    store.put("a", bytes(size))

    def remove(done: int, total: Optional[int]) -> None:
        js.purge_stream(f"OBJ_{unique}")

    with pytest.raises(nats.js.errors.DigestMismatchError, match=f"incomplete, .* of {size} bytes: it was deleted"):
        store.get("a", progress=remove)


@pytest.mark.parametrize("way", ["memory", "path", "file"])
def test_an_object_that_is_replaced_before_it_is_read(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    store.put("a", b"former")
    ordered_consumer, actions = JetStream.ordered_consumer, [lambda: store.put("a", b"newer")]

    def late(self: JetStream, *args: Any, **kwargs: Any) -> Any:
        if actions:
            actions.pop()()
        return ordered_consumer(self, *args, **kwargs)

    monkeypatch.setattr(JetStream, "ordered_consumer", late)
    target, file = tmp_path / "target", io.BytesIO()
    result = store.get("a", {"memory": None, "path": target, "file": file}[way])
    read = {"memory": lambda: result.data, "path": target.read_bytes, "file": file.getvalue}[way]()
    assert (read, result.info.size) == (b"newer", 5)


def test_an_object_that_is_replaced_while_it_is_read(store: ObjectStore, tmp_path: Path) -> None:
    """What an open file was given cannot be taken back."""
    former, newer = bytes(8_000_000), b"x" * 3000
    target = tmp_path / "target"

    def replace(done: int, total: Optional[int]) -> None:
        if total == len(former):
            store.put("a", newer)

    for into in (None, target):
        store.put("a", former)
        assert store.get("a", into, progress=replace).info.size == len(newer)
    assert target.read_bytes() == newer
    store.put("a", former)
    with pytest.raises(nats.js.errors.DigestMismatchError, match=r"incomplete, .*: it was replaced while it was read"):
        store.get("a", io.BytesIO(), progress=replace)


def test_an_object_that_is_replaced_all_the_time(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"former")
    ordered_consumer = JetStream.ordered_consumer

    def late(self: JetStream, *args: Any, **kwargs: Any) -> Any:
        store.put("a", b"newer")
        return ordered_consumer(self, *args, **kwargs)

    monkeypatch.setattr(JetStream, "ordered_consumer", late)
    with pytest.raises(nats.js.errors.DigestMismatchError, match="it was replaced while it was read, so get it again"):
        store.get("a")


def describe(js: JetStream, store: ObjectStore, unique: str, name: str, text: bytes) -> None:
    js.publish(store._meta(name), text)


def test_a_description_that_is_none(js: JetStream, store: ObjectStore, unique: str) -> None:
    describe(js, store, unique, "a", b"{")
    describe(js, store, unique, "b", json.dumps({"name": "b", "bucket": unique, "nuid": "", "size": 1}).encode())
    describe(js, store, unique, "c", json.dumps({"name": "c", "bucket": unique, "nuid": "n", "digest": "MD5=x"}).encode())
    for name, text in (("a", "no description"), ("b", "has no nuid"), ("c", "no SHA-256 digest")):
        with pytest.raises(nats.js.errors.BadObjectMetaError, match=text):
            store.get(name)
    assert [info.name for info in store.list()] == ["b", "c"]


def test_links_are_followed(js: JetStream, store: ObjectStore, unique: str) -> None:
    def link(name: str, to: Optional[str]) -> None:
        text = {"name": name, "bucket": unique, "nuid": "n", "options": {"link": {"bucket": unique, "name": to}}}
        describe(js, store, unique, name, json.dumps(text).encode())

    store.put("a", b"x")
    link("to a", "a")
    link("to to a", "to a")
    link("bucket", None)
    link("circle", "circle")
    into = io.BytesIO()
    store.get("to to a", into)
    assert (content(store, "to a"), into.getvalue()) == (b"x", b"x")
    with pytest.raises(nats.js.errors.LinkIsABucketError, match="not to an object"):
        store.get("bucket")
    with pytest.raises(nats.js.errors.BadObjectMetaError, match="a link to a link and so on"):
        store.get("circle")


def test_standing_still_has_a_limit(store: ObjectStore, unique: str) -> None:
    with store._pool.subscribe(f"{unique}.>"):
        deaf = ObjectStore(store._pool.jetstream(prefix=unique, timeout=0.1), unique, f"OBJ_{unique}")
        calls: List[Callable[[], object]] = [lambda: deaf.get("a"), lambda: deaf.put("a", b"x"), deaf.list, deaf.watch]
        for call in calls:
            start = time.monotonic()
            with pytest.raises(RequestTimeoutError):
                call()
            assert time.monotonic() - start < 5.0


@pytest.mark.process
def test_a_restart_in_the_middle_of_a_get(tmp_path: Path) -> None:
    size = 12_000_000
    data = os.urandom(size)
    with EmbeddedServer(jetstream=True, store_dir=tmp_path) as server, Pool(server.url, reconnect_time_wait=0.1) as pool:
        store = pool.jetstream(timeout=LONG).create_object_store("b")
        store.put("a", data)
        restarted: List[int] = []

        def restart(done: int, total: Optional[int]) -> None:
            if not restarted:
                restarted.append(done)
                server.restart()

        assert store.get("a", progress=restart).data == data
        assert restarted[0] < size


@pytest.mark.process
def test_a_restart_in_the_middle_of_a_put(tmp_path: Path) -> None:
    """Whether it fails or not depends on what was on its way; either all of it is there afterwards, or nothing."""
    errors: List[Exception] = []
    data = os.urandom(8_000_000)
    with EmbeddedServer(jetstream=True, store_dir=tmp_path) as server, Pool(
        server.url, reconnect_time_wait=0.1, error_callback=errors.append
    ) as pool:
        store = pool.jetstream(timeout=LONG).create_object_store("b")
        store.put("a", b"former")
        start = time.monotonic()
        expected, restarts = (data, 62 + 1), itertools.count()

        def restart(done: int, total: Optional[int]) -> None:
            if next(restarts) in (0, 20):
                server.restart()

        try:
            store.put("a", data, progress=restart)
        except DisconnectedError:
            expected = (b"former", 2)
        assert time.monotonic() - start < LONG / 2
        assert content(store, "a") == expected[0]
        assert messages(store) == expected[1]
    assert [error for error in errors if isinstance(error, NatsBridgeError)] == []


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_delete_list_and_watch(store: ObjectStore, wait_for: WaitFor) -> None:
    handled: List[Tuple[str, Optional[bool]]] = []
    with pytest.raises(nats.js.errors.NotFoundError, match="there are no objects"):
        store.list()
    info = store.put("a", b"1")
    store.put("b", b"2")
    with store.watch() as watcher, store.watch(handler=lambda i: handled.append((i.name, i.deleted))) as other:
        assert [i and i.name for i in (watcher.updates() for _ in range(3))] == ["a", "b", None]
        other.wait_initial()
        store.delete("a")
        update = watcher.updates()
        assert update is not None
        assert (update.name, update.deleted, update.size) == ("a", True, 0)
        wait_for(lambda: handled == [("a", False), ("b", False), ("a", True)], what="the handler")
    with pytest.raises(ClosedError):
        watcher.updates()
    with store.watch(updates_only=True, ignore_deletes=True) as watcher:
        store.delete("b")
        store.put("c", b"3")
        update = watcher.updates()
        assert update is not None
        assert update.name == "c"
    assert [i.name for i in store.list()] == ["a", "b", "c"]
    assert [i.name for i in store.list(ignore_deletes=True)] == ["c"]
    with pytest.raises(nats.js.errors.ObjectNotFoundError, match="it was deleted"):
        store.get_info("a")
    assert store.get_info("a", show_deleted=True).deleted
    assert store.get("a", show_deleted=True).data == b""
    assert messages(store) == 4, "two markers, a description and a chunk"
    assert info.mtime is not None
    assert store.put("a", b"again").nuid != info.nuid


def test_the_time_is_that_of_the_message(store: ObjectStore) -> None:
    store.put("a", b"x")
    (listed,) = store.list()
    info = store.get_info("a")
    raw = json.loads(store._js.get_last_msg(f"OBJ_{store._name}", store._meta("a")).data or b"")
    assert "mtime" not in raw
    assert info.mtime is not None
    assert listed.mtime is not None
    assert info.mtime[:19] == listed.mtime[:19]
    assert info.mtime[:4] == time.strftime("%Y", time.gmtime())


def test_descriptions_and_names_can_be_changed(store: ObjectStore) -> None:
    """nats-py refuses every new name, and would lose the object if it did not."""
    store.put("a", BLOB, ObjectMeta(description="old"))
    store.put("taken", b"")
    headers = {"k": "v", "as in Go": ["v", "w"]}
    store.update_meta("a", ObjectMeta(name="a", description="new", headers=headers))
    info = store.get_info("a")
    assert (info.description, info.headers, info.size) == ("new", headers, len(BLOB))
    with pytest.raises(nats.js.errors.ObjectAlreadyExists, match="there is an object 'taken'"):
        store.update_meta("a", ObjectMeta(name="taken"))
    store.update_meta("a", ObjectMeta(name="b", description="renamed"))
    assert content(store, "b") == BLOB
    assert [i.name for i in store.list()] == ["taken", "b"]
    store.delete("taken")
    store.update_meta("b", ObjectMeta(name="taken"))
    assert content(store, "taken") == BLOB


def test_a_sealed_store_can_only_be_read(server: EmbeddedServer, store: ObjectStore, unique: str) -> None:
    errors: List[Exception] = []
    store.put("a", b"x")
    store.seal()
    with Pool(server.url, error_callback=errors.append) as other:
        sealed = other.jetstream().object_store(unique)
        assert sealed.status().sealed is True
        for call in (lambda: sealed.put("b", b"y"), lambda: sealed.delete("a")):
            with pytest.raises(nats.js.errors.BadRequestError, match="sealed"):
                call()
        assert content(sealed, "a") == b"x"
    assert errors == []


def test_objects_that_change_while_they_are_listed_come_once(
    store: ObjectStore, js: JetStream, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than is read ahead at first, and the consumer is lost on the way."""
    names = [f"o{number}" for number in range(100)]
    for name in names:
        store.put(name, b"")
    taken = itertools.count(1)
    take = ObjectWatcher.take

    def wrapped(watcher: ObjectWatcher, deadline: Any) -> Any:
        if next(taken) == 3:
            for info in js.consumers_info(f"OBJ_{unique}"):
                js.delete_consumer(f"OBJ_{unique}", info.name)
            store.put("o0", b"again")  # it was listed already
            store.delete("o1")
            store.delete("o98")  # it was not
            store.put("o99", b"again")
        return take(watcher, deadline)

    monkeypatch.setattr(ObjectWatcher, "take", wrapped)
    listed = store.list(ignore_deletes=True)
    assert [info.name for info in listed] == [*names[2:98], "o0", "o99"]
    assert [info.size for info in listed[-2:]] == [5, 5]
