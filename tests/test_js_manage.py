"""Streams and consumers, managed; and what becomes of names, values and kinds that cannot be right."""

from __future__ import annotations

import datetime
from typing import Any, Callable, Dict, List

import nats.js.errors
import pytest
from nats.js.api import ConsumerConfig, DeliverPolicy, StorageType, StreamConfig

import natsbridge
from natsbridge import JetStream, Pool

# nats-py and the server between them know no others: dots and spaces would change the subject of the API.
WRONG_NAMES = ["a.b", "a b", "a*", "a>", "a\r\nb", ""]


def test_streams_are_managed(js: JetStream, pool: Pool, unique: str) -> None:
    info = js.add_stream(StreamConfig(name=unique, storage=StorageType.MEMORY), subjects=[f"{unique}.>"])
    assert info.config.subjects == [f"{unique}.>"]
    assert js.find_stream_name_by_subject(f"{unique}.a") == unique
    js.publish_many((f"{unique}.{n % 2}", b"%d" % n) for n in range(10))
    assert js.stream_info(unique, subjects_filter=">").state.subjects == {f"{unique}.0": 5, f"{unique}.1": 5}
    assert (
        js.update_stream(name=unique, subjects=[f"{unique}.>"], storage=StorageType.MEMORY, max_msgs=8).config.max_msgs == 8
    )
    assert js.stream_info(unique).state.messages == 8
    assert js.get_msg(unique, 4).data == b"3"
    assert js.get_last_msg(unique, f"{unique}.1").data == b"9"
    assert js.delete_msg(unique, 4)
    with pytest.raises(nats.js.errors.NotFoundError, match="no message found"):
        js.get_msg(unique, 4)
    assert js.purge_stream(unique, keep=1)
    assert js.stream_info(unique).state.messages == 1
    assert unique in [info.config.name for info in js.streams_info()]
    assert unique in [info.config.name for info in js.streams_info_iterator()]
    assert js.account_info().streams >= 1
    assert js.delete_stream(unique)
    with pytest.raises(nats.js.errors.NotFoundError, match="stream not found"):
        js.delete_stream(unique)


def test_consumers_are_managed(js: JetStream, stream: str) -> None:
    info = js.add_consumer(stream, durable_name="c", deliver_policy=DeliverPolicy.ALL)
    assert (info.name, js.consumer_info(stream, "c").num_pending) == ("c", 0)
    assert [info.name for info in js.consumers_info(stream)] == ["c"]
    until = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)).isoformat()
    assert js.pause_consumer(stream, "c", until).paused
    assert not js.resume_consumer(stream, "c").paused
    assert js.delete_consumer(stream, "c")
    for call in (js.delete_consumer, js.consumer_info):
        with pytest.raises(nats.js.errors.NotFoundError, match="consumer not found"):
            call(stream, "c")
    with pytest.raises(nats.js.errors.NotFoundError, match="stream not found"):
        js.add_consumer("no-such-stream", durable_name="c")


def calls(js: JetStream, stream: str, consumer: str) -> Dict[str, Callable[[], object]]:
    return {
        "add_stream": lambda: js.add_stream(name=stream, subjects=["x.y.z"]),
        "update_stream": lambda: js.update_stream(name=stream),
        "stream_info": lambda: js.stream_info(stream),
        "delete_stream": lambda: js.delete_stream(stream),
        "purge_stream": lambda: js.purge_stream(stream),
        "get_msg": lambda: js.get_msg(stream, 1),
        "get_msg direct": lambda: js.get_msg(stream, 1, direct=True),
        "get_last_msg": lambda: js.get_last_msg(stream, "a"),
        "delete_msg": lambda: js.delete_msg(stream, 1),
        "consumers_info": lambda: js.consumers_info(stream),
        "consumer_info": lambda: js.consumer_info(stream, consumer),
        "add_consumer": lambda: js.add_consumer(stream, durable_name=consumer),
        "delete_consumer": lambda: js.delete_consumer(stream, consumer),
        "pause_consumer": lambda: js.pause_consumer(stream, consumer, "2030-01-01T00:00:00Z"),
        "resume_consumer": lambda: js.resume_consumer(stream, consumer),
        "reset_consumer": lambda: js.reset_consumer(stream, consumer),
    }


OF_STREAMS = list(calls(None, "", ""))  # type: ignore[arg-type]
OF_CONSUMERS = [name for name in OF_STREAMS if name.endswith("_consumer") or name == "consumer_info"]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_cannot_be_one_is_refused(js: JetStream, stream: str, name: str) -> None:
    for what in OF_STREAMS:
        with pytest.raises((ValueError, nats.js.errors.Error)) as raised:
            calls(js, name, "c")[what]()
        assert str(raised.value), what
    for what in OF_CONSUMERS:
        if (what, name) != ("add_consumer", ""):  # one without a name is made
            with pytest.raises((ValueError, nats.js.errors.Error)) as raised:
                calls(js, stream, name)[what]()
            assert str(raised.value), what
    assert js.consumers_info(stream) == []
    assert js._pool.stats().connections[0].reconnects == 0, "nothing malformed may reach the server"


