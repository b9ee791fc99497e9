"""Handlers that would never run, being asynchronous or generators: refused where given, or failing where called."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any, AsyncIterator, Callable, Dict, Iterator, List

import pytest
from procs import LONG, WaitFor

from natsbridge import Error, JetStream, JetStreamMessage, Pool, Service, ServiceError, StreamError, Subscriber
from natsbridge.contrib._handlers import Handlers
from natsbridge.server import EmbeddedServer


async def coroutine(*_: Any) -> None: ...


async def async_generator(*_: Any) -> AsyncIterator[int]:
    yield 1


def generator(*_: Any) -> Iterator[int]:
    yield 1


class Asynchronous:
    async def __call__(self, *_: Any) -> None: ...


NEVER_RUN: Dict[str, Any] = {
    "coroutine": coroutine,
    "async_generator": async_generator,
    "partial": functools.partial(coroutine, 1),
    "object": Asynchronous(),
    "generator": generator,
}

Place = Callable[[Pool, JetStream, str, Any], object]

# Where a function is given that natsbridge calls; the generators of streams are another matter.
PLACES: Dict[str, Place] = {
    "subscribe": lambda pool, _j, name, handler: pool.subscribe(name, handler=handler),
    "sentinel": lambda pool, _j, name, handler: pool.request_many(name, sentinel=handler),
    "stream_request": lambda pool, _j, name, handler: pool.stream_request(name, b"", handler),
    "error_callback": lambda _p, _j, _n, handler: Pool(error_callback=handler),
    "js.subscribe": lambda _p, js, name, handler: js.subscribe(f"{name}.x", cb=handler),
    "js.subscribe_bind": lambda _p, js, name, handler: js.subscribe_bind(
        name, js.add_consumer(name, durable_name="push", deliver_subject="to").config, "push", cb=handler
    ),
    "consume": lambda _p, js, name, handler: js.pull_subscribe(f"{name}.x").consume(handler),
    "ordered": lambda _p, js, name, handler: js.ordered_consumer(name).consume(handler),
    "kv.watch": lambda _p, js, name, handler: js.create_key_value(bucket=name).watchall(handler=handler),
    "objects.watch": lambda _p, js, name, handler: js.create_object_store(name).watch(handler=handler),
    "progress": lambda _p, js, name, handler: js.create_object_store(name).put("a", b"1", progress=handler),
    "stats_handler": lambda pool, _j, name, handler: Service(pool, name, "1.0.0", stats_handler=handler),
    "endpoint": lambda pool, _j, name, handler: Service(pool, name, "1.0.0").add_endpoint("e", handler),
}

STREAMING: Dict[str, Place] = {
    "stream_endpoint": lambda pool, _j, name, handler: Service(pool, name, "1.0.0").add_stream_endpoint("e", handler),
    "subscriber": lambda pool, _j, name, handler: Subscriber(pool).stream_subscribe_handler(name, handler),
    "gateway": lambda _p, _j, name, handler: Handlers().stream(name)(handler),
}


@pytest.fixture
def buckets(js: JetStream, stream: str) -> Iterator[str]:
    yield stream
    for delete in (js.delete_key_value, js.delete_object_store):
        with suppress(Error):  # there is none
            delete(stream)


@pytest.mark.parametrize("kind", NEVER_RUN)
@pytest.mark.parametrize("place", PLACES)
def test_a_function_that_would_never_run_is_refused(pool: Pool, js: JetStream, buckets: str, place: str, kind: str) -> None:
    with pytest.raises(TypeError, match="is async" if kind != "generator" else "is a generator function"):
        PLACES[place](pool, js, buckets, NEVER_RUN[kind])


@pytest.mark.parametrize("kind", sorted(set(NEVER_RUN) - {"generator"}))
@pytest.mark.parametrize("place", STREAMING)
def test_a_handler_of_streams_may_only_yield(pool: Pool, js: JetStream, unique: str, place: str, kind: str) -> None:
    with pytest.raises(TypeError, match="is async"):
        STREAMING[place](pool, js, unique, NEVER_RUN[kind])


# -- what nothing tells beforehand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coroutine", "async_generator", "generator"])
def test_a_message_whose_handler_did_not_run_is_given_back(
    server: EmbeddedServer, stream: str, wait_for: WaitFor, kind: str
) -> None:
    errors: List[Exception] = []
    made: List[object] = []

    def handler(message: JetStreamMessage) -> Any:
        made.append(message.metadata.num_delivered)
        return NEVER_RUN[kind]() if len(made) < 3 else None

    with Pool(server.url, error_callback=errors.append) as pool:
        js = pool.jetstream()
        js.publish(f"{stream}.a", b"1")
        with js.pull_subscribe(f"{stream}.>", durable="d").consume(handler, nak_delay=0.01):
            wait_for(lambda: made == [1, 2, 3], what="the third delivery")
            wait_for(lambda: js.consumer_info(stream, "d").num_ack_pending == 0, what="the acknowledgement")
        wait_for(lambda: len(errors) == 2, what="both errors")
    assert all(isinstance(error, TypeError) and "which nobody runs" in str(error) for error in errors)


def test_a_subscriptions_handler_that_did_not_run_is_reported(
    server: EmbeddedServer, unique: str, wait_for: WaitFor
) -> None:
    errors: List[Exception] = []
    with Pool(server.url, error_callback=errors.append) as pool:
        pool.subscribe(unique, handler=lambda message: coroutine(message))
        pool.publish(unique, b"1")
        wait_for(lambda: len(errors) == 1, what="the error")
    assert "which nobody runs" in str(errors[0])


def test_the_requester_is_told_of_a_handler_that_did_not_run(pool: Pool, worker_pool: Pool, unique: str) -> None:
    with worker_pool.add_service(unique, "1.0.0") as service:
        service.add_endpoint("one", lambda request: coroutine(request), subject=f"{unique}.one")
        service.add_stream_endpoint("many", lambda request, sender: coroutine(request, sender), subject=f"{unique}.many")
        with pytest.raises(ServiceError, match="the handler failed"):
            pool.request(f"{unique}.one", timeout=LONG).raise_for_error()
        with pytest.raises(StreamError, match="the handler failed"), pool.stream(f"{unique}.many") as stream:
            list(stream)


def test_a_response_handler_that_did_not_run_ends_the_stream(pool: Pool, subscriber: Subscriber, unique: str) -> None:
    subscriber.stream_subscribe_handler(unique, lambda request, sender: sender.send(b"1"))
    with pytest.raises(TypeError, match="response_handler returned"):
        pool.stream_request(unique, b"", lambda message: coroutine(message))
