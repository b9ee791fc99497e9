"""What takes the messages out of what a server sends."""

from __future__ import annotations

import asyncio
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from natsbridge import _receiver
from natsbridge._receiver import Receiver

OURS, THEIRS = 1, 2  # subscriptions


class Seen(NamedTuple):
    """A message, and by whom it was taken out."""

    sid: int
    subject: bytes
    reply: bytes
    data: bytes
    headers: bytes


class Client:
    """Gets messages from the receiver, and all else from nats-py's parser."""

    def __init__(self) -> None:
        self.parser = Parser(self)
        self.seen: List[object] = []
        self.parsed = 0  # messages that nats-py's parser took out
        self.pause: Optional[asyncio.Event] = None  # what nats-py waits for while it deals with a line

    @property
    def between(self) -> bool:
        return self.parser.state == AWAITING_CONTROL_LINE and not self.parser.buf

    def takes(self, sid: int) -> bool:
        return sid == OURS

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> bool:
        if sid != OURS:
            return False
        assert type(subject) is type(reply) is type(data) is type(headers) is bytes
        self.seen.append(Seen(sid, subject, reply, data, headers))
        return True

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Optional[bytes]) -> None:
        self.parsed += 1
        self.seen.append(Seen(sid, subject, reply, data, headers or b""))

    async def _process_ping(self) -> None:
        if self.pause is not None:
            await self.pause.wait()
        self.seen.append("PING")

    async def _process_pong(self) -> None:
        self.seen.append("PONG")

    async def _process_err(self, error: str) -> None:
        self.seen.append(error)

    async def _process_info(self, info: Any) -> None:
        self.seen.append(info)


