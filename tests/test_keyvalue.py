"""Key-value buckets: values, revisions, watchers, and what becomes of them when a bucket, a server or a pool goes."""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import math
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple

import nats
import nats.js.errors
import pytest
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue as NatsKeyValue
from procs import LONG, WaitFor, posix_only

import natsbridge
from natsbridge import ClosedError, ForkedError, JetStream, KeyValue, KeyWatcher, NatsBridgeError, Pool, RequestTimeoutError
from natsbridge._deadline import Deadline
from natsbridge.server import EmbeddedServer

Seen = Tuple[str, Optional[bytes], Optional[str]]


@pytest.fixture
def kv(js: JetStream, unique: str) -> Iterator[KeyValue]:
    """An empty bucket in memory that remembers five values of a key."""
    yield js.create_key_value(bucket=unique, history=5, storage=StorageType.MEMORY)
    with suppress(natsbridge.Error):  # the test may have deleted it, or closed the pool
        js.delete_key_value(unique)


def first(watcher: KeyWatcher) -> List[Seen]:
    """What a watcher gives before its None."""
    return [seen(entry) for entry in iter(watcher.updates, None)]


def seen(entry: Optional[NatsKeyValue.Entry]) -> Seen:
    assert entry is not None
    return entry.key, entry.value, entry.operation


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Have something happen once, while what is there is read: before entry ``number``, 0 for behind the last."""

    def arrange(number: int, happen: Callable[[], object]) -> None:
        taken = itertools.count(1)
        take = KeyWatcher.take

        def wrapped(watcher: KeyWatcher, deadline: Deadline) -> Any:
            if next(taken) == number:
                happen()
            entry = take(watcher, deadline)
            if entry is None and number == 0:
                happen()
            return entry

        monkeypatch.setattr(KeyWatcher, "take", wrapped)

    return arrange


def lose_consumers(js: JetStream, bucket: str) -> None:
    """As a restart of the server does."""
    for info in js.consumers_info(f"KV_{bucket}"):
        js.delete_consumer(f"KV_{bucket}", info.name)


def consumers(js: JetStream, bucket: str) -> int:
    return js.stream_info(f"KV_{bucket}").state.consumer_count


# -- values ------------------------------------------------------------------------------------------------------------


def test_signatures_are_those_of_nats_py() -> None:
    for name in ("get", "put", "create", "update", "delete", "purge", "status"):
        assert inspect.signature(getattr(KeyValue, name)) == inspect.signature(getattr(NatsKeyValue, name)), name
    assert KeyValue.Entry is NatsKeyValue.Entry
    for name in ("keys", "history", "purge_deletes", "watch", "watchall"):
        ours = inspect.signature(getattr(KeyValue, name)).parameters
        theirs = inspect.signature(getattr(NatsKeyValue, name)).parameters
        known = [p for p in theirs.values() if p.kind is not p.VAR_KEYWORD]
        assert [(p.name, p.default) for p in known] == [(p.name, p.default) for p in list(ours.values())[: len(known)]], (
            name
        )


def test_values_and_their_revisions(kv: KeyValue, unique: str) -> None:
    assert kv.put("a", b"1") == 1
    assert kv.create("b.c/d=_-", b"2") == 2
    assert kv.update("a", b"3", last=1) == 3
    entry = kv.get("a")
    assert (entry.bucket, entry.key, entry.value, entry.revision) == (unique, "a", b"3", 3)
    assert kv.get("a", revision=1).value == b"1"
    assert kv.delete("a") is True
    assert kv.create("a", b"5") == 5, "a deleted key can be created"
    assert kv.purge("a") is True
    with pytest.raises(nats.js.errors.KeyNotFoundError, match="'a' in bucket"):
        kv.get("a")
    status = kv.status()
    assert (status.bucket, status.history, status.values) == (unique, 5, 2)


def test_buckets_are_found_created_and_deleted(js: JetStream, unique: str) -> None:
    config = KeyValueConfig(bucket=unique, history=2, storage=StorageType.MEMORY)
    js.create_key_value(config, description="settings").put("a", b"1")
    assert js.key_value(unique).get("a").value == b"1"
    js.create_key_value(config, description="settings")
    with pytest.raises(nats.js.errors.BadRequestError, match="already in use"):
        js.create_key_value(config)
    assert js.delete_key_value(unique) is True
    for gone in (js.key_value, js.delete_key_value):
        with pytest.raises(nats.js.errors.BucketNotFoundError, match=f"there is no key-value bucket '{unique}'"):
            gone(unique)


def test_nats_py_and_natsbridge_read_each_others_buckets(kv: KeyValue, server: EmbeddedServer, unique: str) -> None:
    kv.put("ours", b"1")
    kv.put("gone", b"x")
    kv.delete("gone")

    async def other() -> List[Any]:
        client = await nats.connect(server.url)
        theirs = await client.jetstream().key_value(unique)
        await theirs.put("theirs", b"2")
        found = [(await theirs.get("ours")).value, sorted(await theirs.keys())]
        await client.close()
        return found

    assert asyncio.run(other()) == [b"1", ["ours", "theirs"]]
    assert kv.get("theirs").value == b"2"


def test_keys_and_histories(kv: KeyValue) -> None:
    for key in ("a.1", "a.2", "b.1"):
        kv.put(key, b"x" * 100)
    kv.put("a.1", b"y")
    kv.delete("b.1")
    assert kv.keys() == ["a.2", "a.1"]
    assert kv.keys(["1"]) == kv.keys("1") == kv.keys((".1", "b")) == ["a.1"]
    assert kv.keys("a.1") == ["a.1"], "one text, not its letters"
    assert kv.keys([]) == kv.keys("") == ["a.2", "a.1"]
    assert [(e.value, e.operation) for e in kv.history("a.1")] == [(b"x" * 100, None), (b"y", None)]
    assert [e.operation for e in kv.history("b.1")] == [None, "DEL"]
    for nothing in (lambda: kv.keys(["no such"]), lambda: kv.history("none")):
        with pytest.raises(nats.js.errors.NoKeysError):
            nothing()
    kv.purge_deletes()
    assert [e.operation for e in kv.history("b.1")] == ["DEL"], "the marker is young"
    kv.purge_deletes(olderthan=0)
    with pytest.raises(nats.js.errors.NoKeysError):
        kv.history("b.1")
    assert kv.keys() == ["a.2", "a.1"]


def test_keys_that_change_while_they_are_listed_come_once(kv: KeyValue, meanwhile: Any, js: JetStream, unique: str) -> None:
    """More than is read ahead at first, and the consumer is lost on the way."""

    def change() -> None:
        lose_consumers(js, unique)
        kv.put("k0", b"again")  # it was read already
        kv.delete("k1")
        kv.delete("k98")  # it was not
        kv.put("k99", b"again")

    js.publish_many((f"$KV.{unique}.k{number}", value) for number in range(100) for value in (b"1", b"2"))
    for number in range(100, 110):
        kv.put(f"k{number}", b"")
        kv.delete(f"k{number}")
    meanwhile(3, change)
    assert kv.keys() == [*(f"k{number}" for number in range(2, 98)), "k0", "k99"]


def test_purge_deletes_spares_what_is_put_meanwhile(kv: KeyValue, meanwhile: Any) -> None:
    for key in ("a", "b"):
        kv.put(key, b"old")
        kv.delete(key)
    meanwhile(0, lambda: kv.put("a", b"new"))
    kv.purge_deletes(olderthan=0)
    assert [(e.value, e.operation) for e in kv.history("a")] == [(b"new", None)]
    with pytest.raises(nats.js.errors.NoKeysError):
        kv.history("b")


def test_purge_deletes_leaves_a_young_marker_and_what_is_behind_it(kv: KeyValue, meanwhile: Any) -> None:
    kv.put("a", b"old")
    kv.delete("a")
    meanwhile(0, lambda: [kv.put("a", b"1"), kv.put("a", b"2")])
    kv.purge_deletes(olderthan=60)
    assert [(e.value, e.operation) for e in kv.history("a")] == [(b"", "DEL"), (b"1", None), (b"2", None)]


def test_purge_deletes_spares_what_was_deleted_once(kv: KeyValue, meanwhile: Any, js: JetStream, unique: str) -> None:
    """A consumer that is lost on the way does not bring the markers of former times."""
    js.publish_many((f"$KV.{unique}.k{number}", b"") for number in range(100))
    for key in ("back", "gone"):
        kv.put(key, b"1")
        kv.delete(key)
    kv.put("back", b"2")
    meanwhile(3, lambda: lose_consumers(js, unique))
    kv.purge_deletes(olderthan=0)
    assert kv.get("back").value == b"2"
    assert [(e.value, e.operation) for e in kv.history("back")] == [(b"1", None), (b"", "DEL"), (b"2", None)]
    assert len(kv.keys()) == 101
    with pytest.raises(nats.js.errors.NoKeysError):
        kv.history("gone")


def test_many_keys_leave_no_consumer(kv: KeyValue, js: JetStream, unique: str, wait_for: WaitFor) -> None:
    js.publish_many((f"$KV.{unique}.k{number}", b"") for number in range(3000))
    assert kv.keys() == [f"k{number}" for number in range(3000)]
    wait_for(lambda: consumers(js, unique) == 0, what="the end of the consumer")


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a\n", "ä", "a*"])
def test_a_buckets_name_is_checked(js: JetStream, name: str) -> None:
    for call in (js.key_value, js.delete_key_value, lambda bucket: js.create_key_value(bucket=bucket)):
        with pytest.raises(nats.js.errors.InvalidBucketNameError, match="letters, digits"):
            call(name)


@pytest.mark.parametrize("key", ["", "a b", ".a", "a.", "a..b", "a\n", "*", "a.>"])
def test_a_key_that_cannot_be_one_changes_nothing(kv: KeyValue, key: str) -> None:
    kv.put("a.b", b"kept")
    calls: List[Callable[[], object]] = [
        lambda: kv.get(key),
        lambda: kv.put(key, b""),
        lambda: kv.put(key, b"", validate_keys=False),
        lambda: kv.create(key, b""),
        lambda: kv.update(key, b""),
        lambda: kv.delete(key),
        lambda: kv.purge(key),  # nats-py's removes every key for a wildcard
        lambda: kv.history(key),
    ]
    for call in calls:
        with pytest.raises(nats.js.errors.InvalidKeyError) as raised:
            call()
        assert repr(key) in str(raised.value)
    assert kv.get("a.b").value == b"kept"
    assert kv.status().values == 1


def test_arguments_of_the_wrong_kind(js: JetStream, kv: KeyValue) -> None:
    wrong: List[Tuple[Callable[[], object], type, str]] = [
        (lambda: kv.get(5), TypeError, "key must be a str"),  # type: ignore[arg-type]
        (lambda: kv.put("a", "text"), TypeError, "must be bytes, not str"),  # type: ignore[arg-type]
        (lambda: kv.put("a", None), TypeError, "must be bytes"),  # type: ignore[arg-type]
        (lambda: kv.update("a", b"", last="1"), TypeError, "last must be an int"),  # type: ignore[arg-type]
        (lambda: kv.update("a", b"", last=True), TypeError, "last must be an int"),
        (lambda: kv.delete("a", last=1.0), TypeError, "last must be an int"),  # type: ignore[arg-type]
        (lambda: kv.get("a", revision=True), TypeError, "revision must be an int"),
        (lambda: kv.history(["a", "b"]), TypeError, "key must be a str"),  # type: ignore[arg-type]
        (lambda: kv.keys(5), TypeError, "filters must be a str or a list"),  # type: ignore[arg-type]
        (lambda: kv.keys(["a", 5]), TypeError, "filters must be a str or several"),  # type: ignore[list-item]
        (lambda: kv.watch(5), TypeError, "keys must be a str"),  # type: ignore[arg-type]
        (lambda: kv.watch([]), ValueError, "keys is empty"),
        (lambda: kv.watch(["a", 5]), TypeError, "keys must be a str or several"),  # type: ignore[list-item]
        (lambda: kv.watch("a b"), ValueError, "white space"),
        (lambda: kv.watch("a", handler=5), TypeError, "handler must be callable"),  # type: ignore[arg-type]
        (lambda: kv.purge_deletes(-1), ValueError, "olderthan"),
        (lambda: js.key_value(5), TypeError, "bucket must be a str"),  # type: ignore[arg-type]
        (lambda: js.create_key_value(), TypeError, "needs a bucket"),
        (lambda: js.create_key_value("b"), TypeError, r"not 'b' .* create_key_value\(bucket="),  # type: ignore[arg-type]
        (lambda: js.create_object_store(config=5), TypeError, r"not 5 .* create_object_store\('"),  # type: ignore[arg-type]
        (lambda: js.create_key_value(bucket="b", history=0), ValueError, "history must be at least 1"),
        (lambda: js.create_key_value(bucket="b", history=65), nats.js.errors.KeyHistoryTooLargeError, "64"),
        (lambda: js.create_key_value(bucket="b", ttl="5"), TypeError, "ttl must be a number of seconds"),
        (lambda: js.create_key_value(bucket="b", ttl=-1), ValueError, "ttl must be"),
        (lambda: js.create_key_value(bucket="b", ttl=1e-10), ValueError, "ttl must be 0.1 s or more, not 1e-10"),
        (lambda: js.create_key_value(KeyValueConfig(bucket="b", ttl=0.05)), ValueError, "ttl must be 0.1 s or more"),
        (lambda: js.create_key_value(bucket="b", ttl=1e10), ValueError, "ttl must be 3153600000 s .* or math.inf"),
        (lambda: js.create_key_value(bucket="b", limit_marker_ttl=0.5), ValueError, "limit_marker_ttl must be 1 s or more"),
        (lambda: js.create_object_store("b", ttl=0.05), ValueError, "ttl must be 0.1 s or more"),
        (lambda: kv.create("a", b"", msg_ttl=9e9), ValueError, "msg_ttl must be 3153600000 s"),
        (lambda: kv.create("a", b"", msg_ttl=float("nan")), ValueError, "msg_ttl must be"),
        (lambda: kv.watch("a", inactive_threshold=1e-12), ValueError, "inactive_threshold must be 1e-09 s or more"),
        (lambda: kv.watch("a", inactive_threshold=False), TypeError, "inactive_threshold must be"),
        (lambda: kv.watch("a", inactive_threshold="5"), TypeError, "inactive_threshold must be"),  # type: ignore[arg-type]
    ]
    for call, error, text in wrong:
        with pytest.raises(error, match=text):
            call()


@pytest.mark.parametrize("storage", [StorageType.MEMORY, StorageType.FILE])
def test_infinity_is_no_limit(js: JetStream, unique: str, storage: StorageType, wait_for: WaitFor) -> None:
    config = KeyValueConfig(bucket=unique, ttl=math.inf, storage=storage)
    assert not js.create_key_value(config).status().ttl
    js.delete_key_value(unique)
    kv = js.create_key_value(bucket=unique, ttl=1, limit_marker_ttl=math.inf, storage=storage)
    kv.create("brief", b"")
    kv.create("kept", b"", msg_ttl=math.inf)
    with kv.watchall(ignore_deletes=True, inactive_threshold=math.inf) as watcher:
        assert len(first(watcher)) == 2
        wait_for(lambda: kv.keys() == ["kept"], what="the end of the other")
        assert consumers(js, unique) > 0
    assert [e.operation for e in kv.history("brief")] == ["PURGE"]
    js.delete_key_value(unique)


def test_a_number_that_is_no_revision(kv: KeyValue) -> None:
    """The server takes 2**64 + 1 for 1; nats-py deletes for 0 and -1, whatever is there."""
    kv.put("a", b"kept")
    no_revision: List[int] = [-1, 2**64, 2**64 + 1]
    calls: List[Tuple[Callable[[int], object], List[int]]] = [
        (lambda number: kv.update("a", b"lost", last=number), no_revision),
        (lambda number: kv.delete("a", last=number), [0, *no_revision]),
        (lambda number: kv.get("a", revision=number), no_revision),
    ]
    for call, numbers in calls:
        for number in numbers:
            with pytest.raises(ValueError, match=f"(last|revision) .*{number}"):
                call(number)
    assert [e.value for e in kv.history("a")] == [b"kept"]
    assert kv.get("a", revision=0).value == b"kept"
    with pytest.raises(nats.js.errors.KeyWrongLastSequenceError):
        kv.update("a", b"lost", last=2**64 - 1)
    kv.delete("a", last=1)
    with pytest.raises(nats.js.errors.KeyNotFoundError):
        kv.get("a")


def test_a_wrong_revision(kv: KeyValue) -> None:
    kv.put("a", b"1")
    kv.put("b", b"2")
    calls: List[Callable[[], object]] = [
        lambda: kv.create("a", b""),
        lambda: kv.update("a", b"", last=7),
        lambda: kv.update("a", b""),
    ]
    for call in calls:
        with pytest.raises(nats.js.errors.KeyWrongLastSequenceError, match="wrong last sequence: 1"):
            call()
    with pytest.raises(nats.js.errors.BadRequestError, match="wrong last sequence"):
        kv.delete("a", last=7)
    for revision in (2, 99):  # another key's, nobody's
        with pytest.raises(nats.js.errors.KeyNotFoundError):
            kv.get("a", revision=revision)


def test_a_stream_that_is_no_bucket(js: JetStream, unique: str) -> None:
    js.add_stream(name=f"KV_{unique}", subjects=[unique], storage=StorageType.MEMORY, max_msgs_per_subject=-1)
    with pytest.raises(nats.js.errors.BadBucketError, match="is no key-value bucket"):
        js.key_value(unique)
    js.delete_stream(f"KV_{unique}")


@pytest.mark.parametrize("direct", [False, True])
def test_a_bucket_that_is_gone(js: JetStream, unique: str, direct: bool) -> None:
    """nats-py says that the key is missing, that JetStream is not enabled, or that there was no response."""
    kv = js.create_key_value(bucket=unique, direct=direct, storage=StorageType.MEMORY)
    js.delete_key_value(unique)
    calls: List[Callable[[], object]] = [
        lambda: kv.get("a"),
        lambda: kv.put("a", b""),
        kv.keys,
        lambda: kv.history("a"),
        lambda: kv.watch("a"),
        kv.status,
        kv.purge_deletes,
    ]
    for call in calls:
        with pytest.raises(nats.js.errors.BucketNotFoundError, match=f"bucket '{unique}' is gone"):
            call()


# -- watchers ----------------------------------------------------------------------------------------------------------


def test_a_watcher_gives_what_is_there_then_none_then_changes(kv: KeyValue) -> None:
    kv.put("a", b"1")
    kv.put("a", b"2")
    kv.put("b", b"3")
    with kv.watchall() as watcher:
        assert first(watcher) == [("a", b"2", None), ("b", b"3", None)]
        kv.put("c", b"4")
        kv.delete("a")
        assert [seen(watcher.updates()), seen(next(watcher))] == [("c", b"4", None), ("a", b"", "DEL")]
        entry = (kv.put("c", b"5"), watcher.updates())[1]
        assert entry is not None
        assert (entry.revision, entry.delta, str(entry.created)[:4]) == (6, 0, time.strftime("%Y", time.gmtime()))
    assert not watcher.active


def test_an_empty_bucket_gives_none_at_once(kv: KeyValue) -> None:
    with kv.watchall() as watcher:
        assert watcher.updates() is None
        start = time.monotonic()
        with pytest.raises(RequestTimeoutError, match=r"no update came .* within 0\.05 s"):
            watcher.updates(timeout=0.05)
        assert time.monotonic() - start < 2.0


def test_what_can_be_watched(kv: KeyValue) -> None:
    kv.put("a.1", b"1")
    kv.put("a.1", b"2")
    kv.put("a.2", b"3")
    kv.put("b.1", b"4")
    kv.purge("a.2")
    watched = [
        (kv.watch("a.1"), [("a.1", b"2", None)]),
        (kv.watch("a.*", include_history=True), [("a.1", b"1", None), ("a.1", b"2", None), ("a.2", b"", "PURGE")]),
        (kv.watch("a.>", ignore_deletes=True), [("a.1", b"2", None)]),
        (kv.watch(["a.1", "b.1"], meta_only=True), [("a.1", b"", None), ("b.1", b"", None)]),
        (kv.watch(("b.1", "nobody"), headers_only=True), [("b.1", b"", None)]),
        (kv.watch("nobody"), []),
        (kv.watchall(ignore_deletes=True), [("a.1", b"2", None), ("b.1", b"4", None)]),
    ]
    for watcher, there in watched:
        with watcher:
            assert first(watcher) == there
    with kv.watchall(updates_only=True) as watcher:
        kv.put("a.1", b"5")
        assert seen(watcher.updates()) == ("a.1", b"5", None)


def test_the_servers_own_markers_are_deletions(js: JetStream, unique: str) -> None:
    kv = js.create_key_value(bucket=unique, limit_marker_ttl=60, storage=StorageType.MEMORY)
    with kv.watchall(updates_only=True) as watcher:
        kv.create("brief", b"1", msg_ttl=1)
        assert seen(watcher.updates()) == ("brief", b"1", None)
        assert seen(watcher.updates(LONG)) == ("brief", b"", "PURGE")
    js.delete_key_value(unique)


def test_values_that_vanish_before_they_came_do_not_hold_up_the_none(js: JetStream, kv: KeyValue, unique: str) -> None:
    for number in range(3):
        kv.put(f"k{number}", b"")
    with kv.watchall() as watcher:
        js.purge_stream(f"KV_{unique}")
        assert watcher.updates(timeout=LONG) is None


def test_any_thread_stops_a_watcher(kv: KeyValue, unique: str, wait_for: WaitFor, js: JetStream) -> None:
    watcher = kv.watchall()
    read: List[object] = []
    reader = threading.Thread(target=lambda: read.extend(watcher))
    reader.start()
    wait_for(lambda: watcher._marked, what="the reader to wait")
    watcher.stop()
    reader.join(LONG)
    assert not reader.is_alive()
    assert read == [None]
    watcher.stop()
    with pytest.raises(ClosedError, match="was stopped"):
        watcher.updates()
    wait_for(lambda: consumers(js, unique) == 0, what="the end of the consumer")


def test_a_watcher_that_nobody_holds_ends(kv: KeyValue, js: JetStream, unique: str, wait_for: WaitFor) -> None:
    watcher = kv.watchall()
    assert consumers(js, unique) == 1
    del watcher
    gc.collect()
    wait_for(lambda: consumers(js, unique) == 0, what="the end of the consumer")


def test_closing_the_pool_ends_watchers(server: EmbeddedServer, kv: KeyValue, unique: str) -> None:
    with Pool(server.url) as other:
        bucket = other.jetstream().key_value(unique)
        watcher = bucket.watchall()
        handled = bucket.watchall(handler=print)
        assert watcher.updates() is None
        handled.wait_initial()
    with pytest.raises(ClosedError, match="the pool was closed"):
        next(watcher)
    assert not handled.active


def test_a_handler_gets_entries_in_order_on_a_thread_of_its_own(
    server: EmbeddedServer, kv: KeyValue, unique: str, wait_for: WaitFor
) -> None:
    errors: List[Exception] = []
    handled: List[Tuple[str, str]] = []

    def handler(entry: NatsKeyValue.Entry) -> None:
        handled.append((entry.key, threading.current_thread().name))
        if entry.key == "k1":
            raise ValueError("not this one")

    for number in range(3):
        kv.put(f"k{number}", b"")
    with Pool(server.url, error_callback=errors.append) as other:
        watcher = other.jetstream().key_value(unique).watchall(handler=handler)
        watcher.wait_initial()
        assert [key for key, _ in handled] == ["k0", "k1", "k2"], "all of them are through"
        kv.put("k3", b"")
        wait_for(lambda: len(handled) == 4, what="the change")
        assert {name.rpartition("-")[0] for _, name in handled} == {f"natsbridge-{unique}"}
        with pytest.raises(ClosedError, match="has a handler"):
            watcher.updates()
        watcher.stop()
        kv.put("k4", b"")
        wait_for(lambda: not any(t.name.startswith(f"natsbridge-{unique}") for t in threading.enumerate()), what="its end")
    assert len(handled) == 4
    assert [str(error) for error in errors] == ["not this one"]


def test_a_bucket_that_is_deleted_under_watchers(
    server: EmbeddedServer, js: JetStream, unique: str, wait_for: WaitFor
) -> None:
    """nats-py's watchers wait for ever."""
    js.create_key_value(bucket=unique, storage=StorageType.MEMORY)
    errors: List[Exception] = []
    with Pool(server.url, error_callback=errors.append) as other:
        kv = other.jetstream().key_value(unique)
        watcher, handled = kv.watchall(), kv.watchall(handler=print)
        assert watcher.updates() is None
        handled.wait_initial()
        wait_for(lambda: any(info.num_waiting for info in js.consumers_info(f"KV_{unique}")), what="the handler's request")
        js.delete_key_value(unique)
        for _ in range(2):
            with pytest.raises(nats.js.errors.BucketNotFoundError, match="is gone"):
                watcher.updates(LONG)
        wait_for(lambda: errors, what="the error of the handler's watcher")
        assert [type(error) for error in errors] == [nats.js.errors.BucketNotFoundError]
        wait_for(lambda: not handled.active and not watcher.active, what="the end of both")


