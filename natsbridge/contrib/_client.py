"""A worker's stream on behalf of one HTTP client, from the request to the moment when either of them is gone."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, List, Mapping, Optional, TypedDict

from .. import Pool, _fork
from .._types import Data, Headers
from ._hangup import watch

if TYPE_CHECKING:
    from typing_extensions import Unpack

Environ = Mapping[str, Any]


class RequestOptions(TypedDict, total=False):
    """The keyword arguments of ``Pool.stream``."""

    connect_id: Optional[str]
    timeout: Optional[float]
    idle_timeout: Optional[float]
    headers: Headers
    window: Optional[int]
    window_bytes: Optional[int]
    resume: float


def new_connect_id() -> str:
    """An id that nobody can guess: 128 random bits, safe in URLs."""
    return secrets.token_urlsafe(16)


class ClientStream:
    """A stream, and what lives as long as it: the client held online, and the watch on its socket.

    environ: the WSGI environ of its request, where the server shows its socket; None for none.
    request: as for ``Pool.stream``, but that there is always an id.

    Raises what ``Pool.stream`` raises; nothing is left behind then. Thread-safe.
    """

    def __init__(
        self, pool: Pool, subject: str, data: Data, environ: Optional[Environ], **request: Unpack[RequestOptions]
    ) -> None:
        self._generation = _fork.generation
        given = request.get("connect_id")
        self.connect_id = request["connect_id"] = new_connect_id() if given is None else given
        with ExitStack() as held:
            held.enter_context(pool.client(self.connect_id))
            self.stream = pool.stream(subject, data, **request)
            held.callback(self.stream.cancel)
            self._loop = pool._loop()
            unwatch = None if environ is None else watch(self._loop, environ, self.stream.cancel)
            if unwatch is not None:
                held.callback(unwatch)
            self._held = held.pop_all()

    @property
    def end_reason(self) -> Optional[str]:
        return self.stream.end_reason

    def next_chunks(self, timeout: Optional[float] = None) -> Optional[List[bytes]]:
        """As ``ResponseStream.next_chunks``."""
        return self.stream.next_chunks(timeout)

    def close(self) -> None:
        """Stop the worker and let go of the client; idempotent, any thread, nothing in a forked child."""
        if self._generation == _fork.generation:
            self._held.close()

    def __del__(self) -> None:
        # May run inside any lock, in any thread, even the loop's: only leave a note for the loop.
        held = getattr(self, "_held", None)
        if held is not None and self._generation == _fork.generation:
            self._loop.post_quietly(held.close)
