"""``Buckets``: key-value and object stores, found, created and deleted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, TypeVar, cast

import nats.js.errors
from nats.js import api
from nats.js.client import JetStreamContext

from ._bucket import check_bucket
from ._deadline import LONGEST, check_life
from .keyvalue import KeyValue
from .objectstore import ObjectStore
from .options import check_count
from .publishing import Publisher

if TYPE_CHECKING:
    from .jetstream import JetStream

C = TypeVar("C", api.KeyValueConfig, api.ObjectStoreConfig)


class Buckets(Publisher):
    """The part of ``JetStream`` that has buckets."""

    def key_value(self, bucket: str) -> KeyValue:
        """The key-value bucket of that name.

        Raises nats-py's BucketNotFoundError, InvalidBucketNameError, BadBucketError (the stream keeps no last value for a
        key), TypeError, and what every call raises.
        """
        check_bucket(bucket)
        try:
            return self._key_value(self._call(JetStreamContext.key_value, bucket))
        except nats.js.errors.BucketNotFoundError as error:
            raise _named(error, bucket, "key-value") from None
        except nats.js.errors.BadBucketError as error:
            error.code, error.err_code = 400, None
            error.description = f"stream 'KV_{bucket}' is no key-value bucket: max_msgs_per_subject is not set"
            raise

    def create_key_value(self, config: Optional[api.KeyValueConfig] = None, **params: Any) -> KeyValue:
        """Create a key-value bucket, or find the one of this name and configuration.

        params: fields of nats-py's ``KeyValueConfig``, over those of ``config``: ``bucket``, ``history``, ``ttl``
            (seconds), ``max_bytes``, ``max_value_size``, ``storage``, ``replicas``, ``direct``, ``limit_marker_ttl``
            (seconds) … ``math.inf`` seconds are no limit.

        Raises InvalidBucketNameError, KeyHistoryTooLargeError, BadRequestError (there is one that is configured
        otherwise), TypeError, ValueError, and what every call raises.
        """
        if config is None and "bucket" not in params:
            raise TypeError("create_key_value needs a bucket, as in create_key_value(bucket='settings')")
        _check_config(config, api.KeyValueConfig, "create_key_value(bucket='settings')")
        check_bucket(params["bucket"] if config is None or "bucket" in params else config.bucket)
        check_count(params.get("history", 1 if config is None else config.history), "history")
        return self._key_value(
            self._call(JetStreamContext.create_key_value, _finite(config), **{**params, **_lives(params)})
        )

    def delete_key_value(self, bucket: str) -> bool:
        """Delete a key-value bucket and all that it holds. Returns True. Raises as ``key_value`` does."""
        check_bucket(bucket)
        try:
            return self._call(JetStreamContext.delete_key_value, bucket)
        except nats.js.errors.NotFoundError as error:
            raise _named(error, bucket, "key-value") from None

    def object_store(self, bucket: str) -> ObjectStore:
        """The object store of that name.

        Raises nats-py's BucketNotFoundError, InvalidBucketNameError, TypeError, and what every call raises.
        """
        check_bucket(bucket)
        try:
            return self._object_store(self._call(JetStreamContext.object_store, bucket))
        except nats.js.errors.BucketNotFoundError as error:
            raise _named(error, bucket, "object") from None

    def create_object_store(
        self, bucket: Optional[str] = None, config: Optional[api.ObjectStoreConfig] = None, **params: Any
    ) -> ObjectStore:
        """Create an object store, or find the one of this name and configuration.

        params: fields of nats-py's ``ObjectStoreConfig``, over those of ``config``: ``description``, ``ttl`` (seconds),
            ``max_bytes``, ``storage``, ``replicas``, ``placement``.

        Raises InvalidBucketNameError, BadRequestError (there is one that is configured otherwise), TypeError, and what
        every call raises.
        """
        _check_config(config, api.ObjectStoreConfig, "create_object_store('files')")
        name = config.bucket if bucket is None and config is not None else bucket
        if name is None:
            raise TypeError("create_object_store needs a bucket, as in create_object_store('files')")
        check_bucket(name)
        own = _finite(config)  # a copy, for nats-py writes the bucket's name into it
        return self._object_store(
            self._call(JetStreamContext.create_object_store, name, own, **{**params, **_lives(params)})
        )

    def delete_object_store(self, bucket: str) -> bool:
        """Delete an object store and all that it holds. Returns True. Raises as ``object_store`` does."""
        check_bucket(bucket)
        try:
            return self._call(JetStreamContext.delete_object_store, bucket)
        except nats.js.errors.NotFoundError as error:
            raise _named(error, bucket, "object") from None

    def _key_value(self, found: Any) -> KeyValue:
        return KeyValue(cast("JetStream", self), found._name, found._stream, found._pre, found._direct)

    def _object_store(self, found: Any) -> ObjectStore:
        return ObjectStore(cast("JetStream", self), found._name, found._stream)


def _check_config(config: object, kind: type, example: str) -> None:
    if config is not None and not isinstance(config, kind):
        raise TypeError(
            f"config must be of type {kind.__name__}, not {config!r} ({type(config).__name__}); a name alone: {example}"
        )


def _finite(config: Optional[C]) -> Optional[C]:
    """A copy, with times to live that nats-py takes."""
    return None if config is None else dataclasses.replace(config, **_lives(vars(config)))


def _lives(fields: Mapping[str, Any]) -> Dict[str, Any]:
    """The times to live among the fields of a configuration, as nats-py takes them: it knows no infinity."""
    checked: Dict[str, Any] = {}
    for name, least in (("ttl", 0.1), ("limit_marker_ttl", 1.0)):
        seconds = check_life(fields.get(name), name, least)
        if seconds is not None:
            checked[name] = None if (name, seconds) == ("ttl", LONGEST) else seconds
    return checked


def _named(error: nats.js.errors.NotFoundError, bucket: str, kind: str) -> nats.js.errors.NotFoundError:
    """nats-py says no more than that something was not found."""
    code = getattr(error, "err_code", None) or 10059
    return nats.js.errors.BucketNotFoundError(404, f"there is no {kind} bucket {bucket!r}", code)