def test_a_bucket_that_is_deleted_and_created_again_under_a_watcher(kv: KeyValue, js: JetStream, unique: str) -> None:
    """Its numbers begin anew: what the watcher waits for would not come for long."""
    kv.put("a", b"1")
    with kv.watchall() as watcher:
        assert first(watcher) == [("a", b"1", None)]
        js.delete_key_value(unique)
        js.create_key_value(bucket=unique, storage=StorageType.MEMORY).put("a", b"2")
        for _ in range(2):
            with pytest.raises(nats.js.errors.BucketNotFoundError, match=r"created again|is gone"):
                watcher.updates(LONG)


def test_a_consumer_that_is_deleted_under_a_watcher_is_made_anew(kv: KeyValue, js: JetStream, unique: str) -> None:
    kv.put("a", b"1")
    with kv.watchall() as watcher:
        assert first(watcher) == [("a", b"1", None)]
        js.delete_consumer(f"KV_{unique}", watcher._consumer.consumer)
        kv.put("a", b"2")
        assert seen(watcher.updates(LONG)) == ("a", b"2", None)


@pytest.mark.parametrize("there", [[], ["other"]])
def test_a_watcher_that_has_read_no_change_yet_loses_none(
    kv: KeyValue, js: JetStream, unique: str, there: List[str]
) -> None:
    for key in there:
        kv.put(key, b"")
    with kv.watch("a", updates_only=True) as updates, kv.watch("a") as watcher, kv.watch(
        "a", include_history=True
    ) as history:
        assert watcher.updates() is None
        assert history.updates() is None
        lose_consumers(js, unique)
        for number in range(3):
            kv.put("a", b"%d" % number)
        for each in (updates, watcher, history):
            assert [seen(each.updates(LONG)) for _ in range(3)] == [("a", b"%d" % number, None) for number in range(3)]


