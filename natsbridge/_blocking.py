"""nats-py's coroutine methods as blocking ones, one line each: ``stream_info = blocking(JetStreamManager.stream_info)``.

The code of nats-py that is reused here (JetStream, key-value, object store) awaits nothing but its client. It is given a
``Channel`` for one, whose ``async`` methods never suspend: they wait, in the calling thread, for the pool's own request. So
such a coroutine runs to its end in the thread that called it. There is no task to be left behind and no second way in which
a call could time out, be interrupted, or meet a closed pool, a fork or the loop thread: that is all ``Pool.request``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable, Coroutine, Dict, Mapping, Optional, Tuple, TypeVar, overload

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.nuid import NUID

from ._arguments import check_arguments
from ._deadline import Deadline, check_timeout
from ._types import Data
from ._waiter import Abandoned
from .errors import NatsBridgeError, NoRespondersError, RequestTimeoutError
from .options import check_data, check_headers, check_subscription

if TYPE_CHECKING:
    from nats.aio.client import ServerVersion
    from typing_extensions import Concatenate, ParamSpec

    from .pool import Pool

    P = ParamSpec("P")

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound="Facade")

_NO_JETSTREAM = (
    "nobody answers to {what}: JetStream is not enabled on this server or for this account, or prefix or domain are wrong"
)
_NOT_DIRECT = "nobody answers to {what}: the stream is missing or does not allow direct access (allow_direct)"
_FOOT = """

Blocks; any thread may call it. Raises RequestTimeoutError when it is not through within {limit},
ConnectError (first use), ClosedError, PermissionDeniedError, LoopThreadError, TypeError, ValueError, and nats-py's errors.
``natsbridge.Error`` is the root of all but TypeError and ValueError.
"""


class Channel:
    """What nats-py's code takes for its client during one call. One thread's, for as long as the call lasts."""

    def __init__(self, pool: Pool, what: str, deadline: Deadline) -> None:
        """``what``: the call, for messages. ``deadline``: when it has to be over, whatever nats-py's code asks for."""
        self.pool, self.what, self.deadline = pool, what, deadline

    async def request(
        self,
        subject: str,
        payload: Data = b"",
        timeout: Optional[float] = None,
        old_style: bool = False,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Msg:
        """Never suspends. ``timeout`` and ``old_style`` are nats-py's: the call's own deadline counts."""
        return self.ask(subject, payload, headers)

    def ask(self, subject: str, payload: Data, headers: Optional[Mapping[str, str]]) -> Msg:
        """One request. Raises RequestTimeoutError, and what ``Pool.request`` raises."""
        check_subscription(subject)  # a consumer's filter is part of a subject, so wildcards are right
        return self.ask_checked(subject, check_data(payload, "payload"), check_headers(plain_headers(headers)))

    def ask_checked(self, subject: str, data: bytes, headers: Optional[Dict[str, str]]) -> Msg:
        """The same, of what has been checked."""
        try:
            return self.pool._ask(subject, data, headers, self.deadline)
        except Abandoned:
            raise self.too_late(f"no reply came from {subject!r}") from None

    async def publish(
        self, subject: str, payload: Data = b"", reply: str = "", headers: Optional[Mapping[str, str]] = None
    ) -> None:
        """Never suspends."""
        self.pool.publish(subject, payload, reply=reply, headers=plain_headers(headers), timeout=self.deadline.remaining())

    def new_inbox(self) -> str:
        return self.pool.new_inbox()

    @property
    def connected_server_version(self) -> ServerVersion:
        return self.pool.connected_server_version

    @property
    def _nuid(self) -> NUID:
        return NUID()  # one for each use: it is not thread-safe

    def too_late(self, why: str) -> RequestTimeoutError:
        return RequestTimeoutError(f"{self.what} was not through within {self.deadline.timeout:g} s: {why}")


def plain_headers(headers: Optional[Mapping[str, str]]) -> Optional[Dict[str, str]]:
    """nats-py names its headers with an enum, whose members print differently from one Python to the next."""
    if headers is None or not isinstance(headers, Mapping):
        return headers
    return {name.value if isinstance(name, Enum) else name: value for name, value in headers.items()}


class Facade:
    """Base of the blocking objects: a pool, and how long a call may take.

    It holds no object of nats-py's; one is built for each call, which costs little and leaves nothing to go stale when a
    connection is replaced or the process forks.
    """

    def __init__(self, pool: Pool, timeout: Optional[float] = None) -> None:
        """``timeout``: seconds for each call; the pool's if None. Raises TypeError, ValueError."""
        self._pool = pool
        self._timeout = pool._limit(timeout)

    @property
    def timeout(self) -> float:
        """Seconds that a call on this object may take, where it has no ``timeout`` parameter of its own."""
        return self._timeout

    def with_timeout(self: F, timeout: float) -> F:
        """The same object with another ``timeout`` (in seconds) for its calls: ``js.with_timeout(30).purge_stream("S")``.

        Costs next to nothing; the original keeps its own. Raises TypeError, ValueError.
        """
        check_timeout(timeout, optional=False)
        other = copy.copy(self)
        other._timeout = self._pool._limit(timeout)
        return other

    def _native(self, channel: Channel) -> Any:
        """The object of nats-py's whose methods are called, for one call."""
        raise NotImplementedError

    def _call(
        self, native: Callable[..., Coroutine[Any, Any, T]], *args: Any, limit: Optional[float] = None, **kwargs: Any
    ) -> T:
        """Call a coroutine method of nats-py's, and wait for it. ``limit``: seconds, if not this object's ``timeout``."""
        check_arguments(native, args, kwargs)
        name = native.__name__
        what = f"{type(self).__name__}.{name}"
        channel = Channel(self._pool, what, Deadline(self._timeout if limit is None else self._pool._limit(limit)))
        coro: Coroutine[Any, Any, T] = getattr(self._native(channel), name)(*args, **kwargs)
        return run(coro, channel)


@overload
def blocking(
    native: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Any, P], R]: ...