@pytest.mark.parametrize("what", OF_STREAMS)
def test_what_is_missing_is_said_to_be(js: JetStream, unique: str, what: str) -> None:
    if what == "add_stream":
        return
    with pytest.raises(natsbridge.Error, match=r"not found|stream is missing") as raised:
        calls(js, unique, "c")[what]()
    direct = what == "get_msg direct"  # no stream answers, so there is nobody to say that it is missing
    assert isinstance(raised.value, nats.js.errors.ServiceUnavailableError if direct else nats.js.errors.NotFoundError)


def test_a_value_of_the_wrong_kind_is_named(js: JetStream, stream: str) -> None:
    wrong: Any
    for wrong in (5, None, b"S", ["S"]):
        for what in OF_STREAMS:
            with pytest.raises((TypeError, ValueError)) as raised:
                calls(js, wrong, "c")[what]()
            assert "must be a str" in str(raised.value) or "stream name is required" in str(raised.value), what
        for what in OF_CONSUMERS:
            if what != "add_consumer":
                with pytest.raises((TypeError, ValueError)) as raised:
                    calls(js, stream, wrong)[what]()
                assert "must be a str" in str(raised.value) or "consumer name is required" in str(raised.value), what
    attempts: List[Callable[[], object]] = [
        lambda: js.add_stream("S"),  # type: ignore[arg-type]
        lambda: js.add_stream(StreamConfig(name="S"), no_such_field=1),
        lambda: js.add_consumer(stream, {"durable_name": "c"}),  # type: ignore[arg-type]
        lambda: js.add_consumer(stream, no_such_field=1),
        lambda: js.add_consumer(stream, ack_wait="soon"),
        lambda: js.add_stream(name="S", max_age="1h"),
        lambda: js.add_stream(name="S", subjects=object()),
        lambda: js.get_msg(stream, "1"),  # type: ignore[arg-type]
        lambda: js.get_msg(stream, True),
        lambda: js.delete_msg(stream, 1.0),  # type: ignore[arg-type]
        lambda: js.purge_stream(stream, seq="1"),  # type: ignore[arg-type]
        lambda: js.stream_info(stream, subjects_filter=1),  # type: ignore[arg-type]
        lambda: js.find_stream_name_by_subject(None),  # type: ignore[arg-type]
        lambda: js.streams_info("0"),  # type: ignore[arg-type]
        lambda: js.consumer_info(stream, "c", timeout="1"),  # type: ignore[arg-type]
        lambda: js.stream_info(),  # type: ignore[call-arg]
        lambda: js.stream_info(stream, stream, stream),  # type: ignore[call-arg]
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(TypeError) as raised:
            attempt()
        assert str(raised.value), number


def test_what_the_server_refuses_comes_in_its_words(js: JetStream, stream: str) -> None:
    with pytest.raises(nats.js.errors.BadRequestError, match="subjects overlap"):
        js.add_stream(name=f"{stream}-2", subjects=[f"{stream}.a"])
    with pytest.raises(nats.js.errors.APIError, match=r"invalid JSON|subject"):
        js.add_stream(name=f"{stream}-2", subjects=5)
    with pytest.raises(nats.js.errors.BadRequestError, match="stream name already in use"):
        js.add_stream(name=stream, subjects=["other"], storage=StorageType.MEMORY)
    js.add_consumer(stream, ConsumerConfig(durable_name="c"))
    with pytest.raises(nats.js.errors.APIError, match=r"deliver policy can not be updated|already"):
        js.add_consumer(stream, ConsumerConfig(durable_name="c", deliver_policy=DeliverPolicy.NEW))


def test_a_server_without_jetstream_says_so_at_once(make_nats_server: Any, unique: str) -> None:
    server = make_nats_server(jetstream=False)
    with Pool(server.url) as pool:
        js = pool.jetstream(publish_retries=0)
        attempts: List[Callable[[], object]] = [
            js.account_info,
            lambda: js.stream_info("S"),
            lambda: js.pull_subscribe("a", "c", stream="S"),
            lambda: js.subscribe("a", stream="S"),
            lambda: js.subscribe("a", durable="c"),
            lambda: js.ordered_consumer("S"),
            lambda: js.pull_subscribe_bind("c", "S").fetch(timeout=1),
            lambda: js.pull_subscribe_bind("c", "S").next_msg(timeout=1),
        ]
        for attempt in attempts:
            with pytest.raises(nats.js.errors.ServiceUnavailableError, match="JetStream is not enabled"):
                attempt()
        with pytest.raises(nats.js.errors.NoStreamResponseError):
            js.publish("a", b"x")
        with pytest.raises(nats.js.errors.NoStreamResponseError):
            js.publish_async("a", b"x").result()