def test_a_watcher_whose_first_values_have_vanished_loses_no_change(kv: KeyValue, js: JetStream, unique: str) -> None:
    kv.put("a", b"")
    with kv.watchall() as watcher:
        js.purge_stream(f"KV_{unique}")
        assert watcher.updates(LONG) is None
        lose_consumers(js, unique)
        for number in range(3):
            kv.put("a", b"%d" % number)
        assert [seen(watcher.updates(LONG)) for _ in range(3)] == [("a", b"%d" % number, None) for number in range(3)]


def test_a_consumer_that_is_lost_among_the_first_values(kv: KeyValue, js: JetStream, unique: str) -> None:
    """More than is read ahead at first: neither former values come, nor the same ones again."""
    js.publish_many((f"$KV.{unique}.k{number}", value) for number in range(100) for value in (b"1", b"2"))
    with kv.watchall() as watcher:
        assert seen(watcher.updates()) == ("k0", b"2", None)
        lose_consumers(js, unique)
        kv.put("k0", b"3")
        kv.delete("k99")
        there = [(f"k{number}", b"2", None) for number in range(1, 99)]
        assert first(watcher) == [*there, ("k0", b"3", None), ("k99", b"", "DEL")]
        lose_consumers(js, unique)
        for number in range(3):
            kv.put("k0", b"%d" % number)
        assert [seen(watcher.updates(LONG)) for _ in range(3)] == [("k0", b"%d" % number, None) for number in range(3)]


