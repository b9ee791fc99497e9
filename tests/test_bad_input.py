"""Arguments that cannot be right are refused at once, in the caller's thread, by name, and harm nobody."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Callable, Dict, Iterator, List, Tuple, Type

import pytest
from procs import LONG

from natsbridge import (
    BadHeaderError,
    BadSubjectError,
    ClosedError,
    ConnectError,
    MaxPayloadError,
    OnlineRegistry,
    Pool,
    RequestTimeoutError,
    ResponseSender,
    StreamRequest,
    Subscriber,
    is_client_online,
    mark_client_offline,
    mark_client_online,
    options,
)
from natsbridge.server import EmbeddedServer

NAN = float("nan")
INFINITE = float("inf")

Call = Callable[[Pool, Any], object]


@pytest.fixture(scope="module")
def one_pool(nats_server: EmbeddedServer) -> Iterator[Pool]:
    """All that is wrong goes to one pool, and none of it may hurt the connection."""
    with Pool(nats_server.url, registry=OnlineRegistry()) as pool:
        yield pool


@pytest.fixture
def target(one_pool: Pool, unique: str) -> Iterator[Pool]:
    """The pool; afterwards the connection is the same one as before, and works."""
    before = one_pool.stats()
    yield one_pool
    with one_pool.subscribe(unique) as sub:
        one_pool.publish(unique, b"usable")
        one_pool.flush()
        assert sub.next_msg(LONG).data == b"usable"
    after = one_pool.stats()
    assert after.connected == before.connected == 1
    assert after.connections[0].reconnects == before.connections[0].reconnects
    assert after.streams == 0
    assert one_pool._runtime is not None
    assert one_pool._runtime.links[0]._ends == {}
    assert one_pool._runtime.links[0].incoming.taken == 0
    assert one_pool.registry._watched == {}


def refuse(call: Callable[[], object], error: Type[BaseException], *named: str) -> None:
    began = time.monotonic()
    with pytest.raises(error) as caught:
        call()
    assert time.monotonic() - began < 1.0, "it waited before it refused"
    assert type(caught.value) is error
    for name in named:
        assert name in str(caught.value)


# -- subjects ---------------------------------------------------------------------------------------------------------

PUBLISHING: Dict[str, Call] = {
    "publish": lambda pool, subject: pool.publish(subject, b"x"),
    "reply": lambda pool, subject: pool.publish("fine", b"x", reply=subject),
    "request": lambda pool, subject: pool.request(subject),
    "request_many": lambda pool, subject: pool.request_many(subject),
    "stream": lambda pool, subject: pool.stream(subject),
    "stream_request": lambda pool, subject: pool.stream_request(subject, b"", print),
    "stream_request_with_client": lambda pool, subject: pool.stream_request_with_client(subject, b"", "id", print),
}
SUBSCRIBING: Dict[str, Call] = {
    "subscribe": lambda pool, subject: pool.subscribe(subject),
    "subscribe with a handler": lambda pool, subject: pool.subscribe(subject, handler=print),
    "stream_subscribe_handler": lambda pool, s: Subscriber(pool).stream_subscribe_handler(s, lambda a, b: None),
    "stream_queue_subscribe_handler": lambda pool, s: Subscriber(pool).stream_queue_subscribe_handler(
        s, "q", lambda a, b: None
    ),
    "decorator": lambda pool, subject: Subscriber(pool).stream(subject)(lambda a, b: None),
}
BAD_SUBJECTS: List[Tuple[str, str]] = [
    ("", "empty"),
    (" ", "white space"),
    ("a b", "white space"),
    ("a\tb", "white space"),
    ("a\r\nPUB b 0\r\n\r\n", "white space"),
    ("a\x00b", "control character"),
    ("a\x7f", "control character"),
    (".a", "empty token"),
    ("a.", "empty token"),
    ("a..b", "empty token"),
    (".", "empty token"),
    ("a" * 3073, "longer than 3072 bytes"),
    ("ü" * 1600, "longer than 3072 bytes"),
    ("a\ud800", "UTF-8"),
]
WILDCARDS = ["*", ">", "a.*", "a.>", "*.a", "a.*.b"]


@pytest.mark.parametrize("name", [name for name in PUBLISHING if name != "reply"] + list(SUBSCRIBING))
@pytest.mark.parametrize(("subject", "fault"), BAD_SUBJECTS, ids=[repr(subject)[:20] for subject, _ in BAD_SUBJECTS])
def test_bad_subjects(target: Pool, name: str, subject: str, fault: str) -> None:
    call = {**PUBLISHING, **SUBSCRIBING}[name]
    refuse(lambda: call(target, subject), BadSubjectError, repr(subject[:60])[:-1], fault)


@pytest.mark.parametrize(
    ("subject", "fault"), BAD_SUBJECTS[1:], ids=[repr(subject)[:20] for subject, _ in BAD_SUBJECTS[1:]]
)
def test_bad_replies(target: Pool, subject: str, fault: str) -> None:
    refuse(lambda: PUBLISHING["reply"](target, subject), BadSubjectError, "reply", fault)


@pytest.mark.parametrize("name", list(PUBLISHING))
@pytest.mark.parametrize("subject", WILDCARDS)
def test_wildcards_are_for_subscriptions(target: Pool, name: str, subject: str) -> None:
    refuse(lambda: PUBLISHING[name](target, subject), BadSubjectError, subject, "subscriptions only")


@pytest.mark.parametrize("name", list(SUBSCRIBING))
@pytest.mark.parametrize(
    ("subject", "fault"),
    [
        (">.a", "last token"),
        ("a.>.b", "last token"),
        ("a*", "whole token"),
        ("a.b>", "whole token"),
        ("a.**", "whole token"),
    ],
)
def test_wildcards_in_the_wrong_place(target: Pool, name: str, subject: str, fault: str) -> None:
    refuse(lambda: SUBSCRIBING[name](target, subject), BadSubjectError, subject, fault)


@pytest.mark.parametrize("name", list(PUBLISHING) + list(SUBSCRIBING))
@pytest.mark.parametrize("subject", [None, 7, b"bytes", ["a"]], ids=repr)
def test_subjects_of_another_type(target: Pool, name: str, subject: object) -> None:
    if name == "reply" and subject is None:
        return  # as good as none
    call = {**PUBLISHING, **SUBSCRIBING}[name]
    refuse(lambda: call(target, subject), TypeError, repr(subject), "must be a str")


@pytest.mark.parametrize(
    ("queue", "error"),
    [("a b", BadSubjectError), ("a\r\nb", BadSubjectError), ("*", BadSubjectError), (None, TypeError), (7, TypeError)],
)
def test_bad_queue_groups(target: Pool, unique: str, queue: Any, error: Type[BaseException]) -> None:
    def handler(request: StreamRequest, sender: ResponseSender) -> None: ...

    for call in (
        lambda: target.subscribe(unique, queue=queue),
        lambda: Subscriber(target).stream(unique, queue=queue)(handler),
        lambda: Subscriber(target).stream_queue_subscribe_handler(unique, queue, handler),
    ):
        refuse(call, error, "queue group", repr(queue))


def test_the_longest_subjects_work(target: Pool) -> None:
    subject = "a." * 1535 + "ab"
    assert len(subject) == options.MAX_SUBJECT_BYTES
    with target.subscribe(subject) as sub:
        target.publish(subject, b"x")
        assert sub.next_msg(LONG).data == b"x"
        with pytest.raises(RequestTimeoutError):
            target.request(subject, timeout=0.05)


def test_subject_and_reply_that_are_too_long_together(target: Pool) -> None:
    """Each for itself is short enough, but the server hangs up on a line of more than 4,096 bytes."""
    subject, reply = "a" * 3000, "b" * 3000
    with suppress(BadSubjectError):
        target.publish(subject, b"x", reply=reply)
    target.flush()


def test_subject_and_queue_that_are_too_long_together(target: Pool) -> None:
    with suppress(BadSubjectError):
        target.subscribe("a" * 3000, queue="b" * 3000).unsubscribe()
    target.flush()


# -- payloads ---------------------------------------------------------------------------------------------------------

PAYLOADS: Dict[str, Call] = {
    "publish": lambda pool, data: pool.publish("fine", data),
    "request": lambda pool, data: pool.request("fine", data),
    "request_many": lambda pool, data: pool.request_many("fine", data),
    "stream": lambda pool, data: pool.stream("fine", data),
    "stream_request": lambda pool, data: pool.stream_request("fine", data, print),
    "stream_request_with_client": lambda pool, data: pool.stream_request_with_client("fine", data, "id", print),
}


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_text_is_no_payload(target: Pool, name: str) -> None:
    refuse(lambda: PAYLOADS[name](target, "text"), TypeError, "must be bytes, not str", "encode")


@pytest.mark.parametrize("name", list(PAYLOADS))
@pytest.mark.parametrize("data", [None, 7, 1.5, [1, 2], {"a": 1}, object])
def test_other_things_are_no_payload(target: Pool, name: str, data: object) -> None:
    refuse(lambda: PAYLOADS[name](target, data), TypeError, "must be bytes", type(data).__name__)


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_payloads_beyond_max_payload(target: Pool, name: str) -> None:
    size = 1024 * 1024 + 1
    refuse(lambda: PAYLOADS[name](target, b"x" * size), MaxPayloadError, "1048576")


def test_headers_count_into_max_payload(target: Pool) -> None:
    headers = {"X": "y" * 1000}
    for call in (
        lambda: target.publish("fine", b"x" * (1024 * 1024 - 1000), headers=headers),
        lambda: target.request("fine", b"x" * (1024 * 1024 - 1000), headers=headers),
        lambda: target.stream("fine", b"x" * (1024 * 1024 - 1000), headers=headers),
        lambda: target.publish("fine", b"", headers={"X": "y" * 1024 * 1024}),
    ):
        refuse(call, MaxPayloadError, "payload and headers")


# -- headers ----------------------------------------------------------------------------------------------------------

HEADERS: Dict[str, Call] = {
    "publish": lambda pool, headers: pool.publish("fine", b"x", headers=headers),
    "request": lambda pool, headers: pool.request("fine", headers=headers),
    "request_many": lambda pool, headers: pool.request_many("fine", headers=headers),
    "stream": lambda pool, headers: pool.stream("fine", headers=headers),
    "stream_request": lambda pool, headers: pool.stream_request("fine", b"", print, headers=headers),
}


@pytest.mark.parametrize("name", list(HEADERS))
@pytest.mark.parametrize(
    "headers",
    [
        {"Name": "a\nb"},
        {"Name": "a\r\nInjected: yes"},
        {"Name": "a\r"},
        {"Na\nme": "a"},
        {"Na me": "a"},
        {"Name:": "a"},
        {"": "a"},
        {"Näme": "a"},
        {"Name\r\n": "a"},
        {"Name": "\ud800"},
    ],
    ids=repr,
)
def test_bad_headers(target: Pool, name: str, headers: Dict[str, str]) -> None:
    refuse(lambda: HEADERS[name](target, headers), BadHeaderError, repr(next(iter(headers))))


@pytest.mark.parametrize("name", list(HEADERS))
@pytest.mark.parametrize(
    "headers", [{"Name": 7}, {"Name": b"bytes"}, {"Name": None}, {"Name": ["a"]}, {7: "a"}, {b"Name": "a"}], ids=repr
)
def test_headers_of_another_type(target: Pool, name: str, headers: Any) -> None:
    refuse(lambda: HEADERS[name](target, headers), TypeError, "header", "must be")


@pytest.mark.parametrize("name", list(HEADERS))
@pytest.mark.parametrize("headers", [7, "Name: value", [("Name", "value")], {"Name"}], ids=repr)
def test_what_is_no_mapping_of_headers(target: Pool, name: str, headers: Any) -> None:
    refuse(lambda: HEADERS[name](target, headers), TypeError, "headers must be a mapping", repr(headers))


@pytest.mark.parametrize("header", ["Connect-ID", "connect-id", "Natsbridge-Stream", "natsbridge-anything"])
def test_headers_that_the_stream_protocol_writes_itself(target: Pool, header: str) -> None:
    for name in ("stream", "stream_request"):
        refuse(lambda name=name: HEADERS[name](target, {header: "x"}), BadHeaderError, repr(header))  # type: ignore[misc]
    target.publish("fine", b"x", headers={header: "x"})  # elsewhere they are anybody's


def test_headers_of_a_response(target: Pool, unique: str) -> None:
    with target.subscribe(unique) as sub:
        target.publish(unique, b"x", reply=f"{unique}.reply")
        message = sub.next_msg(LONG)
        refuse(lambda: message.respond(b"x", {"Name": "a\nb"}), BadHeaderError, "'Name'")
        refuse(lambda: message.respond("x"), TypeError, "encode")  # type: ignore[arg-type]


# -- ids --------------------------------------------------------------------------------------------------------------

IDS: Dict[str, Call] = {
    "stream": lambda pool, connect_id: pool.stream("fine", connect_id=connect_id),
    "stream_request_with_client": lambda pool, c: pool.stream_request_with_client("fine", b"", c, print),
    "mark_client_online": lambda pool, connect_id: pool.mark_client_online(connect_id),
    "mark_client_offline": lambda pool, connect_id: pool.mark_client_offline(connect_id),
    "client": lambda pool, connect_id: pool.client(connect_id).__enter__(),
    "module: mark_client_online": lambda pool, connect_id: mark_client_online(connect_id),
    "module: mark_client_offline": lambda pool, connect_id: mark_client_offline(connect_id),
    "module: is_client_online": lambda pool, connect_id: is_client_online(connect_id),
}


@pytest.mark.parametrize("name", list(IDS))
@pytest.mark.parametrize("connect_id", ["", " ", " a", "a\n", "a\r\nX: y", "a\x00", "\ud800"], ids=repr)
def test_bad_ids(target: Pool, name: str, connect_id: str) -> None:
    refuse(lambda: IDS[name](target, connect_id), ValueError, "connect_id")


@pytest.mark.parametrize("name", list(IDS))
@pytest.mark.parametrize("connect_id", [None, 7, b"a", ("a",)], ids=repr)
def test_ids_of_another_type(target: Pool, name: str, connect_id: object) -> None:
    if name == "stream" and connect_id is None:
        return  # a request that belongs to no client
    refuse(lambda: IDS[name](target, connect_id), TypeError, "connect_id must be a str", repr(connect_id))


# -- times and counts -------------------------------------------------------------------------------------------------

TIMEOUTS: Dict[str, Call] = {
    "open": lambda pool, timeout: pool.open(timeout),
    "publish": lambda pool, timeout: pool.publish("fine", b"x", timeout=timeout),
    "flush": lambda pool, timeout: pool.flush(timeout),
    "request": lambda pool, timeout: pool.request("fine", timeout=timeout),
    "request_many": lambda pool, timeout: pool.request_many("fine", timeout=timeout),
    "subscribe": lambda pool, timeout: pool.subscribe("fine", timeout=timeout),
    "stream": lambda pool, timeout: pool.stream("fine", timeout=timeout),
    "stream: idle_timeout": lambda pool, timeout: pool.stream("fine", idle_timeout=timeout),
    "stream: resume": lambda pool, timeout: pool.stream("fine", resume=timeout),
    "stream_request": lambda pool, timeout: pool.stream_request("fine", b"", print, timeout=timeout),
    "close": lambda pool, timeout: pool.close(timeout),
    "drain": lambda pool, timeout: pool.drain(timeout),
    "Subscriber.close": lambda pool, timeout: Subscriber(pool).close(timeout),
    "Subscriber.drain": lambda pool, timeout: Subscriber(pool).drain(timeout),
    "Subscriber.run": lambda pool, timeout: Subscriber(pool).run(drain_timeout=timeout),
    "next_msg": lambda pool, timeout: pool.subscribe("fine").next_msg(timeout),
    "Subscription.drain": lambda pool, timeout: pool.subscribe("fine").drain(timeout),
}


@pytest.mark.parametrize("name", list(TIMEOUTS))
@pytest.mark.parametrize("timeout", [-1, -0.001, NAN, -INFINITE], ids=repr)
def test_times_that_are_none(target: Pool, name: str, timeout: float) -> None:
    refuse(lambda: TIMEOUTS[name](target, timeout), ValueError, repr(timeout), "zero or more seconds")


@pytest.mark.parametrize("name", list(TIMEOUTS))
@pytest.mark.parametrize("timeout", ["5", b"5", True, [], 1j], ids=repr)
def test_times_of_another_type(target: Pool, name: str, timeout: object) -> None:
    refuse(lambda: TIMEOUTS[name](target, timeout), TypeError, repr(timeout), "number of seconds")


@pytest.mark.parametrize(
    ("name", "call", "error"),
    [
        ("window", lambda pool: pool.stream("fine", window=0), ValueError),
        ("window", lambda pool: pool.stream("fine", window=1.5), TypeError),
        ("window_bytes", lambda pool: pool.stream("fine", window_bytes=-1), ValueError),
        ("window_bytes", lambda pool: pool.stream("fine", window_bytes="1"), TypeError),
        ("pending_messages", lambda pool: pool.subscribe("fine", pending_messages=0), ValueError),
        ("pending_bytes", lambda pool: pool.subscribe("fine", pending_bytes=None), TypeError),
        ("max_messages", lambda pool: pool.request_many("fine", max_messages=0), ValueError),
        ("stall", lambda pool: pool.request_many("fine", stall=0), ValueError),
        ("stall", lambda pool: pool.request_many("fine", stall="1"), TypeError),
        ("max_workers", lambda pool: Subscriber(pool).stream("fine", max_workers=0), ValueError),
        ("max_queued", lambda pool: Subscriber(pool).stream("fine", max_queued=-1), ValueError),
        ("stall_timeout", lambda pool: Subscriber(pool, stall_timeout=-1), ValueError),
        ("max_resume", lambda pool: Subscriber(pool, max_resume=-1), ValueError),
    ],
)  # fmt: skip
def test_other_numbers(target: Pool, name: str, call: Callable[[Pool], Any], error: Type[BaseException]) -> None:
    def complete() -> None:
        made = call(target)
        if callable(made):
            made(lambda request, sender: None)

    refuse(complete, error, name)


# -- callables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", ["print", 7, b"x", [print]], ids=repr)
def test_handlers_that_cannot_be_called(target: Pool, unique: str, handler: Any) -> None:
    for call in (
        lambda: target.subscribe(unique, handler=handler),
        lambda: target.stream_request(unique, b"", handler),
        lambda: target.stream_request_with_client(unique, b"", unique, handler),
        lambda: Subscriber(target).stream_subscribe_handler(unique, handler),
        lambda: Subscriber(target).stream(unique)(handler),
        lambda: target.request_many(unique, sentinel=handler),
    ):
        refuse(call, TypeError, repr(handler), "callable")


# -- pools that cannot serve ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PAYLOADS))
def test_bad_input_is_found_before_connecting(name: str) -> None:
    """Nothing is there at that address: who is told "no server" first would look in the wrong place."""
    pool = Pool("nats://127.0.0.1:1", connect_timeout=1.0)
    refuse(lambda: PAYLOADS[name](pool, "text"), TypeError, "encode")
    refuse(lambda: PUBLISHING[name](pool, "a b"), BadSubjectError, "'a b'")
    refuse(lambda: PAYLOADS[name](pool, b"x"), ConnectError, "127.0.0.1:1")
    pool.close()
    refuse(lambda: PAYLOADS[name](pool, b"x"), ClosedError, "closed")


def test_no_echo_is_refused() -> None:
    refuse(lambda: Pool(nats_options={"no_echo": True}), ValueError, "no_echo")


def test_a_pool_or_a_url_it_must_be() -> None:
    refuse(lambda: Subscriber(None), TypeError, "None")  # type: ignore[arg-type]
    refuse(lambda: Subscriber("http://localhost"), ValueError, "http://localhost")
    refuse(lambda: Subscriber([]), ValueError, "servers is empty")
