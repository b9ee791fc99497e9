"""The event stream format, as pure functions (HTML standard, section "Server-sent events").

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from typing import Optional, Union

from .._deadline import check_timeout

# What a browser takes for the end of a line.
_LINE_END = re.compile(rb"\r\n|\r|\n")

# Counted on when a browser comes back, so it must stay a number that everybody can count on from.
_NUMBER = re.compile(r"[0-9]{1,15}\Z")
_LONGEST_LAST_ID = 1024


def format_event(
    data: Union[str, bytes],
    *,
    event: Optional[str] = None,
    id: Union[int, str, None] = None,
    retry: Optional[float] = None,
) -> bytes:
    """One event, complete with the empty line that dispatches it.

    data: text, as a str or as UTF-8; each of its lines (ended by LF, CR or CRLF) becomes a ``data`` field, and the browser
        joins them with LF: so it gets the same text, but for the kind of its line ends.
    event: the event's type; "message" for the browser if None.
    id: what the browser tells as ``Last-Event-ID`` when it comes back; "" makes it forget.
    retry: seconds after which it comes back when the connection is lost.

    Raises ValueError for a line break in ``event`` or ``id`` (it could smuggle in fields or whole events), for an empty
    ``event`` and a NUL in ``id`` (browsers ignore both), and for text that UTF-8 cannot express (UnicodeError, which is a
    ValueError); TypeError for other types.
    """
    fields = b""
    if event is not None:
        fields += b"event: " + _line(event, "event") + b"\n"
        if not event:
            raise ValueError("event is empty: leave it out for an event of the type 'message'")
    if id is not None:
        fields += b"id: " + _line(str(id) if type(id) is int else id, "id") + b"\n"
    if retry is not None:
        seconds = check_timeout(retry, "retry", optional=False)
        if seconds is None:
            raise ValueError("retry must be a finite number of seconds, not infinity")
        fields += b"retry: %d\n" % round(seconds * 1000)
    return fields + data_lines(text_bytes(data)) + b"\n"


def format_comment(text: str = "") -> bytes:
    """A comment, which browsers ignore, and proxies take for a sign of life. Raises as ``format_event`` does."""
    return b": " + _line(text, "comment") + b"\n\n"


def text_bytes(data: Union[str, bytes]) -> bytes:
    """``data`` as UTF-8. Raises UnicodeError where it is none, TypeError for other types."""
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, bytes):
        raise TypeError(f"data must be str or bytes, not {data!r} ({type(data).__name__})")
    if not data.isascii():
        data.decode()
    return data


def data_lines(data: bytes) -> bytes:
    """UTF-8 as ``data`` fields."""
    if b"\n" in data or b"\r" in data:
        data = _LINE_END.sub(b"\ndata: ", data)
    return b"data: " + data + b"\n"


def _line(value: object, name: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {value!r} ({type(value).__name__})")
    if "\r" in value or "\n" in value:
        raise ValueError(f"{name} has a line break, which would begin another field: {value!r}")
    if "\0" in value and name == "id":
        raise ValueError(f"id has a NUL, and browsers ignore such an id: {value!r}")
    return value.encode()


def check_event(event: Optional[str]) -> None:
    """Raises as ``format_event`` would, for an event type alone."""
    format_event("", event=event)


def last_event_id(header: Optional[str]) -> Optional[str]:
    """The ``Last-Event-ID`` of a WSGI environ, whose strings are Latin-1, as the text that the browser meant.

    None for one that is missing, empty, or that no event stream can have given out.
    """
    if not header or len(header) > _LONGEST_LAST_ID:
        return None
    try:
        value = header.encode("latin-1").decode()
    except UnicodeError:
        return None
    return None if any(c in value for c in "\r\n\0") else value.strip() or None


def count_from(last_id: Optional[str]) -> int:
    """The number of the last event that the browser has, as far as it is one; 0 for none."""
    return int(last_id) if last_id is not None and _NUMBER.match(last_id) else 0
