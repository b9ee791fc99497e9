"""Arguments checked before anything happens: what is refused here never reaches the wire.

Every check raises in the caller's thread, with the offending value in the message.
"""

from __future__ import annotations

import inspect
import re
import ssl
import types
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union
from urllib.parse import urlsplit

from ._deadline import check_interval, check_timeout
from ._types import Headers
from ._wire import Failure
from .errors import BadHeaderError, BadSubjectError, MaxPayloadError

Servers = Union[str, Sequence[str]]
ErrorCallback = Callable[[Exception], object]

# The server's control line holds subject, reply and sizes, and is 4,096 bytes at most by default; beyond, it hangs up.
MAX_SUBJECT_BYTES = 3072
MAX_LINE_BYTES = 3840
MAX_PREFIX = 256  # of an inbox, which shares its line with a subject

# RFC 7230 token characters, as nats-py accepts them.
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEMES = ("nats", "tls", "ws", "wss")

_HEADER_FRAME = len("NATS/1.0\r\n") + len("\r\n")
_HEADER_LINE = len(": ") + len("\r\n")


# -- subjects ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _subject_fault(subject: str, wildcards: bool) -> Optional[str]:
    if not subject:
        return "it is empty"
    if _CONTROL_OR_SPACE.search(subject):
        return "it contains white space or a control character"
    try:
        if len(subject.encode()) > MAX_SUBJECT_BYTES:
            return f"it is longer than {MAX_SUBJECT_BYTES} bytes"
    except UnicodeEncodeError:
        return "it cannot be encoded as UTF-8"
    tokens = subject.split(".")
    if "" in tokens:
        return "it has an empty token (a dot at either end, or two in a row)"
    for index, token in enumerate(tokens):
        if token in ("*", ">"):
            if not wildcards:
                return f"the wildcard {token!r} is for subscriptions only"
            if token == ">" and index != len(tokens) - 1:
                return "the wildcard '>' must be the last token"
        elif wildcards and ("*" in token or ">" in token):
            return f"a wildcard must be a whole token, not part of {token!r}"
    return None


def _check_subject(subject: object, name: str, wildcards: bool) -> str:
    if not isinstance(subject, str):
        raise TypeError(f"{name} must be a str, not {subject!r} ({type(subject).__name__})")
    fault = _subject_fault(subject, wildcards)
    if fault is not None:
        shown = subject if len(subject) <= 80 else subject[:77] + "..."
        raise BadSubjectError(f"bad {name} {shown!r}: {fault}")
    return subject


def check_subject(subject: object, name: str = "subject") -> str:
    """A subject to publish to: no wildcards. Raises TypeError or BadSubjectError."""
    if isinstance(subject, str) and _subject_fault(subject, False) is None:
        return subject  # the shortest way for what is almost always the case
    return _check_subject(subject, name, False)


def check_subscription(subject: object, name: str = "subject") -> str:
    """A subject to subscribe to: wildcards allowed as whole tokens. Raises TypeError or BadSubjectError."""
    return _check_subject(subject, name, True)


def check_line(*names: str) -> None:
    """Names that share one line to the server: longer together than it accepts, it would hang up. BadSubjectError."""
    size = sum(len(name.encode()) for name in names)
    if size > MAX_LINE_BYTES:
        raise BadSubjectError(
            f"{names[0][:40]!r}… and {names[1][:40]!r}… are {size} bytes together, {MAX_LINE_BYTES} at most"
        )


def check_queue(queue: object) -> str:
    """A queue group's name; "" for none. Raises TypeError or BadSubjectError."""
    return "" if queue == "" else _check_subject(queue, "queue group", False)


# -- payloads and headers ---------------------------------------------------------------------------------------------


def check_data(data: object, name: str = "data") -> bytes:
    """Payload as bytes (mutable buffers are copied). Raises TypeError for anything but bytes-like objects."""
    if type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    if isinstance(data, str):
        raise TypeError(f"{name} must be bytes, not str: encode it first, as in {name}.encode('utf-8')")
    raise TypeError(f"{name} must be bytes, not {type(data).__name__} ({data!r})"[:200])


def check_chunk(data: object) -> bytes:
    """A chunk of a stream: bytes, not empty. Raises TypeError or ValueError."""
    chunk = check_data(data, "chunk")
    if not chunk:
        raise ValueError("chunk is empty (b''): an empty payload ends a stream for other NATS clients; skip it")
    return chunk


