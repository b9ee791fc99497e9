"""The stream protocol's wire format as pure functions: values to bytes and back. docs/protocol.md is the specification.

Whatever cannot be parsed comes back as None; no input makes a function here raise.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import struct
from collections import deque
from functools import lru_cache
from itertools import chain
from typing import Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

VERSION = 1

CONNECT_ID = "Connect-ID"
STREAM = "Natsbridge-Stream"
LIBRARY_ERROR = "Natsbridge-Error"
SEQUENCE = "Natsbridge-Seq"  # where the reply subject cannot carry it
ERROR = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"
STATUS = "Status"  # nats-py's name for the status of a status message

NO_RESPONDERS = "503"

# Kinds of messages to a requester, and what they carry.
ACCEPTED, CHUNK, BATCH, PROBE, END = "a", "d", "b", "p", "e"
# Verbs of messages to a responder.
ACK, NAK, CANCEL = "ack", "nak", "cancel"

# What a ``cancel`` may say about itself; without a word the requester just stopped.
CANCEL_REASONS = ("deadline", "offline")

# The error ends that the library itself sends: word, code and description.
LIBRARY_ENDS = {
    "busy": (503, "every handler of the responder is busy"),
    "offline": (499, "the client was marked offline"),
    "deadline": (504, "the request's timeout passed at the responder"),
    "stalled": (408, "the requester has not read on for too long"),
    "disconnected": (502, "the responder's connection was lost meanwhile"),
    "shutdown": (503, "the responder is shutting down"),
    "abandoned": (500, "the responder dropped the stream without ending it"),
    "unknown": (404, "the responder does not know this stream (any more)"),
    "version": (505, f"the responder speaks version {VERSION} of the stream protocol, and cannot read this request"),
}

# These come behind all chunks, and those that are missing are sent again; the other words come instead of chunks.
ORDERLY_ENDS = (None, "abandoned")

_FORBIDDEN = ("$", "natsbridge.")  # nobody may have us publish there, with our rights
_MAX_NUMBER = 2**53  # numbers stay exact in every language's floats
_KIND = re.compile(r"([abdpe])(0|[1-9][0-9]{0,15})\Z")
_STREAM_TOKEN = re.compile(r"[0-9a-f]{24}\Z")
_NUMBER = re.compile(r"(0|[1-9][0-9]{0,15})\Z")
_LEASE = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")


# -- names ------------------------------------------------------------------------------------------------------------


def link_token() -> str:
    """128 random bits: a link's subject below the inbox prefix."""
    return secrets.token_hex(16)


_TOKEN_DIGITS = 24
_tokens: Deque[str] = deque()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tokens.clear)


