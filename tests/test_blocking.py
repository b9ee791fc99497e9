"""The primitive below JetStream, key-value and object store: nats-py's coroutine methods, run in the calling thread."""

from __future__ import annotations

import _thread
import asyncio
import inspect
import threading
import time
from typing import Any, Iterator, List, Optional

import nats.errors
import nats.js.errors
import pytest
from nats.js.manager import JetStreamManager
from procs import WaitFor

import natsbridge
from natsbridge import (
    ClosedError,
    JetStream,
    LoopThreadError,
    Message,
    NatsBridgeError,
    PermissionDeniedError,
    Pool,
    RequestTimeoutError,
)
from natsbridge._blocking import Channel, Facade, blocking
from natsbridge.server import EmbeddedServer


@pytest.fixture
def deaf(pool: Pool, unique: str) -> Iterator[JetStream]:
    """JetStream below a prefix where somebody listens, and never answers."""
    with pool.subscribe(f"{unique}.>"):
        yield pool.jetstream(prefix=unique)


# -- what the methods look like ----------------------------------------------------------------------------------------


def test_signature_and_defaults_are_those_of_nats_py() -> None:
    assert inspect.signature(JetStream.stream_info) == inspect.signature(JetStreamManager.stream_info)
    assert JetStream.stream_info.__wrapped__ is JetStreamManager.stream_info  # type: ignore[attr-defined]
    assert JetStream.stream_info.__name__ == "stream_info"


def test_the_docstring_is_that_of_nats_py_without_its_examples() -> None:
    text = JetStream.delete_msg.__doc__
    assert text is not None
    assert "Delete a message from a stream based on the sequence ID" in text
    assert "``timeout`` seconds" in text
    assert "await" not in "".join(getattr(JetStream, name).__doc__ or "" for name in dir(JetStream))


class Wrapped:
    def __init__(self, facade: object, result: object) -> None:
        self.facade, self.result = facade, result


def wrap(facade: Answering, result: int) -> Wrapped:
    return Wrapped(facade, result)