class Behind(asyncio.StreamReaderProtocol):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: List[object] = []

    def __del__(self) -> None: ...

    def data_received(self, data: bytes) -> None:
        self.told.append(data)

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self.told.append(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


class Transport(asyncio.ReadTransport):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: List[str] = []

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


class Connection:
    """A receiver before asyncio's reader, and nats-py's read loop behind that."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.reader = asyncio.StreamReader(limit=32768)
        self.transport = Transport()
        behind = asyncio.StreamReaderProtocol(self.reader)
        self.receiver = Receiver(asyncio.get_event_loop(), self.transport, behind, client)
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        while True:
            self.receiver.open = True
            data = await self.reader.read(32768)
            self.receiver.open = False
            if not data:
                return
            await self.client.parser.parse(data)

    async def end(self) -> None:
        self.receiver.eof_received()
        await self.reading


class Loop:
    """A loop that does what it is told to when it is asked."""

    def __init__(self) -> None:
        self.soon: List[Callable[[], object]] = []

    def call_soon(self, call: Callable[[], object]) -> None:
        self.soon.append(call)


def received_by(behind: Behind, client: Optional[Client] = None) -> Receiver:
    receiver = Receiver(Loop(), Transport(), behind, client or Client())  # type: ignore[arg-type]
    receiver.open = True
    return receiver


def message(seen: Seen) -> bytes:
    reply = seen.reply + b" " if seen.reply else b""
    if not seen.headers:
        return b"MSG %s %d %s%d\r\n%s\r\n" % (seen.subject, seen.sid, reply, len(seen.data), seen.data)
    sizes = (len(seen.headers), len(seen.headers) + len(seen.data))
    return b"HMSG %s %d %s%d %d\r\n%s%s\r\n" % (seen.subject, seen.sid, reply, *sizes, seen.headers, seen.data)


LINES: List[Tuple[object, bytes]] = [
    ("PING", b"PING\r\n"),
    ("PONG", b"PONG\r\n"),
    ("'slow'", b"-ERR 'slow'\r\n"),
    ({"a": "\u00e4"}, b'INFO {"a":"\\u00e4"}\r\n'),
]
messages = st.builds(
    Seen,
    st.sampled_from([OURS, OURS, OURS, THEIRS]),
    st.sampled_from([b"a", b"_INBOX.abc.def", b"x" * 300]),
    st.sampled_from([b"", b"reply.to"]),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"MSG a 1 3\r\nabc\r\n", b"\r\n", b"y" * 70_000])),
    st.sampled_from([b"", b"NATS/1.0\r\nA: b\r\n\r\n"]),
)
traffic = st.lists(st.one_of(messages, messages, st.sampled_from(LINES)), max_size=12)


@given(traffic, st.lists(st.integers(1, 400), min_size=1, max_size=30), st.lists(st.booleans(), min_size=1, max_size=8))
@example([Seen(OURS, b"a", b"", b"x", b""), LINES[0], Seen(OURS, b"a", b"", b"y", b"")], [1], [False])
@example([LINES[0], Seen(OURS, b"a", b"", b"x", b"")], [1000], [False])
@settings(deadline=None)
def test_however_it_is_cut_it_is_the_same(events: List[Any], sizes: List[int], turns: List[bool]) -> None:
    """In order, whether nats-py gets to read in between or not."""
    told = [event if isinstance(event, Seen) else event[0] for event in events]
    stream = b"".join(message(event) if isinstance(event, Seen) else event[1] for event in events)

    async def play() -> Client:
        connection = Connection(Client())
        at = turn = 0
        while at < len(stream):
            # Once round, the pieces are larger, so that the large ones come to their end.
            size = sizes[turn % len(sizes)] * (1 if turn < len(sizes) else 50)
            connection.receiver.data_received(stream[at : at + size])
            at += size
            if turns[turn % len(turns)]:
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            turn += 1
        await connection.end()
        assert not connection.receiver.more
        return connection.client

    assert asyncio.run(play()).seen == told


def test_messages_do_not_go_through_nats_py() -> None:
    async def play() -> Client:
        connection = Connection(Client())
        await asyncio.sleep(0)
        for size in (10, 100, 70_000):
            stream = message(Seen(OURS, b"a", b"", b"x" * size, b"")) * 5
            for at in range(0, len(stream), 1000):
                connection.receiver.data_received(stream[at : at + 1000])
        await connection.end()
        return connection.client

    client = asyncio.run(play())
    assert client.parsed == 0
    assert [len(seen.data) for seen in client.seen if isinstance(seen, Seen)] == [10] * 5 + [100] * 5 + [70_000] * 5


def test_nothing_overtakes_a_line_that_nats_py_is_at() -> None:
    first, second = Seen(OURS, b"a", b"", b"1", b""), Seen(OURS, b"a", b"", b"2", b"")

    async def play() -> List[object]:
        client = Client()
        client.pause = asyncio.Event()
        connection = Connection(client)
        await asyncio.sleep(0)
        connection.receiver.data_received(b"PING\r\n")
        await asyncio.sleep(0)  # nats-py is at it now
        connection.receiver.data_received(message(first))
        assert client.seen == []
        client.pause.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        connection.receiver.data_received(message(second))
        await connection.end()
        assert client.parsed == 1
        return client.seen

    assert asyncio.run(play()) == ["PING", first, second]


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1\r\n",
        b"MSG a 1 b c 1\r\n",
        b"MSG a x 1\r\n",
        b"MSG a 1 -1\r\n",
        b"MSG a 1 1_0\r\n",
        b"HMSG a 1 12\r\n",
        b"HMSG a 1 x 12\r\n",
        b"HMSG a 1 -1 12\r\n",
        b"HMSG a 1 r s 1 12\r\n",
        b"HMSG a 1 20 12\r\n",
        b"MSG a 1 " + b"9" * 5000 + b"\r\n",
        b"nonsense\r\n",
        b"MSG " + b"a" * 5000,
    ],
)
def test_what_makes_no_sense_is_nats_pys_to_judge(line: bytes) -> None:
    behind, client = Behind(), Client()
    receiver = received_by(behind, client)
    receiver.data_received(message(Seen(OURS, b"a", b"", b"1", b"")) + line)
    receiver.data_received(b"what follows")
    assert behind.told == [line, b"what follows"]
    assert len(client.seen) == 1


def test_a_line_that_does_not_end_is_not_kept() -> None:
    behind = Behind()
    receiver = received_by(behind)
    for _ in range(100):
        receiver.data_received(b"MSG a" + b"a" * 95)
    assert len(b"".join(data for data in behind.told if isinstance(data, bytes))) == 100 * 100


def test_what_is_told_to_a_protocol_is_passed_on() -> None:
    behind = Behind()
    receiver = received_by(behind)
    error = OSError()
    receiver.pause_writing()
    receiver.resume_writing()
    assert receiver.eof_received()
    receiver.connection_lost(error)
    assert behind.told == ["pause", "resume", "eof", error]


def test_what_trickles_in_takes_no_more_than_it_is() -> None:
    client = Client()
    receiver = received_by(Behind(), client)
    stream = message(Seen(OURS, b"a", b"", b"x" * 5000, b"")) * 2
    receiver.data_received(stream[:100])
    for at in range(100, 5000):
        receiver.data_received(stream[at : at + 1])
        assert len(receiver._pieces) == 1
    receiver.data_received(stream[5000:])
    assert [len(seen.data) for seen in client.seen if isinstance(seen, Seen)] == [5000, 5000]


def test_many_large_reads_let_the_loop_do_something_else() -> None:
    """uvloop reads many times before it does."""
    loop, transport, client = Loop(), Transport(), Client()
    receiver = Receiver(loop, transport, Behind(), client)  # type: ignore[arg-type]
    receiver.open = True
    large = message(Seen(OURS, b"a", b"", b"x" * 100_000, b""))
    for _ in range(10):
        for _ in range(_receiver._READS):
            assert transport.told == []
            receiver.data_received(large)
        assert transport.told == ["pause"]
        (others,) = loop.soon
        loop.soon.clear()
        others()
        assert transport.told == ["pause", "resume"]
        transport.told.clear()
    for _ in range(10):  # with something else in between each time
        receiver.data_received(large)
        loop.soon.pop()()
    assert transport.told == []
    assert len(client.seen) == 10 * _receiver._READS + 10


def test_a_receiver_that_was_stopped_takes_nothing() -> None:
    client, behind = Client(), Behind()
    receiver = received_by(behind, client)
    stream = message(Seen(OURS, b"a", b"", b"x" * 5000, b""))
    receiver.data_received(stream[:100])
    receiver.stop()
    receiver.data_received(stream[100:] + stream)
    assert client.seen == behind.told == []