def check_headers(headers: object, *, owned: bool = False) -> Optional[Dict[str, str]]:
    """Headers as a dict of their own; None when there are none.

    ``owned``: also refuse the names that natsbridge's stream protocol writes itself. Raises TypeError or BadHeaderError.
    """
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of str to str, not {headers!r} ({type(headers).__name__})")
    checked: Dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str):
            raise TypeError(f"header names must be str, not {name!r} ({type(name).__name__})")
        if not isinstance(value, str):
            raise TypeError(f"header {name!r} must be a str, not {value!r} ({type(value).__name__})")
        if not _HEADER_NAME.match(name):
            raise BadHeaderError(f"bad header name {name!r}: letters, digits and !#$%&'*+-.^_`|~ only, no spaces", name)
        if "\r" in value or "\n" in value:
            raise BadHeaderError(f"header {name!r} has a line break in its value {value!r}: one line only", name)
        if owned and (name.lower() == "connect-id" or name.lower().startswith("natsbridge-")):
            raise BadHeaderError(
                f"header {name!r} belongs to the stream protocol: pass connect_id and friends instead", name
            )
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadHeaderError(f"header {name!r} cannot be encoded as UTF-8: {value!r}", name) from None
        checked[name] = value
    return checked or None


def headers_size(headers: Headers) -> int:
    """Bytes that headers add to a message; the server counts them into max_payload."""
    if not headers:
        return 0
    return _HEADER_FRAME + sum(len(n.encode()) + len(v.encode()) + _HEADER_LINE for n, v in headers.items())


def check_size(data: bytes, headers: Optional[Mapping[str, str]], limit: int, extra: int = 0) -> None:
    """Raises MaxPayloadError for more than the server takes: it would close the connection. nats-py counts no headers."""
    size = len(data) + extra
    if headers:
        size += headers_size(headers)
    if size > limit:
        raise MaxPayloadError(size, limit)


def check_connect_id(connect_id: object) -> str:
    """A client's id: a str that a header can carry unchanged. Raises TypeError or ValueError."""
    if not isinstance(connect_id, str):
        raise TypeError(f"connect_id must be a str, not {connect_id!r} ({type(connect_id).__name__})")
    if not connect_id:
        raise ValueError("connect_id is empty: a client needs an id that no other client has")
    if _CONTROL.search(connect_id) or connect_id != connect_id.strip():
        raise ValueError(
            f"connect_id {connect_id!r} has a control character, or space at an end, which headers cannot carry"
        )
    try:
        connect_id.encode()
    except UnicodeEncodeError:
        raise ValueError(f"connect_id {connect_id!r} cannot be encoded as UTF-8") from None
    return connect_id


def check_line_text(text: object, name: str) -> str:
    """A str of at most one line. Raises TypeError or ValueError."""
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a str, not {text!r} ({type(text).__name__})")
    if "\r" in text or "\n" in text:
        raise ValueError(f"{name} must be one line, not {text!r}")
    return text


# -- numbers and callables --------------------------------------------------------------------------------------------


def check_count(value: object, name: str, least: int = 1) -> int:
    """An int of at least ``least``. Raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return value


def check_failure(code: object, description: object) -> Failure:
    """An error for a requester: a code from 0 to 999999 and a text. Raises TypeError or ValueError."""
    number = check_count(code, "code", 0)
    if number > 999999:
        raise ValueError(f"code must be at most 999999, not {number}")
    if not isinstance(description, str):
        raise TypeError(f"description must be a str, not {description!r}")
    return Failure(number, description)


def check_handler(value: object, name: str = "handler", *, yields: bool = False) -> None:
    """Raises TypeError for what cannot be called, is ``async`` or, unless it ``yields``, is a generator function."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {value!r} ({type(value).__name__})")
    for function in (value, type(value).__call__):  # the latter: of an object that has the method
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{name} {value!r} is async: natsbridge calls plain functions, on threads")
        if not yields and inspect.isgeneratorfunction(function):
            raise TypeError(f"{name} {value!r} is a generator function: calling it would run nothing of it")


def check_ran(result: object, name: str = "handler") -> None:
    """Raises TypeError when what ``name`` returned is what has yet to run, such as the coroutine of a lambda."""
    if isinstance(result, (types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType)):
        if not isinstance(result, types.AsyncGeneratorType):
            result.close()  # Python warns of a coroutine that nobody awaits
        raise TypeError(f"{name} returned {result!r}, which nobody runs: it must do its work itself")


# -- connecting -------------------------------------------------------------------------------------------------------

_OWNED = {
    "servers": "the first argument of Pool",
    "error_cb": "Pool(error_callback=...)",
    "disconnected_cb": "natsbridge itself",
    "reconnected_cb": "natsbridge itself",
    "closed_cb": "natsbridge itself",
    "allow_reconnect": "natsbridge itself: a pool always reconnects, see reconnect_time_wait",
    "max_reconnect_attempts": "natsbridge itself: a pool reconnects for as long as it is open",
    "skip_subject_validation": "natsbridge itself",
    "pending_size": "Pool(outbox_bytes=...)",
    "no_echo": "nobody: an end of a stream must hear what its own process publishes",
}
_FREE = {
    "dont_randomize",
    "drain_timeout",
    "discovered_server_cb",
    "flush_timeout",
    "flusher_queue_size",
    "lame_duck_mode_cb",
    "pedantic",
    "reconnect_to_server_handler",
    "verbose",
    "ws_connection_headers",
}


