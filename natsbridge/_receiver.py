"""Takes the messages out of what the server sends, as it comes from the socket; the rest of the protocol is nats-py's.

On the way through asyncio's ``StreamReader`` and nats-py's parser each byte of a message is copied six times, and each
message waits for a round of the loop.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import List, NamedTuple, Optional, Protocol, Union

_MAX_LINE = 4096  # bytes; a longer one is no message's, and nats-py's business
# As the server writes them: subject, subscription, perhaps a reply subject, bytes of headers, bytes of all.
_MSG = re.compile(rb"MSG ([^ \r\n]+) (\d{1,18}) (?:([^ \r\n]+) )?(\d{1,18})\r\n")
_HMSG = re.compile(rb"HMSG ([^ \r\n]+) (\d{1,18}) (?:([^ \r\n]+) )?(\d{1,18}) (\d{1,18})\r\n")
_SMALL = 4096  # bytes; a part of a message that is smaller is copied, where a larger one keeps all that it came with
_LARGE = 65536  # bytes, of a read that may be one of many: uvloop reads up to 32 times before it does anything else
_READS = 4  # such reads that are dealt with before the loop is to do something else

Piece = Union[bytearray, memoryview]


class Head(NamedTuple):
    """What is known of a message before it is there."""

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

    def deliver(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> bool:
        """False, and nothing was done, if they are not. Raises nothing."""


class Receiver(asyncio.Protocol):
    """Stands before asyncio's own protocol for streams, and gives it what it does not take itself.

    Once it has done so, everything goes that way until nats-py has read all of it: so nothing is overtaken.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.ReadTransport,
        behind: asyncio.StreamReaderProtocol,
        messages: Messages,
    ) -> None:
        self.open = False  # nats-py waits for more
        self.more = False  # of what came at a time, there is more than the message that is being delivered
        self._loop, self._transport = loop, transport
        self._behind = behind
        self._messages = messages
        self._stopped = False
        self._reads = 0  # large ones, since the loop last did something else
        self._paused = False
        self._line = b""  # the beginning of one
        self._head: Optional[Head] = None  # of a message that has not come to its end
        self._pieces: List[Piece] = []  # of that one's headers and data
        self._missing = 0  # bytes of it, with the line's end behind it

    # -- asyncio's protocol -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._stopped:
            return
        if type(data) is not bytes:  # Python 3.11.1 on Windows
            data = bytes(data)
        if self._head is None and not self._line and not (self.open and self._messages.between):
            self.open = False
            self._behind.data_received(data)
            return
        if len(data) >= _LARGE:
            self._let_others()
        at = 0
        if self._head is not None:
            at = self._go_on(data)
        elif self._line:
            data, self._line = self._line + data, b""
        while at < len(data):
            end = self._take(data, at)
            if end is None:
                if _may_begin(data[at : at + _MAX_LINE + 1]):
                    self._line = data[at:]
                else:
                    self.open = False
                    self._behind.data_received(data[at:])
                break
            at = end
        self.more = False

    def eof_received(self) -> Optional[bool]:
        return self._behind.eof_received()

    def connection_lost(self, exc: Optional[Exception]) -> None:
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def stop(self) -> None:
        """What still comes is of no interest: another connection takes this one's place, or none."""
        self._stopped = True
        self._head, self._line = None, b""
        self._pieces.clear()

    def _let_others(self) -> None:
        self._reads += 1
        if self._reads == 1:
            self._loop.call_soon(self._others_were)
        elif self._reads == _READS and self.open:  # else asyncio's reader has what comes, and pauses by itself
            self._paused = True
            with suppress(RuntimeError):  # it is being closed
                self._transport.pause_reading()

    def _others_were(self) -> None:
        self._reads = 0
        if self._paused:
            self._paused = False
            with suppress(RuntimeError):
                self._transport.resume_reading()

    # -- messages -----------------------------------------------------------------------------------------------------

    def _take(self, data: bytes, at: int) -> Optional[int]:
        """Deliver the message that begins at ``at``, or keep what is there of it; where the next one begins.

        None if that is no message, or none of ours, or its line has not come to its end.
        """
        line = _MSG.match(data, at)
        if line is not None:
            subject, sid, reply, size = line.groups(b"")
            headers = 0
        else:
            line = _HMSG.match(data, at)
            if line is None:
                return None
            subject, sid, reply, ahead, size = line.groups(b"")
            headers = int(ahead)
        start = line.end()
        end = start + int(size)
        body = start + headers
        if body > end:
            return None
        if end + 2 > len(data):
            if not self._messages.takes(int(sid)):
                return None
            self._head = Head(int(sid), subject, reply, headers, int(size))
            self._keep(memoryview(data)[start:end])
            self._missing = end + 2 - len(data)
            return end + 2
        self.more = end + 2 < len(data)
        delivered = self._messages.deliver(int(sid), subject, reply, data[body:end], data[start:body])
        return end + 2 if delivered else None

    def _go_on(self, data: bytes) -> int:
        """More of the message that has not come to its end; where the next one begins."""
        missing, head = self._missing, self._head
        assert head is not None
        if missing > 2:
            self._keep(memoryview(data)[: missing - 2])
        self._missing = max(0, missing - len(data))
        if not self._missing:
            whole = b"".join(self._pieces)
            self._pieces.clear()
            self._head = None
            self.more = missing < len(data)
            headers = whole[: head.headers]
            self._messages.deliver(head.sid, head.subject, head.reply, whole[len(headers) :] if headers else whole, headers)
        return missing

    def _keep(self, piece: memoryview) -> None:
        pieces = self._pieces
        if len(piece) >= _SMALL:
            pieces.append(piece)
        elif pieces and isinstance(pieces[-1], bytearray):
            pieces[-1] += piece
        else:
            pieces.append(bytearray(piece))


def _may_begin(line: bytes) -> bool:
    """Whether this may become the line that announces a message, when more has come."""
    if b"\r\n" in line or len(line) > _MAX_LINE:
        return False
    return b"MSG ".startswith(line[:4]) or b"HMSG ".startswith(line[:5])
