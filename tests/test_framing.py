"""Server-sent events as bytes: what is framed is what a browser reads, and nothing can be smuggled in."""

from __future__ import annotations

import re
from typing import Any

import pytest
from event_stream import Event, Parser, parse
from hypothesis import given
from hypothesis import strategies as st

from natsbridge.contrib._framing import count_from, last_event_id
from natsbridge.contrib.sse import format_comment, format_event

TEXT = st.text(st.one_of(st.sampled_from("\r\n :\0\ufeffé\u2028\x0b\x85"), st.characters(blacklist_categories=["Cs"])))
LINE = TEXT.filter(lambda text: not re.search("[\r\n\0]", text))


def as_read(text: str) -> str:
    """A browser joins lines with LF, however they ended."""
    return re.sub("\r\n|\r", "\n", text)


@given(st.lists(st.tuples(TEXT, LINE, LINE), max_size=5), st.integers(1, 7))
def test_a_browser_reads_what_was_framed(events: Any, piece: int) -> None:
    framed = b"".join(format_event(data, event=kind or None, id=name) + format_comment(kind) for data, kind, name in events)
    parser = Parser()
    for start in range(0, len(framed), piece):
        parser.feed(framed[start : start + piece])
    assert parser.events == [Event(kind or "message", as_read(data), name) for data, kind, name in events]
    assert parser.comments == [" " + kind for _, kind, _ in events]


@pytest.mark.parametrize(
    ("data", "framed"),
    [
        ("", b"data: \n\n"),
        ("one", b"data: one\n\n"),
        (" kept", b"data:  kept\n\n"),
        ("two\nlines", b"data: two\ndata: lines\n\n"),
        ("two\r\nlines\r", b"data: two\ndata: lines\ndata: \n\n"),
        ("\n\n", b"data: \ndata: \ndata: \n\n"),
        (b"bytes", b"data: bytes\n\n"),
        ("naïve", b"data: na\xc3\xafve\n\n"),
        ("data: x\n\nevent: end", b"data: data: x\ndata: \ndata: event: end\n\n"),
    ],
)
def test_data(data: Any, framed: bytes) -> None:
    assert format_event(data) == framed
    assert [event.data for event in parse(framed)] == [as_read(data if isinstance(data, str) else data.decode())]


def test_all_fields() -> None:
    assert format_event("x", event="token", id=7, retry=1.5) == b"event: token\nid: 7\nretry: 1500\ndata: x\n\n"
    assert format_event("x", id="") == b"id: \ndata: x\n\n"
    assert format_event("x", retry=0) == b"retry: 0\ndata: x\n\n"
    assert format_comment() == b": \n\n"


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("field", ["event", "id"])
def test_fields_with_line_breaks_are_refused(field: str, end: str) -> None:
    arguments: Any = {field: f"a{end}data: smuggled"}
    with pytest.raises(ValueError, match=f"{field} has a line break"):
        format_event("x", **arguments)
    with pytest.raises(ValueError, match="comment has a line break"):
        format_comment(f"a{end}data: smuggled")


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"data": "x", "id": "a\0b"}, ValueError, "NUL"),
        ({"data": "x", "event": ""}, ValueError, "empty"),
        ({"data": "x", "event": 3}, TypeError, "event must be a str"),
        ({"data": "x", "id": 1.5}, TypeError, "id must be a str"),
        ({"data": "x", "id": True}, TypeError, "id must be a str"),
        ({"data": "x", "retry": -1}, ValueError, "retry"),
        ({"data": "x", "retry": float("inf")}, ValueError, "infinity"),
        ({"data": "x", "retry": "3"}, TypeError, "retry"),
        ({"data": 3}, TypeError, "data must be str or bytes"),
        ({"data": None}, TypeError, "data must be str or bytes"),
        ({"data": b"\xff"}, UnicodeDecodeError, "invalid start byte"),
        ({"data": "é".encode()[:1]}, UnicodeDecodeError, "unexpected end"),
        ({"data": b"\xed\xa0\x80"}, UnicodeDecodeError, "invalid"),  # a surrogate
        ({"data": "\ud800"}, UnicodeEncodeError, "surrogates"),
    ],
)
def test_what_cannot_be_framed_is_refused(arguments: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        format_event(**arguments)


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("12", "12"),
        (" 12 ", "12"),
        ("é".encode().decode("latin-1"), "é"),  # as WSGI hands it over
        ("\xe9", None),  # not UTF-8: no event stream gave that out
        ("a\nb", None),
        ("a\0", None),
        ("x" * 1025, None),
    ],
)
def test_last_event_id(header: Any, meant: Any) -> None:
    assert last_event_id(header) == meant


@pytest.mark.parametrize(
    ("last", "number"),
    [(None, 0), ("0", 0), ("12", 12), ("-1", 0), ("1e3", 0), ("٣", 0), ("9" * 15, 10**15 - 1), ("9" * 16, 0)],
)
def test_ids_count_on_from_numbers(last: Any, number: int) -> None:
    assert count_from(last) == number