def check_servers(servers: object) -> List[str]:
    """Server URLs as a list. Raises TypeError or ValueError."""
    if isinstance(servers, str):
        urls: List[object] = [url.strip() for url in servers.split(",")]
    elif isinstance(servers, Sequence) and not isinstance(servers, (bytes, bytearray)):
        urls = list(servers)
    else:
        raise TypeError(f"servers must be a URL or a list of URLs, not {servers!r}")
    if not urls:
        raise ValueError("servers is empty: name at least one, as in 'nats://127.0.0.1:4222'")
    return [_check_server(url) for url in urls]


def _check_server(url: object) -> str:
    if not isinstance(url, str):
        raise TypeError(f"a server must be a URL such as 'nats://127.0.0.1:4222', not {url!r}")
    full = url if "://" in url else f"nats://{url}"
    try:
        parts = urlsplit(full)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"bad server URL {redact(url)!r}: {error}") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"bad server URL {redact(url)!r}: the scheme must be one of {', '.join(_SCHEMES)}")
    if not parts.hostname or _CONTROL_OR_SPACE.search(url):
        raise ValueError(f"bad server URL {redact(url)!r}: it needs a host, as in 'nats://127.0.0.1:4222'")
    if port is None and parts.scheme in ("nats", "tls"):
        full = full.rstrip(":/") + ":4222"
    return full


def redact(url: str) -> str:
    """The URL without its credentials, for messages and logs."""
    head, at, tail = url.rpartition("@")
    if not at:
        return url
    scheme, sep, _ = head.partition("://")
    return f"{scheme}{sep}***@{tail}" if sep else f"***@{tail}"


@dataclass(repr=False)  # it holds credentials
class ConnectOptions:
    """How to reach the servers: the part of a pool's options that goes to nats-py's ``connect``."""

    servers: Servers
    name: Optional[str] = None
    user: Optional[Union[str, Callable[[], str]]] = None
    password: Optional[Union[str, Callable[[], str]]] = None
    token: Optional[Union[str, Callable[[], str]]] = None
    user_credentials: Optional[Any] = None
    nkeys_seed: Optional[str] = None
    nkeys_seed_str: Optional[str] = None
    signature_cb: Optional[Callable[[str], bytes]] = None
    user_jwt_cb: Optional[Callable[[], Union[bytes, bytearray]]] = None
    tls: Optional[ssl.SSLContext] = None
    tls_hostname: Optional[str] = None
    tls_handshake_first: bool = False
    inbox_prefix: str = "_INBOX"
    connect_timeout: float = 5.0
    reconnect_time_wait: float = 2.0
    ping_interval: float = 15.0
    max_outstanding_pings: int = 2
    nats_options: Optional[Mapping[str, Any]] = None

    def __post_init__(self) -> None:
        self.urls = check_servers(self.servers)
        check_subject(self.inbox_prefix, "inbox_prefix")
        if len(self.inbox_prefix) > MAX_PREFIX:
            raise BadSubjectError(f"inbox_prefix is {len(self.inbox_prefix)} characters long, {MAX_PREFIX} at most")
        check_interval(self.connect_timeout, "connect_timeout")
        check_timeout(self.reconnect_time_wait, "reconnect_time_wait", optional=False)
        check_interval(self.ping_interval, "ping_interval")
        check_count(self.max_outstanding_pings, "max_outstanding_pings")
        if self.name is not None and not isinstance(self.name, str):
            raise TypeError(f"name must be a str, not {self.name!r}")
        if self.tls is not None and not isinstance(self.tls, ssl.SSLContext):
            raise TypeError(f"tls must be an ssl.SSLContext, not {self.tls!r} (ssl.create_default_context() makes one)")
        if self.nats_options is not None and not isinstance(self.nats_options, Mapping):
            raise TypeError(f"nats_options must be a mapping, not {self.nats_options!r}")
        for key in self.nats_options or {}:
            self._check_option(key)

    def _check_option(self, key: object) -> None:
        if key in _OWNED:
            raise ValueError(f"nats_options[{key!r}] belongs to {_OWNED[str(key)]}")
        if key in self._declared():
            raise ValueError(f"nats_options[{key!r}]: pass it as Pool({key}=...)")
        if key not in _FREE:
            raise ValueError(f"nats_options[{key!r}] is not an option of nats-py's connect; left are {sorted(_FREE)}")

    @staticmethod
    def _declared() -> Tuple[str, ...]:
        return tuple(f for f in ConnectOptions.__dataclass_fields__ if f not in ("servers", "nats_options"))

    def redacted(self) -> List[str]:
        """The servers' URLs without credentials."""
        return [redact(url) for url in self.urls]

    def for_nats(self) -> Dict[str, Any]:
        """Keyword arguments for ``nats.aio.client.Client.connect``, callbacks apart."""
        options = {key: getattr(self, key) for key in self._declared()}
        return {
            **options,
            "servers": list(self.urls),
            "max_reconnect_attempts": -1,
            "allow_reconnect": True,
            **(self.nats_options or {}),
        }
