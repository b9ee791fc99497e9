"""``EventStream`` over a real worker: what the browser gets, and that the worker stops with it."""

from __future__ import annotations

import gc
import json
import threading
import time
from typing import Any, Dict, Iterator, List
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from event_stream import Event, parse
from procs import LONG, WaitFor

from natsbridge import ClientOfflineError, Pool, ResponseSender, StreamError, StreamRequest, Subscriber, online_clients
from natsbridge.contrib.sse import HEADERS, EventStream


class Worker:
    """Serves one subject as its request says; remembers the requests and why each ended."""

    def __init__(self, subscriber: Subscriber, subject: str) -> None:
        self.subject = subject
        self.requests: List[StreamRequest] = []
        self.reasons: List[str] = []
        self.go_on = threading.Event()
        subscriber.stream_subscribe_handler(subject, self.serve)

    def serve(self, request: StreamRequest, sender: ResponseSender) -> None:
        self.requests.append(request)
        order, _, argument = request.data.decode("latin-1").partition(" ")
        try:
            getattr(self, order)(argument.encode("latin-1"), sender)
        except ClientOfflineError as gone:
            self.reasons.append(gone.reason)
            raise
        else:
            self.reasons.append("ended")

    def stopped(self) -> bool:
        """Its client is gone: the end of the stream and that of the client's lease tell so, and either may be the first."""
        return self.reasons == ["cancelled"] or self.reasons == ["offline"]

    def say(self, text: bytes, sender: ResponseSender) -> None:
        for chunk in text.split(b"|"):
            sender.send(chunk)

    def fail(self, text: bytes, sender: ResponseSender) -> None:
        sender.send(text)
        raise StreamError(422, "no such report")

    def burst(self, text: bytes, sender: ResponseSender) -> None:
        sender.send(text)
        raise RuntimeError("the password is secret")

    def idle(self, text: bytes, sender: ResponseSender) -> None:
        if text:
            sender.send(text)
        if sender.wait_offline(LONG):
            sender.send(b"too late")

    def flood(self, text: bytes, sender: ResponseSender) -> None:
        while True:
            sender.send(text)

    def wait(self, text: bytes, sender: ResponseSender) -> None:
        self.go_on.wait(LONG)
        sender.send(text)


@pytest.fixture
def worker(subscriber: Subscriber, unique: str) -> Worker:
    return Worker(subscriber, unique)


def read(events: EventStream) -> List[Event]:
    """What a browser gets, but for the first event, which must be the usual."""
    first, *rest = parse(b"".join(events))
    assert (first.type, json.loads(first.data)) == ("connect", {"connect_id": events.connect_id})
    return rest


def chunks_of(events: List[Event]) -> List[str]:
    return [event.data for event in events if event.type == "message"]


def test_an_answer_and_its_end(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"say one|two\nlines|\xc3\xa9", retry=3) as events:
        assert next(events).startswith(b"event: connect\nretry: 3000\ndata: ")
        assert parse(b"".join(events)) == [
            Event("message", "one", "1"),
            Event("message", "two\nlines", "2"),
            Event("message", "é", "3"),
            Event("end", '{"chunks": 3}', "3"),
        ]
        assert events.end_reason == "completed"
        assert list(events) == []
    assert worker.requests[0].connect_id == events.connect_id
    assert not online_clients.is_online(events.connect_id)


def test_the_client_is_online_as_long_as_its_stream(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"idle", connect_id="anna-7f3a") as events:
        assert events.connect_id == "anna-7f3a"
        assert online_clients.is_online("anna-7f3a")
    assert not online_clients.is_online("anna-7f3a")


def test_generated_ids_cannot_be_guessed(pool: Pool, worker: Worker) -> None:
    streams = [EventStream(pool, worker.subject, b"say x") for _ in range(3)]
    ids = {events.connect_id for events in streams}
    assert len(ids) == 3
    assert all(len(connect_id) >= 22 for connect_id in ids)
    for events in streams:
        events.close()


def test_what_waits_goes_out_in_one_piece(pool: Pool, worker: Worker) -> None:
    text = b"|".join(b"%d" % number for number in range(200))
    with EventStream(pool, worker.subject, b"say " + text) as events:
        pieces = list(events)
    assert chunks_of(parse(b"".join(pieces))) == [str(number) for number in range(200)]
    assert len(pieces) < 50


