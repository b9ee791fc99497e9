"""Streams and consumers, managed; and what becomes of names, values and kinds that cannot be right."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any, Callable, Dict, List, Optional, Tuple

import nats.js.errors
import pytest
from nats.js.api import (
    ConsumerConfig,
    DeliverPolicy,
    RePublish,
    StorageType,
    StreamConfig,
    StreamConsumerLimits,
    StreamSource,
    SubjectTransform,
)

import natsbridge
from natsbridge import BadSubjectError, JetStream, Pool

# nats-py and the server between them know no others: dots and spaces would change the subject of the API.
WRONG_NAMES = ["a.b", "a b", "a*", "a>", "a\r\nb", ""]


def test_streams_are_managed(js: JetStream, pool: Pool, unique: str) -> None:
    info = js.add_stream(
        StreamConfig(name=unique, storage=StorageType.MEMORY), subjects=[f"{unique}.>"], metadata={"owner": "billing"}
    )
    assert info.config.subjects == [f"{unique}.>"]
    assert info.config.metadata is not None
    assert info.config.metadata["owner"] == "billing"
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
    info = js.add_consumer(stream, durable_name="m", metadata={"owner": "billing"})
    assert info.config.metadata is not None
    assert info.config.metadata["owner"] == "billing"
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
        lambda: js.publish("a", headers=5, stream=stream),  # type: ignore[arg-type]
        lambda: js.ordered_consumer(stream, filter_subjects=5),  # type: ignore[arg-type]
        lambda: js.consumer_info(stream, "c", timeout="1"),  # type: ignore[arg-type]
        lambda: js.stream_info(),  # type: ignore[call-arg]
        lambda: js.stream_info(stream, stream, stream),  # type: ignore[call-arg]
    ]
    for number, attempt in enumerate(attempts):
        with pytest.raises(TypeError) as raised:
            attempt()
        assert str(raised.value), number


NAN, INFINITE = float("nan"), float("inf")

# A value that cannot be right, by the field that it is for, and what is said of it.
WRONG_OF_CONSUMERS: List[Tuple[str, Any, str]] = [
    ("ack_wait", "soon", r"ack_wait must be a float or None, not 'soon' \(str\)"),
    ("ack_wait", NAN, "ack_wait must be a finite number of seconds, .*, not nan"),
    ("ack_wait", INFINITE, "ack_wait must be a finite number of seconds, .*, not inf"),
    ("ack_wait", 1e300, r"ack_wait must be a finite number of seconds, .*, not 1e\+300"),
    ("ack_wait", True, "ack_wait must be a float"),
    ("backoff", ["soon"], r"backoff\[0\] must be a float, not 'soon'"),
    ("backoff", [1, NAN], r"backoff\[1\] must be a finite number"),
    ("backoff", 5, "backoff must be a list or None, not 5"),
    ("opt_start_time", 5, "opt_start_time must be a datetime or None, not 5"),
    ("name", 5, "name must be a str or None, not 5"),
    ("filter_subjects", "a", "filter_subjects must be a list"),
    ("filter_subjects", [5], r"filter_subjects\[0\] must be a str"),
    ("max_deliver", "5", "max_deliver must be an int"),
    ("ack_policy", 5, "ack_policy must be an AckPolicy or None"),
    ("metadata", {"a": 5}, r"metadata\['a'\] must be a str"),
    ("deliver_subject", b"x", "deliver_subject must be a str"),
]
WRONG_OF_STREAMS: List[Tuple[str, Any, str]] = [
    ("max_age", "1h", "max_age must be a float or None, not '1h'"),
    ("max_age", NAN, "max_age must be a finite number"),
    ("duplicate_window", INFINITE, "duplicate_window must be a finite number"),
    ("subject_delete_marker_ttl", "x", "subject_delete_marker_ttl must be a float"),
    ("subjects", "a.>", "subjects must be a list or None, not 'a.>'"),
    ("max_msgs", 5.0, "max_msgs must be an int"),
    ("sources", ["X"], r"sources\[0\] must be a StreamSource, not 'X'"),
    ("sources", [StreamSource(name="X", opt_start_seq="1")], r"sources\[0\]\.opt_start_seq must be an int"),  # type: ignore[arg-type]
    ("mirror", StreamSource(name="X", opt_start_time=5), r"mirror\.opt_start_time must be a datetime"),  # type: ignore[arg-type]
    ("consumer_limits", StreamConsumerLimits(inactive_threshold=NAN), r"consumer_limits\.inactive_threshold must be a fin"),
    ("placement", "x", "placement must be a Placement or None"),
]


@pytest.mark.parametrize(("field", "value", "said"), WRONG_OF_CONSUMERS)
def test_a_value_that_no_consumer_can_have_is_named(js: JetStream, stream: str, field: str, value: Any, said: str) -> None:
    config = ConsumerConfig(**{field: value})
    for call in (
        lambda: js.add_consumer(stream, config),
        lambda: js.pull_subscribe(f"{stream}.>", stream=stream, config=config),
        lambda: js.subscribe(f"{stream}.>", stream=stream, config=config),
        lambda: js.subscribe_bind(stream, config, "c"),
    ):
        with pytest.raises((TypeError, ValueError), match=r"ConsumerConfig\." + said):
            call()
    with pytest.raises((TypeError, ValueError), match="^" + said):
        js.add_consumer(stream, **{field: value})
    assert js.consumers_info(stream) == []


@pytest.mark.parametrize(("field", "value", "said"), WRONG_OF_STREAMS)
def test_a_value_that_no_stream_can_have_is_named(js: JetStream, unique: str, field: str, value: Any, said: str) -> None:
    for change in (js.add_stream, js.update_stream):
        with pytest.raises((TypeError, ValueError), match=r"StreamConfig\." + said):
            change(StreamConfig(name=unique, **{field: value}))
        with pytest.raises((TypeError, ValueError), match="^" + said):
            change(name=unique, **{field: value})
    with pytest.raises(nats.js.errors.NotFoundError):
        js.stream_info(unique)


def test_what_nats_py_takes_is_taken(js: JetStream, stream: str, unique: str) -> None:
    """Whole numbers for seconds, tuples, the values of enums, text for times, None for what is not given."""
    made = js.add_stream(
        StreamConfig(name=f"{unique}-2", subjects=(f"{unique}-2",), storage="memory", duplicate_window=None),  # type: ignore[arg-type]
        max_age=60,
        retention="limits",
        metadata={"owner": "billing"},
        placement={"cluster": ""},
        republish=RePublish(src=">", dest=f"{unique}-3.>"),
        consumer_limits=StreamConsumerLimits(inactive_threshold=600),
        compression=None,
        max_msgs_per_subject=None,
    )
    copied = js.add_stream(
        name=f"{unique}-4",
        storage=StorageType.MEMORY,
        sources=[
            StreamSource(
                name=stream,
                opt_start_time="2020-01-01T00:00:00Z",  # type: ignore[arg-type]
                subject_transforms=[SubjectTransform(src=f"{stream}.>", dest=f"{unique}-4.>")],
            )
        ],
    )
    mirror = js.add_stream(name=f"{unique}-5", storage=StorageType.MEMORY, mirror={"name": stream})

    @dataclasses.dataclass
    class Durable(ConsumerConfig):
        durable_name: Optional[str] = "mine"

    consumers = [
        js.add_consumer(stream, Durable(ack_wait=30, ack_policy="explicit", metadata={"owner": "billing"})),  # type: ignore[arg-type]
        js.add_consumer(stream, durable_name="c", backoff=(1, 2.5), max_deliver=3, filter_subjects=[f"{stream}.a"]),
        js.add_consumer(
            stream,
            durable_name="d",
            deliver_policy="by_start_time",
            opt_start_time=datetime.datetime.now(),
            deliver_subject=f"{unique}-d",
            deliver_group="group",
            idle_heartbeat=1,
            flow_control=True,
            sample_freq="100",
            inactive_threshold=3600,
        ),
    ]
    for info in (made, copied, mirror):  # what a server answers can be given back
        assert info.config.name is not None
        assert js.update_stream(js.stream_info(info.config.name).config).config == info.config
        js.delete_stream(info.config.name)
    for consumer in consumers:
        assert js.add_consumer(stream, js.consumer_info(stream, consumer.name).config).config == consumer.config
        assert js.add_consumer(stream, **dataclasses.asdict(consumer.config)).config == consumer.config


def test_what_would_purge_more_than_was_meant_is_refused(js: JetStream, stream: str) -> None:
    js.publish_many((f"{stream}.{n % 2}", b"x") for n in range(4))
    wrong: List[Dict[str, Any]] = [{"subject": ""}, {"seq": 0}, {"seq": -1}, {"keep": -1}, {"subject": "a b"}]
    for arguments in wrong:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            js.purge_stream(stream, **arguments)
    for arguments in wrong[:2]:
        with pytest.raises(ValueError, match="pass None"):
            js.purge_stream(stream, **arguments)
    assert js.stream_info(stream).state.messages == 4
    assert js.purge_stream(stream, seq=2)
    assert js.stream_info(stream).state.messages == 3
    assert js.purge_stream(stream, subject=f"{stream}.*", keep=2)
    assert js.stream_info(stream).state.messages == 2
    assert js.purge_stream(stream, None, f"{stream}.0", None)
    assert js.stream_info(stream).state.messages == 1
    assert js.purge_stream(stream)
    assert js.stream_info(stream).state.messages == 0


def test_what_the_server_refuses_comes_in_its_words(js: JetStream, stream: str) -> None:
    with pytest.raises(nats.js.errors.BadRequestError, match="subjects overlap"):
        js.add_stream(name=f"{stream}-2", subjects=[f"{stream}.a"])
    with pytest.raises(nats.js.errors.APIError, match=r"invalid JSON|subject"):
        js.add_stream(name=f"{stream}-2", retention="no such policy")
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


def test_no_subject_is_not_any_subject(js: JetStream, stream: str) -> None:
    """nats-py takes the first stream that there is."""
    for attempt in (js.find_stream_name_by_subject, js.pull_subscribe, js.subscribe):
        with pytest.raises(BadSubjectError, match="bad subject ''"):
            attempt("")
    js.pull_subscribe("", stream=stream).unsubscribe()
