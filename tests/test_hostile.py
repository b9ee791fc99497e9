"""Whatever other clients publish where natsbridge listens: nothing breaks, nobody is answered for ever."""

from __future__ import annotations

import socket
from typing import Dict, Iterator, List, Tuple
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from procs import LONG

from natsbridge import Pool, ResponseSender, StreamError, StreamRequest, Subscriber, _wire
from natsbridge._client import read_headers
from natsbridge._command import publish_command
from natsbridge.server import EmbeddedServer


class Raw:
    """A NATS connection that writes what it is told, well-formed or not."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname or "", address.port or 0), LONG)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n')

    def publish(self, subject: str, data: bytes, reply: str, headers: bytes) -> None:
        if not headers:
            command = f"PUB {subject} {reply} {len(data)}\r\n".encode()
        else:
            command = f"HPUB {subject} {reply} {len(headers)} {len(headers) + len(data)}\r\n".encode()
        self.socket.sendall(command + headers + data + b"\r\n")

    def flush(self) -> None:
        """Wait until the server has all of it, and took no offence."""
        self.socket.sendall(b"PING\r\n")
        answer = b"PING\r\n"
        while answer == b"PING\r\n":  # its own
            answer = self.file.readline()
        assert answer == b"PONG\r\n"

    def close(self) -> None:
        self.file.close()
        self.socket.close()


TOKEN = "0123456789abcdef01234567"
numbers = st.sampled_from(["0", "1", "2", "7", "01", "-1", str(2**53), "9" * 16, "9" * 17, ""])
kinds = st.builds("{}{}".format, st.sampled_from(["a", "d", "b", "p", "e", "x", ""]), numbers)
names = st.sampled_from(
    [_wire.STREAM, _wire.CONNECT_ID, _wire.LIBRARY_ERROR, _wire.SEQUENCE, _wire.ERROR, _wire.ERROR_CODE, "Status", "X", ""]
)
values = (
    st.sampled_from(
        [
            "v=1; window=1; bytes=1",
            "v=1; window=8; bytes=100; timeout=50; resume=1; probe=1; lease=a",
            "v=2; window=1; bytes=1",
            "v=1; window=9999999999999999; bytes=9999999999999999; timeout=9999999999999999; probe=9999999999999999",
            "v=1",
            "503",
            f"{TOKEN}.d1",
            f"{TOKEN}.e0",
            "busy",
            "unknown",
        ]
    )
    | st.text(max_size=12)
).map(str.encode)
lines = st.builds(
    lambda name, colon, value: name.encode() + colon + value,
    names,
    st.sampled_from([b": ", b":", b" ", b""]),
    values | st.binary(max_size=8),
)
blocks = st.builds(
    lambda start, lines, end: start + b"".join(line + b"\r\n" for line in lines) + end,
    st.sampled_from(
        [b"NATS/1.0\r\n", b"NATS/1.0\r\n", b"NATS/1.0 503\r\n", b"NATS/1.0 408 Why\r\n", b"NATS/1.0\r\n\r\n", b"", b"NATS"]
    ),
    st.lists(lines, max_size=4),
    st.sampled_from([b"\r\n", b"\r\n", b"", b"\r\n\r\n"]),
)
payloads = (
    st.sampled_from(
        [b"", b"ack 0", b"ack 1", b"nak 1", b"cancel", b"cancel offline", b"ack x", b'{"connect_id": "\\ud800"}']
    )
    | st.binary(max_size=20)
    | st.lists(st.binary(max_size=5), max_size=3).map(_wire.encode_batch)
)
WHERE = [
    "{request}",
    "{inbox}.{known}",
    "{inbox}.{unknown}",
    "{control}.{kind}",
    "{inbox}.{unknown}.{kind}",
    "natsbridge.offline.x",
]
replies = st.sampled_from(
    [
        "",
        "{request}.nobody",
        "{raw}",
        "{inbox}.{unknown}.{kind}",
        "{inbox}.{known}",
        "{control}.{kind}",
        "natsbridge.offline.x",
        "$SYS.x",
    ]
)
messages = st.tuples(st.sampled_from(WHERE), kinds.filter(bool), payloads, replies, st.just(b"") | blocks)


class Serving:
    def __init__(self, server: EmbeddedServer, subject: str) -> None:
        self.errors: List[Exception] = []
        self.subject = subject
        self.pool = Pool(server.url, error_callback=self.errors.append)
        self.worker = Pool(server.url, error_callback=self.errors.append)
        self.subscriber = Subscriber(self.worker)
        self.subscriber.stream_subscribe_handler(subject, self.answer)
        self.subscriber.start_client_offline_listener()
        self.raw = Raw(server.url)

    def answer(self, request: StreamRequest, sender: ResponseSender) -> None:
        for _ in range(3):
            sender.send(request.data or b"nothing")

    def close(self) -> None:
        self.raw.close()
        for closing in (self.subscriber, self.pool, self.worker):
            closing.close()


@pytest.fixture
def serving(server: EmbeddedServer, unique: str) -> Iterator[Serving]:
    serving = Serving(server, unique)
    yield serving
    serving.close()


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(messages=st.lists(messages, min_size=20, max_size=60))
def test_what_strangers_publish_breaks_nothing(
    serving: Serving, messages: List[Tuple[str, str, bytes, str, bytes]]
) -> None:
    stream = serving.pool.stream(serving.subject, b"x")
    assert next(stream) == b"x"
    names = {
        "request": serving.subject,
        "inbox": stream._source._link.prefix,
        "known": stream._source._token,
        "unknown": TOKEN,
        "control": stream._source._incoming._control or f"{serving.subject}.nobody",
        "raw": f"{serving.subject}.raw",
    }
    for where, kind, data, reply, headers in messages:
        serving.raw.publish(where.format(kind=kind, **names), data, reply.format(kind=kind, **names), headers)
    serving.raw.flush()
    stream.cancel()
    serving.pool.flush()
    serving.worker.flush()
    assert list(serving.pool.stream(serving.subject, b"y", timeout=LONG)) == [b"y"] * 3
    assert serving.errors == []
    assert [pool.stats().connections[0].reconnects for pool in (serving.pool, serving.worker)] == [0, 0]


@pytest.mark.parametrize("status", [b"", b" 503"], ids=["no status", "a status"])
def test_a_failure_that_cannot_be_read_is_a_failure(serving: Serving, unique: str, status: bytes) -> None:
    """And not the regular end that it would be without headers."""
    subject = f"{unique}.raw"
    serving.raw.socket.sendall(f"SUB {subject} 1\r\n".encode())
    serving.raw.flush()
    stream = serving.pool.stream(subject)
    inbox = f"{stream._source._link.prefix}.{stream._source._token}"
    serving.raw.publish(inbox, b"chunk", "", b"")
    headers = b"NATS/1.0" + status + b"\r\nNats-Service-Error: caf\xe9\r\nNats-Service-Error-Code: 418\r\n\r\n"
    serving.raw.publish(inbox, b"x" if status else b"", "", headers)
    assert next(stream) == b"chunk"
    with pytest.raises(StreamError, match="caf") as caught:
        next(stream)
    assert caught.value.code == 418
    assert serving.pool.stats().connections[0].reconnects == 0


@settings(deadline=None)
@given(st.binary() | blocks)
def test_no_bytes_make_reading_headers_raise(block: bytes) -> None:
    read_headers(block)


header_names = st.from_regex(r"[A-Za-z][A-Za-z-]*", fullmatch=True)


@settings(deadline=None)
@given(st.dictionaries(header_names, st.text("aü -:", min_size=1).map(str.strip)))
def test_headers_that_are_in_order_are_read_in_full(headers: Dict[str, str]) -> None:
    if headers:
        lines = publish_command("subject", b"", "", headers).split(b"\r\n")
        assert read_headers(b"\r\n".join(lines[1:-2])) == headers
        lines[1] += b" 503 Why"
        assert read_headers(b"\r\n".join(lines[1:-2])) == {"Status": "503", **headers}
