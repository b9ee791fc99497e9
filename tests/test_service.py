"""``Service``: endpoints, groups, errors, discovery, figures, and the end. What the protocol requires is in ``checked``."""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List

import pytest
from nats.micro.request import ServiceError as NatsServiceError
from nats.micro.service import EndpointStats
from procs import LONG, StartProgram, WaitFor, posix_only, stopped

from natsbridge import (
    BadSubjectError,
    BusyError,
    ClientOfflineError,
    ClosedError,
    ConnectError,
    EndpointGroup,
    ForkedError,
    MaxPayloadError,
    Message,
    NatsBridgeError,
    NoRespondersError,
    PermissionDeniedError,
    Pool,
    RequestTimeoutError,
    ResponseSender,
    Service,
    ServiceClient,
    ServiceError,
    ServiceRequest,
    StreamError,
    StreamRequest,
    _fork,
)
from natsbridge.server import EmbeddedServer

if TYPE_CHECKING:
    from natsbridge.testing import ServerFactory

Json = Dict[str, Any]


@pytest.fixture
def service(worker_pool: Pool, unique: str) -> Iterator[Service]:
    """A started service without endpoints, on ``worker_pool``."""
    with worker_pool.add_service(unique, "1.2.3", description="for a test", metadata={"zone": "a"}) as service:
        yield service


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Handlers wait for it; set at the end of the test in any case."""
    gate = threading.Event()
    yield gate
    gate.set()


def echo(request: ServiceRequest) -> None:
    request.respond(request.data)


def ask(pool: Pool, subject: str, data: bytes = b"") -> bytes:
    """The answer, or the ServiceError."""
    return pool.request(subject, data).raise_for_error().data


def in_threads(count: int, call: Callable[[], object]) -> Callable[[], List[object]]:
    """Call in as many threads; what they return or raise is returned by the function that waits for them."""
    outcomes: List[object] = []

    def run() -> None:
        try:
            outcomes.append(call())
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()

    def wait() -> List[object]:
        for thread in threads:
            thread.join(LONG)
            assert not thread.is_alive(), "it hangs"
        return outcomes

    return wait


def is_strings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair)


def checked(answer: Message, kind: str) -> Json:
    """An answer of the discovery, once it has whatever the protocol requires of it."""
    told: Json = json.loads(answer.data)
    assert told["type"] == f"io.nats.micro.v1.{kind}_response"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", told["name"])
    assert isinstance(told["id"], str)
    assert told["id"]
    assert re.match(r"\d+\.\d+\.\d+", told["version"])
    assert is_strings(told["metadata"])
    if kind == "info":
        assert isinstance(told["description"], str)
    if kind == "stats":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", told["started"])
    for endpoint in [] if kind == "ping" else told["endpoints"]:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", endpoint["name"])
        assert isinstance(endpoint["subject"], str)
        assert endpoint["subject"]
        assert isinstance(endpoint["queue_group"], str)
        if kind == "info":
            assert is_strings(endpoint["metadata"])
        else:
            assert isinstance(endpoint["last_error"], str)
            for figure in ("num_requests", "num_errors", "processing_time", "average_processing_time"):
                assert type(endpoint[figure]) is int
                assert 0 <= endpoint[figure] < 2**63
    return told


def endpoint_stats(service: Service, name: str) -> EndpointStats:
    (found,) = [stats for stats in service.stats().endpoints if stats.name == name]
    return found


# -- being found ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["", ".{name}", ".{name}.{id}"], ids=["all", "name", "id"])
def test_it_answers_on_every_level(service: Service, pool: Pool, unique: str, level: str) -> None:
    service.add_endpoint("echo", echo, subject=f"{unique}.echo", metadata={"format": "text"})
    assert ask(pool, f"{unique}.echo", b"x") == b"x"
    level = level.format(name=unique, id=service.id)

    ping = checked(pool.request(f"$SRV.PING{level}"), "ping")
    assert (ping["name"], ping["id"], ping["version"], ping["metadata"]) == (unique, service.id, "1.2.3", {"zone": "a"})

    info = checked(pool.request(f"$SRV.INFO{level}"), "info")
    assert (info["name"], info["id"], info["description"]) == (unique, service.id, "for a test")
    assert info["endpoints"] == [
        {"name": "echo", "subject": f"{unique}.echo", "queue_group": "q", "metadata": {"format": "text"}}
    ]

    stats = checked(pool.request(f"$SRV.STATS{level}"), "stats")
    (endpoint,) = stats["endpoints"]
    assert (endpoint["name"], endpoint["subject"], endpoint["queue_group"]) == ("echo", f"{unique}.echo", "q")
    assert (endpoint["num_requests"], endpoint["num_errors"], endpoint["last_error"]) == (1, 0, "")


def test_what_is_told_here_is_what_is_told_there(service: Service, pool: Pool, unique: str) -> None:
    service.add_endpoint("echo", echo, subject=unique)
    assert checked(pool.request(f"$SRV.PING.{unique}"), "ping") == service.ping().to_dict()
    assert checked(pool.request(f"$SRV.INFO.{unique}"), "info") == service.info().to_dict()
    assert checked(pool.request(f"$SRV.STATS.{unique}"), "stats") == service.stats().to_dict()
    assert service.metadata == {"zone": "a"}
    service.metadata["zone"] = service.info().metadata["zone"] = "b"
    assert service.metadata == {"zone": "a"}  # it holds as long as the service does


def test_a_service_without_anything_optional_conforms_too(worker_pool: Pool, pool: Pool, unique: str) -> None:
    with worker_pool.add_service(unique, "0.0.0-rc.1+build.7") as service:
        for kind in ("ping", "info", "stats"):
            told = checked(pool.request(f"$SRV.{kind.upper()}.{unique}.{service.id}"), kind)
            assert told["metadata"] == {}
            assert told.get("endpoints", []) == []


def test_a_pool_has_many_services_each_with_its_own_id(worker_pool: Pool, pool: Pool, unique: str) -> None:
    with worker_pool.add_service(unique, "1.0.0") as one, worker_pool.add_service(unique, "2.0.0") as two:
        assert one.id != two.id
        replies = pool.request_many(f"$SRV.PING.{unique}", max_messages=2)
        assert {json.loads(reply.data)["id"]: json.loads(reply.data)["version"] for reply in replies} == {
            one.id: "1.0.0",
            two.id: "2.0.0",
        }
        assert json.loads(pool.request(f"$SRV.PING.{unique}.{two.id}").data)["id"] == two.id


def test_questions_that_name_no_acceptable_reply_are_not_answered(
    service: Service, pool: Pool, worker_pool: Pool, unique: str
) -> None:
    with pool.subscribe("natsbridge.offline.trap") as trap:
        pool.publish(f"$SRV.PING.{unique}", reply="natsbridge.offline.trap")
        pool.publish(f"$SRV.PING.{unique}")
        assert pool.request(f"$SRV.PING.{unique}").data  # which comes after them
        worker_pool.flush()
        pool.flush()
        with pytest.raises(RequestTimeoutError):
            trap.next_msg(timeout=0)


def test_an_answer_that_the_server_would_not_take_is_an_error(worker_pool: Pool, pool: Pool, unique: str) -> None:
    with worker_pool.add_service(unique, "1.0.0", description="x" * 2**20):
        with pytest.raises(ServiceError, match=r"500: the answer has 10\d+ bytes, which is more than the server takes"):
            ask(pool, f"$SRV.INFO.{unique}")
        assert ask(pool, f"$SRV.PING.{unique}")  # the connection still stands


def test_it_is_found_again_after_a_restart_of_the_server(make_nats_server: ServerFactory, unique: str) -> None:
    server = make_nats_server()
    with Pool(server.url) as worker_pool, Pool(server.url) as pool, worker_pool.add_service(unique, "1.0.0") as service:
        service.add_endpoint("echo", echo, subject=unique)
        server.restart()
        deadline = time.monotonic() + LONG
        while True:
            try:
                assert ask(pool, unique, b"x") == b"x"
                assert json.loads(ask(pool, f"$SRV.PING.{unique}"))["id"] == service.id
                break
            except NatsBridgeError:
                assert time.monotonic() < deadline


# -- endpoints and groups ---------------------------------------------------------------------------------------------


def test_subjects_are_made_of_groups_and_names(service: Service, pool: Pool, unique: str) -> None:
    group = service.add_group(unique)
    group.add_endpoint("one", echo)
    group.add_endpoint("two", echo, subject="zwei.*")
    group.add_group("deep.er").add_endpoint("three", echo)
    group.add_group("").add_endpoint("four", echo)
    service.add_endpoint("five", echo, subject=f"{unique}-five")
    assert [(each.name, each.subject) for each in service.info().endpoints] == [
        ("one", f"{unique}.one"),
        ("two", f"{unique}.zwei.*"),
        ("three", f"{unique}.deep.er.three"),
        ("four", f"{unique}.four"),
        ("five", f"{unique}-five"),
    ]
    for subject in (f"{unique}.one", f"{unique}.zwei.x", f"{unique}.deep.er.three", f"{unique}.four", f"{unique}-five"):
        assert ask(pool, subject, subject.encode()) == subject.encode()


def test_an_endpoint_has_the_queue_group_of_the_nearest_that_has_one(worker_pool: Pool, unique: str) -> None:
    def groups(**given: Any) -> List[str]:
        with worker_pool.add_service(unique, "1.0.0", **given) as service:
            inner = service.add_group(unique)
            outer = service.add_group(unique, queue_group="group")
            service.add_endpoint("service", echo)
            inner.add_endpoint("inherited", echo)
            outer.add_endpoint("group", echo)
            outer.add_group("deep").add_endpoint("deep", echo)
            outer.add_endpoint("own", echo, queue_group="own")
            outer.add_endpoint("none", echo, queue_group="")
            return [endpoint.queue_group for endpoint in service.info().endpoints]

    assert groups() == ["q", "q", "group", "group", "own", ""]
    assert groups(queue_group="all") == ["all", "all", "group", "group", "own", ""]
    assert groups(queue_group="") == ["", "", "group", "group", "own", ""]


def test_one_instance_of_a_queue_group_answers_and_without_one_every_instance(
    worker_pool: Pool, pool: Pool, unique: str
) -> None:
    with worker_pool.add_service(unique, "1.0.0") as one, worker_pool.add_service(unique, "1.0.0") as two:
        for service in (one, two):
            me = service.id.encode()
            group = service.add_group(unique)
            group.add_endpoint("shared", lambda request, me=me: request.respond(me))  # type: ignore[misc]
            group.add_endpoint("each", lambda request, me=me: request.respond(me), queue_group="")  # type: ignore[misc]
        assert {reply.data for reply in pool.request_many(f"{unique}.each", max_messages=2)} == {
            one.id.encode(),
            two.id.encode(),
        }
        for _ in range(20):
            pool.request(f"{unique}.shared")
        counts = [endpoint_stats(service, "shared").num_requests for service in (one, two)]
        assert sum(counts) == 20


def test_decorators_add_endpoints_before_anything_is_connected(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    app = Service(Pool(server.url), unique, "1.0.0")
    group = app.add_group(unique)

    @group.endpoint("upper", metadata={"format": "text"}, max_workers=2, max_queued=0)
    def upper(request: ServiceRequest) -> None:
        request.respond(request.data.upper())

    @group.stream_endpoint("count")
    def count(request: StreamRequest) -> Iterator[bytes]:
        for number in range(int(request.data)):
            yield b"%d" % number

    assert app.pool.stats().state == "new"
    assert "new: 2 endpoints" in repr(app)
    with pytest.raises(NoRespondersError):
        pool.request(f"$SRV.PING.{unique}")
    before = datetime.now(timezone.utc)
    with app:
        assert app.start() is app  # idempotent
        assert app.stats().started >= before
        assert ask(pool, f"{unique}.upper", b"x") == b"X"
        assert list(pool.stream(f"{unique}.count", b"3")) == [b"0", b"1", b"2"]
        assert "serving: 2 endpoints" in repr(app)
    assert "stopped: 2 endpoints" in repr(app)
    assert app.pool.stats().state == "open"  # it is not the service's
    app.pool.close()


def test_a_service_that_was_never_started_stops_without_connecting(server: EmbeddedServer, unique: str) -> None:
    app = Service(Pool(server.url), unique, "1.0.0")
    app.add_endpoint("echo", echo)
    app.stop()
    assert app.stopped.is_set()
    assert app.pool.stats().state == "new"
    with pytest.raises(ClosedError, match="the service is closed"):
        app.start()


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_request_has_what_was_sent_and_an_answer_its_headers(service: Service, pool: Pool, unique: str) -> None:
    seen: List[ServiceRequest] = []

    def handler(request: ServiceRequest) -> None:
        seen.append(request)
        request.respond(b"answer", {"Trace": request.headers["Trace"]})

    service.add_endpoint("any", handler, subject=f"{unique}.*")
    reply = pool.request(f"{unique}.x", b"data", headers={"Trace": "7"})
    assert (reply.data, reply.headers) == (b"answer", {"Trace": "7"})
    (request,) = seen
    assert (request.subject, request.data, request.headers) == (f"{unique}.x", b"data", {"Trace": "7"})
    assert request.reply
    assert repr(request) == f"<ServiceRequest '{unique}.x' 4 bytes>"


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(service: Service, pool: Pool, unique: str) -> None:
    service.add_endpoint("echo", echo, subject=unique, max_queued=100)
    numbers = iter(range(10_000))

    def many() -> bool:
        for _ in range(25):
            data = b"%d" % next(numbers)
            assert ask(pool, unique, data) == data
        return True

    assert in_threads(8, many)() == [True] * 8
    assert endpoint_stats(service, "echo").num_requests == 200


def test_an_answer_may_come_later_and_from_another_thread(service: Service, pool: Pool, unique: str) -> None:
    waiting: List[ServiceRequest] = []
    there = threading.Event()

    def keep(request: ServiceRequest) -> None:
        waiting.append(request)
        there.set()

    service.add_endpoint("later", keep, subject=unique, max_workers=1, max_queued=0)
    wait = in_threads(1, lambda: ask(pool, unique))
    assert there.wait(LONG)
    waiting[0].respond(b"at last")
    assert wait() == [b"at last"]


def test_several_answers_to_one_request(service: Service, pool: Pool, unique: str) -> None:
    def thrice(request: ServiceRequest) -> None:
        for number in range(3):
            request.respond(b"%d" % number)

    service.add_endpoint("thrice", thrice, subject=unique)
    assert [reply.data for reply in pool.request_many(unique, max_messages=3)] == [b"0", b"1", b"2"]


def respond_error(request: ServiceRequest) -> None:
    request.respond_error(409, "taken", b"{}", {"Trace": "7"})


def raise_ours(request: ServiceRequest) -> None:
    raise ServiceError(409, "taken", b"{}")


def raise_for_streams(request: ServiceRequest) -> None:
    raise StreamError(409, "taken")


def raise_theirs(request: ServiceRequest) -> None:
    raise NatsServiceError("409", "taken")


@pytest.mark.parametrize("handler", [respond_error, raise_ours, raise_for_streams, raise_theirs])
def test_a_handler_chooses_its_error(
    service: Service, pool: Pool, unique: str, handler: Callable[[ServiceRequest], None]
) -> None:
    service.add_endpoint("failing", handler, subject=unique)
    reply = pool.request(unique)
    assert reply.headers["Nats-Service-Error"] == "taken"
    assert reply.headers["Nats-Service-Error-Code"] == "409"
    assert reply.headers.get("Trace") == ("7" if handler is respond_error else None)
    with pytest.raises(ServiceError) as caught:
        reply.raise_for_error()
    assert (caught.value.code, caught.value.description) == (409, "taken")
    assert caught.value.data == (b"{}" if handler in (respond_error, raise_ours) else b"")
    stats = endpoint_stats(service, "failing")
    assert (stats.num_requests, stats.num_errors, stats.last_error) == (1, 1, "409:taken")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a secret"),
        SystemExit("a secret"),
        BusyError("a secret"),  # of somebody else, whom the handler asked
        ServiceError(-1, "a secret"),
        ServiceError("x", "a secret"),  # type: ignore[arg-type]
        NatsServiceError("soon", "a secret"),
        NatsServiceError("\u00b2", "a secret"),  # a digit, but no number
        NatsServiceError("1" * 5000, "a secret"),
        ServiceError(402, "a secret", b"a secret").as_received(),
        StreamError(402, "a secret").as_received(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_it_did_not_choose_stays_here(
    service: Service, pool: Pool, unique: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: ServiceRequest) -> None:
        raise error

    service.add_endpoint("failing", handler, subject=unique)
    reply = pool.request(unique)
    assert reply.headers == {"Nats-Service-Error": "the handler failed", "Nats-Service-Error-Code": "500"}
    assert reply.data == b""
    stats = endpoint_stats(service, "failing")
    assert (stats.num_errors, stats.last_error) == (1, "500:the handler failed")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    service.add_endpoint("echo", echo, subject=f"{unique}.echo")
    assert ask(pool, f"{unique}.echo", b"x") == b"x"


def test_what_another_service_answers_is_not_passed_on(service: Service, pool: Pool, unique: str) -> None:
    def poor(request: ServiceRequest) -> None:
        raise ServiceError(402, "account 4711 is overdrawn", b"a secret")

    def poor_stream(request: StreamRequest, sender: ResponseSender) -> None:
        raise StreamError(402, "account 4711 is overdrawn")

    def passing(request: ServiceRequest) -> None:
        request.respond(pool.request(f"{unique}.poor").raise_for_error().data)

    def passing_stream(request: StreamRequest, sender: ResponseSender) -> None:
        with pool.stream(f"{unique}.poor_stream") as stream:
            for chunk in stream:
                sender.send(chunk)

    def choosing(request: ServiceRequest) -> None:
        try:
            passing(request)
        except ServiceError as error:
            raise ServiceError(error.code, "not enough money" if error.received else "whose?") from error

    for endpoint in (poor, passing, choosing):
        service.add_endpoint(endpoint.__name__, endpoint, subject=f"{unique}.{endpoint.__name__}")
    for streaming in (poor_stream, passing_stream):
        service.add_stream_endpoint(streaming.__name__, streaming, subject=f"{unique}.{streaming.__name__}")
    reply = pool.request(f"{unique}.passing")
    assert reply.data == b""
    with pytest.raises(ServiceError, match="error 500: the handler failed"):
        reply.raise_for_error()
    with pytest.raises(StreamError, match="code 500: the handler failed") as caught:
        list(pool.stream(f"{unique}.passing_stream"))
    assert caught.value.received
    with pytest.raises(ServiceError, match="error 402: not enough money"):
        pool.request(f"{unique}.choosing").raise_for_error()


def test_a_failure_of_a_handler_is_reported(server: EmbeddedServer, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    """Nobody sees the log of a script that has not configured logging."""
    told: List[Exception] = []
    failures = {"plain": ValueError("x"), "exit": SystemExit("y"), "stream": ValueError("z")}

    def failing(request: Any, *_: Any) -> None:
        raise failures[request.data.decode()]

    with Pool(server.url, error_callback=told.append) as reporting, reporting.add_service(unique, "1.0.0") as service:
        service.add_endpoint("failing", failing, subject=unique)
        service.add_stream_endpoint("stream", failing, subject=f"{unique}.stream")
        pool.publish(unique, b"plain")  # it wants no answer
        pool.request(unique, b"exit")
        with pytest.raises(StreamError):
            list(pool.stream(f"{unique}.stream", b"stream"))
        wait_for(lambda: len(told) == 3)
    assert sorted(map(str, told)) == ["a handler raised SystemExit('y')", "x", "z"]


def test_an_error_is_counted_once_whatever_else_is_answered(service: Service, pool: Pool, unique: str) -> None:
    def handler(request: ServiceRequest) -> None:
        request.respond_error(400, "first")
        request.respond_error(401, "second")
        raise ServiceError(402, "third")

    service.add_endpoint("failing", handler, subject=unique)
    codes = [reply.headers["Nats-Service-Error-Code"] for reply in pool.request_many(unique, max_messages=3)]
    assert codes == ["400", "401", "402"]
    stats = endpoint_stats(service, "failing")
    assert (stats.num_errors, stats.last_error) == (1, "400:first")


def test_bad_answers_are_refused_before_anything_is_sent(service: Service, pool: Pool, unique: str) -> None:
    caught: List[BaseException] = []

    def handler(request: ServiceRequest) -> None:
        bad: List[Callable[[], None]] = [
            lambda: request.respond("text"),  # type: ignore[arg-type]
            lambda: request.respond(b"x" * (2**20 + 1)),
            lambda: request.respond(b"", {"a b": "c"}),
            lambda: request.respond_error("400", "text"),  # type: ignore[arg-type]
            lambda: request.respond_error(10**6, "text"),
            lambda: request.respond_error(-1, "text"),
            lambda: request.respond_error(400, b"text"),  # type: ignore[arg-type]
        ]
        for call in bad:
            try:
                call()
            except (TypeError, ValueError) as error:
                caught.append(error)
        request.respond(b"through")

    service.add_endpoint("strict", handler, subject=unique)
    assert ask(pool, unique) == b"through"
    kinds = ["TypeError", "MaxPayloadError", "BadHeaderError", "TypeError", "ValueError", "ValueError", "TypeError"]
    assert [type(error).__name__ for error in caught] == kinds


def test_an_answer_that_is_too_large_is_the_handlers_failure(service: Service, pool: Pool, unique: str) -> None:
    def large(request: ServiceRequest) -> None:
        with pytest.raises(MaxPayloadError):
            request.respond(b"x" * (2**20 + 1))
        request.respond(b"x" * (2**20 + 1))

    def large_error(request: ServiceRequest) -> None:
        raise ServiceError(409, "taken", b"x" * 2**20)

    service.add_endpoint("large", large, subject=f"{unique}.1")
    service.add_endpoint("large_error", large_error, subject=f"{unique}.2")
    with pytest.raises(ServiceError, match="500: the handler failed"):
        ask(pool, f"{unique}.1")
    with pytest.raises(ServiceError, match="409: taken") as caught:  # only its data is left out
        ask(pool, f"{unique}.2")
    assert caught.value.data == b""


def test_an_error_is_one_line_for_the_requester(service: Service, pool: Pool, unique: str) -> None:
    service.add_endpoint("failing", lambda request: request.respond_error(400, "a\r\nInjected: b"), subject=unique)
    reply = pool.request(unique)
    assert set(reply.headers) == {"Nats-Service-Error", "Nats-Service-Error-Code"}
    assert "\n" not in reply.headers["Nats-Service-Error"]
    assert endpoint_stats(service, "failing").last_error == f"400:{reply.headers['Nats-Service-Error']}"


def test_the_figures_can_be_had_after_an_error_of_many_words(service: Service, pool: Pool, unique: str) -> None:
    service.add_endpoint("failing", lambda request: request.respond_error(400, "x" * 2_000_000), subject=unique)
    assert len(pool.request(unique).headers["Nats-Service-Error"]) == 1024
    (endpoint,) = checked(pool.request(f"$SRV.STATS.{unique}"), "stats")["endpoints"]
    assert endpoint["last_error"] == "400:" + "x" * 1024


def test_a_request_may_have_a_header_called_status(service: Service, pool: Pool, unique: str) -> None:
    """What the server sends with one has no reply subject."""
    service.add_endpoint("echo", lambda request: request.respond(request.headers["Status"].encode()), subject=unique)
    service.add_stream_endpoint("stream", lambda _request, sender: sender.send(b"x"), subject=f"{unique}.stream")
    assert pool.request(unique, headers={"Status": "active"}).data == b"active"
    assert list(pool.stream(f"{unique}.stream", headers={"Status": "active"})) == [b"x"]


def test_what_the_server_says_is_no_request(service: Service, pool: Pool, unique: str) -> None:
    """Whoever publishes to nobody, with an endpoint's subject for a reply, has the server answer there."""
    service.add_endpoint("echo", echo, subject=unique)
    pool.publish(f"{unique}.nobody", reply=unique)
    pool.flush()
    assert ask(pool, unique, b"x") == b"x"
    assert endpoint_stats(service, "echo").num_requests == 1