@pytest.mark.process
def test_a_watcher_of_an_empty_bucket_loses_no_change_over_a_restart(tmp_path: Path) -> None:
    with EmbeddedServer(jetstream=True, store_dir=tmp_path) as server, Pool(server.url, reconnect_time_wait=0.1) as pool:
        kv = pool.jetstream(timeout=LONG).create_key_value(bucket="b", history=5)
        with kv.watchall(updates_only=True) as updates, kv.watchall() as watcher:
            assert watcher.updates() is None
            server.restart()
            for number in range(3):
                kv.put("a", b"%d" % number)
            for each in (updates, watcher):
                assert [seen(each.updates(LONG)) for _ in range(3)] == [("a", b"%d" % number, None) for number in range(3)]


@pytest.mark.process
def test_watchers_survive_restarts_without_losing_or_repeating(tmp_path: Path, wait_for: WaitFor) -> None:
    handled: List[Seen] = []
    with EmbeddedServer(jetstream=True, store_dir=tmp_path) as server, Pool(server.url, reconnect_time_wait=0.1) as pool:
        kv = pool.jetstream(timeout=LONG).create_key_value(bucket="b", history=5)
        kv.put("a", b"0")
        with kv.watchall() as watcher, kv.watchall(handler=lambda entry: handled.append(seen(entry))):
            assert first(watcher) == [("a", b"0", None)]
            for number in range(1, 3):
                server.restart()
                kv.put("a", b"%d" % number)
                assert seen(watcher.updates(LONG)) == ("a", b"%d" % number, None)
            wait_for(lambda: len(handled) == 3, what="the handler")
    assert handled == [("a", b"%d" % number, None) for number in range(3)]