class Native:
    """As nats-py writes its classes."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def ask(self, subject: str, timeout: Optional[float] = None) -> bytes:
        return (await self.channel.request(subject)).data

    async def sleep(self) -> None:
        await asyncio.sleep(0)

    async def number(self) -> int:
        return 7


class Answering(Facade):
    def _native(self, channel: Channel) -> Native:
        return Native(channel)

    ask = blocking(Native.ask)
    sleep = blocking(Native.sleep)
    number = blocking(Native.number, wrap)


def test_a_result_can_be_wrapped(pool: Pool) -> None:
    facade = Answering(pool)
    result = facade.number()
    assert (type(result), result.facade, result.result) == (Wrapped, facade, 7)
    assert inspect.signature(Answering.number).return_annotation == "Wrapped"


def test_a_method_that_awaits_something_else_says_so(pool: Pool) -> None:
    with pytest.raises(AssertionError, match=r"Answering\.sleep awaits something that is not the channel"):
        Answering(pool).sleep()


# -- deadlines ---------------------------------------------------------------------------------------------------------


def test_the_deadline_is_the_objects_own_and_the_error_names_call_and_seconds(deaf: JetStream) -> None:
    start = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"JetStream\.stream_info was not through within 0\.1 s") as raised:
        deaf.with_timeout(0.1).stream_info("S")
    assert 0.1 <= time.monotonic() - start < 2.0
    assert isinstance(raised.value, nats.errors.TimeoutError)
    assert isinstance(raised.value, TimeoutError)


def test_a_timeout_that_nats_py_takes_is_the_deadline(deaf: JetStream, pool: Pool, unique: str) -> None:
    for call in (
        lambda: deaf.consumer_info("S", "c", timeout=0.05),
        lambda: deaf.consumer_info("S", "c", 0.05),
        lambda: deaf.add_consumer("S", durable_name="c", timeout=0.05),
        lambda: Answering(pool).ask(f"{unique}.x", 0.05),
    ):
        with pytest.raises(RequestTimeoutError, match=r"was not through within 0\.05 s"):
            call()


def test_with_timeout_leaves_the_original_alone(js: JetStream) -> None:
    other = js.with_timeout(0.5)
    assert (type(other), other.timeout, js.timeout) == (JetStream, 0.5, 5.0)
    assert other.with_timeout(float("inf")).timeout > 1e6


@pytest.mark.parametrize(
    ("timeout", "error"),
    [("1", TypeError), (None, TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError)],
)
def test_a_timeout_must_be_one(js: JetStream, timeout: Any, error: type) -> None:
    with pytest.raises(error, match="timeout"):
        js.with_timeout(timeout)


# -- how calls end -----------------------------------------------------------------------------------------------------


def test_nothing_is_left_behind_by_a_call_that_was_given_up(deaf: JetStream, pool: Pool) -> None:
    assert pool._runtime is not None
    before = asyncio.all_tasks(pool._runtime.loop._loop)
    with pytest.raises(RequestTimeoutError):
        deaf.with_timeout(0.05).account_info()
    assert not pool._link()._ends
    assert not asyncio.all_tasks(pool._runtime.loop._loop) - before


def test_an_interrupt_ends_a_call_and_leaves_nothing(deaf: JetStream, pool: Pool, wait_for: WaitFor) -> None:
    def interrupt() -> None:
        wait_for(lambda: pool._link()._ends, what="the request to be under way")
        _thread.interrupt_main()

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        deaf.with_timeout(30).account_info()
    assert time.monotonic() - start < 5.0
    interrupter.join()
    assert not pool._link()._ends


def test_closing_the_pool_ends_a_call(server: EmbeddedServer, unique: str, wait_for: WaitFor) -> None:
    ended: List[BaseException] = []
    with Pool(server.url) as pool, pool.subscribe(f"{unique}.>"):
        js = pool.jetstream(prefix=unique, timeout=30)

        def call() -> None:
            try:
                js.account_info()
            except BaseException as error:
                ended.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        wait_for(lambda: pool._link()._ends, what="the request to be under way")
    caller.join(5.0)
    assert [type(error) for error in ended] == [ClosedError]
    with pytest.raises(ClosedError):
        js.account_info()


def test_the_loop_thread_is_refused(js: JetStream, pool: Pool) -> None:
    js.account_info()
    told: List[BaseException] = []
    done = threading.Event()

    def call() -> None:
        try:
            js.account_info()
        except BaseException as error:
            told.append(error)
        done.set()

    assert pool._runtime is not None
    pool._runtime.loop.post(call)
    assert done.wait(5.0)
    assert [type(error) for error in told] == [LoopThreadError]


# -- errors ------------------------------------------------------------------------------------------------------------


def test_nats_pys_errors_come_through_and_have_the_one_root(js: JetStream, unique: str) -> None:
    with pytest.raises(nats.js.errors.NotFoundError) as raised:
        js.stream_info(unique)
    assert isinstance(raised.value, natsbridge.Error)
    assert (raised.value.code, raised.value.err_code) == (404, 10059)


def test_every_error_of_nats_pys_jetstream_has_the_one_root() -> None:
    found = [
        value for value in vars(nats.js.errors).values() if inspect.isclass(value) and issubclass(value, BaseException)
    ]
    assert len(found) > 20
    assert all(issubclass(error, natsbridge.Error) for error in found)


def test_an_error_that_nats_py_raises_without_a_word_is_given_one(js: JetStream, unique: str) -> None:
    with pytest.raises(nats.js.errors.NotFoundError, match="find_stream_name_by_subject found nothing"):
        js.find_stream_name_by_subject(unique)


def test_where_no_jetstream_is_the_error_says_so(pool: Pool, unique: str) -> None:
    for js in (pool.jetstream(domain=unique), pool.jetstream(prefix=unique)):
        with pytest.raises(nats.js.errors.ServiceUnavailableError, match="JetStream is not enabled") as raised:
            js.account_info()
        assert raised.value.code == 503


def test_an_answer_that_is_no_jetstreams_is_told_apart(pool: Pool, worker_pool: Pool, unique: str) -> None:
    def echo(message: Message) -> None:
        message.respond(b"hello")

    worker_pool.subscribe(f"{unique}.INFO", handler=echo)
    with pytest.raises(NatsBridgeError, match="answered by something that is not JetStream"):
        pool.jetstream(prefix=unique).account_info()


def test_a_refused_permission_is_told_at_once() -> None:
    config = 'jetstream: {}\nauthorization: { users: [{ user: u, password: p, permissions: { publish: ["_INBOX.>"] } }] }\n'
    with EmbeddedServer(config_text=config) as server, Pool(server.url, user="u", password="p") as pool:
        start = time.monotonic()
        with pytest.raises(PermissionDeniedError, match="publish"):
            pool.jetstream().account_info()
        assert time.monotonic() - start < 3.0