def test_a_message_that_wants_no_answer_is_served_too(service: Service, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    outcome: List[BaseException] = []

    def handler(request: ServiceRequest) -> None:
        try:
            request.respond(b"x")
        except NatsBridgeError as error:
            outcome.append(error)
            raise ServiceError(400, "no reply") from error

    service.add_endpoint("told", handler, subject=unique)
    pool.publish(unique, b"x")
    wait_for(lambda: endpoint_stats(service, "told").num_errors == 1)
    assert "has no reply subject" in str(outcome[0])
    assert endpoint_stats(service, "told").last_error == "400:no reply"


def test_a_request_for_an_answer_where_nobody_may_publish_is_refused(
    service: Service, pool: Pool, unique: str, wait_for: WaitFor
) -> None:
    called: List[ServiceRequest] = []
    service.add_endpoint("strict", called.append, subject=unique)
    pool.publish(unique, reply="$JS.API.STREAM.DELETE.x")
    pool.publish(unique, reply="natsbridge.offline.x")
    wait_for(lambda: endpoint_stats(service, "strict").num_errors == 2)
    assert endpoint_stats(service, "strict").last_error == "400:the request names no reply subject that may be answered"
    assert called == []


# -- threads ----------------------------------------------------------------------------------------------------------


def test_handlers_are_bounded_and_the_rest_is_refused(
    service: Service, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    running: List[str] = []

    def slow(request: ServiceRequest) -> None:
        running.append(threading.current_thread().name)
        assert gate.wait(LONG)
        request.respond(b"slow")

    service.add_endpoint("slow", slow, subject=f"{unique}.slow", max_workers=2, max_queued=1)
    service.add_endpoint("echo", echo, subject=f"{unique}.echo")
    wait = in_threads(3, lambda: ask(pool, f"{unique}.slow"))
    wait_for(lambda: endpoint_stats(service, "slow").num_requests == 3 and len(running) == 2)
    with pytest.raises(BusyError) as caught:
        ask(pool, f"{unique}.slow")
    assert caught.value.code == 503
    # The others are not held up, nor are those who look.
    assert ask(pool, f"{unique}.echo", b"x") == b"x"
    stats = checked(pool.request(f"$SRV.STATS.{unique}"), "stats")["endpoints"][0]
    assert (stats["num_requests"], stats["num_errors"]) == (4, 1)
    assert stats["last_error"] == "503:every handler of the responder is busy"
    assert len(running) == 2
    gate.set()
    assert wait() == [b"slow"] * 3
    assert set(running) <= {f"natsbridge-{unique}.slow-1", f"natsbridge-{unique}.slow-2"}


def test_an_endpoint_has_the_limits_of_its_service_or_its_own(
    worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    def slow(request: ServiceRequest) -> None:
        gate.wait(LONG)
        request.respond()

    with worker_pool.add_service(unique, "1.0.0", max_workers=1, max_queued=0) as service:
        service.add_endpoint("one", slow, subject=f"{unique}.one")
        service.add_endpoint("two", slow, subject=f"{unique}.two", max_workers=2)
        for name, limit in (("one", 1), ("two", 2)):
            in_threads(limit, lambda name=name: pool.request(f"{unique}.{name}"))  # type: ignore[misc]
            wait_for(lambda name=name, limit=limit: endpoint_stats(service, name).num_requests == limit)  # type: ignore[misc]
            with pytest.raises(BusyError):
                ask(pool, f"{unique}.{name}")
        gate.set()


# -- figures ----------------------------------------------------------------------------------------------------------


def test_the_time_that_handlers_took(service: Service, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    def slow(request: ServiceRequest) -> None:
        time.sleep(0.02)
        request.respond()

    service.add_endpoint("slow", slow, subject=unique)
    for _ in range(3):
        pool.request(unique)
    wait_for(lambda: endpoint_stats(service, "slow").processing_time >= 60_000_000)
    stats = endpoint_stats(service, "slow")
    assert 60_000_000 <= stats.processing_time < LONG * 1e9
    assert stats.average_processing_time == stats.processing_time // 3


def test_reset_sets_everything_back_and_forgets_what_is_under_way(
    service: Service, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    begun = threading.Event()

    def slow(request: ServiceRequest) -> None:
        begun.set()
        gate.wait(LONG)
        raise ServiceError(400, "too late")

    service.add_endpoint("slow", slow, subject=f"{unique}.slow")
    service.add_endpoint("bad", respond_error, subject=f"{unique}.bad")
    pool.request(f"{unique}.bad")
    wait = in_threads(1, lambda: pool.request(f"{unique}.slow").headers["Nats-Service-Error"])
    assert begun.wait(LONG)
    before = service.stats().started
    service.reset()
    gate.set()
    assert wait() == ["too late"]
    stats = service.stats()
    assert before < stats.started <= datetime.now(timezone.utc) + timedelta(seconds=1)
    for each in stats.endpoints:
        assert (each.num_requests, each.num_errors, each.last_error) == (0, 0, "")
        assert (each.processing_time, each.average_processing_time) == (0, 0)
    pool.request(f"{unique}.bad")
    assert endpoint_stats(service, "bad").num_requests == 1


def test_a_stats_handler_adds_data_on_a_thread_of_its_own(worker_pool: Pool, pool: Pool, unique: str) -> None:
    threads: List[str] = []

    def more(stats: EndpointStats) -> Json:
        threads.append(threading.current_thread().name)
        return {"requests": stats.num_requests, "nested": [1, None, "x"]}

    with worker_pool.add_service(unique, "1.0.0", stats_handler=more) as service:
        service.add_endpoint("echo", echo, subject=unique)
        ask(pool, unique)
        (endpoint,) = checked(pool.request(f"$SRV.STATS.{unique}"), "stats")["endpoints"]
        assert endpoint["data"] == {"requests": 1, "nested": [1, None, "x"]}
        assert threads == [f"natsbridge-{unique}-stats-1"]
        assert endpoint_stats(service, "echo").data == {"requests": 1, "nested": [1, None, "x"]}


@pytest.mark.parametrize(
    "data", [object(), float("nan"), ValueError("x"), SystemExit("x")], ids=lambda data: type(data).__name__
)
def test_a_stats_handler_that_fails_takes_nothing_else_along(
    worker_pool: Pool, pool: Pool, unique: str, data: object, caplog: pytest.LogCaptureFixture
) -> None:
    def bad(stats: EndpointStats) -> object:
        if isinstance(data, BaseException):
            raise data
        return data

    with worker_pool.add_service(unique, "1.0.0", stats_handler=bad) as service:
        service.add_endpoint("echo", echo, subject=unique)
        (endpoint,) = checked(pool.request(f"$SRV.STATS.{unique}"), "stats")["endpoints"]
    assert endpoint["data"] is None
    assert "the stats_handler of service" in caplog.text


def test_a_stats_handler_that_hangs_holds_up_nothing_else(
    worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event
) -> None:
    asked = threading.Event()

    def hangs(stats: EndpointStats) -> None:
        asked.set()
        gate.wait(LONG)

    with worker_pool.add_service(unique, "1.0.0", stats_handler=hangs) as service:
        service.add_endpoint("echo", echo, subject=unique)
        with pool.request_many(f"$SRV.STATS.{unique}", max_messages=1) as replies:
            assert asked.wait(LONG)
            assert ask(pool, unique, b"x") == b"x"
            assert ask(pool, f"$SRV.PING.{unique}")
            for _ in range(64):  # the queue is bounded, and so is what a flood can do
                pool.publish(f"$SRV.STATS.{unique}", reply=f"{unique}.nobody")
            with pytest.raises(BusyError):
                ask(pool, f"$SRV.STATS.{unique}")
            gate.set()
            assert checked(next(iter(replies)), "stats")["name"] == unique


# -- streams ----------------------------------------------------------------------------------------------------------


def test_an_endpoint_may_stream(service: Service, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    def count(request: StreamRequest, sender: ResponseSender) -> None:
        for number in range(int(request.data)):
            sender.send(b"%d" % number)
        if request.data == b"2":
            raise StreamError(418, "short and stout")

    group = service.add_group(unique)
    group.add_stream_endpoint("count", count, metadata={"unit": "1"})
    assert list(pool.stream(f"{unique}.count", b"3")) == [b"0", b"1", b"2"]
    chunks: List[bytes] = []
    with pytest.raises(StreamError, match="short and stout"):
        chunks.extend(pool.stream(f"{unique}.count", b"2"))

    (info,) = checked(pool.request(f"$SRV.INFO.{unique}"), "info")["endpoints"]
    assert info == {
        "name": "count",
        "subject": f"{unique}.count",
        "queue_group": "q",
        "metadata": {"unit": "1", "natsbridge-stream": "1"},
    }
    (stats,) = checked(pool.request(f"$SRV.STATS.{unique}"), "stats")["endpoints"]
    assert (stats["num_requests"], stats["num_errors"], stats["last_error"]) == (2, 1, "418:short and stout")
    wait_for(lambda: endpoint_stats(service, "count").processing_time > 0)


def test_a_stream_endpoint_stops_when_its_client_is_gone(service: Service, pool: Pool, unique: str) -> None:
    reasons: List[str] = []
    ended = threading.Event()

    def endless(request: StreamRequest, sender: ResponseSender) -> None:
        try:
            while True:
                sender.send(b"x")
        except ClientOfflineError as error:
            reasons.append(error.reason)
            ended.set()
            raise

    service.add_stream_endpoint("endless", endless, subject=unique)
    with pool.stream(unique) as stream:
        assert next(stream) == b"x"
    assert ended.wait(LONG)
    assert reasons == ["cancelled"]
    stats = endpoint_stats(service, "endless")
    assert (stats.num_requests, stats.num_errors) == (1, 0)  # a client that leaves is no error of the service


def test_an_ordinary_client_reads_a_stream_endpoint(service: Service, pool: Pool, unique: str) -> None:
    service.add_stream_endpoint("plain", lambda request, sender: sender.send(b"x"), subject=unique)
    assert [reply.data for reply in pool.request_many(unique, sentinel=True)] == [b"x"]


def test_a_stream_endpoint_counts_what_it_refuses(
    service: Service, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    def slow(request: StreamRequest, sender: ResponseSender) -> None:
        sender.send(b"x")
        gate.wait(LONG)

    service.add_stream_endpoint("slow", slow, subject=unique, max_workers=1, max_queued=0)
    with pool.stream(unique) as stream:
        assert next(stream) == b"x"
        with pytest.raises(BusyError):
            list(pool.stream(unique))
        stats = endpoint_stats(service, "slow")
        assert stats.num_requests == 1 + stats.num_errors
        assert stats.last_error == "503:every handler of the responder is busy"
        gate.set()


# -- the end ----------------------------------------------------------------------------------------------------------


def test_stop_answers_what_had_arrived(
    worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    subscriptions = worker_pool.stats().subscriptions
    service = worker_pool.add_service(unique, "1.0.0")

    def slow(request: ServiceRequest) -> None:
        gate.wait(LONG)
        request.respond(b"done")

    service.add_endpoint("slow", slow, subject=unique, max_workers=1, max_queued=5)
    wait = in_threads(4, lambda: ask(pool, unique))
    wait_for(lambda: endpoint_stats(service, "slow").num_requests == 4)
    stopping = in_threads(1, service.stop)

    def is_gone(subject: str) -> bool:
        try:
            pool.request(subject, timeout=1)
        except NoRespondersError:
            return True
        except RequestTimeoutError:
            pass
        return False

    wait_for(lambda: is_gone(f"$SRV.PING.{unique}"), what="the service to be found no more")
    assert not service.stopped.is_set()
    gate.set()
    assert wait() == [b"done"] * 4
    assert stopping() == [None]
    assert service.stopped.is_set()
    assert service.stopped.wait(0)
    assert is_gone(unique)
    service.stop()  # idempotent
    assert worker_pool.stats().subscriptions == subscriptions
    assert worker_pool.stats().state == "open"
    assert endpoint_stats(service, "slow").num_requests == 4  # the figures can still be read
    with pytest.raises(ClosedError, match="the service is closed: make a new one"):
        service.add_endpoint("late", echo)


def test_no_request_is_lost_while_services_come_and_go(worker_pool: Pool, pool: Pool, unique: str) -> None:
    """Each is answered, or has no responders: none waits in vain."""
    over = threading.Event()
    answered: List[int] = []

    def keep_asking() -> str:
        count = 0
        while not over.is_set():
            try:
                assert ask(pool, unique, b"x") == b"x"
                count += 1
            except NoRespondersError:
                pass
        answered.append(count)
        return "well"

    wait = in_threads(4, keep_asking)
    try:
        for _ in range(10):
            with worker_pool.add_service(unique, "1.0.0") as service:
                service.add_endpoint("echo", echo, subject=unique, max_queued=100)
                for _ in range(5):
                    ask(pool, unique)
    finally:
        over.set()
    assert wait() == ["well"] * 4
    assert sum(answered) > 0


def test_stop_that_takes_too_long_says_so_and_refuses_the_rest(
    worker_pool: Pool, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    service = worker_pool.add_service(unique, "1.0.0")

    def slow(request: ServiceRequest) -> None:
        gate.wait(LONG)
        request.respond(b"done")

    service.add_endpoint("slow", slow, subject=unique, max_workers=1)
    first = in_threads(1, lambda: ask(pool, unique))
    wait_for(lambda: endpoint_stats(service, "slow").num_requests == 1)
    second = in_threads(1, lambda: ask(pool, unique))
    wait_for(lambda: endpoint_stats(service, "slow").num_requests == 2)
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(RequestTimeoutError, match="1 handlers running, 1 requests queued"):
        service.stop(timeout=0.1)
    assert service.stopped.is_set()
    (refused,) = second()
    assert isinstance(refused, ServiceError)
    assert refused.code == 503
    assert first() == [b"done"]  # its pool is still open


@pytest.mark.parametrize("way", ["stop", "drain_pool", "interrupted"])
def test_a_handler_that_does_not_return_holds_up_the_end_for_no_longer_than_was_said(
    server: EmbeddedServer, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor, way: str
) -> None:
    own = Pool(server.url)
    service = own.add_service(unique, "1.0.0")
    service.add_endpoint("stuck", lambda _: gate.wait(LONG), subject=unique)
    pool.publish(unique)
    wait_for(lambda: endpoint_stats(service, "stuck").num_requests == 1)
    began = time.monotonic()
    if way == "interrupted":
        with pytest.raises(KeyboardInterrupt), service:
            raise KeyboardInterrupt
        limit = 5.0
    else:
        with pytest.raises(RequestTimeoutError, match="1 handlers running"):
            (service.stop if way == "stop" else own.drain)(0.1)
        limit = 0.1
    assert time.monotonic() - began < limit + 3.0
    assert service.stopped.is_set()
    gate.set()
    own.close()


def test_threads_that_start_a_service_find_it_served(server: EmbeddedServer, pool: Pool, unique: str) -> None:
    for round in range(20):
        with Pool(server.url) as own:
            service = Service(own, unique, "1.0.0")
            for number in range(8):
                service.add_endpoint("echo", echo, subject=f"{unique}.{round}.{number}")

            def start(service: Service = service, last: str = f"{unique}.{round}.7") -> bytes:
                service.start()
                return ask(pool, last, b"x")

            assert in_threads(4, start)() == [b"x"] * 4
            service.stop()


def test_a_service_that_could_not_start_stops_quietly(unique: str, caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool("nats://127.0.0.1:1", connect_timeout=0.5)
    service = Service(pool, unique, "1.0.0")
    with pytest.raises(ConnectError):
        service.start()
    service.stop()
    assert "last answers" not in caplog.text
    pool.close()


@pytest.mark.parametrize("kind", [Service, ServiceClient])
def test_a_pool_is_needed(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"pool must be a Pool, not of type str: Pool\(servers\) makes one"):
        kind("nats://user:secret@127.0.0.1", *(["a", "1.0.0"] if kind is Service else []))


@pytest.mark.process
@posix_only
def test_stop_returns_when_the_server_has_the_answers(
    make_nats_server: ServerFactory, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    server = make_nats_server()
    assert server.pid is not None
    with Pool(server.url) as worker_pool, Pool(server.url) as pool:
        service = worker_pool.add_service(unique, "1.0.0")

        def slow(request: ServiceRequest) -> None:
            gate.wait(LONG)
            request.respond(b"done")

        service.add_endpoint("slow", slow, subject=unique)
        wait = in_threads(1, lambda: ask(pool, unique))
        wait_for(lambda: endpoint_stats(service, "slow").num_requests == 1)
        subscriptions = worker_pool.stats().subscriptions
        stopping = in_threads(1, lambda: service.stop(timeout=1.0))
        wait_for(lambda: worker_pool.stats().subscriptions < subscriptions - 9, what="the intake to end")
        with stopped(server.pid):
            gate.set()
            (outcome,) = stopping()
            assert isinstance(outcome, RequestTimeoutError)
        assert wait() == [b"done"]


def test_a_handler_may_stop_its_own_service(worker_pool: Pool, pool: Pool, unique: str) -> None:
    service = worker_pool.add_service(unique, "1.0.0")

    def leave(request: ServiceRequest) -> None:
        service.stop()
        request.respond(b"stopped")

    service.add_endpoint("leave", leave, subject=unique)
    assert ask(pool, unique) == b"stopped"
    assert service.stopped.is_set()


def test_draining_the_pool_lets_services_answer_and_closing_it_ends_them(
    server: EmbeddedServer, pool: Pool, unique: str, gate: threading.Event, wait_for: WaitFor
) -> None:
    def slow(request: ServiceRequest) -> None:
        gate.wait(LONG)
        request.respond(b"done")

    worker_pool = Pool(server.url)
    service = worker_pool.add_service(unique, "1.0.0")
    service.add_endpoint("slow", slow, subject=unique)
    wait = in_threads(1, lambda: ask(pool, unique))
    wait_for(lambda: endpoint_stats(service, "slow").num_requests == 1)
    draining = in_threads(1, worker_pool.drain)
    gate.set()
    assert wait() == [b"done"]
    assert draining() == [None]
    assert service.stopped.is_set()

    worker_pool = Pool(server.url)
    service = worker_pool.add_service(unique, "1.0.0")
    worker_pool.close()
    assert service.stopped.is_set()
    service.stop()
    with pytest.raises(ClosedError):
        worker_pool.add_service(unique, "1.0.0")


def test_run_serves_until_it_is_closed(worker_pool: Pool, pool: Pool, unique: str, wait_for: WaitFor) -> None:
    service = worker_pool.add_service(unique, "1.0.0")
    service.add_endpoint("echo", echo, subject=unique)
    running = in_threads(1, service.run)
    assert ask(pool, unique, b"x") == b"x"
    service.close()
    assert running() == [None]
    assert service.stopped.is_set()


@pytest.mark.process
@posix_only
@pytest.mark.parametrize("way", ["run", "exit"])
def test_a_process_that_is_ended_by_sigterm_answers_what_it_took(
    server: EmbeddedServer, pool: Pool, start_program: StartProgram, unique: str, wait_for: WaitFor, way: str
) -> None:
    """``exit``: the program knows nothing of services, its signal handler raises SystemExit."""
    child = start_program("service", url=server.url, name=unique, way=way)
    child.hear("ready")
    wait = in_threads(4, lambda: ask(pool, unique))  # two at a time
    wait_for(lambda: json.loads(ask(pool, f"$SRV.STATS.{unique}"))["endpoints"][0]["num_requests"] == 4)
    child.send(signal.SIGTERM)
    assert wait() == [b"done"] * 4
    assert child.wait() == 0
    assert child.errors() == ""


# -- what cannot be right ---------------------------------------------------------------------------------------------

BAD_NAMES = ["", "a b", "a.b", "a*", "ä", "a\n", "a" * 5000, None, 7, b"a"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:12])
def test_bad_names(server: EmbeddedServer, name: Any) -> None:
    pool = Pool(server.url)
    with pytest.raises((TypeError, ValueError)):
        pool.add_service(name, "1.0.0")
    assert pool.stats().state == "new"
    service = Service(pool, "a", "1.0.0")
    with pytest.raises((TypeError, ValueError)):
        service.add_endpoint(name, echo)
    with pytest.raises((TypeError, ValueError)):
        service.add_stream_endpoint(name, lambda request, sender: None)
    assert service.info().endpoints == []


@pytest.mark.parametrize(
    "version", ["", "1", "1.0", "1.0.0.0", "v1.0.0", "01.0.0", "1.0.0-", "1.0.0\n", "1.0.0 ", None, 1.0]
)
def test_bad_versions(server: EmbeddedServer, version: Any) -> None:
    pool = Pool(server.url)
    with pytest.raises((TypeError, ValueError), match=r"semantic version such as '1\.0\.0'"):
        pool.add_service("a", version)
    assert pool.stats().state == "new"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"description": None}, "description must be a str, not None"),
        ({"metadata": [("a", "b")]}, "metadata must be a mapping of str to str"),
        ({"metadata": {"a": 1}}, "metadata must map str to str, not 'a' to 1"),
        ({"metadata": {1: "a"}}, "metadata must map str to str, not 1 to 'a'"),
        ({"metadata": {"natsbridge-stream": "1"}}, "is natsbridge's"),
        ({"queue_group": "a b"}, "queue group"),
        ({"queue_group": None}, "queue group"),
        ({"stats_handler": 7}, "stats_handler must be callable"),
        ({"max_workers": 0}, "max_workers"),
        ({"max_queued": -1}, "max_queued"),
        ({"max_queued": "1"}, "max_queued"),
    ],
    ids=str,
)
def test_bad_options_of_a_service(server: EmbeddedServer, options: Json, words: str) -> None:
    pool = Pool(server.url)
    with pytest.raises((TypeError, ValueError), match=words):
        pool.add_service("a", "1.0.0", **options)
    assert pool.stats().state == "new"


def name_of(value: object) -> str:
    """For a test's id, which must be the same in every process."""
    return getattr(value, "__name__", str(value)[:30])


async def async_handler(request: ServiceRequest) -> None:
    pass


def generator(request: ServiceRequest) -> Iterator[bytes]:
    yield b""


@pytest.mark.parametrize(
    ("handler", "options", "words"),
    [
        (None, {}, "handler must be callable"),
        (async_handler, {}, "async"),
        (generator, {}, "is a generator function, which is for streams: use add_stream_endpoint"),
        (lambda: None, {}, r"must take \(request\)"),
        (lambda request, sender: None, {}, r"takes \(request, sender\); one that takes .* use add_stream_endpoint"),
        (echo, {"subject": ""}, "subject"),
        (echo, {"subject": "a b"}, "subject"),
        (echo, {"subject": "a..b"}, "subject"),
        (echo, {"subject": ">.a"}, "subject"),
        (echo, {"subject": "a" * 5000}, "bytes"),
        (echo, {"subject": 7}, "subject"),
        (echo, {"queue_group": "a b"}, "queue group"),
        (echo, {"metadata": {"a": None}}, "metadata"),
        (echo, {"max_workers": 0}, "max_workers"),
        (echo, {"max_queued": True}, "max_queued"),
    ],
    ids=name_of,
)
def test_bad_endpoints(service: Service, worker_pool: Pool, handler: Any, options: Json, words: str) -> None:
    before = worker_pool.stats().subscriptions
    with pytest.raises((TypeError, ValueError), match=words):
        service.add_endpoint("a", handler, **options)
    assert service.info().endpoints == []
    assert worker_pool.stats().subscriptions == before


@pytest.mark.parametrize(
    ("handler", "options"),
    [
        (None, {}),
        (async_handler, {}),
        (echo, {}),
        (lambda request, sender: None, {"max_detached": -1}),
        (lambda request, sender: None, {"stall_timeout": -1}),
        (lambda request, sender: None, {"max_resume": None}),
        (lambda request, sender: None, {"metadata": {"natsbridge-stream": "0"}}),
        (lambda request, sender: None, {"subject": "a b"}),
    ],
    ids=name_of,
)
def test_bad_stream_endpoints(service: Service, handler: Any, options: Json) -> None:
    with pytest.raises((TypeError, ValueError)):
        service.add_stream_endpoint("a", handler, **options)
    assert service.info().endpoints == []


@pytest.mark.parametrize("name", ["a b", "a.", ".a", "a..b", "a.>", ">", None, 7])
def test_bad_groups(service: Service, name: Any) -> None:
    with pytest.raises((TypeError, BadSubjectError, ValueError)):
        service.add_group(name)
    with pytest.raises((TypeError, BadSubjectError)):
        service.add_group("a", queue_group="b c")
    assert isinstance(service.add_group("a"), EndpointGroup)


def test_what_the_server_refuses_is_neither_listed_nor_left_behind(make_nats_server: ServerFactory) -> None:
    server = make_nats_server(
        config_text="""
        authorization { users: [
          { user: a, password: a, permissions: { subscribe: { allow: ["_INBOX.>", "$SRV.>", "open.>"] } } }
          { user: b, password: b, permissions: { subscribe: { allow: ["_INBOX.>", "$SRV.PING", "open.>"] } } }
        ] }
        """
    )
    with Pool(server.url, user="a", password="a") as pool, pool.add_service("a", "1.0.0") as service:
        found = pool.stats().subscriptions
        with pytest.raises(PermissionDeniedError, match=r"secret\.x"):
            service.add_endpoint("x", echo, subject="secret.x")
        assert service.info().endpoints == []
        assert pool.stats().subscriptions == found
        service.add_endpoint("x", echo, subject="open.x")
        assert ask(pool, "open.x", b"x") == b"x"
    with Pool(server.url, user="b", password="b") as pool:
        with pytest.raises(PermissionDeniedError, match=r"(?i)\$srv\."):
            pool.add_service("b", "1.0.0")
        assert pool.stats().subscriptions == 1  # the pool's own


def test_a_forked_child_cannot_use_the_parents_service(
    service: Service, pool: Pool, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: List[ServiceRequest] = []

    def handler(request: ServiceRequest) -> None:
        requests.append(request)
        request.respond()

    service.add_endpoint("echo", handler, subject=unique)
    pool.request(unique)
    with monkeypatch.context() as child:
        child.setattr(_fork, "generation", _fork.generation + 1)
        with pytest.raises(ForkedError):
            service.add_endpoint("x", echo)
        with pytest.raises(ForkedError):
            requests[0].respond(b"x")
        with pytest.raises(ForkedError):
            requests[0].respond_error(400, "x")
        service.stop()  # touches nothing of the parent's
    assert not service.stopped.is_set()
    assert endpoint_stats(service, "echo").num_errors == 0
    pool.request(unique)