def stream_token() -> str:
    """96 random bits: a stream's subject below its link.

    Drawn many at a time: asking the system lets other threads run, each time [measured: 3 % of a request].
    """
    while True:
        try:
            return _tokens.pop()
        except IndexError:
            digits = secrets.token_hex(_TOKEN_DIGITS // 2 * 256)
            _tokens.extend(digits[at : at + _TOKEN_DIGITS] for at in range(0, len(digits), _TOKEN_DIGITS))


def lease_token() -> str:
    return secrets.token_hex(8)


def reply_subject(control: str, kind: str, seq: int) -> str:
    """The reply subject that says what a message to the requester is, and takes the requester's answers."""
    return f"{control}.{kind}{seq}"


def parse_kind(token: str) -> Optional[Tuple[str, int]]:
    match = _KIND.match(token)
    return None if match is None else (match.group(1), int(match.group(2)))


def parse_reply(reply: str) -> Optional[Tuple[str, str, int]]:
    """(control prefix, kind, seq) when ``reply`` is the reply subject of a responder that speaks this protocol."""
    control, _, last = reply.rpartition(".")
    kind = parse_kind(last)
    if kind is None or not _STREAM_TOKEN.match(control.rpartition(".")[2]) or reply.startswith(_FORBIDDEN):
        return None
    return control, kind[0], kind[1]


def crosses_accounts(reply: str) -> bool:
    """Whether the server maps this reply to another account: every reply attached to an answer would be mapped too, and
    kept by the server, so the sequence travels in a header instead."""
    return reply.startswith("_R_.")


# What the header adds to a message at most, which counts against max_payload.
SEQUENCE_OVERHEAD = len(f"NATS/1.0\r\n{SEQUENCE}: {'0' * 24}.d{2**53}\r\n\r\n")


def encode_sequence(token: str, kind: str, seq: int) -> str:
    return f"{token}.{kind}{seq}"


def parse_sequence(headers: Optional[Mapping[str, str]]) -> Optional[Tuple[str, str, int]]:
    """(stream token, kind, seq) of a message from another account."""
    return parse_reply(f".{headers[SEQUENCE]}") if headers and SEQUENCE in headers else None


# -- requests ---------------------------------------------------------------------------------------------------------


class StreamParams(NamedTuple):
    """The value of ``Natsbridge-Stream``: in a request what the requester asks for, in an ``a`` what holds."""

    window: int
    bytes: int
    timeout_ms: Optional[int] = None
    resume_ms: int = 0
    probe_ms: Optional[int] = None
    lease: Optional[str] = None
    version: int = VERSION


_LONG_PARAMS = 256  # characters


def encode_params(params: StreamParams) -> str:
    parts = [f"v={params.version}", f"window={params.window}", f"bytes={params.bytes}"]
    if params.timeout_ms is not None:
        parts.append(f"timeout={params.timeout_ms}")
    if params.resume_ms:
        parts.append(f"resume={params.resume_ms}")
    if params.probe_ms is not None:
        parts.append(f"probe={params.probe_ms}")
    if params.lease is not None:
        parts.append(f"lease={params.lease}")
    return "; ".join(parts)


def parse_params(value: str) -> Optional[StreamParams]:
    """None when malformed. Unknown keys are ignored, so that later versions can add some."""
    if len(value) > _LONG_PARAMS:  # nothing that is worth its memory
        return _parse_params.__wrapped__(value)
    return _parse_params(value)


@lru_cache(maxsize=256)  # one requester's are the same in each of its requests
def _parse_params(value: str) -> Optional[StreamParams]:
    fields: Dict[str, str] = {}
    for part in value.split(";"):
        key, equals, text = part.partition("=")
        if not equals:
            if part.strip():
                return None
            continue
        if key.strip() in fields:
            return None
        fields[key.strip()] = text.strip()
    version, window, size = (_number(fields.get(key)) for key in ("v", "window", "bytes"))
    if not version or not window or not size:
        return None
    times = [_number(fields[key]) for key in ("timeout", "resume", "probe") if key in fields]
    lease = fields.get("lease")
    if None in times or (lease is not None and not _LEASE.match(lease)):
        return None
    timeout, resume, probe = (_number(fields.get(key)) for key in ("timeout", "resume", "probe"))
    return StreamParams(window, size, timeout, resume or 0, probe, lease, version)


def _number(text: Optional[str]) -> Optional[int]:
    if text is None or not _NUMBER.match(text):
        return None
    return min(int(text), _MAX_NUMBER)


def acceptable_reply(reply: str) -> bool:
    """False for replies that would make a responder publish, with its own rights, where a requester must not."""
    return bool(reply) and not reply.startswith(_FORBIDDEN)


# -- control ----------------------------------------------------------------------------------------------------------


class Control(NamedTuple):
    """What a requester says to its responder.

    ``why``: the word behind ``cancel``. ``max_bytes``: behind ``ack``, what may be on its way from now on; None for as much
    as before.
    """

    verb: str
    seq: int = 0
    why: str = ""
    max_bytes: Optional[int] = None


def encode_ack(seq: int, max_bytes: Optional[int] = None) -> bytes:
    return b"ack %d" % seq if max_bytes is None else b"ack %d %d" % (seq, max_bytes)


def encode_nak(seq: int) -> bytes:
    return b"nak %d" % seq


def encode_cancel(why: str = "") -> bytes:
    """``why``: one of CANCEL_REASONS, or ""."""
    return f"cancel {why}".encode() if why else b"cancel"


def parse_control(data: bytes) -> Optional[Control]:
    """What a message to a responder says."""
    if len(data) > 64:
        return None
    try:
        verb, _, rest = data.decode("ascii").partition(" ")
    except UnicodeDecodeError:
        return None
    if verb == CANCEL:
        return Control(CANCEL, why=rest)
    if verb == ACK:
        rest, more, window = rest.partition(" ")
        max_bytes = _number(window) if more else None
        if more and not max_bytes:
            return None
        seq = _number(rest)
        return None if seq is None else Control(ACK, seq, max_bytes=max_bytes)
    if verb == NAK:
        seq = _number(rest)
        return None if seq is None else Control(NAK, seq)
    return None


def answer_unknown(
    suffix: str, data: bytes, reply: str, headers: Optional[Mapping[str, str]]
) -> Optional[Tuple[bytes, Optional[Dict[str, str]]]]:
    """What a message for a stream that is not known (any more) is answered with: payload and headers, or None.

    ``suffix``: what follows the stream's token in the message's subject. The answer goes to ``reply`` and has no reply
    subject itself. What is an answer here is not answered, or two ends that have forgotten a stream would go on for ever.
    """
    if (headers and STATUS in headers) or not acceptable_reply(reply):
        return None
    if not suffix:
        known = parse_sequence(headers) or parse_reply(reply)
        return None if known is None else (encode_cancel(), None)
    control = parse_control(data)
    if parse_kind(suffix) is None or control is None or control[0] == CANCEL:
        return None
    return b"", encode_failure(library_failure("unknown"))


_PUB_ACKS = (b'{"stream":', b'{"error":')  # as the server writes them


def is_pub_ack(data: bytes) -> bool:
    """Whether this is what a JetStream stream answers that has captured a request's subject (ADR-22)."""
    if not data.startswith(_PUB_ACKS) or len(data) > 1024:
        return False
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value.get("stream"), str) and type(value.get("seq")) is int


