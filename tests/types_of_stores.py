"""What type checkers see of key-value and object stores: checked by mypy and pyright, never run (see ``test_types.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path
    from typing import BinaryIO

    from nats.js.api import KeyValueConfig, ObjectInfo, ObjectMeta, ObjectStoreConfig
    from nats.js.kv import KeyValue as NatsKeyValue
    from nats.js.object_store import ObjectStore as NatsObjectStore
    from typing_extensions import assert_type

    from natsbridge import JetStream, KeyValue, KeyWatcher, ObjectStore, ObjectWatcher

    def buckets(js: JetStream, config: KeyValueConfig, files: ObjectStoreConfig) -> None:
        assert_type(js.key_value("b"), KeyValue)
        assert_type(js.create_key_value(bucket="b", history=5), KeyValue)
        assert_type(js.create_key_value(config), KeyValue)
        assert_type(js.delete_key_value("b"), bool)
        assert_type(js.object_store("b"), ObjectStore)
        assert_type(js.create_object_store("b", files, ttl=60.0), ObjectStore)
        assert_type(js.delete_object_store("b"), bool)

    def values(kv: KeyValue) -> None:
        assert_type(kv.with_timeout(3.0), KeyValue)
        assert_type(kv.get("k", revision=3), KeyValue.Entry)
        assert_type(kv.get("k").created, Optional[datetime])
        assert_type(kv.get("k").value, Optional[bytes])
        assert_type(kv.put("k", b"v"), int)
        assert_type(kv.create("k", b"v", msg_ttl=5.0), int)
        assert_type(kv.update("k", b"v", last=3), int)
        assert_type(kv.delete("k"), bool)
        assert_type(kv.purge("k"), bool)
        assert_type(kv.purge_deletes(60), bool)
        assert_type(kv.status(), NatsKeyValue.BucketStatus)
        assert_type(kv.keys(["k"]), List[str])
        assert_type(kv.keys("k"), List[str])
        assert_type(kv.history("k"), List[KeyValue.Entry])

    def for_nats_py(entry: NatsKeyValue.Entry) -> None:
        """Takes ours, too."""

    def handled(kv: KeyValue) -> None:
        for_nats_py(kv.get("k"))
        kv.watchall(handler=for_nats_py)

    def watched(kv: KeyValue, store: ObjectStore) -> None:
        watcher = kv.watch("a.*", include_history=True)
        assert_type(watcher, KeyWatcher)
        assert_type(watcher.updates(), Optional[KeyValue.Entry])
        for entry in kv.watchall():
            assert_type(entry, Optional[KeyValue.Entry])
        kv.watch(["a", "b"], handler=lambda entry: print(assert_type(entry, KeyValue.Entry).key))
        assert_type(store.watch(), ObjectWatcher)
        with store.watch() as infos:
            assert_type(next(infos), Optional[ObjectInfo])

    def objects(store: ObjectStore, path: Path, file: BinaryIO, meta: ObjectMeta) -> None:
        assert_type(store.put("o", b"x"), ObjectInfo)
        assert_type(store.put("o", path, meta), ObjectInfo)
        assert_type(store.put("o", file, progress=lambda done, total: print(assert_type(total, Optional[int]))), ObjectInfo)
        assert_type(store.get("o"), NatsObjectStore.ObjectResult)
        assert_type(store.get("o", path).info, ObjectInfo)
        assert_type(store.get_info("o", show_deleted=True), ObjectInfo)
        assert_type(store.list(ignore_deletes=True), List[ObjectInfo])
        assert_type(store.status(), NatsObjectStore.ObjectStoreStatus)

    def parameters(js: JetStream, kv: KeyValue, store: ObjectStore) -> None:
        # An "ignore" that is not needed is an error: these hold only while the parameters' types are known.
        js.key_value(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        kv.get(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        kv.put("k", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        kv.put("k")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        kv.update("k", b"", last="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        kv.watch(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        store.put("o", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        store.get("o", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