def test_the_events_of_chunks_may_have_a_type(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"say x", event="token") as events:
        assert [event.type for event in read(events)] == ["token", "end"]


def test_a_heartbeat_while_nothing_comes(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"wait late", heartbeat=0.02) as events:
        next(events)
        assert [next(events) for _ in range(3)] == [b": heartbeat\n\n"] * 3
        worker.go_on.set()
        assert [event.data for event in parse(b"".join(events))] == ["late", '{"chunks": 1}']


def test_heartbeats_do_not_prolong_the_idle_timeout(pool: Pool, worker: Worker) -> None:
    began = time.monotonic()
    with EventStream(pool, worker.subject, b"idle x", heartbeat=0.05, idle_timeout=0.3) as events:
        assert [json.loads(event.data)["error"] for event in read(events)[1:]] == ["timeout"]
    assert time.monotonic() - began < 5


# -- Last-Event-ID ----------------------------------------------------------------------------------------------------


def test_the_worker_gets_the_last_event_id(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"say a|b", environ={"HTTP_LAST_EVENT_ID": "41"}, headers={"X": "1"}) as events:
        assert [event.last_id for event in parse(b"".join(events)) if event.type == "message"] == ["42", "43"]
    assert worker.requests[0].headers["Last-Event-ID"] == "41"
    assert worker.requests[0].headers["X"] == "1"


def test_an_id_that_is_no_number_is_passed_on_and_counting_begins_anew(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"say a", last_event_id="chapter é") as events:
        assert next(event.last_id for event in read(events)) == "1"
    assert worker.requests[0].headers["Last-Event-ID"] == "chapter é"


def test_no_header_without_it(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"say a", environ={"HTTP_LAST_EVENT_ID": "a\r\nb"}) as events:
        read(events)
    assert "Last-Event-ID" not in worker.requests[0].headers


# -- how it ends ------------------------------------------------------------------------------------------------------


def test_close_stops_the_worker(pool: Pool, worker: Worker, wait_for: WaitFor) -> None:
    events = EventStream(pool, worker.subject, b"flood x")
    next(events), next(events)
    events.close()
    events.close()
    assert list(events) == []
    wait_for(worker.stopped, what="the worker to stop")


def test_close_before_the_first_iteration_stops_the_worker(pool: Pool, worker: Worker, wait_for: WaitFor) -> None:
    events = EventStream(pool, worker.subject, b"idle")
    wait_for(lambda: worker.requests)
    events.close()
    assert list(events) == []
    wait_for(worker.stopped, what="the worker to stop")


def test_a_stream_that_nobody_holds_stops_the_worker(pool: Pool, worker: Worker, wait_for: WaitFor) -> None:
    events = EventStream(pool, worker.subject, b"idle")
    connect_id = events.connect_id
    wait_for(lambda: worker.requests)
    del events
    gc.collect()
    wait_for(worker.stopped, what="the worker to stop")
    wait_for(lambda: not online_clients.is_online(connect_id))


def test_close_wakes_a_reader_in_another_thread(pool: Pool, worker: Worker, wait_for: WaitFor) -> None:
    events = EventStream(pool, worker.subject, b"idle x")
    pieces: List[bytes] = []
    reader = threading.Thread(target=lambda: pieces.extend(events))
    reader.start()
    wait_for(lambda: len(pieces) == 2)
    events.close()
    reader.join(LONG)
    assert not reader.is_alive()
    assert len(pieces) == 2  # no event after a client has gone


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ("fail x", {"error": "worker", "code": 422, "message": "no such report"}),
        ("burst x", {"error": "worker", "code": 500, "message": "the handler failed"}),
    ],
)
def test_errors_of_the_worker(pool: Pool, worker: Worker, order: str, told: Dict[str, Any]) -> None:
    with EventStream(pool, worker.subject, order.encode()) as events:
        chunk, error = read(events)
        assert chunk.data == "x"
        assert (error.type, json.loads(error.data)) == ("error", told)
        assert list(events) == []


