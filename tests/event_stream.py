"""A browser's reading of an event stream, step by step as the HTML standard has it."""

from __future__ import annotations

import re
from typing import List, NamedTuple, Optional


class Event(NamedTuple):
    type: str
    data: str
    last_id: str = ""


class Parser:
    """Fed with bytes in pieces of any size; ``events``: what was dispatched, ``comments``: what was ignored."""

    def __init__(self) -> None:
        self.events: List[Event] = []
        self.comments: List[str] = []
        self.retry: Optional[int] = None  # milliseconds
        self._bytes = b""
        self._data: List[str] = []
        self._type = ""
        self._id = ""
        self._started = False

    def feed(self, data: bytes) -> List[Event]:
        """The events that these bytes completed."""
        before = len(self.events)
        self._bytes += data
        while True:
            # A CR at the very end may be half of a CRLF.
            end = re.search(rb"\r\n|\n|\r(?!\Z)", self._bytes)
            if end is None:
                return self.events[before:]
            line, self._bytes = self._bytes[: end.start()], self._bytes[end.end() :]
            text = line.decode("utf-8", "replace")
            if not self._started:
                self._started, text = True, text[1:] if text.startswith("\ufeff") else text
            self._line(text)

    def _line(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:])
        else:
            name, _, value = line.partition(":")
            self._field(name, value[1:] if value.startswith(" ") else value)

    def _field(self, name: str, value: str) -> None:
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.retry = int(value)

    def _dispatch(self) -> None:
        if self._data:
            self.events.append(Event(self._type or "message", "\n".join(self._data), self._id))
        self._data, self._type = [], ""


def parse(data: bytes) -> List[Event]:
    return Parser().feed(data)