def test_threads_share_a_bucket(kv: KeyValue, unique: str) -> None:
    """Each counts up one key by revision; nobody's count is lost."""
    kv.put("count", b"0")

    def count() -> None:
        for number in range(20):
            while True:
                entry = kv.get("count")
                try:
                    kv.update("count", b"%d" % (int(entry.value or b"") + 1), last=entry.revision)
                    break
                except nats.js.errors.KeyWrongLastSequenceError:
                    continue
            name = f"{threading.get_ident()}.{number}"
            kv.put(name, name.encode())
            assert kv.get(name).value == name.encode()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert kv.get("count").value == b"160"
    assert len(kv.keys()) == 161


@posix_only
def test_an_interrupt_leaves_no_consumer(kv: KeyValue, js: JetStream, unique: str, wait_for: WaitFor) -> None:
    watcher = kv.watchall()
    assert watcher.updates() is None
    interrupter = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt), watcher:
        watcher.updates(timeout=LONG)
    interrupter.join()
    wait_for(lambda: consumers(js, unique) == 0, what="the end of the consumer")


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_bucket_works_in_a_child_and_a_watcher_does_not(kv: KeyValue) -> None:
    kv.put("a", b"parent")
    watcher = kv.watchall()
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException):
            assert kv.get("a").value == b"parent"
            kv.put("a", b"child")
            try:
                watcher.updates()
            except ForkedError:
                code = 0
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    with watcher:
        assert kv.get("a").value == b"child"
        assert len(first(watcher)) in (1, 2)  # the child's change may already be there
    kv._pool.flush()


def test_time_limits(kv: KeyValue, unique: str) -> None:
    with kv._pool.subscribe(f"{unique}.>"):
        deaf = kv._pool.jetstream(prefix=unique, timeout=0.1)
        bucket = KeyValue(deaf, "b", "KV_b", "$KV.b.", False)
        assert bucket.with_timeout(3).timeout == 3
        calls: List[Tuple[str, Callable[[], object]]] = [
            ("get", lambda: bucket.get("a")),
            ("keys of bucket 'b'", bucket.keys),
            ("watch of bucket 'b'", lambda: bucket.watch("a")),
            ("history of bucket 'b'", lambda: bucket.history("a")),
            ("purge_deletes of bucket 'b'", bucket.purge_deletes),
        ]
        for what, call in calls:
            with pytest.raises(RequestTimeoutError, match=rf"KeyValue\.{what} .* within 0\.1 s: "):
                call()
        with pytest.raises(RequestTimeoutError, match=f"subscribing for the messages of '{unique}' .* within 0 s"):
            deaf.with_timeout(0).ordered_consumer(unique)
    assert isinstance(RequestTimeoutError("x"), NatsBridgeError)
