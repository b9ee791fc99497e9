"""The wire format: every value survives the round trip, and no input makes a parser raise."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from natsbridge import _wire
from natsbridge._wire import Announcement, Control, Failure, StreamParams

LIMIT = 2**53

# A busy machine is no reason to fail.
calmly = settings(deadline=None)

numbers = st.integers(0, LIMIT - 1)
positive = st.integers(1, LIMIT - 1)
kinds = st.sampled_from("abdpe")
leases = st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True)
# What a str can hold and UTF-8 can carry.
texts = st.text(st.characters(blacklist_categories=["Cs"]))
params = st.builds(
    StreamParams,
    window=positive,
    bytes=positive,
    timeout_ms=st.none() | numbers,
    resume_ms=numbers,
    probe_ms=st.none() | numbers,
    lease=st.none() | leases,
    version=positive,
)
header_texts = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=1024).map(str.strip)


# -- tokens and reply subjects ----------------------------------------------------------------------------------------


def test_tokens_have_their_length_and_are_new_each_time() -> None:
    for make, digits in ((_wire.link_token, 32), (_wire.stream_token, 24), (_wire.lease_token, 16)):
        tokens = {make() for _ in range(100)}
        assert len(tokens) == 100
        assert all(len(token) == digits and set(token) <= set("0123456789abcdef") for token in tokens)


@calmly
@given(kinds, numbers)
def test_kind_and_number_survive_in_the_reply_subject(kind: str, seq: int) -> None:
    control = f"_INBOX.{_wire.link_token()}.{_wire.stream_token()}"
    reply = _wire.reply_subject(control, kind, seq)
    assert _wire.parse_reply(reply) == (control, kind, seq)
    assert _wire.parse_kind(reply[len(control) + 1 :]) == (kind, seq)


@calmly
@given(st.text())
@example("")
@example("d")
@example("d-1")
@example("d+1")
@example("d01")
@example("d1 ")
@example("d1\n")
@example(" d1")
@example("D1")
@example("x1")
@example("d1.d1")
@example("d" + "9" * 17)
@example("d١")
def test_no_other_text_is_a_kind(text: str) -> None:
    parsed = _wire.parse_kind(text)
    if parsed is not None:  # the rare text that is one: then it says exactly that
        assert f"{parsed[0]}{parsed[1]}" == text
        assert parsed[0] in ("a", "b", "d", "p", "e")


@pytest.mark.parametrize(
    "text", ["", "d", "d-1", "d+1", "d01", "d1 ", "d1\n", " d1", "D1", "x1", "d" + "9" * 17, "d١", "dd1"]
)
def test_malformed_kinds_are_refused(text: str) -> None:
    assert _wire.parse_kind(text) is None


TOKEN = "0123456789abcdef01234567"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        ".",
        "d1",
        TOKEN,
        f"{TOKEN}.",
        f"{TOKEN}.q1",
        f"a.{TOKEN[:-1]}.d1",
        f"a.{TOKEN}0.d1",
        f"a.{TOKEN.upper()}.d1",
        f"a.{TOKEN}.d1.",
        f"a.{TOKEN}.d1.x",
        f"a.{TOKEN}\n.d1",
        "_INBOX.abc.def",
    ],
)
def test_foreign_reply_subjects_are_refused(reply: str) -> None:
    assert _wire.parse_reply(reply) is None


@calmly
@given(st.text())
def test_no_text_makes_parsing_a_reply_raise(reply: str) -> None:
    parsed = _wire.parse_reply(reply)
    assert parsed is None or _wire.reply_subject(*parsed) == reply


@calmly
@given(kinds, numbers)
def test_kind_and_number_survive_in_a_header_too(kind: str, seq: int) -> None:
    """Across accounts the server would map, and keep, every reply subject."""
    token = _wire.stream_token()
    parsed = _wire.parse_sequence({"Natsbridge-Seq": _wire.encode_sequence(token, kind, seq)})
    assert parsed is not None
    assert parsed[1:] == (kind, seq)
    other = _wire.parse_sequence({"Natsbridge-Seq": _wire.encode_sequence(_wire.stream_token(), kind, seq)})
    assert other is not None
    assert other[0] != parsed[0]  # streams can be told apart


@calmly
@given(st.text())
def test_no_text_makes_parsing_a_sequence_raise(text: str) -> None:
    assert _wire.parse_sequence({"Natsbridge-Seq": text}) is None
    assert _wire.parse_sequence({"Other": text}) is None


@pytest.mark.parametrize("headers", [None, {}, {"natsbridge-seq": f"{TOKEN}.d1"}])
def test_no_sequence_header_is_no_sequence(headers: Optional[Dict[str, str]]) -> None:
    assert _wire.parse_sequence(headers) is None


@pytest.mark.parametrize(
    ("reply", "crosses"), [("_R_.abc.def", True), ("_R_", False), ("_INBOX._R_.x", False), ("", False), ("_r_.x", False)]
)
def test_replies_that_the_server_maps_to_another_account(reply: str, crosses: bool) -> None:
    assert _wire.crosses_accounts(reply) is crosses


# -- Natsbridge-Stream ------------------------------------------------------------------------------------------------


@calmly
@given(params)
def test_parameters_survive(value: StreamParams) -> None:
    assert _wire.parse_params(_wire.encode_params(value)) == value


@calmly
@given(
    params,
    st.lists(
        st.tuples(st.from_regex(r"x-[a-z]{1,8}", fullmatch=True), st.from_regex(r"[0-9a-z.]{0,8}", fullmatch=True)),
        unique_by=lambda item: item[0],
    ),
)
def test_parameters_that_a_later_version_adds_are_ignored(value: StreamParams, later: List[Any]) -> None:
    extra = "".join(f"; {key}={text}" for key, text in later)
    assert _wire.parse_params(_wire.encode_params(value) + extra) == value


def test_a_later_version_is_reported_and_not_refused_by_the_parser() -> None:
    parsed = _wire.parse_params("v=7; window=1; bytes=1; colour=blue")
    assert parsed == StreamParams(1, 1, version=7)


def test_spaces_and_order_do_not_matter() -> None:
    expected = StreamParams(4, 5, 6, 7, lease="le-ase_1")
    assert _wire.parse_params("lease=le-ase_1;resume=7;timeout=6;bytes=5;window=4;v=1") == expected
    assert _wire.parse_params("  v = 1 ;  window=4;bytes =5; timeout= 6; resume = 7;lease=le-ase_1 ; ") == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        ";",
        "v",
        "v=1",
        "v=1; window=1",
        "v=1; bytes=1",
        "window=1; bytes=1",
        "v=0; window=1; bytes=1",
        "v=1; window=0; bytes=1",
        "v=1; window=1; bytes=0",
        "v=1; window=-1; bytes=1",
        "v=1; window=1.5; bytes=1",
        "v=1; window=1e3; bytes=1",
        "v=1; window=0x10; bytes=1",
        "v=1; window=01; bytes=1",
        "v=1; window=+1; bytes=1",
        "v=1; window=1_0; bytes=1",
        "v=1; window=١; bytes=1",
        "v=1; window=99999999999999999; bytes=1",
        "v=one; window=1; bytes=1",
        "v=1; window=1; bytes=1; timeout=",
        "v=1; window=1; bytes=1; timeout=-5",
        "v=1; window=1; bytes=1; timeout=soon",
        "v=1; window=1; bytes=1; resume=",
        "v=1; window=1; bytes=1; resume=-5",
        "v=1; window=1; bytes=1; lease=",
        "v=1; window=1; bytes=1; lease=a b",
        "v=1; window=1; bytes=1; lease=a.b",
        "v=1; window=1; bytes=1; lease=" + "a" * 65,
        "v=1; window=1; window=2; bytes=1",
        "v=1; window=1; bytes=1; nonsense",
        "v=1, window=1, bytes=1",
    ],
)
def test_malformed_parameters_are_refused(value: str) -> None:
    assert _wire.parse_params(value) is None


@calmly
@given(st.text() | st.from_regex(r"([a-z]{1,7}=?[0-9a-z-]{0,4};? ?){0,6}", fullmatch=True))
def test_no_text_makes_parsing_parameters_raise(value: str) -> None:
    parsed = _wire.parse_params(value)
    assert parsed is None or (parsed.version >= 1 and parsed.window >= 1 and parsed.bytes >= 1)


def test_numbers_stay_exact_in_floats() -> None:
    parsed = _wire.parse_params("v=1; window=9999999999999999; bytes=1")
    assert parsed is not None
    assert parsed.window == LIMIT == int(float(parsed.window))


# -- whom to answer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "acceptable"),
    [
        ("_INBOX.abc.def", True),
        ("inbox", True),
        ("natsbridge", True),
        ("natsbridgex.y", True),
        ("Natsbridge.offline.x", True),
        ("a.$SYS.b", True),
        ("", False),
        ("$SYS.REQ.SERVER.PING", False),
        ("$JS.API.STREAM.DELETE.X", False),
        ("$", False),
        ("natsbridge.", False),
        ("natsbridge.offline.0123456789abcdef", False),
    ],
)
def test_replies_that_would_borrow_the_responders_rights_are_not_acceptable(reply: str, acceptable: bool) -> None:
    assert _wire.acceptable_reply(reply) is acceptable


@pytest.mark.parametrize(
    ("answer", "suffix", "data", "reply", "headers"),
    [
        ("cancel", "", b"chunk", f"inbox.{'0' * 24}.d7", None),
        ("cancel", "", b"", f"inbox.{'0' * 24}.e7", {"Nats-Service-Error": "why"}),
        ("cancel", "", b"", "_R_.x", {"Natsbridge-Seq": f"{'0' * 24}.a0"}),
        ("unknown", "d7", b"ack 7", "inbox", None),
        ("unknown", "p0", b"nak 7", "inbox", None),
        (None, "", b"chunk", "", None),
        (None, "", b"chunk", "foreign", None),
        (None, "", b"", "", {"Natsbridge-Seq": f"{'0' * 24}.d1"}),
        (None, "", b"", f"inbox.{'0' * 24}.d7", {"Status": "503"}),
        (None, "", b"chunk", f"$SYS.{'0' * 24}.d7", None),
        (None, "d7", b"cancel", "inbox", None),
        (None, "d7", b"ack 7", "", None),
        (None, "d7", b"ack 7", "natsbridge.offline.x", None),
        (None, "d7", b"nonsense", "inbox", None),
        (None, "nonsense", b"ack 7", "inbox", None),
        (None, "d7", b"", "inbox", {"Status": "503"}),
    ],
)
def test_what_is_for_an_unknown_stream_is_answered_so(
    answer: Optional[str], suffix: str, data: bytes, reply: str, headers: Optional[Dict[str, str]]
) -> None:
    expected = {"cancel": (b"cancel", None), "unknown": (b"", _wire.encode_failure(_wire.library_failure("unknown")))}
    assert _wire.answer_unknown(suffix, data, reply, headers) == (None if answer is None else expected[answer])


suffixes = st.sampled_from(["", "d1", "e0", "x"]) | st.text(max_size=6)
reply_texts = st.sampled_from(["", "inbox", f"inbox.{'0' * 24}.d7", f"$SYS.{'0' * 24}.d7"]) | st.text(max_size=40)
any_headers = st.none() | st.dictionaries(
    st.sampled_from(["Status", "Natsbridge-Seq", "Nats-Service-Error", "X"]), st.text(max_size=30), max_size=3
)


@calmly
@given(suffixes, st.binary(max_size=12) | st.sampled_from([b"ack 1", b"nak 2", b"cancel"]), reply_texts, any_headers)
def test_no_answer_to_the_unknown_is_ever_answered(
    suffix: str, data: bytes, reply: str, headers: Optional[Dict[str, str]]
) -> None:
    """Whichever of the two ends it reaches, and whatever its subject ends in: no two ends talk for ever."""
    answer = _wire.answer_unknown(suffix, data, reply, headers)
    if answer is not None:
        for theirs in ("", "d1", suffix):
            assert _wire.answer_unknown(theirs, answer[0], "", answer[1]) is None


# -- what JetStream answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (b'{"stream":"ORDERS","seq":1}', True),
        (b'{"stream":"ORDERS", "seq":7, "domain":"hub", "duplicate": true}', True),
        (b'{"error":{"code":400,"err_code":10077,"description":"full"},"stream":"ORDERS","seq":0}', True),
        (b'{"stream":"ORDERS"}', False),
        (b'{"stream":"ORDERS","seq":"1"}', False),
        (b'{"stream":"ORDERS","seq":true}', False),
        (b'{"stream":7,"seq":1}', False),
        (b'{"error":"what"}', False),
        (b'{"stream":', False),
        (b'{"stream":\xff', False),
        (b'{"stream":' * 90, False),
        (b'{"stream":"ORDERS","seq":1}' + b" " * 1024, False),
        (b'[{"stream":"ORDERS","seq":1}]', False),
        (b"", False),
    ],
)
def test_acknowledgements_of_jetstream_are_recognised(data: bytes, is_one: bool) -> None:
    assert _wire.is_pub_ack(data) is is_one


@calmly
@given(st.builds(lambda start, rest: start + rest, st.sampled_from([b"", b'{"stream":', b'{"error":']), st.binary()))
def test_no_bytes_make_that_raise(data: bytes) -> None:
    _wire.is_pub_ack(data)


# -- control ----------------------------------------------------------------------------------------------------------


@calmly
@given(numbers, st.none() | st.integers(1, 2**40))
def test_acks_survive(seq: int, max_bytes: Optional[int]) -> None:
    assert _wire.parse_control(_wire.encode_ack(seq, max_bytes)) == Control("ack", seq, max_bytes=max_bytes)


@calmly
@given(numbers)
def test_naks_survive(seq: int) -> None:
    assert _wire.parse_control(_wire.encode_nak(seq)) == Control("nak", seq)


@pytest.mark.parametrize("why", ["", *_wire.CANCEL_REASONS])
def test_cancels_survive(why: str) -> None:
    assert _wire.parse_control(_wire.encode_cancel(why)) == Control("cancel", why=why)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"ack",
        b"ack ",
        b"ack  1",
        b"ack 1 ",
        b"ack 1\n",
        b"ack -1",
        b"ack +1",
        b"ack 01",
        b"ack 1 0",
        b"ack 1 02",
        b"ack 1 -2",
        b"ack 1  2",
        b"ack 1 2 ",
        b"ack 1 2 3",
        b"ack one",
        b"ACK 1",
        b"nak",
        b"nak -1",
        b"nak 01",
        b"nak 1 2",
        b"cancelled",
        b"Cancel",
        b"\xff",
        b"ack \xb2",
        "ack ²".encode(),
        b"ack " + b"9" * 17,
        b"cancel " + b"x" * 58,
    ],
)
def test_malformed_control_messages_are_refused(data: bytes) -> None:
    assert _wire.parse_control(data) is None


@calmly
@given(st.binary() | st.builds(lambda verb, tail: verb + tail, st.sampled_from([b"ack ", b"nak ", b"cancel"]), st.binary()))
def test_no_bytes_make_parsing_control_raise(data: bytes) -> None:
    parsed = _wire.parse_control(data)
    if parsed is not None:  # then it says exactly that
        verb, seq, why, size = parsed
        encodings = {"ack": _wire.encode_ack(seq, size), "nak": _wire.encode_nak(seq), "cancel": _wire.encode_cancel(why)}
        encoded = encodings[verb]
        assert encoded == data or data == b"cancel "


# -- batches ----------------------------------------------------------------------------------------------------------


@calmly
@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=50))
def test_batches_survive(chunks: List[bytes]) -> None:
    data = _wire.encode_batch(chunks)
    assert len(data) == sum(map(len, chunks)) + _wire.BATCH_OVERHEAD * len(chunks)
    assert _wire.decode_batch(data) == chunks


@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_batches_of_one_length_are_decoded_as_any_other(size: int, count: int, data: st.DataObject) -> None:
    """There is a short cut for them: it must not be taken where only some of the lengths agree."""
    encoded = bytearray(_wire.encode_batch([bytes([n]) * size for n in range(count)]))
    assert _wire.decode_batch(bytes(encoded)) == [bytes([n]) * size for n in range(count)]
    wrong = data.draw(st.integers(0, count - 1)) * (4 + size) + data.draw(st.integers(0, 3))
    encoded[wrong] ^= data.draw(st.integers(1, 255))
    chunks = _wire.decode_batch(bytes(encoded))
    assert chunks is None or _wire.encode_batch(chunks) == encoded


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\0\0\0\1",
        b"\0\0\0\2x",
        b"\0\0\0\1xy",
        b"\0\0\0\1x\0\0\0",
        b"\0\0\0\1x\0\0\0\0",
        b"\0\0\0\0\0\0\0\1x",
        b"\0\0\0\1x\0\0\0\2y",
        b"\xff\xff\xff\xffx",
        b"\1\0\0\0x",
    ],
)
def test_malformed_batches_are_refused(data: bytes) -> None:
    assert _wire.decode_batch(data) is None


@calmly
@given(
    st.binary()
    | st.builds(lambda chunks, cut: _wire.encode_batch(chunks)[:cut], st.lists(st.binary(min_size=1)), st.integers(0, 60))
)
def test_no_bytes_make_decoding_a_batch_raise(data: bytes) -> None:
    chunks = _wire.decode_batch(data)
    if chunks is not None:
        assert chunks
        assert all(chunks)
        assert _wire.encode_batch(chunks) == data


# -- ends -------------------------------------------------------------------------------------------------------------


@calmly
@given(st.builds(Failure, numbers, header_texts.filter(bool), st.none() | st.sampled_from(sorted(_wire.LIBRARY_ENDS))))
def test_failures_survive(failure: Failure) -> None:
    assert _wire.parse_failure(_wire.encode_failure(failure)) == failure


@pytest.mark.parametrize("word", sorted(_wire.LIBRARY_ENDS))
def test_the_librarys_own_ends_survive_and_read_well(word: str) -> None:
    failure = _wire.library_failure(word)
    assert failure.library == word
    assert 400 <= failure.code <= 599
    assert len(failure.description) > 10
    assert _wire.parse_failure(_wire.encode_failure(failure)) == failure


def test_the_words_of_the_protocol_are_these() -> None:
    assert set(_wire.LIBRARY_ENDS) == {
        "busy",
        "offline",
        "deadline",
        "stalled",
        "disconnected",
        "shutdown",
        "abandoned",
        "unknown",
        "version",
    }


@calmly
@given(st.text())
@example("\r\nInjected: yes")
@example("tab\tand\x00nul")
@example("x" * 5000)
@example("\ud800")
@example("\x85 and \u2028")
def test_descriptions_become_one_line_that_a_header_can_carry(text: str) -> None:
    headers = _wire.encode_failure(Failure(500, text))
    value = headers["Nats-Service-Error"]
    assert value
    assert value == value.strip()
    assert not set(value) & {chr(code) for code in (*range(32), 127)}
    assert len(value) <= 1024
    value.encode()
    assert set(headers) == {"Nats-Service-Error", "Nats-Service-Error-Code"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, None),
        ({}, None),
        ({"Other": "x"}, None),
        ({"Nats-Service-Error-Code": "500"}, None),
        ({"nats-service-error": "x"}, None),  # names are compared exactly, as NATS does
        ({"Nats-Service-Error": "x"}, Failure(500, "x")),
        ({"Nats-Service-Error": "", "Nats-Service-Error-Code": "404"}, Failure(404, "")),
        ({"Nats-Service-Error": "x", "Nats-Service-Error-Code": " 404 "}, Failure(404, "x")),
        ({"Nats-Service-Error": "x", "Nats-Service-Error-Code": "soon"}, Failure(500, "x")),
        ({"Nats-Service-Error": "x", "Nats-Service-Error-Code": "-1"}, Failure(500, "x")),
        ({"Nats-Service-Error": "x", "Natsbridge-Error": "new-word"}, Failure(500, "x", "new-word")),
    ],
)
def test_failures_of_other_implementations(headers: Optional[Dict[str, str]], expected: Optional[Failure]) -> None:
    assert _wire.parse_failure(headers) == expected


@calmly
@given(st.dictionaries(st.sampled_from([_wire.ERROR, _wire.ERROR_CODE, _wire.LIBRARY_ERROR, "X"]), st.text()))
def test_no_headers_make_parsing_a_failure_raise(headers: Dict[str, str]) -> None:
    assert (_wire.parse_failure(headers) is None) == (_wire.ERROR not in headers)


# -- presence ---------------------------------------------------------------------------------------------------------


@calmly
@given(texts.filter(bool), st.none() | texts, texts)
def test_announcements_survive(connect_id: str, lease: Optional[str], origin: str) -> None:
    announcement = Announcement(connect_id, lease, origin)
    assert _wire.parse_announcement(_wire.encode_announcement(announcement)) == announcement


@calmly
@given(texts.filter(bool))
def test_presence_subjects_fit_what_listeners_subscribe_to(connect_id: str) -> None:
    for online, pattern in ((False, _wire.OFFLINE_EVENTS), (True, _wire.ONLINE_EVENTS)):
        subject = _wire.presence_subject(connect_id, online)
        head, _, token = subject.rpartition(".")
        assert f"{head}.*" == pattern
        assert len(token) == 16
        assert set(token) <= set("0123456789abcdef")  # says nothing about the id, and cannot break the subject


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        [],
        ["connect_id"],
        {},
        {"connect_id": ""},
        {"connect_id": None},
        {"connect_id": 7},
        {"connect_id": ["a"]},
        {"connect_id": "a", "lease": 7},
        {"connect_id": "a", "lease": {}},
        {"connect_id": "a", "origin": None},
        {"connect_id": "a", "origin": 7},
    ],
)
def test_malformed_announcements_are_refused(value: object) -> None:
    assert _wire.parse_announcement(json.dumps(value).encode()) is None


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 10_000, b'{"connect_id": "a"', b"\x00"])
def test_what_is_no_json_is_refused(data: bytes) -> None:
    assert _wire.parse_announcement(data) is None


def test_an_announcement_from_another_language_needs_the_id_only() -> None:
    assert _wire.parse_announcement(b'{"connect_id": "a"}') == Announcement("a", None, "")
    assert _wire.parse_announcement(b'{"connect_id": "a", "lease": null, "more": 1}') == Announcement("a", None, "")


@calmly
@given(st.binary())
def test_no_bytes_make_parsing_an_announcement_raise(data: bytes) -> None:
    parsed = _wire.parse_announcement(data)
    assert parsed is None or parsed.connect_id