def test_no_worker(pool: Pool, unique: str) -> None:
    with EventStream(pool, unique) as events:
        (error,) = read(events)
        assert error.type == "error"
        assert json.loads(error.data) == {"error": "no_responders", "code": 503, "message": "no worker is there"}


def test_the_stop_button(pool: Pool, worker: Worker, wait_for: WaitFor) -> None:
    with EventStream(pool, worker.subject, b"idle x") as events:
        next(events), next(events)
        pool.mark_client_offline(events.connect_id)
        (error,) = parse(b"".join(events))
        assert json.loads(error.data)["error"] == "offline"
    wait_for(worker.stopped, what="the worker to stop")


def test_the_pool_is_closed_meanwhile(server: Any, worker: Worker) -> None:
    with Pool(server.url) as pool:
        events = EventStream(pool, worker.subject, b"idle x")
        next(events), next(events)
        pool.close()
        (error,) = parse(b"".join(events))
        assert json.loads(error.data)["error"] == "closed"
        events.close()


# -- chunks that are not text -----------------------------------------------------------------------------------------


def test_a_chunk_that_is_not_text_ends_the_stream(
    pool: Pool, worker: Worker, wait_for: WaitFor, caplog: pytest.LogCaptureFixture
) -> None:
    """Never with replacement characters: what came before is whole, and the error says so."""
    with EventStream(pool, worker.subject, b"say good|\xff\xfe|more") as events:
        chunk, error = read(events)
        assert chunk.data == "good"
        assert (error.type, json.loads(error.data)["error"]) == ("error", "not_text")
        assert list(events) == []
    assert "chunk 2" in caplog.text
    wait_for(lambda: worker.reasons, what="the worker to end")


def test_base64(pool: Pool, worker: Worker) -> None:
    with EventStream(pool, worker.subject, b"say good|\xff\xfe", base64=True) as events:
        assert chunks_of(read(events)) == ["Z29vZA==", "//4="]


# -- WSGI -------------------------------------------------------------------------------------------------------------


def test_it_is_a_wsgi_iterable(pool: Pool, worker: Worker) -> None:
    def application(environ: Dict[str, Any], start_response: Any) -> EventStream:
        events = EventStream(pool, worker.subject, b"say hello", environ=environ)
        start_response("200 OK", events.headers)
        return events

    started: List[Any] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        started.append((status, dict(headers)))
        return lambda data: None

    environ: Dict[str, Any] = {"QUERY_STRING": ""}
    setup_testing_defaults(environ)
    body = validator(application)(environ, start_response)
    assert chunks_of(parse(b"".join(body))) == ["hello"]
    body.close()  # type: ignore[attr-defined]
    assert started == [("200 OK", dict(HEADERS))]
    assert dict(HEADERS) == {
        "Content-Type": "text/event-stream; charset=utf-8",
        "Cache-Control": "no-cache",
        "X-Accel-Buffering": "no",
    }


# -- bad arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"heartbeat": 0}, ValueError),
        ({"heartbeat": None}, TypeError),
        ({"heartbeat": float("inf")}, ValueError),
        ({"event": "a\nb"}, ValueError),
        ({"event": ""}, ValueError),
        ({"retry": -1}, ValueError),
        ({"connect_id": ""}, ValueError),
        ({"connect_id": "a\nb"}, ValueError),
        ({"last_event_id": "a\nb"}, ValueError),
        ({"headers": {"Connect-ID": "x"}}, ValueError),
        ({"data": "text"}, TypeError),
        ({"timeout": -1}, ValueError),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(pool: Pool, arguments: Any, error: Any) -> None:
    with pytest.raises(error):
        EventStream(pool, "nobody", **arguments)
    assert pool.stats().streams == 0


def test_a_refused_client_leaves_nothing(pool: Pool, server: Any) -> None:
    closed = Pool(server.url)
    closed.close()
    with pytest.raises(Exception, match="closed"):
        EventStream(closed, "nobody", connect_id="anna-closed")
    assert not online_clients.is_online("anna-closed")
    assert pool.stats().streams == 0


@pytest.fixture(autouse=True)
def _nothing_left(pool: Pool, wait_for: WaitFor) -> Iterator[None]:
    yield
    wait_for(lambda: pool.stats().streams == 0, what="the streams to end")
