"""Takes the messages out of what the server sends, as it comes from the socket; the rest of the protocol is nats-py's.

On the way through asyncio's ``StreamReader`` and nats-py's parser each byte of a message is copied six times, and each
message waits for a round of the loop.
"""

from __future__ import annotations

import asyncio
from typing import List, NamedTuple, Optional, Protocol, Union

_MAX_LINE = 4096  # bytes; a longer one is no message's, and nats-py's business

Piece = Union[bytes, memoryview]


class Head(NamedTuple):
    """The line that announces a message."""

    sid: int
    subject: bytes
    reply: bytes
    headers: int  # bytes that they take
    size: int  # bytes of headers and data


class Messages(Protocol):
    """Who is given the messages. All on the loop."""

    @property
    def between(self) -> bool:
        """Whether nats-py's parser has dealt with all it was given, to the end of a message."""

    def takes(self, sid: int) -> bool:
        """Whether the messages of that subscription are to come here."""

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        """Raises nothing."""


class Receiver(asyncio.Protocol):
    """Stands before asyncio's own protocol for streams, and gives it what it does not take itself.

    Once it has done so, everything goes that way until nats-py has read all of it: so nothing is overtaken.
    """

    def __init__(self, behind: asyncio.StreamReaderProtocol, messages: Messages) -> None:
        self.open = False  # nats-py waits for more
        self.more = False  # of what came at a time, there is more than the message that is being delivered
        self._behind = behind
        self._messages = messages
        self._line = b""  # the beginning of one
        self._head: Optional[Head] = None  # of a message that has not come to its end
        self._pieces: List[Piece] = []  # of that one's headers and data
        self._missing = 0  # bytes of it, with the line's end behind it

    # -- asyncio's protocol -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._head is None and not self._line and not (self.open and self._messages.between):
            self._behind.data_received(data)
            return
        at = 0
        if self._head is not None:
            at = self._go_on(data)
        elif self._line:
            data, self._line = self._line + data, b""
        while at < len(data):
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at <= _MAX_LINE and _may_begin(data[at : at + 5]):
                    self._line = data[at:]
                    break
                head = None
            else:
                head = _parse(data[at:end])
            if head is None or not self._messages.takes(head.sid):
                self.open = False
                self._behind.data_received(data[at:])
                break
            at = self._take(head, data, end + 2)
        self.more = False

    def eof_received(self) -> Optional[bool]:
        return self._behind.eof_received()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _take(self, head: Head, data: bytes, at: int) -> int:
        """Deliver the message that begins at ``at``, or keep what is there of it; where the next one begins."""
        end = at + head.size
        if end + 2 <= len(data):
            self.more = end + 2 < len(data)
            self._deliver(head, data[at : at + head.headers], data[at + head.headers : end])
        else:
            self._head = head
            self._pieces.append(memoryview(data)[at:end])
            self._missing = end + 2 - len(data)
        return end + 2

    def _go_on(self, data: bytes) -> int:
        """More of the message that has not come to its end; where the next one begins."""
        missing, head = self._missing, self._head
        assert head is not None
        if missing > 2:
            self._pieces.append(memoryview(data)[: missing - 2])
        self._missing = max(0, missing - len(data))
        if not self._missing:
            whole = b"".join(self._pieces)
            self._pieces.clear()
            self._head = None
            self.more = missing < len(data)
            self._deliver(head, whole[: head.headers], whole[head.headers :] if head.headers else whole)
        return missing

    def _deliver(self, head: Head, headers: bytes, data: bytes) -> None:
        self._messages.deliver(head.sid, head.subject, head.reply, data, headers)


def _may_begin(line: bytes) -> bool:
    return b"MSG ".startswith(line[:4]) or b"HMSG ".startswith(line)


def _parse(line: bytes) -> Optional[Head]:
    """What announces a message; None for anything else, and for what is not as the server writes it."""
    operation, *words = line.split(b" ")
    headers = b"0"
    if operation == b"HMSG" and len(words) > 3:
        headers = words.pop(-2)
    elif operation != b"MSG":
        return None
    if not 3 <= len(words) <= 4 or not (words[1].isdigit() and headers.isdigit() and words[-1].isdigit()):
        return None
    head = Head(int(words[1]), words[0], words[2] if len(words) == 4 else b"", int(headers), int(words[-1]))
    return head if head.headers <= head.size else None