# -- batches ----------------------------------------------------------------------------------------------------------

BATCH_OVERHEAD = 4  # bytes that each chunk of a batch takes besides its own

_pack_size = struct.Struct(">I").pack
_unpack_size = struct.Struct(">I").unpack_from


def encode_batch(chunks: Sequence[bytes]) -> bytes:
    """Chunks one behind the other, each behind its length."""
    return b"".join(chain.from_iterable(zip(map(_pack_size, map(len, chunks)), chunks)))


def decode_batch(data: bytes) -> Optional[List[bytes]]:
    """None when the lengths do not add up, or a chunk is empty."""
    end = len(data)
    if end <= BATCH_OVERHEAD:
        return None
    (size,) = _unpack_size(data)
    count, rest = divmod(end, BATCH_OVERHEAD + size)
    if size and not rest and all(data[n :: end // count] == data[n : n + 1] * count for n in range(BATCH_OVERHEAD)):
        # All of one length, as they often are: [measured] a third of the time.
        return [chunk for (chunk,) in struct.iter_unpack(f"{BATCH_OVERHEAD}x{size}s", data)]
    chunks: List[bytes] = []
    at = 0
    while at + BATCH_OVERHEAD < end:
        start = at + BATCH_OVERHEAD
        at = start + _unpack_size(data, at)[0]
        if at == start or at > end:
            return None
        chunks.append(data[start:at])
    return chunks if at == end else None


# -- ends -------------------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """Why a stream ended badly. ``library``: the word when the responder's library ended it, None for its handler."""

    code: int
    description: str
    library: Optional[str] = None


def library_failure(word: str) -> Failure:
    code, description = LIBRARY_ENDS[word]
    return Failure(code, description, word)


def encode_failure(failure: Failure) -> Dict[str, str]:
    headers = {ERROR: one_line(failure.description) or "error", ERROR_CODE: str(failure.code)}
    if failure.library is not None:
        headers[LIBRARY_ERROR] = failure.library
    return headers


def parse_failure(headers: Optional[Mapping[str, str]]) -> Optional[Failure]:
    if not headers or ERROR not in headers:
        return None
    code = _number(headers.get(ERROR_CODE, "").strip())
    return Failure(500 if code is None else code, headers[ERROR], headers.get(LIBRARY_ERROR))


def one_line(text: str, limit: int = 1024) -> str:
    """Text as a header's value can carry it."""
    cleaned = re.sub(r"[\x00-\x1f\x7f]+", " ", text).strip()[:limit]
    return cleaned.encode("utf-8", "replace").decode()


# -- presence ---------------------------------------------------------------------------------------------------------

OFFLINE_EVENTS = "natsbridge.offline.*"
ONLINE_EVENTS = "natsbridge.online.*"


class Announcement(NamedTuple):
    """A client went offline (or, on the online subject, is back). ``lease`` None: every stream of the id is meant."""

    connect_id: str
    lease: Optional[str]
    origin: str


def presence_subject(connect_id: str, online: bool) -> str:
    token = hashlib.sha256(connect_id.encode()).hexdigest()[:16]
    return f"natsbridge.{'online' if online else 'offline'}.{token}"


def encode_announcement(announcement: Announcement) -> bytes:
    return json.dumps(announcement._asdict(), ensure_ascii=False).encode()


def parse_announcement(data: bytes) -> Optional[Announcement]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    connect_id, lease, origin = value.get("connect_id"), value.get("lease"), value.get("origin", "")
    if not isinstance(connect_id, str) or not connect_id or not isinstance(origin, str):
        return None
    if lease is not None and not isinstance(lease, str):
        return None
    return Announcement(connect_id, lease, origin)