@overload
def blocking(
    native: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]], wrap: Callable[[Any, T], R]
) -> Callable[Concatenate[Any, P], R]: ...
def blocking(native: Callable[..., Any], wrap: Optional[Callable[[Any, Any], Any]] = None) -> Callable[..., Any]:
    """A coroutine method of nats-py as a blocking method of a ``Facade``: same parameters, same result, same errors.

    Where nats-py's method takes a ``timeout``, that is the call's deadline; everywhere else the facade's ``timeout`` is.

    A method with ``**params`` has no such type (they might hold a ``self``), and some of nats-py's lack annotations: those
    are written out, with ``Facade._call``.

    wrap: ``wrap(facade, result)`` makes ours of a result that is itself an object with coroutine methods.
    """
    signature = inspect.signature(native)
    names = list(signature.parameters)
    position = names.index("timeout") - 1 if "timeout" in names else None

    @functools.wraps(native)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = self._call(native, *args, limit=_own_timeout(position, args, kwargs), **kwargs)
        return result if wrap is None else wrap(self, result)

    limit = "``timeout`` seconds" + ("" if position is not None else " (this object's; see ``with_timeout``)")
    call.__doc__ = f"``{native.__qualname__}`` of nats-py, blocking.{_description(native)}{_FOOT.format(limit=limit)}"
    if wrap is not None:
        result = inspect.signature(wrap).return_annotation
        call.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    return call


def _own_timeout(position: Optional[int], args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
    if position is None:
        return None
    return args[position] if len(args) > position else kwargs.get("timeout")


def _description(native: Callable[..., Any]) -> str:
    """nats-py's own words, without its examples, which are asyncio's."""
    text, _, _ = (inspect.getdoc(native) or "").partition("::\n")
    return f"\n\n{text.strip()}" if text.strip() else ""


def run(coro: Coroutine[Any, Any, T], channel: Channel) -> T:
    """Run a coroutine of nats-py's to its end, in this thread; it must await nothing but the channel."""
    try:
        coro.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    except nats.js.errors.APIError as error:
        _explain(error, channel)
        raise
    except NoRespondersError as error:
        why = _NOT_DIRECT if ".DIRECT.GET." in error.subject else _NO_JETSTREAM
        raise nats.js.errors.ServiceUnavailableError(code=503, description=why.format(what=channel.what)) from error
    except json.JSONDecodeError as error:
        raise not_jetstream(channel.what, error) from error
    finally:
        coro.close()
    raise AssertionError(f"{channel.what} awaits something that is not the channel")


def not_jetstream(what: str, error: Exception) -> NatsBridgeError:
    return NatsBridgeError(f"{what} was answered by something that is not JetStream: {error}")


def _explain(error: nats.js.errors.APIError, channel: Channel) -> None:
    """nats-py raises some of its errors without a word: say what they are about."""
    if getattr(error, "description", None) is not None or getattr(error, "code", None) is not None:
        return
    if isinstance(error, nats.js.errors.ServiceUnavailableError):
        error.code, error.description = 503, _NO_JETSTREAM.format(what=channel.what)
    elif type(error) is nats.js.errors.NotFoundError:
        error.code, error.description = 404, f"{channel.what} found nothing"
